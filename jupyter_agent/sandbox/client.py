"""Sandbox: start a confined kernel, run code in it, interrupt it, notice when it dies."""

from __future__ import annotations

import asyncio
import copy
import functools
import logging
import math
import os
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
from jupyter_agent._arguments import (
    as_list,
    check_argument,
    check_path,
    check_traits,
    is_list_of_texts,
)
from jupyter_agent._nbformat import NotebookNode, new_output
from jupyter_agent._threads import cancel, run_in_thread
from jupyter_agent._traits import Seconds
from jupyter_agent.errors import SandboxError, UsageError
from jupyter_agent.sandbox.connection import (
    KernelConnection,
    PendingRequest,
    UserRequest,
    execute_request,
)
from jupyter_agent.sandbox.execution import Answer, Execution, OutputCounter, ValueParts
from jupyter_agent.sandbox.filter import cleaning
from jupyter_agent.sandbox.filter.rate import Displays, OutputRate
from jupyter_agent.sandbox.filter.replies import Reply
from jupyter_agent.sandbox.filter.widgets import VIEW, Widgets
from jupyter_agent.sandbox.guest.nodes import Buffer
from jupyter_agent.sandbox.isolation import sharing
from jupyter_agent.sandbox.isolation.folder_search import Share
from jupyter_agent.sandbox.isolation.interpreter import imports
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner
from jupyter_agent.sandbox.spare_kernel import SpareKernel

__all__ = ["Sandbox"]

_SILENT = logging.getLogger("jupyter_agent.sandbox.manager")  # it would log what we raise
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

