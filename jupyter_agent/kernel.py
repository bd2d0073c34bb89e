"""The agent kernel: a front process that holds the agent and hands every cell to its sandbox.

It runs no code of the user's or the agent's itself, so a notebook on this kernel has plain cells
that anyone can run again, and the keys stay in a process that runs none of them.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
from contextlib import aclosing
from typing import Any, NoReturn

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel
from nbformat import NotebookNode

from jupyter_agent import __version__
from jupyter_agent.errors import AgentError, CodeError, Interrupted, UsageError
from jupyter_agent.options import add_run_options, run_arguments
from jupyter_agent.session import Session
from jupyter_agent.views.display import AnswerView, DisplayView, KernelOutlet, show_recorded
from jupyter_agent.views.runs import GHOST, Note, Runs, digest

__all__ = ["AgentKernel"]


class _Parser(argparse.ArgumentParser):
    """Reads the line after ``%%agent``."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"%%agent: {message}; write the task below that line")


class AgentKernel(Kernel):
    """Forwards cells to the sandbox; carries ``%%agent`` cells out itself."""

    implementation = "jupyter_agent"
    implementation_version = __version__
    banner = f"jupyter_agent {__version__}: cells run in a sandbox; %%agent hands one to a model"
    language_info = {  # noqa: RUF012  # as the base class has it
        "name": "python",
        "mimetype": "text/x-python",
        "file_extension": ".py",
        "codemirror_mode": {"name": "ipython", "version": 3},
        "pygments_lexer": "ipython3",
        "nbconvert_exporter": "python",
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._session = Session(parent=self, keep_spare=True)
        self._runs = Runs()
        self._runs.listen(self)
        self._running: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that runs cells

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        self.send_response(self.iopub_socket, kind, content)

    # -- requests

    async def do_execute(
        self, code: str, silent: bool, *_args: Any, **_kwargs: Any
    ) -> dict[str, Any]:
        """Run a cell (message spec: execute_request)."""
        first, _, body = code.partition("\n")
        if first.split()[:1] == ["%%agent"]:
            work = self._agent(first.removeprefix("%%agent"), body.removesuffix("\n"))
        elif first.split()[:1] == ["%agent"]:
            work = self._command(code.strip().removeprefix("%agent").strip())
        else:
            ghost = self._runs.ghost(Note.of(self.get_parent("shell")))
            code = code.removeprefix("%%sandbox\n")
            work = self._refuse() if ghost else self._forward(code, silent=silent)
        self._loop = asyncio.get_running_loop()
        self._running = self._loop.create_task(work)
        try:
            await self._running
        except asyncio.CancelledError:
            return self._failed(Interrupted("stopped"))
        except AgentError as error:
            return self._failed(error)
        finally:
            self._running = None
        return self._reply("ok", payload=[], user_expressions={})

    def _reply(self, status: str, **content: Any) -> dict[str, Any]:
        return {"status": status, "execution_count": self.execution_count, **content}

    def _failed(self, error: AgentError) -> dict[str, Any]:
        name, _, value = str(error).partition(": ")
        facts = {"ename": type(error).__name__, "evalue": str(error)}
        if isinstance(error, CodeError):
            facts = {"ename": name, "evalue": value}
        content = {**facts, "traceback": error._render_traceback_()}
        self._send("error", content)
        return self._reply("error", **content)

    async def _forward(self, code: str, *, silent: bool) -> None:
        failure = None
        async with aclosing(self._session.execute(code)) as outputs:
            async for output in outputs:
                if output.output_type == "error":
                    failure = CodeError(f"{output.ename}: {output.evalue}", output.traceback)
                elif not silent:
                    self._send(output.output_type, self._content(output))
        if failure:
            raise failure

    async def _refuse(self) -> None:
        self._print(f"{GHOST}\n")

    def _print(self, text: str) -> None:
        self._send("stream", {"name": "stdout", "text": text})

    def _content(self, output: NotebookNode) -> dict[str, Any]:
        content = {name: value for name, value in output.items() if name != "output_type"}
        if output.output_type == "execute_result":
            content["execution_count"] = self.execution_count
        return content

    async def _agent(self, line: str, task: str) -> None:
        parser = _Parser("%%agent", add_help=False)
        add_run_options(parser)
        parser.add_argument("--save")
        options = parser.parse_args(shlex.split(line))
        note = Note.of(self.get_parent("shell"))
        outlet = KernelOutlet(self)
        if not options.quiet and note.held:
            show_recorded(outlet, note)
            return
        view: AnswerView | DisplayView = AnswerView(outlet)
        if not options.quiet:
            view = DisplayView(
                outlet, anchor=note.cell_id, digest=digest(note.source), replaces=note.run
            )
            self._runs.add(view)
        changes = self._session.run(task, **run_arguments(options))
        state = "stopped"
        try:
            async with aclosing(changes):
                async for change in changes:
                    view(change)
            state = "done"
        finally:
            view.finish(state)

    async def _command(self, command: str) -> None:
        match command:
            case "status":
                lines = [f"{name:<8} {value}\n" for name, value in self._session.status().items()]
                self._print("".join(lines))
            case "reset":
                await self._session.reset()
                self._print("The sandbox is new and the session's runs are forgotten.\n")
            case _:
                raise UsageError(f"%agent does not know {command!r}: it takes status or reset")

    async def do_complete(self, code: str, cursor_pos: int) -> dict[str, Any]:
        """Complete in the sandbox."""
        return await self._ask("complete_request", code=code, cursor_pos=cursor_pos)

    async def do_inspect(
        self, code: str, cursor_pos: int, detail_level: int = 0, *_: Any, **__: Any
    ) -> dict[str, Any]:
        """Inspect in the sandbox."""
        return await self._ask(
            "inspect_request", code=code, cursor_pos=cursor_pos, detail_level=detail_level
        )

    async def do_is_complete(self, code: str) -> dict[str, Any]:
        """Ask the sandbox whether code is whole."""
        return await self._ask("is_complete_request", code=code)

    async def _ask(self, kind: str, **content: Any) -> dict[str, Any]:
        try:
            return await self._session.sandbox.ask(kind, content)
        except AgentError as error:
            return {"status": "error", "ename": type(error).__name__, "evalue": str(error)}

    async def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """End the sandbox too, on the loop it belongs to: this is the control thread's."""
        if self._loop:
            closed = asyncio.run_coroutine_threadsafe(self._session.close(), self._loop)
            await asyncio.wrap_future(closed)
        return {"status": "ok", "restart": restart}

    def _send_interrupt_children(self) -> None:
        """Stop what runs here instead of signalling it (called on an interrupt_request)."""
        if self._running and self._loop:
            self._loop.call_soon_threadsafe(self._running.cancel)


def main() -> None:
    """Be the kernel of ``kernelspec/jupyter-agent``."""
    IPKernelApp.launch_instance(kernel_class=AgentKernel)


if __name__ == "__main__":
    main()
