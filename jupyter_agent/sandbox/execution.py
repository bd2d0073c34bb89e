"""One execution in a kernel: what is still to come of it, and how much has."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Set

from jupyter_agent._nbformat import NotebookNode, new_output
from jupyter_agent.sandbox.channels import LARGEST_MESSAGE
from jupyter_agent.sandbox.connection import END_OF_FILE, Request, Talk
from jupyter_agent.sandbox.filter.figures import NotShown
from jupyter_agent.sandbox.filter.outputs import read_output
from jupyter_agent.sandbox.filter.rate import Displays
from jupyter_agent.sandbox.filter.replies import Reply, read_reply
from jupyter_agent.sandbox.messages import PASSED_OVER, Message

__all__ = ["Answer", "Execution", "Parcel"]

# Answers an input_request of the guest's, given its prompt and whether it asks for a password.
Answer = Callable[[str, bool], Awaitable[str]]

MAX_PARTS = 1 << 19  # of one value
_AT_WORK = ("status", "execute_reply", "clear_output")  # means nothing when a cell is over


class Execution:
    """What is still to come of one execution, and how much has."""

    def __init__(
        self,
        talk: Talk,
        displays: Displays,
        answer: Answer | None = None,
        *,
        admit: Set[str] = frozenset(),
        most: tuple[int, int] = (0, 0),
    ) -> None:
        self.waiting = {"idle", "reply"}
        self.outputs = self.size = 0
        self.execution_count: int | None = None
        self.reply: Reply | None = None
        self.parcel: Parcel | None = None
        self._talk = talk
        self.kernel = talk.kernel
        self._displays = displays
        self._shown: Counter[str] = Counter()  # displays of this cell's that stand
        self._clearing = False  # they will not, once something follows
        self._answer = answer
        self._admit = admit
        self._max_outputs, self._max_size = most
        self._stream = ""  # that the last output was a piece of, as a notebook joins them
        self._answering: asyncio.Task[None] | None = None
        self._heard = asyncio.get_running_loop().time()

    def until(self, deadline: float) -> float:
        """Say when to stop waiting: idle follows the reply, or was lost with its connection."""
        return deadline if "reply" in self.waiting else min(deadline, self._heard + 10)

    async def next(self) -> NotebookNode | None:
        """Take the next message; return the output it holds, if it holds one."""
        message = await self._talk.next()
        if message.channel == "stdin":
            self._hear(message)
            return None
        self._heard = asyncio.get_running_loop().time()
        output = self._read(message)
        stream = output.name if output and output.output_type == "stream" else ""
        more, self._stream = bool(stream) and stream == self._stream, stream
        return self._counted(output, joined=more)

    def take_late(self, message: Message) -> bool:
        """Pass on what threads and tasks put out when this is over; tell if there may be more."""
        if self.request is None or self.request.late is None or message.kind in _AT_WORK:
            return True
        output = self._counted(self._read(message))
        if self.over:
            text = f"[{self.over}; no more of this cell's is shown]\n"
            output = new_output("stream", name="stderr", text=text)
        if output is not None:
            self.request.late(output)
        return not self.over

    def _counted(self, output: NotebookNode | None, *, joined: bool = False) -> NotebookNode | None:
        if output is not None:
            self.outputs += not joined
            self.size += self._displays.weigh(output)
            self._track(output)
        return output

    def _track(self, output: NotebookNode) -> None:
        """Remember what an update would change."""
        kind = output.output_type
        if kind == "update_display_data":
            return
        if self._clearing or (kind == "clear_output" and not output.wait):
            self._displays.forget(self._shown)
            self._shown.clear()
        self._clearing = kind == "clear_output" and output.wait
        if display_id := output.get("transient", {}).get("display_id"):
            self._displays.add(display_id)
            self._shown[display_id] += 1

    @property
    def over(self) -> str:
        """Say which limit its outputs are over, if they are."""
        if self.outputs <= self._max_outputs and self.size <= self._max_size:
            return ""
        return f"more than {self._max_outputs:,} outputs or {self._max_size >> 20} MiB"

    @property
    def request(self) -> Request | None:
        """How a user's own cell was to run."""
        return self._talk.request

    def _hear(self, message: Message) -> None:
        """Have a question of the code's answered, one at a time, while its outputs go on."""
        try:
            content = message.content()
        except (ValueError, RecursionError):
            content = None
        match message.kind, content:
            case "input_request", {"prompt": str(prompt), "password": bool(password)} if (
                self._answer and (self._answering is None or self._answering.done())
            ):
                reply = self._reply(self._answer(prompt, password))
                self._answering = asyncio.create_task(reply)
            case _:
                self.kernel.dropped += 1

    async def _reply(self, answer: Awaitable[str]) -> None:
        try:
            text = await answer
        except Exception as error:
            self.kernel.log.warning("a question of the sandbox's was not answered: %s", error)
            text = END_OF_FILE
        self.kernel.reply(text)

    def hush(self) -> None:
        """Stop answering."""
        if self._answering:
            self._answering.cancel()

    def close(self, *, late: bool = False) -> None:
        """Be done with this cell, but for what its threads and tasks may put out late."""
        self.hush()
        self._talk.close()
        if late and self.request and self.request.late:
            self.kernel.hear_late(self._talk.msg_ids[0], self.request, self.take_late)

    def _read(self, message: Message) -> NotebookNode | None:
        kind = message.kind
        try:
            content = message.content()
            match kind, content:
                case "status", {"execution_state": "idle"}:
                    self.waiting.discard("idle")
                case "execute_reply", _:
                    self.waiting.discard("reply")
                    self.reply = read_reply("execute_reply", content)
                    count = self.reply["execution_count"]
                    assert isinstance(count, int)
                    self.execution_count = self.kernel.count = count
                case "comm_msg", {"data": data} if self.parcel:
                    self.parcel.add(data, message.buffers)
                case "comm_open" | "comm_msg" | "comm_close", _ if self._talk.request:
                    self.kernel.hear_comm(message, self._talk.request)
                case "clear_output", {"wait": wait}:
                    return NotebookNode(output_type="clear_output", wait=bool(wait))
                case _ if kind == PASSED_OVER and message.channel == "iopub":
                    return _left_out(f"of more than {LARGEST_MESSAGE >> 20} MiB in one message")
                case _ if kind == PASSED_OVER:
                    self.waiting.discard("reply")
                case _:
                    return read_output(kind, content, admit=self._admit)
        except NotShown as why:
            self.kernel.dropped += 1
            return _left_out(f"of {why}") if message.channel == "iopub" else None
        except (ValueError, TypeError, RecursionError):
            self.kernel.dropped += 1
        return None


