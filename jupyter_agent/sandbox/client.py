"""Sandbox: start a confined kernel, run code in it, interrupt it, notice when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import logging
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence, Set
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.paths import jupyter_path
from traitlets import Bool, Int, List, Unicode, default
from traitlets.config import Config

from jupyter_agent import settings
from jupyter_agent._nbformat import NotebookNode, new_output
from jupyter_agent._threads import run_in_thread
from jupyter_agent._traits import Seconds
from jupyter_agent.errors import SandboxError, UsageError
from jupyter_agent.sandbox.channels import LARGEST_MESSAGE, Frame, Wire
from jupyter_agent.sandbox.filter import cleaning
from jupyter_agent.sandbox.filter.figures import NotShown
from jupyter_agent.sandbox.filter.outputs import read_output
from jupyter_agent.sandbox.filter.rate import Displays, Pace
from jupyter_agent.sandbox.filter.replies import Reply, read_reply
from jupyter_agent.sandbox.filter.widgets import VIEW, Widgets
from jupyter_agent.sandbox.guest.nodes import Buffer
from jupyter_agent.sandbox.isolation import sharing
from jupyter_agent.sandbox.isolation.interpreter import imports
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner
from jupyter_agent.sandbox.messages import PASSED_OVER, Message, read_message

__all__ = ["Answer", "Request", "Sandbox"]

# Answers an input_request of the guest's, given its prompt and whether it asks for a password.
Answer = Callable[[str, bool], Awaitable[str]]

_SILENT = logging.getLogger("jupyter_agent.sandbox.manager")  # it would log what we raise
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

CHANNELS = ("shell", "iopub", "stdin", "control")
SPARE_DELAY = 1.0  # seconds that a cell has for itself before the next spare kernel starts
TICK = 0.1  # seconds after which outputs that were held are looked at again
MAX_LATE = 32  # cells that are over and whose threads and tasks are still heard
AFRESH = "%agent reset shows it, and forgets variables"
GONE = "its variables and files are gone"
END_OF_FILE = "\x04"  # as an answer it raises EOFError in the guest (ipykernel, raw_input)
_CALLS = "jupyter_agent.sandbox.guest.calls"
_ADAPT = "__import__('jupyter_agent.sandbox.guest.display', fromlist=['']).install()"
MAX_PARTS = 1 << 19  # of one value


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


class Sandbox(settings.Settled):
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
    max_outputs = Int(1000, min=1, help="Outputs of a cell before it is interrupted.").tag(
        config=True
    )
    max_output_mib = Int(20, min=1, help="MiB of outputs of a cell before it is interrupted.").tag(
        config=True
    )
    admit = List(
        Unicode(),
        help="Mime types that pass out of the sandbox as they are, beside those that cannot run or "
        "fetch; 'text/html' among them is no longer sanitised.",
    ).tag(config=True)
    max_value_mib = Int(1024, min=1, help="MiB that may come out at once: results, a file.").tag(
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
        self.saved: Path | None = None  # the run's own file, which no cell has to read anew
        self.execution_count: int | None = None
        self.reply: Reply | None = None
        self.generation = 0  # how many kernels have held this sandbox's variables
        self._displays = Displays()  # of this kernel and of those before it
        self.loss = ""  # what became of the kernel before, that nobody has been told of
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
    def shares(self) -> list[sharing.Share]:
        """The user's files that code in here can read."""
        return self._provisioner.shares if self._provisioner else []

    @property
    def left_out(self) -> str:
        """What of the user's files code in here cannot read, in a few words."""
        provisioner = self._provisioner
        return sharing.left_out(provisioner.shares, provisioner.reason) if provisioner else ""

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
        read = sharing.describe(provisioner.shares, provisioner.reason, provisioner.modules)
        return f"{self.tier}, reads {read}"

    def describe_limits(self) -> str:
        """Say in a few words what is limited."""
        parts = [f"a cell {self.cell_timeout:g} s"] if self.cell_timeout else []
        parts.append(f"its outputs {self.max_outputs:,} and {self.max_output_mib} MiB")
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
        sharing.check(data, self.folder, exposed=provisioner.exposed)

    # -- life

    async def start(self) -> None:
        """Start the kernel if none is there.

        Raises
        ------
        SandboxError
            It cannot start, or no tier of isolation works on this machine.
        """
        if not self.alive:
            async with self._starting:  # completion may ask beside a cell
                await self._replace()
        self._prepare_spare()

    async def _replace(self) -> None:
        """Put a kernel in the place of none, or of one that has died."""
        if self._kernel and self._kernel.ended:
            await self._bury(self._kernel)
        if self._kernel is None:
            self._kernel = await self._ready_spare() or await self._launch()
            self.generation += 1

    async def _ready_spare(self) -> _Kernel | None:
        """Take the spare kernel, unless one that started now would read other files."""
        spare, self._spare = self._spare, None
        if spare is None:
            return None
        try:
            kernel = await spare
        except SandboxError:  # what hindered it may have gone, or the next start says so
            return None
        fresh = False
        try:
            fresh = not kernel.ended and await asyncio.to_thread(self._is_fresh, kernel)
        finally:
            if not fresh:
                self._end_in_background(kernel.close())
        return kernel if fresh else None

    def _is_fresh(self, kernel: _Kernel) -> bool:
        """Tell whether what is shared, and what is hidden of it, is as it was at the start."""
        provisioner = kernel.manager.provisioner
        if not isinstance(provisioner, SandboxProvisioner):
            return True
        exposed = provisioner.exposed
        try:
            shares, _ = sharing.resolve(provisioner.data, self.folder, exposed=exposed)
        except UsageError:  # the next start says so
            return False
        return (shares, imports(exposed=exposed)) == (provisioner.shares, provisioner.modules)

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
            self._end_in_background(_end_launch(spare))

    def _end_in_background(self, ending: Coroutine[Any, Any, None]) -> None:
        """End a kernel while the next one is at work already."""
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def restart(self) -> None:
        """Put a new kernel in the place of the one that is there."""
        await self._settled()
        kernel, self._kernel = self._kernel, None
        self.loss = ""
        if kernel:
            self._end_in_background(kernel.close())
        await self.start()

    async def _launch(self) -> _Kernel:
        settings.check()
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
        config.SandboxProvisioner.magics = True
        specs = _KernelSpecs(config=config)
        named = {"kernel_name": self.kernel_name, "kernel_spec_manager": specs}
        return {**named, "config": config, "log": _SILENT}

    def _configuration(self) -> Config:
        """Pass on what concerns the kernel, and nothing else of the front end's configuration."""
        config = Config()
        for name in ("KernelSpecManager", "SandboxProvisioner"):
            config[name] = copy.deepcopy(self.config[name])
        return config

    async def close(self) -> None:
        """End the kernel, and a spare one, and leave nothing behind."""
        settling, self._settling = self._settling, None
        if settling:
            settling.cancel()
            await asyncio.wait({settling})
        async with self._starting:  # a kernel that is about to be there is ended too
            if self._kernel:
                await self._end(self._kernel)
        self.loss = ""
        self._end_spare()
        await asyncio.gather(*self._ending)
        cleaning.end()

    async def _end(self, kernel: _Kernel) -> None:
        """End a kernel, but for one that another request has ended already."""
        if kernel is self._kernel:
            self._kernel = None
            await kernel.close()

    async def _bury(self, kernel: _Kernel) -> None:
        """End a kernel that has died, and have the next cell say so if anything was in it."""
        if kernel is self._kernel and kernel.used:
            self.loss = f"{kernel.ended}; {GONE}"
        await self._end(kernel)

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
        if self._provisioner and self._provisioner.late_files:
            follow = functools.partial(self._provisioner.late_files.follow, but=self.saved)
            await run_in_thread(follow)
        content = _execution(code, request or Request(), allow_stdin=answer is not None)
        talk = self._kernel.send("execute_request", content, request=request)
        cell = self._cell(talk, answer)
        pace = self._pace()
        try:
            if self.loss:
                loss, self.loss = self.loss, ""
                text = f"{loss}; this cell runs in a new one\n"
                yield new_output("stream", name="stderr", text=text)
            async with aclosing(self._hear(cell, pace, limited=request is None)) as heard:
                async for output in heard:
                    for passed in pace.take(output):
                        for hint in self._hints(passed):
                            yield hint
                        yield passed
            for passed in pace.rest():
                for hint in self._hints(passed):
                    yield hint
                yield passed
            if request is None:  # an agent has no pager, which "name?" would open
                for page in _pages(cell.reply):
                    yield page
        finally:
            self.execution_count, self.reply = cell.execution_count, cell.reply
            if cell.waiting and cell.kernel is self._kernel:
                await self._stop(cell)
            else:
                cell.close(late=True)

    def _hints(self, output: NotebookNode) -> Iterator[NotebookNode]:
        """Say of a file that was not found, before the error does, that it came too late."""
        late_files = self._provisioner.late_files if self._provisioner else None
        if late_files and output.get("ename") in ("FileNotFoundError", "PermissionError"):
            missed = [each for each in late_files.names() if each in output.evalue]
            if missed:
                text = f"[{missed[0]} is newer than this sandbox: {AFRESH}]\n"
                yield new_output("stream", name="stderr", text=text)

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
                await self._bury(cell.kernel)
                self.loss = ""  # as it is said here
                yield _notice("SandboxDied", f"{death}; {GONE}")
                return
            except TimeoutError:
                if clock() < until:
                    yield None
                    continue
                if "reply" in cell.waiting:
                    late = f"the cell ran longer than {timeout:g} s"
                    yield await self._cut("TimeLimit", late, cell)
                else:
                    cell.waiting.clear()
                    yield _notice("OutputLost", "the rest of the cell's outputs is lost")
                return
            if limited and cell.over:
                yield await self._cut("OutputLimit", cell.over, cell)
                return
            if output is not None:
                yield output

    async def _cut(self, limit: str, why: str, cell: _Cell) -> NotebookNode:
        """Interrupt a cell that is over a limit, and say what became of it."""
        await self._stop(cell, patience=None)
        loss, self.loss = self.loss, ""
        return _notice(limit, f"{why}; {loss or 'the cell was interrupted'}")

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
        pace = self._pace()
        try:
            while cell.waiting:
                for output in pace.take(await cell.next()):
                    yield output
            for output in pace.rest():
                yield output
        except EOFError:
            await self._bury(cell.kernel)
        finally:
            cell.close()

    def _cell(self, talk: _Talk, answer: Answer | None = None) -> _Cell:
        """Begin to read what comes back, as this sandbox's traits have it."""
        admit = {*self.admit, *([VIEW] if talk.request and talk.request.widgets else [])}
        most = (self.max_outputs, self.max_output_mib << 20)
        return _Cell(talk, self._displays, answer, admit=admit, most=most)

    def _pace(self) -> Pace:
        return Pace(self.max_outputs, self.max_output_mib << 20, weigh=self._displays.weigh)

    async def call(self, function: str, parts: Sequence[Buffer]) -> list[bytearray]:
        """Call a function of `guest.calls` with bytes and return the bytes it sends back.

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
        cell = _Cell(self._kernel.send("execute_request", request, parts), self._displays)
        cell.parcel = _Parcel(self.max_value_mib << 20)
        failure = ""
        try:
            async with asyncio.timeout(self.value_timeout):
                while cell.waiting:
                    output = await cell.next()
                    if output is not None and output.output_type == "error":
                        failure = f"{output.ename}: {output.evalue}"[:500]
        except EOFError as death:
            await self._bury(cell.kernel)
            raise SandboxError(f"{death}; nothing was handed over") from None
        except TimeoutError:
            failure = f"it took more than {self.value_timeout:g} s; see c.Sandbox.value_timeout"
        finally:
            if cell.waiting and cell.kernel is self._kernel:
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
        kernel = self._kernel
        assert kernel
        try:
            return await kernel.ask(kind, content)
        except EOFError as death:
            await self._bury(kernel)
            raise SandboxError(f"{death}; the next cell starts in a new one") from None

    async def interrupt(self) -> None:
        """Ask the running code to stop (message spec: interrupt_request)."""
        if self._kernel is not None:
            await self._kernel.interrupt()

    async def _stop(self, cell: _Cell, *, patience: float | None = 0.5) -> None:
        """Interrupt and return soon; a kernel that is slow stops before the next cell."""
        cell.hush()
        await cell.kernel.interrupt()
        self._settling = asyncio.create_task(self._settle(cell))
        await asyncio.wait({self._settling}, timeout=patience)

    async def _settle(self, cell: _Cell) -> None:
        """Wait until the interrupted cell is over; kill the kernel if it takes too long."""
        loss = ""
        try:
            async with asyncio.timeout(self.grace):
                while cell.waiting:
                    await cell.next()
        except EOFError as death:
            loss = f"when the cell was interrupted {death}; {GONE}"
        except TimeoutError:
            loss = f"the cell ignored its interrupt, and its kernel was ended; {GONE}"
        if loss and cell.kernel is self._kernel:
            self.loss = loss
            await self._end(cell.kernel)
        cell.close()

    async def _settled(self) -> None:
        if self._settling:
            await asyncio.wait({self._settling})
            self._settling = None


class _KernelSpecs(KernelSpecManager):
    """Looks in Jupyter's own folders: without a home IPython makes one for its, and warns."""

    @default("kernel_dirs")
    def _jupyters_own(self) -> list[str]:
        return jupyter_path("kernels")


