"""The connection to one started kernel: its sockets, its requests, and what comes back for each."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager

from jupyter_agent._nbformat import NotebookNode
from jupyter_agent.errors import SandboxError
from jupyter_agent.sandbox.channels import Frame, Wire
from jupyter_agent.sandbox.filter.replies import Reply, read_reply
from jupyter_agent.sandbox.filter.widgets import Widgets
from jupyter_agent.sandbox.guest.nodes import Buffer
from jupyter_agent.sandbox.messages import TOO_LARGE, KernelMessage, read_message

__all__ = ["END_OF_FILE", "KernelConnection", "PendingRequest", "UserRequest", "execute_request"]

CHANNELS = ("shell", "iopub", "stdin", "control")
MAX_LATE = 32  # cells that are over and whose threads and tasks may still put something out
END_OF_FILE = "\x04"  # as an answer it raises EOFError in the guest (ipykernel, raw_input)
_ADAPT = "__import__('jupyter_agent.sandbox.guest.display', fromlist=['']).install()"
_COMMS = ("comm_msg", "comm_open", "comm_close")
# Takes a message of a cell that is over; tells whether the next one is wanted too.
TakeLate = Callable[[KernelMessage], bool]


@dataclass(frozen=True, slots=True)
class UserRequest:
    """How a cell of the user's own is to run (message spec: execute_request); it has no limits.

    ``late`` is called with each output that threads and tasks put out when the cell is over. With
    ``widgets`` it is called with the messages of widgets too, as they come; ``msg_id`` is the id by
    which the page knows the request.
    """

    silent: bool = False
    store_history: bool = True
    user_expressions: dict[str, str] = field(default_factory=dict)
    late: Callable[[NotebookNode], None] | None = None
    widgets: bool = False
    msg_id: str = ""


class KernelConnection:
    """A started kernel, the connection to it, and its requests that are pending."""

    def __init__(self, manager: AsyncKernelManager, log: logging.Logger) -> None:
        self.manager = manager
        self.dropped = 0
        self.execution_count = 0  # of the last cell
        self.widgets = Widgets()
        self.ended = ""  # how it ended, once it has
        self.is_outdated = False  # whether a new start may succeed where this one did not
        self.used = False  # whether code has run in it
        self.log = log
        self._pending: dict[str, PendingRequest] = {}  # by msg_id
        self._late: dict[str, tuple[PendingRequest, TakeLate]] = {}  # of the last cells
        self._wires: dict[str, Wire] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, folder: Path, timeout: float) -> None:
        """Start it and wait until it answers; if this raises, `close` is still to be called.

        Raises
        ------
        SandboxError
            It cannot start, or does not answer in time.
        """
        try:
            await self.manager.start_kernel(cwd=str(folder))
            self._connect()
            async with asyncio.timeout(timeout):
                await self._ready()
                await self._adapt()
        except BaseException as error:
            stderr = getattr(self.manager.provisioner, "stderr_tail", str)()
            is_outdated = getattr(self.manager.provisioner, "is_outdated", bool)
            self.is_outdated = isinstance(error, EOFError) and is_outdated()
            match error:
                case TimeoutError():
                    raise SandboxError(
                        f"the sandbox did not start within {timeout:g} s: "
                        f"{stderr or 'it printed nothing'}"
                    ) from None
                case EOFError():
                    raise SandboxError(
                        f"the sandbox's kernel ended at its start: {stderr or error}; "
                        "see: jupyter agent doctor"
                    ) from None
                case OSError():
                    raise SandboxError(f"the sandbox cannot start: {error}") from None
            raise

    def _connect(self) -> None:
        """Begin to connect; what is sent before that waits."""
        facts = self.manager.get_connection_info()
        self._watcher = asyncio.create_task(self._watch())
        self._tasks = [self._watcher]
        for channel in CHANNELS:
            wire = self._wires[channel] = Wire(
                functools.partial(self._receive, channel),
                pass_over=functools.partial(self._pass_over, channel),
                lost=self._connection_lost,
                identity=b"" if channel == "iopub" else self.manager.session.bsession,
            )
            ip = str(facts["ip"])
            port = int(facts[f"{channel}_port"])  # type: ignore[literal-required]
            address = f"{ip}-{port}" if facts["transport"] == "ipc" else (ip, port)
            self._tasks.append(asyncio.create_task(wire.connect(address)))

    async def _ready(self) -> None:
        """Wait for a reply, and for a message on iopub: earlier ones may be lost."""
        replied = published = False
        pending = self.send("kernel_info_request", {})
        while not (replied and published):
            try:
                async with asyncio.timeout(1 if replied else None):
                    message = await pending.next()
            except TimeoutError:
                pending.close()
                pending = self.send("kernel_info_request", {})
                continue
            replied |= message.channel == "shell"
            published |= message.channel == "iopub"
        pending.close()

    async def _adapt(self) -> None:
        """Have libraries show what passes the filter; a kernel of another language fails at it."""
        adapt = execute_request(
            _ADAPT, UserRequest(silent=True, store_history=False), allow_stdin=False
        )
        pending = self.send("execute_request", adapt)
        while (await pending.next()).channel != "shell":
            pass
        pending.close()
        self.used = False  # only our own code has run

    @property
    def busy(self) -> bool:
        """Whether any request is pending."""
        return bool(self._pending)

    def send(
        self,
        kind: str,
        content: dict[str, Any],
        buffers: Sequence[Buffer] = (),
        *,
        request: UserRequest | None = None,
    ) -> PendingRequest:
        """Send a request; with buffers, a value may come back as comm messages.

        The session counts its ids up: the guest could sign answers to a request still to come.
        """
        message = self.manager.session.msg(kind, content)
        msg_id = message["header"]["msg_id"] = message["msg_id"] = secrets.token_hex(16)
        message["buffers"] = list(buffers)
        self.used |= kind == "execute_request"
        self._pending[msg_id] = pending = PendingRequest(
            self, msg_id, value=bool(buffers), request=request
        )
        if request and request.widgets:
            self.widgets.asked(msg_id, request.msg_id)
        self._post("shell", message)
        return pending

    def reply(self, text: str) -> None:
        """Answer a question of the code's."""
        self._post("stdin", self.manager.session.msg("input_reply", {"value": text}))

    def _post(self, channel: str, message: dict[str, Any]) -> None:
        frames = self.manager.session.serialize(message)
        self._wires[channel].send([*frames, *message.get("buffers", ())])

    async def interrupt(self) -> None:
        """Interrupt what runs.

        The manager would do it by a socket of libzmq's, which the guest could fill.
        """
        assert self.manager.kernel_spec
        if self.manager.kernel_spec.interrupt_mode == "message":
            self._post("control", self.manager.session.msg("interrupt_request", {}))
        else:
            await self.manager.interrupt_kernel()

    async def ask(self, kind: str, content: dict[str, Any]) -> Reply:
        """Send a request and return the content of its reply.

        Raises
        ------
        EOFError
            The kernel has died.
        """
        pending = self.send(kind, content)
        try:
            while True:
                message = await pending.next()
                if message.channel == "shell":
                    return read_reply(message.kind, message.content())
        except (ValueError, TypeError, RecursionError) as error:
            self.dropped += 1
            raise SandboxError(f"the sandbox's kernel replied with {error}") from None
        finally:
            pending.close()

    def end_with_second_request(self, pending: PendingRequest) -> None:
        """Have a request end when a second one does: while a cell awaits, its idle is not sent.

        (ipykernel 7.4 carries such a message out beside the cell, and publishes no status then.)
        """
        second = self.send("kernel_info_request", {})
        pending.msg_ids += second.msg_ids
        self._pending[second.msg_ids[0]] = pending

    def forget(self, msg_id: str) -> None:
        """Take no more messages for a request."""
        self._pending.pop(msg_id, None)

    def keep_listening(self, pending: PendingRequest, take: TakeLate) -> None:
        """Pass on what threads and tasks of a cell put out when the cell is over."""
        self._late[pending.msg_ids[0]] = pending, take
        for old in list(self._late)[:-MAX_LATE]:
            del self._late[old]

    async def close(self) -> None:
        """End the kernel and leave nothing behind; what still waits for a message is told."""
        self._end("the sandbox's kernel was ended")
        for wire in self._wires.values():
            wire.close()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.manager.has_kernel:  # so that it is not interrupted by a socket of libzmq's
            assert self.manager.kernel_spec
            self.manager.kernel_spec.interrupt_mode = "signal"
        await self.manager.shutdown_kernel(now=True)

    def _receive(self, channel: str, frames: list[Frame]) -> None:
        """Pass a message to the request that it follows from; without one it is dropped."""
        try:
            message = read_message(channel, frames, self.manager.session)
        except Exception as error:  # unsigned, malformed, too deep: each raises another
            self.dropped += 1
            self.log.debug("dropped a message on %s: %s", channel, error)
            return
        if message is None:
            return
        if pending := self._pending.get(message.parent):
            if pending.takes(message):
                self._wires[channel].hold(message.size)
                pending.put(message)
        elif channel == "iopub" and message.parent in self._late:
            over, take = self._late[message.parent]
            if over.takes(message) and not take(message):
                del self._late[message.parent]

    def release(self, message: KernelMessage) -> None:
        """Note that a message waits no longer."""
        self._wires[message.channel].release(message.size)

    def _pass_over(self, channel: str, size: int) -> None:
        """Tell all pending requests that a message was too large to be read."""
        self.dropped += 1
        self.log.debug("passed over %s bytes on %s", f"{size:,}", channel)
        if channel == "stdin":
            self.reply(END_OF_FILE)
        for pending in {id(pending): pending for pending in self._pending.values()}.values():
            pending.put(KernelMessage(channel, TOO_LARGE))

    def pass_comm(self, message: KernelMessage, request: UserRequest) -> None:
        """Pass a widget's message on to the page.

        Raises
        ------
        ValueError
            It must not reach a page.
        """
        if request.widgets and request.late:
            request.late(self.widgets.read(message.kind, message.content(), message.buffers))

    def _connection_lost(self) -> None:
        self._tasks.append(asyncio.create_task(self._end_if_alive()))

    @property
    def _cause(self) -> str:
        """The limit that ended the process, if one did."""
        return getattr(self.manager.provisioner, "cause", "")

    async def _end_if_alive(self) -> None:
        """Give up a kernel that has broken a connection and goes on living."""
        await asyncio.wait({self._watcher}, timeout=0.5)  # a dead kernel's connection ends too
        if not self._watcher.done():
            why = self._cause or "perhaps it ran out of memory"
            self._end(f"the sandbox's kernel broke its connection ({why}) and was ended")

    async def _watch(self) -> None:
        """Wait until the process ends."""
        assert self.manager.provisioner
        with contextlib.suppress(ProcessLookupError):
            code = await self.manager.provisioner.wait()
            self._end(f"the sandbox's kernel died ({self._cause or f'exit code {code}'})")

    def _end(self, how: str) -> None:
        self.ended = self.ended or how
        for pending in self._pending.values():
            pending.wake()


