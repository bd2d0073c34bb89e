"""One sandboxed kernel: start it, run code in it, interrupt it, and notice when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode
from nbformat.v4 import new_output
from traitlets import Float, Unicode
from traitlets.config import Config, LoggingConfigurable

from jupyter_agent.errors import SandboxError
from jupyter_agent.sandbox import files
from jupyter_agent.sandbox.outputs import read_output
from jupyter_agent.sandbox.provisioner import SandboxProvisioner

__all__ = ["Sandbox"]

_SILENT = logging.getLogger("jupyter_agent.sandbox.manager")  # it would log what we raise
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

Mail = tuple[str, Any]  # "iopub" or "shell" and a message; "died" and an exit code


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
    start_timeout = Float(60, help="Seconds a kernel may take to start.").tag(config=True)
    grace = Float(3, help="Seconds from an interrupt to the kill of a kernel that ignores it.").tag(
        config=True
    )

    def __init__(
        self, folder: Path | None = None, *, data: list[str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.folder = (folder or Path.cwd()).resolve()
        self.data = data
        self.execution_count: int | None = None
        self.dropped = 0  # malformed messages so far
        self._manager: AsyncKernelManager | None = None
        self._client: AsyncKernelClient | None = None
        self._inbox: asyncio.Queue[Mail] = asyncio.Queue(256)
        self._listeners: list[asyncio.Task[None]] = []
        self._settling: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Sandbox:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    # -- life

    @property
    def alive(self) -> bool:
        """Whether a kernel is there that holds variables."""
        return self._manager is not None

    @property
    def tier(self) -> str:
        """What confines the kernel."""
        provisioner = self._manager and self._manager.provisioner
        if isinstance(provisioner, SandboxProvisioner):
            return "NO SANDBOX" if provisioner.tier == "none" else provisioner.tier
        return f"kernel {self.kernel_name}"

    @property
    def shares(self) -> list[files.Share]:
        """The user's files that code in here can read."""
        provisioner = self._manager and self._manager.provisioner
        return provisioner.shares if isinstance(provisioner, SandboxProvisioner) else []

    def describe(self) -> str:
        """Say in a few words what confines the kernel and what it can read."""
        provisioner = self._manager and self._manager.provisioner
        if not isinstance(provisioner, SandboxProvisioner):
            return self.tier
        if provisioner.tier == "none":
            return "NO SANDBOX: your files, keys and network"
        return f"{self.tier}, reads {files.describe(provisioner.shares, provisioner.reason)}"

    async def start(self) -> None:
        """Start the kernel if none is there.

        Raises
        ------
        SandboxError
            It cannot start, or no tier of isolation works on this machine.
        """
        if self._manager:
            return
        manager = AsyncKernelManager(
            kernel_name=self.kernel_name, config=self._config(), log=_SILENT
        )
        try:
            await manager.start_kernel(cwd=str(self.folder))
        except NoSuchKernel:
            raise SandboxError(
                f"there is no kernelspec {self.kernel_name!r}; reinstall jupyter-agent-kernel, "
                "or see: jupyter agent doctor"
            ) from None
        except BaseException:  # a cancelled start too leaves no process behind
            await manager.shutdown_kernel(now=True)
            raise
        self._manager, self._client = manager, manager.client()
        self._client.start_channels(stdin=False, hb=False)
        self._inbox = asyncio.Queue(256)
        self._listeners = [
            asyncio.create_task(self._listen("shell")),
            asyncio.create_task(self._listen("iopub")),
            asyncio.create_task(self._watch()),
        ]
        try:
            async with asyncio.timeout(self.start_timeout):
                await self._ready()
        except BaseException as error:
            words = getattr(manager.provisioner, "last_words", str)()
            await self.close()
            if isinstance(error, TimeoutError):
                seconds = f"{self.start_timeout:g} s"
                raise SandboxError(
                    f"the sandbox did not start within {seconds}: {words or 'no word'}"
                ) from None
            if isinstance(error, EOFError):
                raise SandboxError(
                    f"the sandbox's kernel ended at its start: {words or error}; "
                    "see: jupyter agent doctor"
                ) from None
            raise

    def _config(self) -> Config:
        """Pass on what concerns the kernel, and nothing else of the door's configuration."""
        config = Config()
        for name in ("KernelSpecManager", "SandboxProvisioner"):
            config[name] = self.config[name]
        if self.data is not None:
            config.SandboxProvisioner.data = self.data
        return config

    async def _ready(self) -> None:
        """Wait for an answer, and for iopub to be heard: its first messages would else be lost."""
        assert self._client
        answered = heard = False
        self._client.kernel_info()
        while not (answered and heard):
            try:
                async with asyncio.timeout(1 if answered else None):
                    source, message = await self._inbox.get()
            except TimeoutError:
                self._client.kernel_info()
                continue
            if source == "died":
                raise EOFError(f"exit code {message}")
            answered |= source == "shell"
            heard |= source == "iopub"

    async def close(self) -> None:
        """End the kernel and leave nothing behind."""
        manager, client = self._manager, self._client
        self._manager = self._client = None
        tasks = [*self._listeners, *([self._settling] if self._settling else [])]
        self._listeners, self._settling = [], None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if client:
            client.stop_channels()
        if manager:
            await manager.shutdown_kernel(now=True)

    # -- work

    async def execute(self, code: str) -> AsyncGenerator[NotebookNode, None]:
        """Run code and yield its outputs as they come, until the kernel is idle and has replied.

        An error of the code, or the kernel's death, is an output. Closing the iterator early
        interrupts the code.
        """
        await self._settled()
        await self.start()
        assert self._client
        msg_id = self._client.execute(code, allow_stdin=False)
        waiting = {"idle", "reply"}
        try:
            while waiting:
                source, message = await self._inbox.get()
                if source == "died":
                    waiting.clear()
                    await self.close()
                    yield _death_notice(message)
                elif _parent(message) == msg_id:
                    output = self._read(message, waiting)
                    if output is not None:
                        yield output
        finally:
            if waiting and self._manager:
                await self._stop(msg_id, waiting)

    async def ask(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        """Send a request such as ``complete_request`` and return the content of its reply.

        Not while code runs: the kernel would answer only afterwards.
        """
        await self._settled()
        await self.start()
        assert self._client
        request = self._client.session.msg(kind, content)
        self._client.shell_channel.send(request)
        while True:
            source, message = await self._inbox.get()
            if source == "died":
                await self.close()
                raise SandboxError("the sandbox's kernel died; the next cell starts in a new one")
            if source == "shell" and _parent(message) == request["header"]["msg_id"]:
                reply = message.get("content")
                return reply if isinstance(reply, dict) else {"status": "error"}

    def _read(self, message: dict[str, Any], waiting: set[str]) -> NotebookNode | None:
        """Take from a message of the current cell what it says; count it if it is malformed."""
        kind, content = message.get("msg_type"), message.get("content")
        try:
            match kind, content:
                case "status", {"execution_state": "idle"}:
                    waiting.discard("idle")
                case "execute_reply", {"execution_count": int(count)}:
                    self.execution_count = count
                    waiting.discard("reply")
                case "execute_reply", _:
                    waiting.discard("reply")
                case "clear_output", {"wait": wait}:
                    return NotebookNode(output_type="clear_output", wait=bool(wait))
                case _:
                    return read_output(str(kind), content)
        except (ValueError, TypeError, RecursionError):
            self.dropped += 1
        return None

    async def interrupt(self) -> None:
        """Ask the running code to stop (message spec: interrupt_request)."""
        if self._manager:
            await self._manager.interrupt_kernel()

    async def _stop(self, msg_id: str, waiting: set[str]) -> None:
        """Interrupt and return soon; a kernel that is slow stops before the next cell."""
        await self.interrupt()
        self._settling = asyncio.create_task(self._settle(msg_id, waiting))
        await asyncio.wait({self._settling}, timeout=0.5)

    async def _settle(self, msg_id: str, waiting: set[str]) -> None:
        """Wait until the interrupted cell is over; kill the kernel if it takes too long."""
        try:
            async with asyncio.timeout(self.grace):
                while waiting:
                    source, message = await self._inbox.get()
                    if source == "died":
                        break
                    if _parent(message) == msg_id:
                        self._read(message, waiting)
        except TimeoutError:
            pass
        if waiting:
            self._settling = None  # this task must not wait for itself
            await self.close()

    async def _settled(self) -> None:
        if self._settling:
            await asyncio.wait({self._settling})
            self._settling = None

    # -- what comes back

    async def _listen(self, channel: str) -> None:
        """Take messages off a socket so that it never fills; drop what cannot be read."""
        client = self._client
        assert client
        source = client.shell_channel if channel == "shell" else client.iopub_channel
        while True:
            try:
                message = await source.get_msg(timeout=None)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # unsigned, malformed, too deep: Session.deserialize raises a different one for each
                self.dropped += 1
                self.log.debug("dropped a message on %s: %s", channel, error)
                if not source.is_alive():
                    return
                continue
            await self._inbox.put((channel, message))

    async def _watch(self) -> None:
        """Say so when the process ends."""
        assert self._manager
        assert self._manager.provisioner
        with contextlib.suppress(ProcessLookupError):
            await self._inbox.put(("died", await self._manager.provisioner.wait()))


def _parent(message: dict[str, Any]) -> object:
    parent = message.get("parent_header")
    return parent.get("msg_id") if isinstance(parent, dict) else None


def _death_notice(exit_code: object) -> NotebookNode:
    why = f"the sandbox's kernel died (exit code {exit_code}); its variables and files are gone"
    notice = f"SandboxDied: {why}. The next cell starts in a new one."
    return new_output("error", ename="SandboxDied", evalue=why, traceback=[notice])