class Parcel:
    """Bytes that come in pieces: first a message that says how many, then theirs.

    Parameters
    ----------
    most
        Bytes that may come in all.
    """

    def __init__(self, most: int) -> None:
        self.parts: list[bytearray] = []
        self.fault = ""
        self._most = most
        self._sizes: list[int] | None = None  # of the parts, once announced

    @property
    def whole(self) -> bool:
        """Whether all that was announced has come, and nothing else."""
        return not self.fault and [*map(len, self.parts)] == self._sizes

    def add(self, data: object, buffers: list[memoryview]) -> None:
        """Take a message; note what is wrong with it."""
        try:
            if self._sizes is None:
                self._announce(data)
            for buffer in buffers:
                self._fill(buffer)
        except (ValueError, TypeError) as error:
            self.fault = self.fault or str(error)

    def _announce(self, sizes: object) -> None:
        if not isinstance(sizes, list) or any(type(n) is not int or n < 0 for n in sizes):
            raise ValueError("it sent something else than a value")
        if sum(sizes) > self._most or len(sizes) > MAX_PARTS:
            raise ValueError(
                f"it has {sum(sizes):,} bytes in {len(sizes):,} parts, more than "
                f"{self._most >> 20:,} MiB in {MAX_PARTS:,}; raise c.Sandbox.max_value_mib"
            )
        self._sizes = sizes
        self._skip_empty()

    def _fill(self, piece: memoryview) -> None:
        sizes = self._sizes or []
        size = len(self.parts[-1]) + piece.nbytes if self.parts else 0
        if self.fault or not self.parts or size > sizes[len(self.parts) - 1]:
            raise ValueError("it sent more than it announced")
        self.parts[-1] += piece  # it grows with what comes, whatever was announced
        self._skip_empty()

    def _skip_empty(self) -> None:
        """Begin the part that the next byte is of."""
        sizes = self._sizes or []
        while len(self.parts) < len(sizes) and (
            not self.parts or len(self.parts[-1]) == sizes[len(self.parts) - 1]
        ):
            self.parts.append(bytearray())


def _left_out(why: str) -> NotebookNode:
    return new_output("stream", name="stderr", text=f"[an output {why} was left out]\n")