class PendingRequest:
    """A request that was sent, and the messages that come back for it, in their order."""

    def __init__(
        self, kernel: KernelConnection, msg_id: str, *, value: bool, request: UserRequest | None
    ) -> None:
        self.kernel = kernel
        self.request = request
        self._takes_comms = value or bool(request and request.widgets)
        self.msg_ids = [msg_id]
        self._messages: asyncio.Queue[KernelMessage | None] = asyncio.Queue()  # the wires bound it

    def takes(self, message: KernelMessage) -> bool:
        """Tell whether a message is wanted: most that come by comm are not."""
        return self._takes_comms or message.kind not in _COMMS

    def put(self, message: KernelMessage) -> None:
        """Add a message."""
        self._messages.put_nowait(message)

    def wake(self) -> None:
        """Make `next` look whether the kernel has ended."""
        self._messages.put_nowait(None)

    async def next(self) -> KernelMessage:
        """Return the next message.

        Raises
        ------
        EOFError
            The kernel has died, or its connection was dropped and with it what it carried.
        """
        over = self.kernel.ended and self._messages.empty()
        message = None if over else await self._messages.get()
        if message is None:
            raise EOFError(self.kernel.ended)
        self.kernel.release(message)
        return message

    def close(self) -> None:
        """Take no more messages, and release those that wait."""
        for msg_id in self.msg_ids:
            self.kernel.forget(msg_id)
        while not self._messages.empty():
            message = self._messages.get_nowait()
            if message:
                self.kernel.release(message)


def execute_request(code: str, request: UserRequest, *, allow_stdin: bool) -> dict[str, Any]:
    """Write an execute_request; one that aborted others would throw the next cell away."""
    return {
        "code": code,
        "silent": request.silent,
        "store_history": request.store_history,
        "user_expressions": request.user_expressions,
        "allow_stdin": allow_stdin,
        "stop_on_error": False,
    }
