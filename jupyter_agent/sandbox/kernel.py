"""One sandboxed kernel: start it, run code in it, interrupt it, and notice when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence, Set
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from traitlets import Bool, Int, List, Unicode
from traitlets.config import Config, LoggingConfigurable

from jupyter_agent.errors import SandboxError
from jupyter_agent.ipynb import NotebookNode, new_output
from jupyter_agent.options import Seconds
from jupyter_agent.sandbox import files
from jupyter_agent.sandbox.debugger import Debugger, Events, read_response
from jupyter_agent.sandbox.guest_values import MOST_NODES, Buffer, nodes
from jupyter_agent.sandbox.outputs import read_output, weight
from jupyter_agent.sandbox.pace import Pace
from jupyter_agent.sandbox.provisioner import SandboxProvisioner
from jupyter_agent.sandbox.replies import Reply, read_reply
from jupyter_agent.sandbox.widgets import VIEW, Widgets

__all__ = ["Answer", "Request", "Sandbox"]

# Answers an input_request of the guest's, given its prompt and whether it asks for a password.
Answer = Callable[[str, bool], Awaitable[str]]

_SILENT = logging.getLogger("jupyter_agent.sandbox.manager")  # it would log what we raise
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

Mail = tuple[str, dict[str, Any]]  # a channel's name and a message
MOST_WAITING = 8  # messages of a guest that may wait on the host, here and in its sockets
SPARE_DELAY = 1.0  # seconds that a cell has for itself before the next spare kernel starts
TICK = 0.1  # seconds after which outputs that were held are looked at again
MOST_LATE = 32  # cells that are over and whose threads and tasks are still heard
END_OF_FILE = "\x04"  # as an answer it raises EOFError in the guest (ipykernel, raw_input)
_CALLS = "jupyter_agent.sandbox.guest_calls"
MOST_PARTS = 1 << 20  # of one value
LARGEST_MESSAGE = 128 << 20  # bytes; libzmq drops the connection on a larger one


@dataclass(frozen=True, slots=True)
class Request:
    """How a user's own cell is to run (message spec: execute_request).

    It has no limit but the user's patience. ``late`` is given what threads and tasks of the cell
    put out when it is over. With ``widgets`` it is given their messages too, as they come; the page
    knows the request as ``msg_id``.
    """

    silent: bool = False
    store_history: bool = True
    user_expressions: dict[str, str] = field(default_factory=dict)
    late: Callable[[NotebookNode], None] | None = None
    widgets: bool = False
    msg_id: str = ""


class Sandbox(LoggingConfigurable):
    """A kernel of the agent's own, started when first used.

    Parameters
    ----------
    folder
        Where relative paths of ``data`` start; by default the current folder.
    data
        Files and folders the guest may read; None leaves it to the provisioner's trait.
    """

    kernel_name = Unicode(
        "python3-sandboxed", help="The kernelspec that the agent's code runs in."
    ).tag(config=True)
    start_timeout = Seconds(60, min=1, help="Seconds a kernel may take to start.").tag(config=True)
    grace = Seconds(
        3, min=0, help="Seconds from an interrupt to the kill of a kernel that ignores it."
    ).tag(config=True)
    cell_timeout = Seconds(
        3600, min=0, help="Seconds a cell may run before it is interrupted; 0 for no limit."
    ).tag(config=True)
    most_outputs = Int(1000, min=1, help="Outputs of a cell before it is interrupted.").tag(
        config=True
    )
    most_output = Int(20, min=1, help="MiB of outputs of a cell before it is interrupted.").tag(
        config=True
    )
    admit = List(
        Unicode(),
        help="Mime types that pass out of the sandbox as they are, beside those that cannot run or "
        "fetch; 'text/html' among them is no longer sanitised.",
    ).tag(config=True)
    most_value = Int(1024, min=1, help="MiB that may come out at once: results, a file.").tag(
        config=True
    )
    value_timeout = Seconds(60, min=1, help="Seconds a value may take to go in or come out.").tag(
        config=True
    )
    spare = Bool(False, help="Keep another kernel started, for a fast restart.").tag(config=True)
    spare_seconds = Seconds(
        600, min=1, help="Seconds without work after which a spare kernel is ended."
    ).tag(config=True)

    def __init__(
        self, folder: Path | None = None, *, data: list[str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.folder = (folder or Path.cwd()).resolve()
        self.data = data
        self.execution_count: int | None = None
        self.reply: Reply | None = None
        self.generation = 0  # how many kernels have held this sandbox's variables
        self._loss = ""  # how a kernel died that nobody has been told of
        self._kernel: _Kernel | None = None
        self._spare: asyncio.Task[_Kernel] | None = None
        self._settling: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> Sandbox:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    # -- what it is

    @property
    def alive(self) -> bool:
        """Whether a kernel is there that holds variables."""
        return self._kernel is not None and not self._kernel.ended

    @property
    def next_count(self) -> int:
        """The number that the next cell will have."""
        return self._kernel.count + 1 if self._kernel and self.alive else 1

    @property
    def widgets(self) -> Widgets:
        """What pages know of the widgets in the kernel that is there."""
        return self._kernel.widgets if self._kernel and self.alive else Widgets()

    @property
    def _provisioner(self) -> SandboxProvisioner | None:
        provisioner = self._kernel.manager.provisioner if self._kernel else None
        return provisioner if isinstance(provisioner, SandboxProvisioner) else None

    @property
    def tier(self) -> str:
        """What confines the kernel."""
        provisioner = self._provisioner
        return provisioner.tier if provisioner else f"kernel {self.kernel_name}"

    @property
    def shares(self) -> list[files.Share]:
        """The user's files that code in here can read."""
        return self._provisioner.shares if self._provisioner else []

    @property
    def dropped(self) -> int:
        """How many malformed messages this kernel has sent."""
        return self._kernel.dropped if self._kernel else 0

    def describe(self) -> str:
        """Say in a few words what confines the kernel and what it can read."""
        provisioner = self._provisioner
        if provisioner is None:
            return self.tier
        if provisioner.tier == "none":
            return "NO SANDBOX: your files, keys and network"
        read = files.describe(provisioner.shares, provisioner.reason, provisioner.modules)
        return f"{self.tier}, reads {read}"

    def describe_limits(self) -> str:
        """Say in a few words what is limited."""
        parts = [f"a cell {self.cell_timeout:g} s"] if self.cell_timeout else []
        parts.append(f"its outputs {self.most_outputs:,} and {self.most_output} MiB")
        if self._provisioner and self._provisioner.tier != "none":
            parts.append(self._provisioner.describe_limits())
        return ", ".join(parts)

    def check_data(self, data: list[str]) -> None:
        """See that these paths may be shared, before anything is ended for them.

        Raises
        ------
        UsageError
            One is missing, unreadable, too wide or among secrets.
        """
        provisioner = SandboxProvisioner(config=self._configuration())
        files.check(data, self.folder, exposed=provisioner.exposed)

    # -- life

    async def start(self) -> None:
        """Start the kernel if none is there.

        Raises
        ------
        SandboxError
            It cannot start, or no tier of isolation works on this machine.
        """
        if not self.alive:
            async with self._starting:  # a debugger may ask beside a cell
                await self._replace()
        self._prepare_spare()

    async def _replace(self) -> None:
        """Put a kernel in the place of none, or of one that has died."""
        if self._kernel and self._kernel.ended:
            await self._bury(self._kernel.ended)
        if self._kernel is None:
            spare, self._spare = self._spare, None
            self._kernel = await (spare or self._launch())
            self.generation += 1

    def warm_up(self) -> None:
        """Begin to start a kernel, so that the first cell need not wait for it."""
        if self._kernel is None and self._spare is None:
            self._spare = asyncio.create_task(self._launch())
            self._spare.add_done_callback(_heard)

    def _prepare_spare(self) -> None:
        """Start a spare kernel in the background, and end it when nothing has run for long."""
        if not self.spare:
            return
        for timer in self._timers:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._timers = [
            loop.call_later(SPARE_DELAY, self._start_spare),
            loop.call_later(self.spare_seconds, self._end_spare),
        ]

    def _start_spare(self) -> None:
        if self._spare is None:
            self._spare = asyncio.create_task(self._launch())
            self._spare.add_done_callback(_heard)

    def _end_spare(self) -> None:
        """Give a spare kernel's memory back."""
        spare, self._spare = self._spare, None
        for timer in self._timers:
            timer.cancel()
        if spare:
            self._end_aside(_end_launch(spare))

    def _end_aside(self, ending: Coroutine[Any, Any, None]) -> None:
        """End a kernel while the next one is at work already."""
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def restart(self) -> None:
        """Put a new kernel in the place of the one that is there."""
        await self._settled()
        kernel, self._kernel = self._kernel, None
        self._loss = ""
        if kernel:
            self._end_aside(kernel.close())
        await self.start()

    async def _launch(self) -> _Kernel:
        kernel = _Kernel(AsyncKernelManager(**self._settings()), self.log)
        try:
            await kernel.start(self.folder, self.start_timeout)
        except NoSuchKernel:
            raise SandboxError(
                f"there is no kernelspec {self.kernel_name!r}; reinstall jupyter-agent-kernel, "
                "or see: jupyter agent doctor"
            ) from None
        return kernel

    def _settings(self) -> dict[str, Any]:
        config = self._configuration()
        if self.data is not None:
            config.SandboxProvisioner.data = self.data
        return {"kernel_name": self.kernel_name, "config": config, "log": _SILENT}

    def _configuration(self) -> Config:
        """Pass on what concerns the kernel, and nothing else of the door's configuration."""
        config = Config()
        for name in ("KernelSpecManager", "SandboxProvisioner"):
            config[name] = self.config[name]
        return config

    async def close(self) -> None:
        """End the kernel, and a spare one, and leave nothing behind."""
        settling, self._settling = self._settling, None
        if settling:
            settling.cancel()
            await asyncio.wait({settling})
        await self._end()
        self._loss = ""
        self._end_spare()
        await asyncio.gather(*self._ending)

    async def _end(self) -> None:
        kernel, self._kernel = self._kernel, None
        if kernel:
            await kernel.close()

    async def _bury(self, death: str) -> None:
        """End a kernel that has died while no cell ran; the next one says so."""
        self._loss = f"{death}; its variables and files are gone"
        await self._end()

    # -- work

    async def execute(
        self, code: str, *, answer: Answer | None = None, request: Request | None = None
    ) -> AsyncGenerator[NotebookNode, None]:
        """Run code and yield its outputs as they come, until the kernel is idle and has replied.

        An error of the code, the kernel's death and a limit that was hit are outputs. Closing the
        iterator early interrupts the code. What the kernel replied then stands in `reply`.

        Parameters
        ----------
        answer
            Answers what the code asks by ``input()``; without it that raises in the guest.
        request
            How a user's own cell is to run; without it the limits of a cell hold.
        """
        self.reply = None
        await self._settled()
        await self.start()
        assert self._kernel
        content = _execution(code, request or Request(), allow_stdin=answer is not None)
        talk = self._kernel.send("execute_request", content, request=request)
        cell = self._cell(talk, answer)
        pace = Pace(self.most_outputs, self.most_output << 20)
        try:
            if self._loss:
                loss, self._loss = self._loss, ""
                text = f"{loss}; this cell runs in a new one\n"
                yield new_output("stream", name="stderr", text=text)
            async with aclosing(self._hear(cell, pace, limited=request is None)) as heard:
                async for output in heard:
                    for passed in pace.take(output):
                        yield passed
            for passed in pace.rest():
                yield passed
        finally:
            self.execution_count, self.reply = cell.execution_count, cell.reply
            if cell.waiting and self._kernel is not None:
                await self._stop(cell)
            else:
                cell.close(late=True)

    async def _hear(
        self, cell: _Cell, pace: Pace, *, limited: bool
    ) -> AsyncGenerator[NotebookNode | None, None]:
        """Yield a cell's outputs until it is over; None when it is time to look what is held."""
        clock = asyncio.get_running_loop().time
        timeout = self.cell_timeout if limited else 0
        deadline = clock() + (timeout or float("inf"))
        while cell.waiting:
            until = cell.until(deadline)
            soon = min(until, clock() + TICK) if pace.waiting else until
            try:
                async with asyncio.timeout_at(soon if soon < float("inf") else None):
                    output = await cell.next()
            except EOFError as death:
                await self._end()
                yield _notice("SandboxDied", f"{death}; its variables and files are gone")
                return
            except TimeoutError:
                if clock() < until:
                    yield None
                    continue
                yield _notice(*cell.lateness(timeout))
                return
            if limited and cell.over:
                yield _notice("OutputLimit", f"{cell.over}; the cell was interrupted")
                return
            if output is not None:
                yield output

    async def tell(
        self, kind: str, content: dict[str, Any], buffers: Sequence[Buffer], *, request: Request
    ) -> AsyncGenerator[NotebookNode, None]:
        """Send a message of a page's to a widget and yield what it puts out, until that is over.

        A dead kernel's widgets have died with it: nothing comes.
        """
        await self._settled()
        if self._kernel is None or not self.alive:
            return
        busy = self._kernel.busy
        talk = self._kernel.send(kind, content, buffers, request=request)
        if busy:
            self._kernel.follow(talk)
        cell = self._cell(talk)
        cell.waiting = {"idle"}
        pace = Pace(self.most_outputs, self.most_output << 20)
        try:
            while cell.waiting:
                for output in pace.take(await cell.next()):
                    yield output
            for output in pace.rest():
                yield output
        except EOFError as death:
            await self._bury(str(death))
        finally:
            cell.close()

    def _cell(self, talk: _Talk, answer: Answer | None = None) -> _Cell:
        """Begin to read what comes back, as this sandbox's traits have it."""
        admit = {*self.admit, *([VIEW] if talk.request and talk.request.widgets else [])}
        most = (self.most_outputs, self.most_output << 20)
        return _Cell(talk, answer, admit=admit, most=most)

    async def call(self, function: str, parts: Sequence[Buffer]) -> list[bytearray]:
        """Call a function of `guest_calls` with bytes and return the bytes it sends back.

        Raises
        ------
        SandboxError
            It did not come to an end, or sent something else.
        """
        await self._settled()
        await self.start()
        assert self._kernel
        code = f"__import__({_CALLS!r}, fromlist=['']).serve({function!r})"
        request = _execution(code, Request(store_history=False), allow_stdin=False)
        cell = _Cell(self._kernel.send("execute_request", request, parts))
        cell.parcel = _Parcel(self.most_value << 20)
        failure = ""
        try:
            async with asyncio.timeout(self.value_timeout):
                while cell.waiting:
                    output = await cell.next()
                    if output is not None and output.output_type == "error":
                        failure = f"{output.ename}: {output.evalue}"[:500]
        except EOFError as death:
            await self._bury(str(death))
            raise SandboxError(f"{death}; nothing was handed over") from None
        except TimeoutError:
            failure = f"it took more than {self.value_timeout:g} s; see c.Sandbox.value_timeout"
        finally:
            if cell.waiting and self._kernel is not None:
                await self._stop(cell)
            else:
                cell.close()
        if failure or not cell.parcel.whole:
            why = failure or cell.parcel.fault or "it sent no result; had it memory left?"
            raise SandboxError(f"the sandbox could not {function!r}: {why}")
        return cell.parcel.parts

    async def ask(self, kind: str, content: dict[str, Any]) -> Reply:
        """Send a request such as ``complete_request`` and return the content of its reply.

        While code runs the kernel answers only afterwards.
        """
        await self._settled()
        await self.start()
        assert self._kernel
        try:
            return await self._kernel.ask(kind, content, "shell", read_reply)
        except EOFError as death:
            await self._bury(str(death))
            raise SandboxError(f"{death}; the next cell starts in a new one") from None

    # -- the debugger

    def lacks_debugger(self) -> str:
        """Return why cells cannot be debugged, or nothing."""
        provisioner = self._provisioner or SandboxProvisioner(config=self._configuration())
        return provisioner.lacks_debugger()

    @property
    def debugging(self) -> bool:
        """Whether a debugger has been started in the kernel that is there."""
        return self._kernel is not None and self.alive and self._kernel.debugger.started

    async def debug(self, content: dict[str, Any], events: Events) -> Reply:
        """Forward a debug_request, also while code runs; ``events`` is given what follows from it.

        The next cell waits while it starts: ipykernel starts it as if it were a cell, and would
        hear no interrupt as long as it stood in line.
        """
        await self.start()
        assert self._kernel
        asking = self._kernel.ask("debug_request", content, "control", read_response)
        asked = asyncio.create_task(asking)
        if content.get("command") == "initialize":
            self._kernel.debugger.start(events)
            self._settling = asyncio.create_task(_over(asked, self.start_timeout))
        try:
            return await asked
        except EOFError as death:
            raise SandboxError(f"{death}; its debugger is gone") from None
        except asyncio.CancelledError:
            raise SandboxError("the debugger did not start") from None

    async def interrupt(self) -> None:
        """Ask the running code to stop (message spec: interrupt_request)."""
        if self._kernel is not None:
            await self._kernel.manager.interrupt_kernel()

    async def _stop(self, cell: _Cell) -> None:
        """Interrupt and return soon; a kernel that is slow stops before the next cell."""
        cell.hush()
        await self.interrupt()
        self._settling = asyncio.create_task(self._settle(cell))
        await asyncio.wait({self._settling}, timeout=0.5)

    async def _settle(self, cell: _Cell) -> None:
        """Wait until the interrupted cell is over; kill the kernel if it takes too long."""
        with contextlib.suppress(TimeoutError, EOFError):
            async with asyncio.timeout(self.grace):
                while cell.waiting:
                    await cell.next()
        if cell.waiting:
            await self._end()
        cell.close()

    async def _settled(self) -> None:
        if self._settling:
            await asyncio.wait({self._settling})
            self._settling = None


