"""``%%agent``, ``%agent`` and ``%%sandbox`` in a kernel of the user's own."""

from __future__ import annotations

import argparse
import atexit
import functools
import shlex
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import (
    Magics,
    cell_magic,
    line_cell_magic,
    magics_class,
    no_var_expand,
)
from IPython.core.magic_arguments import argument, magic_arguments
from traitlets import Enum, Int, Union
from traitlets.log import get_logger

from jupyter_agent.frontends.ipython_completer import add_completer
from jupyter_agent.frontends.options import (
    CELL_OPTIONS,
    CONTEXT_CELLS,
    VALUE_OPTIONS,
    context_cells,
    run_options,
    wrong_line,
)
from jupyter_agent.views.page_requests import KnownRuns, Note, digest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from jupyter_agent.exchange.approval import Ask
    from jupyter_agent.frontends.background import BackgroundRun, LaterView
    from jupyter_agent.frontends.own_notebook import OwnError
    from jupyter_agent.session import Session
    from jupyter_agent.transcript.notebook import Change
    from jupyter_agent.views.live import DisplayView
    from jupyter_agent.views.output_area import AnswerView
    from jupyter_agent.views.tables import Bundle
    from jupyter_agent.views.terminal import TerminalView

    View = AnswerView | DisplayView | LaterView | TerminalView

__all__ = ["AgentMagics", "register"]

P = ParamSpec("P")


def _with_run_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for flags, settings in reversed([*CELL_OPTIONS, *VALUE_OPTIONS]):
        function = argument(*flags, **settings)(function)
    return function


