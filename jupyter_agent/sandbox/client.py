"""Sandbox: start a confined kernel, run code in it, interrupt it, notice when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import logging
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import aclosing
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
from jupyter_agent.sandbox.connection import KernelConnection, Request, Talk, execute_request
from jupyter_agent.sandbox.execution import Answer, Execution, Parcel
from jupyter_agent.sandbox.filter import cleaning
from jupyter_agent.sandbox.filter.rate import Displays, Pace
from jupyter_agent.sandbox.filter.replies import Reply
from jupyter_agent.sandbox.filter.widgets import VIEW, Widgets
from jupyter_agent.sandbox.guest.nodes import Buffer
from jupyter_agent.sandbox.isolation import sharing
from jupyter_agent.sandbox.isolation.interpreter import imports
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner

__all__ = ["Sandbox"]

_SILENT = logging.getLogger("jupyter_agent.sandbox.manager")  # it would log what we raise
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

SPARE_DELAY = 1.0  # seconds that a cell has for itself before the next spare kernel starts
TICK = 0.1  # seconds after which outputs that were held are looked at again
AFRESH = "%agent reset shows it, and forgets variables"
GONE = "its variables and files are gone"
_CALLS = "jupyter_agent.sandbox.guest.calls"


class Sandbox(settings.Configured):
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
        self._kernel: KernelConnection | None = None
        self._spare: asyncio.Task[KernelConnection] | None = None
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

    async def _ready_spare(self) -> KernelConnection | None:
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

    def _is_fresh(self, kernel: KernelConnection) -> bool:
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

    async def _launch(self) -> KernelConnection:
        settings.check()
        kernel = KernelConnection(AsyncKernelManager(**self._settings()), self.log)
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

    async def _end(self, kernel: KernelConnection) -> None:
        """End a kernel, but for one that another request has ended already."""
        if kernel is self._kernel:
            self._kernel = None
            await kernel.close()

    async def _bury(self, kernel: KernelConnection) -> None:
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
        content = execute_request(code, request or Request(), allow_stdin=answer is not None)
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
        self, cell: Execution, pace: Pace, *, limited: bool
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

    async def _cut(self, limit: str, why: str, cell: Execution) -> NotebookNode:
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

    def _cell(self, talk: Talk, answer: Answer | None = None) -> Execution:
        """Begin to read what comes back, as this sandbox's traits have it."""
        admit = {*self.admit, *([VIEW] if talk.request and talk.request.widgets else [])}
        most = (self.max_outputs, self.max_output_mib << 20)
        return Execution(talk, self._displays, answer, admit=admit, most=most)

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
        request = execute_request(code, Request(store_history=False), allow_stdin=False)
        cell = Execution(self._kernel.send("execute_request", request, parts), self._displays)
        cell.parcel = Parcel(self.max_value_mib << 20)
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

    async def _stop(self, cell: Execution, *, patience: float | None = 0.5) -> None:
        """Interrupt and return soon; a kernel that is slow stops before the next cell."""
        cell.hush()
        await cell.kernel.interrupt()
        self._settling = asyncio.create_task(self._settle(cell))
        await asyncio.wait({self._settling}, timeout=patience)

    async def _settle(self, cell: Execution) -> None:
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


def _pages(reply: Reply | None) -> Iterator[NotebookNode]:
    """Turn what a cell would show in a pager into outputs."""
    payload = reply["payload"] if reply else ()
    for each in payload if isinstance(payload, list) else ():
        match each:
            case {"source": "page", "data": dict(data)}:
                yield new_output("display_data", data=data)


def _notice(name: str, why: str) -> NotebookNode:
    return new_output("error", ename=name, evalue=why, traceback=[f"{name}: {why}"])


async def _end_launch(launch: asyncio.Task[KernelConnection]) -> None:
    """End a kernel that has started, or is about to."""
    launch.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await (await launch).close()


def _heard(task: asyncio.Task[Any]) -> None:
    """Look at how a spare's start went, so that asyncio does not complain that nobody did."""
    if not task.cancelled():
        task.exception()