class _Kernel:
    """A started kernel and what it has sent; everything that one process needs."""

    def __init__(self, manager: AsyncKernelManager, log: logging.Logger) -> None:
        self.manager = manager
        self.client = manager.client()
        self.dropped = 0
        self.count = 0  # of the last cell
        self.widgets = Widgets()
        self.ended = ""  # how it ended, once it has
        self.debugger = Debugger()
        self.log = log
        self._talks: dict[str, _Talk] = {}  # under way, by the request's id
        self._late: dict[str, _Cell] = {}  # the last that are over
        self._listeners: list[asyncio.Task[None]] = []
        self._monitors: list[zmq.asyncio.Socket] = []

    async def start(self, folder: Path, timeout: float) -> None:
        """Start it and wait until it answers; leave nothing behind if it does not."""
        try:
            await self.manager.start_kernel(cwd=str(folder))
            self._connect()
            async with asyncio.timeout(timeout):
                await self._ready()
        except BaseException as error:
            words = getattr(self.manager.provisioner, "last_words", str)()
            await self.close()
            match error:
                case TimeoutError():
                    raise SandboxError(
                        f"the sandbox did not start within {timeout:g} s: {words or 'no word'}"
                    ) from None
                case EOFError():
                    raise SandboxError(
                        f"the sandbox's kernel ended at its start: {words or error}; "
                        "see: jupyter agent doctor"
                    ) from None
                case OSError():
                    raise SandboxError(f"the sandbox cannot start: {error}") from None
            raise

    def _connect(self) -> None:
        self.client = self.manager.client()
        context = self.client.context
        context.setsockopt(zmq.RCVHWM, MOST_WAITING)
        context.setsockopt(zmq.MAXMSGSIZE, LARGEST_MESSAGE)
        context.setsockopt(zmq.HANDSHAKE_IVL, 0)  # a slow start is no lost connection
        self.client.start_channels(hb=False)
        self._watcher = asyncio.create_task(self._watch())
        self._listeners = [self._watcher]
        for channel in (self.client.shell_channel, self.client.iopub_channel):
            assert channel.socket
            monitor = channel.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            self._monitors.append(monitor)
            self._listeners.append(asyncio.create_task(self._mind(monitor)))
        for name in ("shell", "iopub", "stdin", "control"):
            self._listeners.append(asyncio.create_task(self._listen(name)))

    async def _ready(self) -> None:
        """Wait for an answer, and for iopub to be heard: its first messages would else be lost."""
        answered = heard = False
        talk = self.send("kernel_info_request", {})
        while not (answered and heard):
            try:
                async with asyncio.timeout(1 if answered else None):
                    source, _ = await talk.next()
            except TimeoutError:
                talk.close()
                talk = self.send("kernel_info_request", {})
                continue
            answered |= source == "shell"
            heard |= source == "iopub"
        talk.close()

    @property
    def busy(self) -> bool:
        """Whether anything that was asked is under way."""
        return bool(self._talks)

    def send(
        self,
        kind: str,
        content: dict[str, Any],
        buffers: Sequence[Buffer] = (),
        *,
        request: Request | None = None,
        channel: str = "shell",
    ) -> _Talk:
        """Send a request; with buffers, values may come back as comm messages.

        The session counts its ids up: the guest could sign answers to a request still to come.
        """
        message = self.client.session.msg(kind, content)
        msg_id = message["header"]["msg_id"] = message["msg_id"] = secrets.token_hex(16)
        message["buffers"] = list(buffers)
        self._talks[msg_id] = talk = _Talk(self, msg_id, values=bool(buffers), request=request)
        if request and request.widgets:
            self.widgets.asked(msg_id, request.msg_id)
        self._post(channel, message)
        return talk

    def reply(self, text: str) -> None:
        """Answer a question of the code's."""
        self._post("stdin", self.client.session.msg("input_reply", {"value": text}))

    def _post(self, channel: str, message: dict[str, Any]) -> None:
        """Send a message.

        Not as jupyter_client does: by a shadow of the socket, and what arrives during that wakes
        nobody, so that a reply to an earlier request would wait until something else comes.
        """
        socket = getattr(self.client, f"{channel}_channel").socket
        frames = self.client.session.serialize(message)
        sent = socket.send_multipart([*frames, *message.get("buffers", ())], copy=False)
        if sent.done():
            sent.result()

    async def ask(
        self, kind: str, content: dict[str, Any], channel: str, read: Callable[[str, object], Reply]
    ) -> Reply:
        """Send a request and return the content of its reply.

        Raises
        ------
        EOFError
            The kernel has died.
        """
        talk = self.send(kind, content, channel=channel)
        try:
            while True:
                source, message = await talk.next()
                if source == channel:
                    return read(str(message.get("msg_type")), message.get("content"))
        except (ValueError, TypeError, RecursionError) as error:
            self.dropped += 1
            raise SandboxError(f"the sandbox's kernel replied with {error}") from None
        finally:
            talk.close()

    def follow(self, talk: _Talk) -> None:
        """Have a talk end with a second request: its own idle is not sent while a cell awaits.

        (ipykernel 7.4 carries such a message out beside the cell, and publishes no status then.)
        """
        second = self.send("kernel_info_request", {})
        talk.msg_ids += second.msg_ids
        self._talks[second.msg_ids[0]] = talk

    def over(self, msg_id: str) -> None:
        """Take nothing more for a request."""
        self._talks.pop(msg_id, None)

    def hear_late(self, msg_id: str, cell: _Cell) -> None:
        """Still hear what a cell's threads and tasks put out."""
        self._late[msg_id] = cell
        for old in list(self._late)[:-MOST_LATE]:
            del self._late[old]

    async def close(self) -> None:
        """End the kernel and leave nothing behind."""
        self.debugger.end()
        listeners, self._listeners = self._listeners, []
        for task in listeners:
            task.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
        for monitor in self._monitors:
            monitor.close(0)
        if listeners:
            self.client.stop_channels()
        await self.manager.shutdown_kernel(now=True)

    async def _listen(self, channel: str) -> None:
        """Take messages off a socket so that it never fills; drop what cannot be read."""
        source, session = getattr(self.client, f"{channel}_channel"), self.client.session
        while True:
            try:
                _, frames = session.feed_identities(await source.socket.recv_multipart())
                if _echo(frames):
                    continue
                if sum(map(nodes, frames[1:5])) > MOST_NODES:
                    raise ValueError("a message of too many parts")
                message = session.deserialize(frames)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # unsigned, malformed, too deep: Session.deserialize raises a different one for each
                self.dropped += 1
                self.log.debug("dropped a message on %s: %s", channel, error)
                if not source.is_alive():
                    return
                continue
            if message["msg_type"] == "debug_event":  # it is about no request
                self._hear_debugger(message["content"])
                continue
            await self._deliver(channel, message)

    def _hear_debugger(self, content: object) -> None:
        try:
            self.debugger.hear(content)
        except (ValueError, TypeError, RecursionError):
            self.dropped += 1

    async def _deliver(self, channel: str, message: dict[str, Any]) -> None:
        """Hand a message to who waits for it: echoes, most comms and strays are nobody's."""
        parent = _parent(message)
        talk, late = self._talks.get(parent), self._late.get(parent)
        request = talk.request if talk else late and late.request
        wanted = bool(talk and talk.values) or bool(request and request.widgets)
        if message.get("msg_type") in _IDLE_TALK and not wanted:
            return
        if talk:
            await talk.put((channel, message))
        elif late and channel == "iopub" and not late.take_late(message):
            del self._late[parent]

    def hear_comm(self, message: dict[str, Any], request: Request) -> None:
        """Pass on what a widget says.

        Raises
        ------
        ValueError
            It must not reach a page.
        """
        if request.widgets and request.late:
            kind, buffers = str(message.get("msg_type")), message["buffers"]
            request.late(self.widgets.read(kind, message.get("content"), buffers))

    async def _mind(self, monitor: zmq.asyncio.Socket) -> None:
        """Say so when libzmq has dropped the connection of a kernel that goes on living."""
        while True:
            await monitor.recv_multipart()
            await asyncio.wait({self._watcher}, timeout=0.5)  # a dead kernel's connection drops too
            if not self._watcher.done():
                why = (
                    f"it sent more than {LARGEST_MESSAGE >> 20} MiB at once, or had no memory left"
                )
                self._end(f"the sandbox's kernel broke its connection ({why}) and was ended")

    async def _watch(self) -> None:
        """Say so when the process ends."""
        assert self.manager.provisioner
        with contextlib.suppress(ProcessLookupError):
            code = await self.manager.provisioner.wait()
            self._end(f"the sandbox's kernel died (exit code {code})")

    def _end(self, how: str) -> None:
        self.ended = self.ended or how
        for talk in self._talks.values():
            talk.wake()