HELD_CHECK = 0.1  # seconds after which outputs that are held back may pass
MAX_STARTS = 3  # while files change that are to be hidden
INTERRUPT_WAIT = 0.5  # seconds to wait for the end of a cell that was left early
LOST = "its variables and files are gone"
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
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        data: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        check_traits(self, kwargs)
        paths = as_list(data)
        is_list = data is None or is_list_of_texts(paths)
        check_argument("data", data, fits=is_list, wanted="a list of paths")
        super().__init__(**kwargs)
        self.folder = (Path.cwd() if folder is None else check_path("folder", folder)).resolve()
        self.data: list[str] | None = paths  # type: ignore[assignment]  # it was checked
        self.saved: Path | None = None  # the run's own file, which is not passed in as a late one
        self.execution_count: int | None = None
        self.reply: Reply | None = None
        self.generation = 0  # how many kernels have held this sandbox's variables
        self.loss = ""  # why variables are gone, as long as no cell has said it
        self._displays = Displays()  # of this kernel and of those before it
        self._kernel: KernelConnection | None = None
        self._spare = SpareKernel(self._launch, self._end_in_background)
        self._interrupted: asyncio.Task[None] | None = None  # waits for the end of a cell
        self._ending: set[asyncio.Task[None]] = set()  # end kernels
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> Sandbox:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    # -- what it is

    @property
    def alive(self) -> bool:
        """Whether there is a kernel, which holds the variables."""
        return self._kernel is not None and not self._kernel.ended

    @property
    def next_count(self) -> int:
        """The number that the next cell will have."""
        return self._kernel.execution_count + 1 if self._kernel and self.alive else 1

    @property
    def widgets(self) -> Widgets:
        """The widgets of the kernel that pages know."""
        return self._kernel.widgets if self._kernel and self.alive else Widgets()

    @property
    def _provisioner(self) -> SandboxProvisioner | None:
        provisioner = self._kernel.manager.provisioner if self._kernel else None
        return provisioner if isinstance(provisioner, SandboxProvisioner) else None

    @property
    def tier(self) -> str:
        """The tier that confines the kernel."""
        provisioner = self._provisioner
        return provisioner.tier if provisioner else f"kernel {self.kernel_name}"

    @property
    def shares(self) -> list[Share]:
        """The user's files that code in the sandbox can read."""
        return self._provisioner.shares if self._provisioner else []

    @property
    def left_out(self) -> str:
        """The user's files that code in here cannot read, in a few words."""
        provisioner = self._provisioner
        return sharing.left_out(provisioner.shares, provisioner.reason) if provisioner else ""

    @property
    def dropped(self) -> int:
        """The number of malformed messages that this kernel has sent."""
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
        """Check that these paths may be shared, before a kernel is ended for them.

        Raises
        ------
        UsageError
            One is missing, unreadable, too wide or among secrets.
        """
        provisioner = SandboxProvisioner(config=self._configuration())
        sharing.check(data, self.folder, exposed=provisioner.exposed)

    # -- life

    async def start(self) -> None:
        """Start the kernel if there is none.

        Raises
        ------
        SandboxError
            It cannot start, or no tier of isolation works on this machine.
        """
        if not self.alive:
            async with self._starting:  # completion may ask beside a cell
                await self._replace()
        if self.spare:
            self._spare.start_soon(idle_seconds=self.spare_seconds)

    async def _replace(self) -> None:
        """Start a kernel if there is none, or if it has died."""
        if self._kernel and self._kernel.ended:
            await self._end_dead(self._kernel)
        if self._kernel is None:
            self._kernel = await self._take_spare() or await self._launch()
            self.generation += 1

    async def _take_spare(self) -> KernelConnection | None:
        """Return the spare kernel, unless a new one would read other files."""
        kernel = await self._spare.take()
        if kernel is None:
            return None
        fresh = False
        try:
            look = functools.partial(self._is_fresh, kernel)
            fresh = not kernel.ended and await run_in_thread(look)
        finally:
            if not fresh:
                self._end_in_background(kernel.close())
        return kernel if fresh else None

    def _is_fresh(self, kernel: KernelConnection) -> bool:
        """Tell whether a new kernel would share and hide the same files."""
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
        if self._kernel is None:
            self._spare.start()

    def _end_in_background(self, ending: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """End a kernel while the next one is already used."""
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    async def restart(self) -> None:
        """End the kernel and start a new one."""
        await self._await_interrupted()
        kernel, self._kernel = self._kernel, None
        self.loss = ""
        if kernel:
            self._end_in_background(kernel.close())
        await self.start()

    async def _launch(self, starts: int = MAX_STARTS) -> KernelConnection:
        settings.check()
        kernel = KernelConnection(AsyncKernelManager(**self._settings()), self.log)
        try:
            await kernel.start(self.folder, self.start_timeout)
        except BaseException as error:
            await asyncio.shield(self._end_in_background(kernel.close()))
            match error:
                case NoSuchKernel():
                    raise SandboxError(
                        f"there is no kernelspec {self.kernel_name!r}; correct "
                        "c.Sandbox.kernel_name, or reinstall jupyter-agent-kernel"
                    ) from None
                case SandboxError() if starts > 1 and kernel.is_outdated:
                    return await self._launch(starts - 1)
            raise
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
        """Return the part of the front end's configuration that the kernel needs."""
        config = Config()
        for name in ("KernelSpecManager", "SandboxProvisioner"):
            config[name] = copy.deepcopy(self.config[name])
        return config

    async def close(self) -> None:
        """End the kernel and the spare one, and all that belongs to them.

        If this is cancelled while they are being ended, they are ended in the background.
        """
        interrupted, self._interrupted = self._interrupted, None
        try:
            async with self._starting:  # a kernel that is about to be there is ended too
                if self._kernel:
                    await self._end(self._kernel)
        finally:
            self.loss = ""
            self._spare.end()
        if interrupted:
            await cancel(interrupted)
        await asyncio.shield(asyncio.gather(*self._ending))
        cleaning.end()

    async def _end(self, kernel: KernelConnection) -> None:
        """End a kernel, unless another request has ended it already.

        If this is cancelled, the kernel is ended in the background, and `close` waits for that.
        """
        if kernel is self._kernel:
            self._kernel = None
            await asyncio.shield(self._end_in_background(kernel.close()))

    async def _end_dead(self, kernel: KernelConnection) -> None:
        """Clean up after a kernel that has died; the next cell says so if code has run in it."""
        if kernel is self._kernel and kernel.used:
            self.loss = f"{kernel.ended}; {LOST}"
        await self._end(kernel)

    # -- work

    async def execute(
        self, code: str, *, answer: Answer | None = None, request: UserRequest | None = None
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
        await self._await_interrupted()
        await self.start()
        kernel = self._kernel  # another request may replace it while files are copied
        assert kernel
        if self._provisioner and self._provisioner.late_files:
            follow = functools.partial(self._provisioner.late_files.follow, exclude=self.saved)
            await run_in_thread(follow)
        content = execute_request(code, request or UserRequest(), allow_stdin=answer is not None)
        pending = kernel.send("execute_request", content, request=request)
        execution = self._read(pending, answer=answer)
        rate = self._rate()
        try:
            if self.loss:
                loss, self.loss = self.loss, ""
                text = f"{loss}; this cell runs in a new one\n"
                yield new_output("stream", name="stderr", text=text)
            async with aclosing(self._outputs(execution, rate, request=request)) as outputs:
                async for output in outputs:
                    for passed in rate.take(output):
                        for hint in self._hints(passed):
                            yield hint
                        yield passed
            for passed in rate.rest():
                for hint in self._hints(passed):
                    yield hint
                yield passed
            if request is None:  # an agent has no pager, which "name?" would open
                for page in _pages(execution.reply):
                    yield page
        finally:
            self.execution_count, self.reply = execution.execution_count, execution.reply
            await self._leave(execution, late=True)

    def _hints(self, output: NotebookNode) -> Iterator[NotebookNode]:
        """Explain, before an error is shown, that a file is newer than the sandbox."""
        late_files = self._provisioner.late_files if self._provisioner else None
        if late_files and output.get("ename") in ("FileNotFoundError", "PermissionError"):
            missed = [each for each in late_files.names() if each in output.evalue]
            if missed:
                text = (
                    f"[{missed[0]} is newer than this sandbox: %agent reset shows it, and forgets "
                    "variables]\n"
                )
                yield new_output("stream", name="stderr", text=text)

    async def _outputs(
        self, execution: Execution, rate: OutputRate, *, request: UserRequest | None
    ) -> AsyncGenerator[NotebookNode | None, None]:
        """Yield a cell's outputs until it is over; None when outputs held back may pass.

        Three things end the wait for a message: the time limit of the cell, an "idle" that does not
        follow the reply (both are in `Execution.wait_until`), and outputs that are held back.
        """
        clock = asyncio.get_running_loop().time
        limited = request is None
        seconds = self.cell_timeout if limited else 0
        time_limit = clock() + seconds if seconds else math.inf
        while not execution.done:
            give_up = execution.wait_until(time_limit)
            wake = min(give_up, clock() + HELD_CHECK) if rate.holds else give_up
            try:
                async with asyncio.timeout_at(wake if wake < math.inf else None):
                    output = await execution.next()
            except EOFError as death:
                await self._end_dead(execution.kernel)
                self.loss = ""  # as it is said here
                yield _notice("SandboxDied", f"{death}; {LOST}")
                return
            except TimeoutError:
                if clock() < give_up:
                    yield None
                    continue
                if execution.awaits_reply:
                    why = f"the cell ran longer than {seconds:g} s"
                    yield await self._interrupt_over_limit(execution, "TimeLimit", why)
                else:
                    execution.awaits_idle = False
                    yield _notice("OutputLost", "the rest of the cell's outputs is lost")
                return
            if limited and (over := execution.counter.over):
                yield await self._interrupt_over_limit(execution, "OutputLimit", over)
                return
            if output is not None:
                yield output

    async def _interrupt_over_limit(
        self, execution: Execution, limit: str, why: str
    ) -> NotebookNode:
        """Interrupt a cell that is over a limit, and return the error that says so."""
        await self._interrupt_and_finish(execution, wait=None)
        loss, self.loss = self.loss, ""
        return _notice(limit, f"{why}; {loss or 'the cell was interrupted'}")

    async def send_comm(
        self, kind: str, content: dict[str, Any], buffers: Sequence[Buffer], *, request: UserRequest
    ) -> AsyncGenerator[NotebookNode, None]:
        """Send a message from a page to a widget, and yield the outputs that follow.

        A dead kernel's widgets have died with it: nothing comes.
        """
        await self._await_interrupted()
        if self._kernel is None or not self.alive:
            return
        busy = self._kernel.busy
        pending = self._kernel.send(kind, content, buffers, request=request)
        if busy:
            self._kernel.end_with_second_request(pending)
        execution = self._read(pending, awaits_reply=False)
        rate = self._rate()
        try:
            while not execution.done:
                for output in rate.take(await execution.next()):
                    yield output
            for output in rate.rest():
                yield output
        except EOFError:
            await self._end_dead(execution.kernel)
        finally:
            execution.close()

    def _read(
        self, pending: PendingRequest, *, answer: Answer | None = None, awaits_reply: bool = True
    ) -> Execution:
        """Begin to read what comes back, as this sandbox's traits have it."""
        widgets = pending.request is not None and pending.request.widgets
        admit = {*self.admit, *([VIEW] if widgets else [])}
        counter = OutputCounter(
            self._displays, max_outputs=self.max_outputs, max_size=self.max_output_mib << 20
        )
        return Execution(pending, counter, answer=answer, admit=admit, awaits_reply=awaits_reply)

    def _rate(self) -> OutputRate:
        return OutputRate(self.max_outputs, self.max_output_mib << 20, weigh=self._displays.weigh)

    async def call(self, function: str, parts: Sequence[Buffer]) -> list[bytearray]:
        """Call a function of `guest.calls` with bytes and return the bytes it sends back.

        Raises
        ------
        SandboxError
            It did not come to an end, or sent something else.
        """
        await self._await_interrupted()
        await self.start()
        assert self._kernel
        code = f"__import__({_CALLS!r}, fromlist=['']).serve({function!r})"
        request = execute_request(code, UserRequest(store_history=False), allow_stdin=False)
        pending = self._kernel.send("execute_request", request, parts)
        value = ValueParts(self.max_value_mib << 20)
        execution = Execution(pending, OutputCounter(self._displays), value=value)
        failure = ""
        try:
            async with asyncio.timeout(self.value_timeout):
                while not execution.done:
                    output = await execution.next()
                    if output is not None and output.output_type == "error":
                        failure = f"{output.ename}: {output.evalue}"[:500]
        except EOFError as death:
            await self._end_dead(execution.kernel)
            raise SandboxError(f"{death}; nothing was handed over") from None
        except TimeoutError:
            failure = f"it took more than {self.value_timeout:g} s; see c.Sandbox.value_timeout"
        finally:
            await self._leave(execution)
        if failure or not value.complete:
            why = failure or value.fault or "it sent no result; perhaps it ran out of memory"
            raise SandboxError(f"the sandbox could not {function!r}: {why}")
        return value.parts

    async def ask(self, kind: str, content: dict[str, Any]) -> Reply:
        """Send a request such as ``complete_request`` and return the content of its reply.

        While code runs the kernel answers only afterwards.
        """
        await self._await_interrupted()
        await self.start()
        kernel = self._kernel
        assert kernel
        try:
            return await kernel.ask(kind, content)
        except EOFError as death:
            await self._end_dead(kernel)
            raise SandboxError(f"{death}; the next cell starts in a new one") from None

    async def interrupt(self) -> None:
        """Interrupt the running code (message spec: interrupt_request)."""
        if self._kernel is not None:
            await self._kernel.interrupt()

    async def _leave(self, execution: Execution, *, late: bool = False) -> None:
        """Finish with an execution; interrupt it if it is not over."""
        if not execution.done and execution.kernel is self._kernel:
            await self._interrupt_and_finish(execution, wait=INTERRUPT_WAIT)
        else:
            execution.close(late=late)

    async def _interrupt_and_finish(self, execution: Execution, *, wait: float | None) -> None:
        """Interrupt and return soon; what takes longer is awaited before the next cell."""
        execution.stop_answering()
        await execution.kernel.interrupt()
        self._interrupted = asyncio.create_task(self._finish(execution))
        await asyncio.wait({self._interrupted}, timeout=wait)

    async def _finish(self, execution: Execution) -> None:
        """Wait until an interrupted cell is over; kill the kernel if it takes too long."""
        loss = ""
        try:
            async with asyncio.timeout(self.grace):
                while not execution.done:
                    await execution.next()
        except EOFError as death:
            loss = f"when the cell was interrupted {death}; {LOST}"
        except TimeoutError:
            loss = f"the cell ignored its interrupt, and its kernel was ended; {LOST}"
        if loss and execution.kernel is self._kernel:
            self.loss = loss
            await self._end(execution.kernel)
        execution.close()

    async def _await_interrupted(self) -> None:
        """Wait until the cell that was interrupted is over."""
        if self._interrupted:
            await asyncio.wait({self._interrupted})
            self._interrupted = None


class _KernelSpecs(KernelSpecManager):
    """Look in Jupyter's own folders only: without a home, IPython makes a folder, and warns."""

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
