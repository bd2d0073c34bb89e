"""Read what comes back from one execution: outputs, questions, the reply, late outputs, a value."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Set

from jupyter_agent._nbformat import NotebookNode, new_output
from jupyter_agent.sandbox.channels import MAX_MESSAGE
from jupyter_agent.sandbox.connection import END_OF_FILE, KernelConnection, PendingRequest
from jupyter_agent.sandbox.filter.figures import NotShown
from jupyter_agent.sandbox.filter.outputs import read_output
from jupyter_agent.sandbox.filter.rate import Displays
from jupyter_agent.sandbox.filter.replies import Reply, read_reply
from jupyter_agent.sandbox.messages import TOO_LARGE, KernelMessage

__all__ = ["Answer", "Execution", "OutputCounter", "ValueParts"]

# Answers an input_request of the guest's, given its prompt and whether it asks for a password.
Answer = Callable[[str, bool], Awaitable[str]]

MAX_PARTS = 1 << 19  # of one value
IDLE_TIMEOUT = 10.0  # seconds without a message after the reply: then "idle" has been lost


class Execution:
    """One execution, from its request until the kernel is idle and has replied.

    Parameters
    ----------
    counter
        Counts the outputs.
    answer
        Answers what the code asks by ``input()``.
    admit
        Mime types that pass as they are.
    value
        Takes the comm messages that a value comes in.
    """

    def __init__(
        self,
        pending: PendingRequest,
        counter: OutputCounter,
        *,
        answer: Answer | None = None,
        admit: Set[str] = frozenset(),
        value: ValueParts | None = None,
        awaits_reply: bool = True,
    ) -> None:
        self.kernel = pending.kernel
        self.counter = counter
        self.execution_count: int | None = None
        self.reply: Reply | None = None
        self.awaits_reply, self.awaits_idle = awaits_reply, True
        self._pending = pending
        self._questions = Questions(pending.kernel, answer)
        self._admit = admit
        self._value = value
        self._clock = asyncio.get_running_loop().time
        self._last_message = self._clock()

    @property
    def done(self) -> bool:
        """Whether everything has come."""
        return not (self.awaits_reply or self.awaits_idle)

    def wait_until(self, deadline: float) -> float:
        """Say until when the next message is worth waiting for."""
        if self.awaits_reply:
            return deadline
        return min(deadline, self._last_message + IDLE_TIMEOUT)

    async def next(self) -> NotebookNode | None:
        """Take the next message; return the output that it holds, if it holds one.

        Raises
        ------
        EOFError
            The kernel has died.
        """
        message = await self._pending.next()
        if message.channel == "stdin":
            self._questions.take(message)
            return None
        self._last_message = self._clock()
        output = self._read(message)
        self.counter.add(output)
        return output

    def stop_answering(self) -> None:
        """Cancel the answer to a question."""
        self._questions.stop()

    def close(self, *, late: bool = False) -> None:
        """Take no more messages, but, with ``late``, outputs of threads and tasks that go on."""
        self._questions.stop()
        self._pending.close()
        request = self._pending.request
        if late and request and request.late:
            take = LateOutputs(request.late, read=self._read, counter=self.counter).take
            self.kernel.keep_listening(self._pending, take)

    def _read(self, message: KernelMessage) -> NotebookNode | None:
        """Return the output that a message holds; drop what is malformed."""
        try:
            return self._output(message)
        except NotShown as why:
            self.kernel.dropped += 1
            return _left_out(f"of {why}") if message.channel == "iopub" else None
        except (ValueError, TypeError, RecursionError):
            self.kernel.dropped += 1
            return None

    def _output(self, message: KernelMessage) -> NotebookNode | None:
        content = message.content()
        request = self._pending.request
        match message.kind, content:
            case "status", {"execution_state": "idle"}:
                self.awaits_idle = False
            case "execute_reply", _:
                self.awaits_reply = False
                self.reply = read_reply("execute_reply", content)
                count = self.reply["execution_count"]
                assert isinstance(count, int)
                self.execution_count = self.kernel.execution_count = count
            case "comm_msg", {"data": data} if self._value:
                self._value.add(data, message.buffers)
            case "comm_open" | "comm_msg" | "comm_close", _ if request:
                self.kernel.pass_comm(message, request)
            case "clear_output", {"wait": wait}:
                return NotebookNode(output_type="clear_output", wait=bool(wait))
            case kind, _ if kind == TOO_LARGE and message.channel == "iopub":
                return _left_out(f"of more than {MAX_MESSAGE >> 20} MiB in one message")
            case kind, _ if kind == TOO_LARGE:
                self.awaits_reply = False
            case kind, _:
                return read_output(kind, content, admit=self._admit)
        return None


class Questions:
    """Answer what the code asks, one question at a time, while its outputs go on."""

    def __init__(self, kernel: KernelConnection, answer: Answer | None) -> None:
        self._kernel = kernel
        self._answer = answer
        self._answering: asyncio.Task[None] | None = None

    def take(self, message: KernelMessage) -> None:
        """Take a message on stdin; drop what is no question, or one too many."""
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
                self._kernel.dropped += 1

    async def _reply(self, answer: Awaitable[str]) -> None:
        try:
            text = await answer
        except Exception as error:
            self._kernel.log.warning("a question of the sandbox's was not answered: %s", error)
            text = END_OF_FILE
        self._kernel.reply(text)

    def stop(self) -> None:
        """Cancel the answer."""
        if self._answering:
            self._answering.cancel()


class OutputCounter:
    """Count the outputs of one cell, as a notebook joins them, and their bytes.

    Parameters
    ----------
    displays
        The displays of the whole sandbox: an update changes each place that one is shown at.
    max_outputs, max_size
        How many outputs and bytes are within the limits.
    """

    def __init__(self, displays: Displays, *, max_outputs: int = 0, max_size: int = 0) -> None:
        self._displays = displays
        self._max_outputs, self._max_size = max_outputs, max_size
        self._outputs = self._size = 0
        self._stream = ""  # that the last output was a piece of
        self._shown: Counter[str] = Counter()  # displays that this cell shows
        self._clearing = False  # the next output clears them

    @property
    def over(self) -> str:
        """Say which limit the outputs are over; empty if none."""
        if self._outputs <= self._max_outputs and self._size <= self._max_size:
            return ""
        return f"more than {self._max_outputs:,} outputs or {self._max_size >> 20} MiB"

    def add(self, output: NotebookNode | None) -> None:
        """Count an output; None for a message that held none, and that ends a stream."""
        stream = output.name if output and output.output_type == "stream" else ""
        joined, self._stream = bool(stream) and stream == self._stream, stream
        if output is not None:
            self._outputs += not joined
            self._count(output)

    def add_late(self, output: NotebookNode) -> None:
        """Count an output that comes when the cell is over; it is joined to no other."""
        self._outputs += 1
        self._count(output)

    def _count(self, output: NotebookNode) -> None:
        self._size += self._displays.weigh(output)
        self._track(output)

    def _track(self, output: NotebookNode) -> None:
        """Remember which displays an update would change."""
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


class LateOutputs:
    """Pass on the outputs of threads and tasks of a cell that is over.

    Parameters
    ----------
    show
        Is given each output.
    read
        Returns the output that a message holds, if it holds one.
    """

    def __init__(
        self,
        show: Callable[[NotebookNode], None],
        *,
        read: Callable[[KernelMessage], NotebookNode | None],
        counter: OutputCounter,
    ) -> None:
        self._show, self._read = show, read
        self._counter = counter

    def take(self, message: KernelMessage) -> bool:
        """Take a message; tell whether the next one may be shown too."""
        if message.kind in ("status", "execute_reply", "clear_output"):  # they mean nothing now
            return True
        output = self._read(message)
        if output is None:
            return True
        self._counter.add_late(output)
        over = self._counter.over
        if over:
            text = f"[{over}; no more of this cell's is shown]\n"
            output = new_output("stream", name="stderr", text=text)
        self._show(output)
        return not over


class ValueParts:
    """Bytes that come in pieces: first a message that says how many, then theirs.

    Parameters
    ----------
    max_bytes
        How many may come in all.
    """

    def __init__(self, max_bytes: int) -> None:
        self.parts: list[bytearray] = []
        self.fault = ""
        self._max_bytes = max_bytes
        self._sizes: list[int] | None = None  # of the parts, once announced

    @property
    def complete(self) -> bool:
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
            raise ValueError("its reply holds no value")
        if sum(sizes) > self._max_bytes or len(sizes) > MAX_PARTS:
            raise ValueError(
                f"it has {sum(sizes):,} bytes in {len(sizes):,} parts, more than "
                f"{self._max_bytes >> 20:,} MiB in {MAX_PARTS:,}; raise c.Sandbox.max_value_mib"
            )
        self._sizes = sizes
        self._skip_empty()

    def _fill(self, piece: memoryview) -> None:
        sizes = self._sizes or []
        size = len(self.parts[-1]) + piece.nbytes if self.parts else 0
        if self.fault or not self.parts or size > sizes[len(self.parts) - 1]:
            raise ValueError("its reply is larger than it announced")
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