class _Talk:
    """One request and what comes back for it, in the order in which it came."""

    def __init__(
        self, kernel: _Kernel, msg_id: str, *, values: bool, request: Request | None
    ) -> None:
        self.kernel = kernel
        self.values = values  # whether values come back for it
        self.request = request
        self.msg_ids = [msg_id]
        self._mail: asyncio.Queue[Mail | None] = asyncio.Queue(MOST_WAITING)

    async def put(self, mail: Mail) -> None:
        await self._mail.put(mail)

    def wake(self) -> None:
        """Let who waits look whether the kernel has ended; who is behind will see for himself."""
        with contextlib.suppress(asyncio.QueueFull):
            self._mail.put_nowait(None)

    async def next(self) -> Mail:
        """Return the next message.

        Raises
        ------
        EOFError
            The kernel has died, or its connection was dropped and with it what it carried.
        """
        over = self.kernel.ended and self._mail.empty()
        mail = None if over else await self._mail.get()
        if mail is None:
            raise EOFError(self.kernel.ended)
        return mail

    def close(self) -> None:
        """Take no more messages, and hold none up that is on its way here."""
        for msg_id in self.msg_ids:
            self.kernel.over(msg_id)
        while not self._mail.empty():
            self._mail.get_nowait()


class _Cell:
    """What is still to come of one execution, and how much has."""

    def __init__(
        self,
        talk: _Talk,
        answer: Answer | None = None,
        *,
        admit: Set[str] = frozenset(),
        most: tuple[int, int] = (0, 0),
    ) -> None:
        self.waiting = {"idle", "reply"}
        self.outputs = self.size = 0
        self.execution_count: int | None = None
        self.reply: Reply | None = None
        self.parcel: _Parcel | None = None
        self._talk = talk
        self._kernel = talk.kernel
        self._answer = answer
        self._admit = admit
        self._most_outputs, self._most_size = most
        self._stream = ""  # that the last output was a piece of, as a notebook joins them
        self._answering: asyncio.Task[None] | None = None
        self._heard = asyncio.get_running_loop().time()

    def until(self, deadline: float) -> float:
        """Say when to stop waiting: idle follows the reply, or was lost with its connection."""
        return deadline if "reply" in self.waiting else min(deadline, self._heard + 10)

    def lateness(self, timeout: float) -> tuple[str, str]:
        """Name and explain what ``until`` has run into."""
        if "reply" not in self.waiting:
            self.waiting.clear()
            return "OutputLost", "the rest of the cell's outputs is lost"
        return "TimeLimit", f"the cell ran longer than {timeout:g} s and was interrupted"

    async def next(self) -> NotebookNode | None:
        """Take the next message; return the output it holds, if it holds one."""
        source, message = await self._talk.next()
        if source == "stdin":
            self._hear(message)
            return None
        self._heard = asyncio.get_running_loop().time()
        output = self._read(message)
        stream = output.name if output and output.output_type == "stream" else ""
        more, self._stream = bool(stream) and stream == self._stream, stream
        return self._counted(output, joined=more)

    def take_late(self, message: dict[str, Any]) -> bool:
        """Pass on what threads and tasks put out when this is over; tell if there may be more."""
        kind = message.get("msg_type")
        if self.request is None or self.request.late is None or kind in _AT_WORK:
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
            self.size += weight(output)
        return output

    @property
    def over(self) -> str:
        """Say which limit its outputs are over, if they are."""
        if self.outputs <= self._most_outputs and self.size <= self._most_size:
            return ""
        return f"more than {self._most_outputs:,} outputs or {self._most_size >> 20} MiB"

    @property
    def request(self) -> Request | None:
        """How a user's own cell was to run."""
        return self._talk.request

    def _hear(self, message: dict[str, Any]) -> None:
        """Have a question of the code's answered, one at a time, while its outputs go on."""
        content = message.get("content")
        match message.get("msg_type"), content:
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

    def hush(self) -> None:
        """Stop answering."""
        if self._answering:
            self._answering.cancel()

    def close(self, *, late: bool = False) -> None:
        """Be done with this cell, but for what its threads and tasks may put out late."""
        self.hush()
        self._talk.close()
        if late and self.request and self.request.late:
            self._kernel.hear_late(self._talk.msg_ids[0], self)

    def _read(self, message: dict[str, Any]) -> NotebookNode | None:
        kind, content = message.get("msg_type"), message.get("content")
        try:
            match kind, content:
                case "status", {"execution_state": "idle"}:
                    self.waiting.discard("idle")
                case "execute_reply", _:
                    self.waiting.discard("reply")
                    self.reply = read_reply("execute_reply", content)
                    count = self.reply["execution_count"]
                    assert isinstance(count, int)
                    self.execution_count = self._kernel.count = count
                case "comm_msg", {"data": data} if self.parcel:
                    self.parcel.add(data, message["buffers"])
                case "comm_open" | "comm_msg" | "comm_close", _ if self._talk.request:
                    self._kernel.hear_comm(message, self._talk.request)
                case "clear_output", {"wait": wait}:
                    return NotebookNode(output_type="clear_output", wait=bool(wait))
                case _:
                    return read_output(str(kind), content, admit=self._admit)
        except (ValueError, TypeError, RecursionError):
            self._kernel.dropped += 1
        return None