class _Kernel:
    """A started kernel and what it has sent; everything that one process needs."""

    def __init__(self, manager: AsyncKernelManager, log: logging.Logger) -> None:
        self.manager = manager
        self.dropped = 0
        self.count = 0  # of the last cell
        self.widgets = Widgets()
        self.ended = ""  # how it ended, once it has
        self.used = False  # whether code has run in it
        self.log = log
        self._talks: dict[str, _Talk] = {}  # under way, by the request's id
        self._late: dict[str, _Cell] = {}  # the last that are over
        self._wires: dict[str, Wire] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, folder: Path, timeout: float) -> None:
        """Start it and wait until it answers; leave nothing behind if it does not."""
        try:
            await self.manager.start_kernel(cwd=str(folder))
            self._connect()
            async with asyncio.timeout(timeout):
                await self._ready()
                await self._adapt()
        except BaseException as error:
            words = getattr(self.manager.provisioner, "stderr_tail", str)()
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
        """Begin to connect; what is sent meanwhile waits."""
        facts = self.manager.get_connection_info()
        self._watcher = asyncio.create_task(self._watch())
        self._tasks = [self._watcher]
        for channel in CHANNELS:
            wire = self._wires[channel] = Wire(
                functools.partial(self._receive, channel),
                pass_over=functools.partial(self._pass_over, channel),
                lose=self._lose,
                identity=b"" if channel == "iopub" else self.manager.session.bsession,
            )
            ip, port = str(facts["ip"]), int(facts[f"{channel}_port"])  # type: ignore[literal-required]
            address = f"{ip}-{port}" if facts["transport"] == "ipc" else (ip, port)
            self._tasks.append(asyncio.create_task(wire.connect(address)))

    async def _ready(self) -> None:
        """Wait for an answer, and for iopub to be heard: its first messages would else be lost."""
        answered = heard = False
        talk = self.send("kernel_info_request", {})
        while not (answered and heard):
            try:
                async with asyncio.timeout(1 if answered else None):
                    message = await talk.next()
            except TimeoutError:
                talk.close()
                talk = self.send("kernel_info_request", {})
                continue
            answered |= message.channel == "shell"
            heard |= message.channel == "iopub"
        talk.close()

    async def _adapt(self) -> None:
        """Have libraries show what passes the filter; a kernel of another language says no."""
        adapt = _execution(_ADAPT, Request(silent=True, store_history=False), allow_stdin=False)
        talk = self.send("execute_request", adapt)
        while (await talk.next()).channel != "shell":
            pass
        talk.close()
        self.used = False  # by nobody's code but ours

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
    ) -> _Talk:
        """Send a request; with buffers, values may come back as comm messages.

        The session counts its ids up: the guest could sign answers to a request still to come.
        """
        message = self.manager.session.msg(kind, content)
        msg_id = message["header"]["msg_id"] = message["msg_id"] = secrets.token_hex(16)
        message["buffers"] = list(buffers)
        self.used |= kind == "execute_request"
        self._talks[msg_id] = talk = _Talk(self, msg_id, values=bool(buffers), request=request)
        if request and request.widgets:
            self.widgets.asked(msg_id, request.msg_id)
        self._post("shell", message)
        return talk

    def reply(self, text: str) -> None:
        """Answer a question of the code's."""
        self._post("stdin", self.manager.session.msg("input_reply", {"value": text}))

    def _post(self, channel: str, message: dict[str, Any]) -> None:
        frames = self.manager.session.serialize(message)
        self._wires[channel].send([*frames, *message.get("buffers", ())])

    async def interrupt(self) -> None:
        """Ask what runs to stop.

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
        talk = self.send(kind, content)
        try:
            while True:
                message = await talk.next()
                if message.channel == "shell":
                    return read_reply(message.kind, message.content())
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
        for old in list(self._late)[:-MAX_LATE]:
            del self._late[old]

    async def close(self) -> None:
        """End the kernel and leave nothing behind."""
        for wire in self._wires.values():
            wire.close()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.manager.kernel_spec:  # so that it is not interrupted by a socket of libzmq's
            self.manager.kernel_spec.interrupt_mode = "signal"
        await self.manager.shutdown_kernel(now=True)

    def _receive(self, channel: str, frames: list[Frame]) -> None:
        """Hand a message to who waits for it: echoes, most comms and strays are nobody's."""
        try:
            message = read_message(channel, frames, self.manager.session)
        except Exception as error:  # unsigned, malformed, too deep: each raises another
            self.dropped += 1
            self.log.debug("dropped a message on %s: %s", channel, error)
            return
        if message is None:
            return
        talk, late = self._talks.get(message.parent), self._late.get(message.parent)
        request = talk.request if talk else late and late.request
        wanted = bool(talk and talk.values) or bool(request and request.widgets)
        if message.kind in _COMMS and not wanted:
            return
        if talk:
            self._wires[channel].hold(message.size)
            talk.put(message)
        elif late and channel == "iopub" and not late.take_late(message):
            del self._late[message.parent]

    def release(self, message: Message) -> None:
        """Count a message no more among those that wait."""
        self._wires[message.channel].release(message.size)

    def _pass_over(self, channel: str, size: int) -> None:
        """Say that a message was too large to be read."""
        self.dropped += 1
        self.log.debug("passed over %s bytes on %s", f"{size:,}", channel)
        if channel == "stdin":
            self.reply(END_OF_FILE)
        for talk in {id(talk): talk for talk in self._talks.values()}.values():
            talk.put(Message(channel, PASSED_OVER))

    def hear_comm(self, message: Message, request: Request) -> None:
        """Pass on what a widget says.

        Raises
        ------
        ValueError
            It must not reach a page.
        """
        if request.widgets and request.late:
            request.late(self.widgets.read(message.kind, message.content(), message.buffers))

    def _lose(self) -> None:
        """Say so when a connection has ended of a kernel that goes on living."""
        self._tasks.append(asyncio.create_task(self._mourn()))

    @property
    def _cause(self) -> str:
        """Say which limit ended the process, if one did."""
        return getattr(self.manager.provisioner, "cause", "")

    async def _mourn(self) -> None:
        await asyncio.wait({self._watcher}, timeout=0.5)  # a dead kernel's connection ends too
        if not self._watcher.done():
            why = self._cause or "had it memory left?"
            self._end(f"the sandbox's kernel broke its connection ({why}) and was ended")

    async def _watch(self) -> None:
        """Say so when the process ends."""
        assert self.manager.provisioner
        with contextlib.suppress(ProcessLookupError):
            code = await self.manager.provisioner.wait()
            self._end(f"the sandbox's kernel died ({self._cause or f'exit code {code}'})")

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
        self._mail: asyncio.Queue[Message | None] = asyncio.Queue()  # the wires bound it

    def put(self, message: Message) -> None:
        """Add a message."""
        self._mail.put_nowait(message)

    def wake(self) -> None:
        """Let who waits look whether the kernel has ended."""
        self._mail.put_nowait(None)

    async def next(self) -> Message:
        """Return the next message.

        Raises
        ------
        EOFError
            The kernel has died, or its connection was dropped and with it what it carried.
        """
        over = self.kernel.ended and self._mail.empty()
        message = None if over else await self._mail.get()
        if message is None:
            raise EOFError(self.kernel.ended)
        self.kernel.release(message)
        return message

    def close(self) -> None:
        """Take no more messages, and hold none up that is on its way here."""
        for msg_id in self.msg_ids:
            self.kernel.over(msg_id)
        while not self._mail.empty():
            message = self._mail.get_nowait()
            if message:
                self.kernel.release(message)