def _one_line_errors(function: Callable[P, None]) -> Callable[P, None]:
    """Turn an unexpected exception into a one-line error."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        from jupyter_agent.errors import AgentError, Defect

        try:
            function(*args, **kwargs)
        except (AgentError, UsageError):
            raise
        except Exception as error:
            get_logger().exception("jupyter_agent")
            raise Defect.of(error, "The log of this kernel has the traceback") from None

    return guarded


@magics_class
class AgentMagics(Magics):
    """Magics that share one session."""

    context = Union(
        [Int(min=0), Enum(["all"])],
        default_value=0,
        help="How many of your last cells the agent is told with each task, or 'all', as by -c.",
    ).tag(config=True)

    def __init__(self, shell: InteractiveShell) -> None:
        from jupyter_agent.frontends.own_notebook import OwnNotebook

        super().__init__(shell)
        self._own = OwnNotebook(shell)
        self._background: BackgroundRun | None = None
        self._runs = KnownRuns(self._say_kept, self._stop_background)
        self._runs.listen(getattr(shell, "kernel", None))

    @functools.cached_property
    def session(self) -> Session:
        """The session of this notebook; made on first use."""
        from jupyter_agent import settings
        from jupyter_agent.frontends.event_loop import shared_loop
        from jupyter_agent.session import Session

        for line in settings.read().warnings:
            print(line, file=sys.stderr)  # noqa: T201
        assert self.shell
        self.update_config(settings.merge_with_files(self.shell.config))
        session = Session(parent=self.shell, keep_spare=True)
        atexit.register(lambda: shared_loop().call(session.close()))
        return session

    @magic_arguments()
    @_with_run_options
    @no_var_expand  # a name that Tab has put there, of a server or a file, is no code
    @line_cell_magic
    @_one_line_errors
    def agent(self, line: str, cell: str | None = None) -> None:
        """Carry out a task: write ``%%agent [options]``, and the task below that line.

        A model writes cells, which run in a sandboxed kernel of their own. You see each step as it
        happens. The model reads the task exactly as you type it. The line magic has commands:
        ``%agent fix``, ``keep``, ``models``, ``use``, ``status``, ``files``, ``fetch``, ``stop``,
        ``wait``, ``reset``, ``help``.
        """
        if cell is None:
            self._command(line.strip())
        else:
            try:
                options = self.agent.parser.parse_args(
                    shlex.split(line)
                )  # shlex removes the quotes
            except (UsageError, ValueError) as error:
                raise UsageError(wrong_line(error)) from None
            self._run(options, cell.removesuffix("\n"), note=self._note())

    def _command(self, command: str) -> None:
        from jupyter_agent.frontends.commands import carry_out
        from jupyter_agent.frontends.event_loop import shared_loop

        if command.split()[:1] == ["fix"]:
            self._fix(command.removeprefix("fix").strip())
        elif command == "keep":
            self._keep()
        elif command == "stop":
            stopped = shared_loop().stop() or self._stop_background()
            print("Stopped." if stopped else "No run is going on.")  # noqa: T201
        elif command == "wait":
            self._wait()
        else:
            self._show(shared_loop().call(carry_out(self.session, command)))
        if command == "reset":
            self._runs.forget()

    def _show(self, bundle: Bundle) -> None:
        """Show text as text, and a table where a page can draw it as one."""
        if len(bundle) == 1 or self._kernel is None:
            print(bundle["text/plain"])  # noqa: T201
        else:
            from IPython.display import publish_display_data

            publish_display_data(bundle)

    def _fix(self, line: str) -> None:
        """Have the user's last error mended, and offer the mended cell below."""
        from jupyter_agent.frontends.mending import (
            NO_ERROR,
            NO_MENDED_CELL,
            fix_options,
            fix_task,
            mended_cell,
        )

        options, words = fix_options(line, self.agent.parser)
        if options.background:
            raise UsageError("%agent fix: leave --background out; it offers a cell when it ends")
        note, error = self._note(), self._own.error
        if error is None:
            raise UsageError(NO_ERROR)
        if options.context is None:
            options.context = CONTEXT_CELLS
        # another error is another task
        about = f"{note.source}\n{error.source}\n{type(error.error).__name__}"
        task = fix_task(error.count, words)
        if not self._run(options, task, note=replace(note, source=about), error=error):
            return
        if mended := mended_cell(self.session.transcript.answer):
            self._offer(mended)
        else:
            print(NO_MENDED_CELL)  # noqa: T201

    def _offer(self, code: str) -> None:
        """Put code into a new cell below, which the user may run."""
        assert self.shell
        if self._note().page:
            from jupyter_agent.views.publishers import KernelPublisher

            KernelPublisher(self._kernel).busy(self._runs.offer(code))
        else:
            self.shell.set_next_input(code)

    def _keep(self) -> None:
        """Make the cells of the last run the user's own."""
        from jupyter_agent.frontends.keeping import last_code
        from jupyter_agent.views.publishers import KernelPublisher

        code, failed = last_code(self.session.transcript.cells)
        page = self._note().page
        said = self._runs.keep(KernelPublisher(self._kernel).busy) if page else ""
        if not said:
            assert self.shell
            self.shell.set_next_input("\n\n".join(code))
            said = self._say_kept(code, failed)
        print(said)  # noqa: T201

    def _say_kept(self, sources: list[str], failed: int = 0) -> str:
        from jupyter_agent.frontends.keeping import say_kept

        return say_kept(sources, self._variables, failed=failed)

    def _told(
        self, options: argparse.Namespace, error: OwnError | None, *, again: bool
    ) -> dict[str, str]:
        """Describe the user's notebook, as far as they want it told.

        Parameters
        ----------
        again
            Whether the run replaces another one, and with it what that was told.
        """
        from jupyter_agent.frontends.own_notebook import given_before

        self.session  # noqa: B018  # with it the settings are read
        cells = context_cells(str(self.context)) if options.context is None else options.context
        if not (cells or error):
            return {}
        before = [] if again else self.session.transcript.cells_in_context()
        told = self._own.tell(cells, error, known=given_before(before))
        return {"context": told.text, "told": f"told: {told.summary}"}

    def _run(
        self,
        options: argparse.Namespace,
        task: str,
        *,
        note: Note,
        error: OwnError | None = None,
    ) -> bool:
        """Carry out a task; tell whether a model was asked."""
        from jupyter_agent.errors import NoModel
        from jupyter_agent.frontends.background import BackgroundRun
        from jupyter_agent.frontends.event_loop import shared_loop
        from jupyter_agent.frontends.model_table import model_table

        if self._runs.held(note) and not (options.quiet or options.rerun):
            from jupyter_agent.views.output_area import show_recorded
            from jupyter_agent.views.publishers import KernelPublisher

            show_recorded(KernelPublisher(self._kernel), note, header=self._runs.header(note))
            return False
        view = self._view(note, quiet=options.quiet, background=options.background)
        replaces = self._runs.task(note.run)
        asked = run_options(
            options,
            replay=not (options.rerun or note.again),
            inputs=self._named(options.input),
            outputs=options.output or (),
            tools=self._tools(options.tool),
            # live cells may be far away from the question
            asker=None
            if options.background
            else self._asker(view, shown=not (options.quiet or note.cell_id)),
            replaces=replaces,
            **self._told(options, error, again=replaces is not None),
        )
        work = functools.partial(self._show_run, self.session.run(task, asked), view)
        try:
            if options.background:
                background = BackgroundRun(work, view)
                background.start()
                self._background = background
            else:
                work()
        except NoModel:
            self._show(shared_loop().call(model_table(self.session.model)))
            raise
        return True

    def _show_run(
        self,
        changes: AsyncGenerator[Change, None],
        view: View,
        begun: Callable[[], None] = lambda: None,
    ) -> None:
        """Carry a run out and show it; call ``begun`` once its task is written."""
        from jupyter_agent.errors import Interrupted
        from jupyter_agent.frontends.event_loop import shared_loop
        from jupyter_agent.transcript.metadata import KEY
        from jupyter_agent.views.output_area import ending

        state, why, started, stand = "done", "", False, ""
        try:
            with closing(shared_loop().iterate(changes)) as iterator:
                for change in iterator:
                    started = True
                    facts = change.cell.metadata[KEY]
                    if change.cell.source and {"step", "unfinished"} & {*facts}:
                        stand = "; its cells so far are kept"
                    view(change)
                    if facts["role"] == "task":
                        begun()
        except KeyboardInterrupt as error:
            state, why = ending(error)
            raise Interrupted(f"the run was stopped{stand}") from None
        except BaseException as error:
            state, why = ending(error)
            raise
        finally:
            view.finish(state, why)
            self._variables.update(self.session.results if started else {})

    def _wait(self) -> None:
        """Wait for the run in the background, and show its answer if no page does."""
        from jupyter_agent.errors import Interrupted

        if self._background is None:
            raise UsageError("no run is in the background; begin one with %%agent --background")
        try:
            self._background.wait()
        except KeyboardInterrupt:
            raise Interrupted(
                "the wait was stopped, and the run goes on; %agent stop stops it"
            ) from None

    def _stop_background(self, run: str = "") -> bool:
        """Stop the run in the background, or only if it is this one; tell if it went on."""
        background = self._background
        return background is not None and run in ("", background.run) and background.stop()

    @property
    def _variables(self) -> dict[str, object]:
        """The user's variables."""
        assert self.shell
        return self.shell.user_ns

    def _named(self, names: list[str] | None) -> dict[str, object]:
        """Return the user's variables of these names."""
        values = {}
        for name in names or ():
            if name not in self._variables:
                raise UsageError(f"there is no variable {name!r} here; set it first")
            values[name] = self._variables[name]
        return values

    def _tools(self, names: list[str] | None) -> dict[str, object]:
        """Return the user's functions of these names (``-t a,b.c``) and those marked as tools."""
        from jupyter_agent.exchange.tools import marked

        tools = marked(self._variables)
        for name in names or ():
            first, *rest = name.split(".")
            value = self._named([first])[first]
            for part in rest:
                if not hasattr(value, part):
                    raise UsageError(f"there is no {name!r}: {first!r} has no {part!r}")
                value = getattr(value, part)
            tools[name.rpartition(".")[2]] = value
        return tools

    def _asker(self, view: object, *, shown: bool) -> Ask | None:
        """Return a function that asks the user, if the front end can."""
        from jupyter_agent.exchange.approval import asker
        from jupyter_agent.frontends.event_loop import shared_loop
        from jupyter_agent.views.live import DisplayView
        from jupyter_agent.views.terminal import TerminalView

        kernel = getattr(self.shell, "kernel", None)
        if kernel is None:
            able = sys.stdin.isatty()
        else:
            parent = kernel.get_parent("shell") or {}
            able = parent.get("content", {}).get("allow_stdin", False)

        async def read(prompt: str) -> str:
            if isinstance(view, TerminalView):
                view.end_line()
            return await shared_loop().call_in_main_thread(functools.partial(input, prompt))

        if not able:
            return None
        if isinstance(view, DisplayView):
            return asker(read, shown=shown, tell=view.ask)
        return asker(read, shown=shown)

    @property
    def _kernel(self) -> Any:
        return getattr(self.shell, "kernel", None)

    def _note(self) -> Note:
        """Read the note of the page on the cell that is running."""
        request = self._kernel.get_parent("shell") if self._kernel else None
        return Note.of(request or {})

    def _view(self, note: Note, *, quiet: bool, background: bool) -> View:
        """Choose a view: text in a terminal, live cells where the front end names its cells."""
        from jupyter_agent.frontends.background import LaterView

        if background and not note.page:
            return LaterView(self._view(note, quiet=True, background=False))
        if self._kernel is None:
            from jupyter_agent.views.terminal import TerminalView

            return TerminalView(quiet=quiet)
        from jupyter_agent.views.live import DisplayView
        from jupyter_agent.views.output_area import AnswerView
        from jupyter_agent.views.publishers import (
            BackgroundPublisher,
            IPythonPublisher,
            KernelPublisher,
        )

        if quiet:
            return AnswerView(IPythonPublisher())
        if not note.cell_id:
            return DisplayView(IPythonPublisher())
        publisher = BackgroundPublisher if background else KernelPublisher
        view = DisplayView(
            publisher(self._kernel),
            anchor=note.cell_id,
            digest=digest(note.source),
            replaces=note.run,
            first_line="%%sandbox\n",
            session=note.session,
            spending=lambda: self.session.budget,
            background=background,
        )
        self._runs.add(view)
        return view

    @cell_magic
    @_one_line_errors
    def sandbox(self, line: str, cell: str) -> None:
        """Run your own code in the session's sandbox, where the agent's variables are."""
        from jupyter_agent.errors import CodeError, Interrupted
        from jupyter_agent.frontends.event_loop import shared_loop
        from jupyter_agent.transcript.notebook import Transcript
        from jupyter_agent.views.output_area import OutputView
        from jupyter_agent.views.page_requests import REPLACED
        from jupyter_agent.views.publishers import IPythonPublisher

        if line.strip():
            raise UsageError(f"%%sandbox takes no options; remove {line.strip()!r}")
        note = self._note()
        if self._runs.is_replaced(note):
            print(REPLACED)  # noqa: T201
            return
        again = self._runs.cell(note)  # the agent's cell: the agent reads its new outputs
        transcript = self.session.transcript if again else Transcript()
        here = again or transcript.add("code")
        here.source = cell.removesuffix("\n")
        here.outputs = []
        show = OutputView(here.id, IPythonPublisher(), clear=_clear_output)
        failure = None
        try:
            with closing(shared_loop().iterate(self.session.execute(cell))) as outputs:
                for output in outputs:
                    transcript.add_output(here, output)
                    if output.output_type == "error":
                        failure = CodeError(f"{output.ename}: {output.evalue}", output.traceback)
                    else:
                        show(here.outputs)
        except KeyboardInterrupt:
            raise Interrupted("the code in the sandbox was stopped") from None
        finally:
            transcript.finish(here)
        if failure:
            raise failure


def _clear_output(wait: bool) -> None:
    from IPython.display import clear_output

    clear_output(wait)


def register(ipython: InteractiveShell) -> None:
    """Register the magics; warn if another project's package of our import name is installed."""
    if _rival():
        print(  # noqa: T201
            "jupyter_agent: the package 'jupyter-agent', another project that uses the same import "
            "name, is installed too and may have overwritten files of this one; run: "
            "pip uninstall jupyter-agent, then pip install --force-reinstall jupyter-agent-kernel"
        )
    ipython.register_magics(AgentMagics)
    add_completer(ipython)
    # loading takes half a second, while the user types the task
    threading.Thread(target=import_module, args=("jupyter_agent.session",), daemon=True).start()


def _rival() -> bool:
    """Tell whether the distribution ``jupyter-agent`` is installed, too."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution("jupyter-agent")
    except PackageNotFoundError:
        return Path(__file__).with_name("bot_magics.py").exists()
    return True