class _Parcel:
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
        self._announced = False
        self._place = (0, 0)  # of the next byte: in which part, and where in it

    @property
    def whole(self) -> bool:
        """Whether all that was announced has come, and nothing else."""
        return self._announced and not self.fault and self._place[0] == len(self.parts)

    def add(self, data: object, buffers: list[memoryview]) -> None:
        """Take a message; note what is wrong with it."""
        try:
            if not self._announced:
                self._announce(data)
            for buffer in buffers:
                self._fill(buffer)
        except (ValueError, TypeError) as error:
            self.fault = self.fault or str(error)

    def _announce(self, sizes: object) -> None:
        if not isinstance(sizes, list) or any(type(n) is not int or n < 0 for n in sizes):
            raise ValueError("it sent something else than a value")
        if sum(sizes) > self._most or len(sizes) > MOST_PARTS:
            raise ValueError(
                f"it has {sum(sizes):,} bytes in {len(sizes):,} parts, more than "
                f"{self._most >> 20:,} MiB in {MOST_PARTS:,}; raise c.Sandbox.most_value"
            )
        self.parts = [bytearray(size) for size in sizes]
        self._announced = True
        self._skip_empty(0)

    def _fill(self, piece: memoryview) -> None:
        part, start = self._place
        end = start + piece.nbytes
        if self.fault or part >= len(self.parts) or end > len(self.parts[part]):
            raise ValueError("it sent more than it announced")
        self.parts[part][start:end] = piece
        if end < len(self.parts[part]):
            self._place = (part, end)
        else:
            self._skip_empty(part + 1)

    def _skip_empty(self, part: int) -> None:
        while part < len(self.parts) and not self.parts[part]:
            part += 1
        self._place = (part, 0)