class _Cell:
    """What is still to come of one execution, and how much has."""

    def __init__(
        self,
        talk: _Talk,
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
        self.parcel: _Parcel | None = None
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
            self.kernel.hear_late(self._talk.msg_ids[0], self)

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


_COMMS = ("comm_msg", "comm_open", "comm_close")
_AT_WORK = ("status", "execute_reply", "clear_output")  # means nothing when a cell is over


def _left_out(why: str) -> NotebookNode:
    return new_output("stream", name="stderr", text=f"[an output {why} was left out]\n")


def _pages(reply: Reply | None) -> Iterator[NotebookNode]:
    """Turn what a cell would show in a pager into outputs."""
    payload = reply["payload"] if reply else ()
    for each in payload if isinstance(payload, list) else ():
        match each:
            case {"source": "page", "data": dict(data)}:
                yield new_output("display_data", data=data)


def _notice(name: str, why: str) -> NotebookNode:
    return new_output("error", ename=name, evalue=why, traceback=[f"{name}: {why}"])


async def _end_launch(launch: asyncio.Task[_Kernel]) -> None:
    """End a kernel that has started, or is about to."""
    launch.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await (await launch).close()


def _heard(task: asyncio.Task[Any]) -> None:
    """Look at how a spare's start went, so that asyncio does not complain that nobody did."""
    if not task.cancelled():
        task.exception()