def _execution(code: str, request: Request, *, allow_stdin: bool) -> dict[str, Any]:
    """Write an execute_request; one that aborted others would throw the next cell away."""
    return {
        "code": code,
        "silent": request.silent,
        "store_history": request.store_history,
        "user_expressions": request.user_expressions,
        "allow_stdin": allow_stdin,
        "stop_on_error": False,
    }


def _parent(message: dict[str, Any]) -> str:
    parent = message.get("parent_header")
    msg_id = parent.get("msg_id") if isinstance(parent, dict) else None
    return msg_id if isinstance(msg_id, str) else ""


_COMMS = ("comm_msg", "comm_open", "comm_close")
_IDLE_TALK = (*_COMMS, "execute_input")
_AT_WORK = ("status", "execute_reply", "clear_output")  # means nothing when a cell is over


def _echo(frames: list[bytes]) -> bool:
    """Tell by its bytes whether a message says nothing new; to read it would take longer."""
    _signature, header, _parent, _metadata, content, *_buffers = frames
    return b'"execute_input"' in header or content == b'{"execution_state": "busy"}'


def _notice(name: str, why: str) -> NotebookNode:
    return new_output("error", ename=name, evalue=why, traceback=[f"{name}: {why}"])


async def _end_launch(launch: asyncio.Task[_Kernel]) -> None:
    """End a kernel that has started, or is about to."""
    launch.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await (await launch).close()


async def _over(task: asyncio.Task[Any], timeout: float) -> None:
    """Wait for a task that answers somebody else, and not for ever."""
    await asyncio.wait({task}, timeout=timeout)
    task.cancel()


def _heard(task: asyncio.Task[Any]) -> None:
    """Look at how a spare's start went, so that asyncio does not complain that nobody did."""
    if not task.cancelled():
        task.exception()
