"""Session: one sandbox and one transcript, in which any number of tasks are carried out."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traitlets import Bool, Dict, Enum, Int, List, TraitError, Unicode

from jupyter_agent import settings
from jupyter_agent._arguments import as_list, as_text, check_argument, check_path, check_traits
from jupyter_agent._files import write_whole
from jupyter_agent._nbformat import NotebookNode
from jupyter_agent._one_at_a_time import OneAtATime
from jupyter_agent._threads import run_in_thread, run_in_thread_to_its_end
from jupyter_agent._unicode import visible
from jupyter_agent.agent.budget import TokenBudget
from jupyter_agent.agent.loop import Agent
from jupyter_agent.agent.request import ModelFacts
from jupyter_agent.errors import NoModel, ResultError, SandboxError, Unsaved, UsageError
from jupyter_agent.exchange.approval import NOBODY, POLICIES, Ask, Question, Verdict, with_approval
from jupyter_agent.exchange.data_notes import DataNotes
from jupyter_agent.exchange.permission import Permissions, Permit
from jupyter_agent.exchange.run_options import RunOptions
from jupyter_agent.exchange.tools import Tool, Tools, find
from jupyter_agent.exchange.values import Inputs, read
from jupyter_agent.exchange.workspace import Workspace
from jupyter_agent.models import choose_model, load_model
from jupyter_agent.models.priced import with_price
from jupyter_agent.models.protocol import Form, Model
from jupyter_agent.resume import choose_transcript, finished_run, replay
from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.connection import UserRequest
from jupyter_agent.sandbox.execution import Answer
from jupyter_agent.sandbox.filter.fields import printable
from jupyter_agent.sandbox.guest.calls import MAX_FILES
from jupyter_agent.sandbox.guest.codec import encode
from jupyter_agent.sandbox.isolation import sharing
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Change, Transcript, temporary_cell
from jupyter_agent.transcript.user_cells import UserCells, mark_replaced, show_given

__all__ = ["Session"]


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that a run needs, checked and made before the session changes."""

    sandbox: Sandbox
    workspace: Workspace
    transcript: Transcript  # the run is added to it
    saved: Transcript  # of the file that the run is saved to
    recorded: list[NotebookNode]  # the cells of the run that is replayed
    agent: Agent | None  # None where a run is replayed
    asker: Ask | None  # asks the user before each cell


class Session(settings.Configured):
    """A sandbox and a transcript, and the runs that use them.

    Parameters
    ----------
    folder
        The start of relative paths: the notebook's folder, or the current folder.
    tools
        Functions that the agent may call in every run.
    """

    model = Unicode("", help="The model to use, as -m names it.").tag(config=True)
    model_options = Dict(
        help="Fields added to each request to the model's server, such as {'temperature': 0}."
    ).tag(config=True)
    prices = Dict(
        help="US dollars for a million tokens in and out (and cached), by model, such as "
        "{'openai:gpt-5': [1.25, 10]}; for services that do not say what a reply costs."
    ).tag(config=True)
    reply_form: Enum[Form | None] = Enum(  # type: ignore[assignment]  # it knows no literals
        ("text", "tool"),
        None,
        allow_none=True,
        help="How the model is asked for code: as text or in calls of a tool; "
        "None for what suits the model best.",
    ).tag(config=True)
    keep_spare = Bool(
        False, help="After a run keep a spare kernel, so that a reset or a crash costs no time."
    ).tag(config=True)

    data_profile = Bool(
        True, help="Whether the model is told what the data files that a task is about look like."
    ).tag(config=True)

    tools = List(
        Unicode(), help="Functions that the agent may call, each as package.module:function."
    ).tag(config=True)
    tool_calls = Int(1000, min=1, help="Maximum number of tool calls in one cell.").tag(config=True)
    ask = Enum(
        POLICIES,
        "risky",
        help="Ask the user before each cell (always), before tools marked ask=True (risky), "
        "or never.",
    ).tag(config=True)

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        tools: Iterable[Callable[..., object] | str] = (),
        **kwargs: Any,
    ) -> None:
        check_traits(self, kwargs)
        offered = _checked_tools(tools)
        super().__init__(**kwargs)
        self.results: dict[str, object] = {}  # the last run's outputs, by name
        self.chosen = ""  # the model that `use` has chosen; no server's key is for it
        self.used: list[str] = []  # the models of the runs so far, by name
        self._functions = [*self.tools, *offered]
        self._workspace: Workspace | None = None  # of the last run: its values and tools stay
        self.folder = _current_folder() if folder is None else check_path("folder", folder)
        confined = SandboxProvisioner(config=self.config)
        self._shared = [*confined.data, *confined.exposed]  # as configured, before any --data
        self.transcript = Transcript()
        self.model_facts = ModelFacts()
        self.budget: TokenBudget | None = None  # of the current run, or the last one
        self.sandbox = self._new_sandbox(None)
        self._user_cells = UserCells()
        self._data_notes = DataNotes()
        self._known: object = None  # the kernel that has the transcript's variables
        self._one_at_a_time = OneAtATime()

    def run(
        self, task: str, options: RunOptions | None = None, **named: object
    ) -> AsyncGenerator[Change, None]:
        """Carry out a task; yield every change of the transcript.

        Parameters
        ----------
        options, named
            The options: a `RunOptions`, some of its fields by name, or both.

        Raises
        ------
        UsageError
            An option cannot be used, or the session is busy. Nothing was started, spent or changed.
        ResultError
            The run ended without one of its outputs; `results` has the others.
        Unsaved
            The run ended, and its file could not be written.
        """
        check_argument("task", task, fits=isinstance(task, str), wanted="a text")
        asked = RunOptions.of(options, named)
        return self._one_at_a_time.iterate(self._run(task, asked), "a run")

    async def _run(self, task: str, options: RunOptions) -> AsyncGenerator[Change, None]:
        plan = await self._plan(task, options)
        if not plan.sandbox.alive:
            yield Change(temporary_cell("*Starting the sandbox*"))
        await self._change_to(plan.sandbox, plan.workspace)
        self.results, self.budget = {}, None
        opened = plan.transcript is not self.transcript
        self.transcript = plan.transcript
        if plan.saved is not plan.transcript:
            plan.transcript.move_to(plan.saved)
        self.sandbox.saved = self.transcript.path
        if plan.agent:
            changes = self._carry_out(
                task, plan.agent, plan.workspace, opened=opened, options=options
            )
        else:
            changes = self._replay(plan.recorded, plan.workspace)
        if plan.asker:
            changes = with_approval(changes, plan.asker)
        unsaved = None
        try:
            async with aclosing(changes):
                async for change in changes:
                    yield change
        except Unsaved as error:  # the run is complete all the same
            unsaved = error
        self.results = plan.workspace.results
        if missing := plan.workspace.missing:
            raise ResultError(f"the run ended without a result: {'; '.join(missing)}")
        if self.keep_spare and self.sandbox.alive:
            self.sandbox.spare = True
            await self.sandbox.start()
        if unsaved:
            raise unsaved

    async def _plan(self, task: str, options: RunOptions) -> _Plan:
        """Check the task and the options, and make what the run needs; change nothing yet."""
        settings.check()
        if not task.strip():
            raise UsageError("the task is empty; write what the agent is to do")
        permissions = self._permissions()
        saved, recorded = await self._open_saved(task, options, permissions)
        await _allow(options.permit, () if recorded else permissions.to_load(options.model))
        await _allow(options.permit, permissions.to_read(options.data))
        await _allow(options.permit, permissions.to_ask(options.ask))
        model = None if recorded else self._model(options.model)
        transcript = choose_transcript(self.transcript, saved)
        if model:
            await run_in_thread(saved.check_writable)
            await model.check()
            self.used = [model.name, *(name for name in self.used if name != model.name)]
        policy = options.ask or self.ask
        if policy == "always" and options.asker is None:
            raise UsageError(f"cannot ask before each cell: {NOBODY}")
        tool_asker = None if policy == "never" else options.asker or _nobody
        tools = self._tools(options.tools or {}, tool_asker)
        inputs = await run_in_thread(functools.partial(Inputs, options.inputs or {}))
        sandbox = await self._sandbox_with(options.data)
        workspace = Workspace(sandbox, tools, inputs=inputs, outputs=options.outputs)
        agent = self._agent(model, workspace, transcript, options.limits) if model else None
        asker = options.asker if policy == "always" else None
        return _Plan(sandbox, workspace, transcript, saved, recorded, agent, asker)

    async def _open_saved(
        self, task: str, options: RunOptions, permissions: Permissions
    ) -> tuple[Transcript, list[NotebookNode]]:
        """Open the file that the run is saved to, and find a finished run of this task in it."""
        saved, recorded = self.transcript, list[NotebookNode]()
        if options.save is not None:
            name = os.fspath(options.save)
            if not name.strip():
                raise UsageError("the name of the file to save to is empty; is a variable empty?")
            path = self._path(name)
            await _allow(options.permit, permissions.to_save(path))
            saved = await self._at(path)
            recorded = finished_run(saved, task) if options.replay else []
        if saved.path and not recorded and not self.transcript.has_written(saved.path):
            await _allow(options.permit, permissions.to_change(saved.path))
        return saved, recorded

    def _agent(
        self, model: Model, workspace: Workspace, transcript: Transcript, limits: dict[str, Any]
    ) -> Agent:
        try:
            return Agent(model, workspace, transcript, self.model_facts, parent=self, **limits)
        except TraitError as error:
            raise UsageError(str(error).rstrip(".")) from None

    def _model(self, named: str) -> Model:
        name = choose_model(named or self.chosen or self.model, used=self.used)
        model = load_model(
            name, configured=self.model, options=self.model_options, form=self.reply_form
        )
        return with_price(model, name, self.prices)

    def _permissions(self) -> Permissions:
        """Return what cells may do without a question, from the settings."""
        models = [self.model, os.environ.get("JUPYTER_AGENT_MODEL", "")]
        return Permissions(self.folder, shared=self._shared, models=models, ask=self.ask)

    async def _carry_out(
        self,
        task: str,
        agent: Agent,
        workspace: Workspace,
        *,
        opened: bool,
        options: RunOptions,
    ) -> AsyncGenerator[Change, None]:
        """Have the agent carry out a task."""
        if options.replaces:
            mark_replaced(self.transcript, options.replaces)
        move = functools.partial(self._user_cells.move_to, fresh=self._fresh() or opened)
        fresh = await run_in_thread_to_its_end(functools.partial(move, self.transcript))
        yield Change(temporary_cell("*Looking at the data*"))
        told, beginnings = await self._describe_data(task, agent.model)
        note = "\n\n".join(filter(None, [self._note(fresh), told, workspace.note()]))
        given = "\n\n".join(filter(None, [options.context, workspace.preview, beginnings]))
        async with aclosing(agent.run(task, note=note, lacks=workspace.collect)) as changes:
            async for change in changes:
                self.budget = agent.budget
                if change.cell.metadata[KEY]["role"] == "task":
                    facts = {"model": agent.model.name, "sandbox": self.sandbox.describe()}
                    facts |= {"told": options.told} if options.told else {}
                    change.cell.metadata[KEY].update(facts)
                    if given:
                        show_given(self.transcript, given)
                yield change

    async def _describe_data(self, task: str, model: Model) -> tuple[str, str]:
        """Describe the data files of a task for the model; return a note, and their beginnings."""
        if getattr(model, "reads_only_tasks", False):
            return "", ""
        shares = self.sandbox.shares if self.data_profile else []
        names = await run_in_thread(functools.partial(sharing.shown_names, shares))
        cells = self.transcript.cells_in_context()
        return await self._data_notes.write(task, self.sandbox, listed=names, cells=cells)

    async def _replay(
        self, cells: list[NotebookNode], workspace: Workspace
    ) -> AsyncGenerator[Change, None]:
        """Show a saved run again and run its code again."""
        sandbox = self.sandbox.describe()
        changes = replay(cells, workspace, sandbox=sandbox, saved=self.transcript)
        async with aclosing(changes):
            async for change in changes:
                yield change
        self._fresh()

    def execute(
        self,
        code: str,
        *,
        keep: bool = False,
        answer: Answer | None = None,
        request: UserRequest | None = None,
    ) -> AsyncGenerator[NotebookNode, None]:
        """Run the user's own code in the sandbox and yield its outputs.

        Parameters
        ----------
        keep
            Whether the agent reads this cell with its next task.
        answer, request
            See `Sandbox.execute`.

        Raises
        ------
        UsageError
            The session is busy.
        """
        check_argument("code", code, fits=isinstance(code, str), wanted="a text")
        outputs = self._execute(code, keep=keep, answer=answer, request=request)
        return self._one_at_a_time.iterate(outputs, "a cell")

    async def _execute(
        self, code: str, *, keep: bool, answer: Answer | None, request: UserRequest | None
    ) -> AsyncGenerator[NotebookNode, None]:
        if self._workspace is None:
            tools = self._tools({}, _nobody)
            self._workspace = Workspace(self.sandbox, tools, inputs=Inputs({}), outputs=())
        earlier = bool(self.transcript.cells or len(self._user_cells))
        ran = self._user_cells.add(code) if keep else None
        try:
            outputs = self._workspace.execute(code, answer=answer, request=request)
            async with aclosing(outputs):
                async for output in outputs:
                    yield output
                    if ran:
                        ran.add_output(output)
        finally:
            if ran:
                ran.execution_count = self.sandbox.execution_count
                ran.fresh = self._fresh() and earlier

    def _fresh(self) -> bool:
        """Tell whether the kernel has changed since the last call of this."""
        before, self._known = self._known, (self.sandbox, self.sandbox.generation)
        return before != self._known

    async def use(self, model: str, *, permit: Permit | None = None) -> None:
        """Choose the model of later runs.

        Raises
        ------
        UsageError
            It cannot be used; the model so far stays.
        """
        await _allow(permit, self._permissions().to_load(model))
        self._model(model)
        self.chosen = model

    async def files(self) -> list[tuple[str, int]]:
        """List the files in the agent's working folder, with their sizes in bytes."""
        async with self._one_at_a_time.hold("a look at its files"):
            reply = await self._asked("files", None)
        match reply:
            case list(found) if all(_names_file(one) for one in found):
                return [(visible(printable(name))[:500], size) for name, size in found[:MAX_FILES]]
        raise SandboxError(
            "cannot list the files: the sandbox's reply cannot be read; start a new sandbox "
            "with %agent reset"
        )

    async def fetch(
        self,
        name: str | os.PathLike[str],
        to: str | os.PathLike[str] = "",
        *,
        overwrite: bool = False,
        permit: Permit | None = None,
    ) -> Path:
        """Copy a file out of the agent's working folder.

        Parameters
        ----------
        to
            A file or a folder; by default the session's folder.
        permit
            Asks the user to allow a place outside the folder; without it every place is allowed.

        Raises
        ------
        UsageError
            There is no such file, or the target exists and ``overwrite`` is not set.
        """
        for argument, value in (("name", name), ("to", to)):
            fits = isinstance(as_text(value), str)
            check_argument(argument, value, fits=fits, wanted="a path")
        name, to = os.fspath(name), os.fspath(to)
        path = self._place_for(name, to, overwrite=overwrite)
        async with self._one_at_a_time.hold("a copy out of the sandbox"):
            reply = await self._asked("fetch", (name, self.sandbox.max_value_mib << 20))
        match reply:
            case bytes(content):
                await _allow(permit, self._permissions().to_fetch(path))
                self._place_for(name, to, overwrite=overwrite)  # it may exist by now
                with _one_line(path):
                    await run_in_thread(functools.partial(write_whole, path, content))
                return path
            case str(why):
                raise UsageError(f"cannot fetch {name!r}: {printable(why)[:200]}")
        raise SandboxError(
            f"cannot fetch {name!r}: the sandbox's reply cannot be read; start a new sandbox "
            "with %agent reset"
        )

    async def _asked(self, function: str, value: object) -> object:
        """Call a function of `guest.calls` in the guest and return its result."""
        reply = await self.sandbox.call(function, encode(value))
        try:
            return await read(reply)
        except (ValueError, ImportError) as error:
            why = printable(str(error))[:300]
            raise SandboxError(f"the sandbox could not {function!r}: {why}") from None

    async def reset(self) -> None:
        """Forget the transcript and the variables.

        Raises
        ------
        UsageError
            The session is busy.
        """
        async with self._one_at_a_time.hold("a reset"):
            self.transcript = Transcript()
            self._user_cells = UserCells()
            self._workspace = None
            self.results = {}
            if self.sandbox.alive:
                await self.sandbox.restart()
            else:
                await self.sandbox.close()

    async def close(self) -> None:
        """End the sandbox."""
        await self.sandbox.close()

    def status(self) -> dict[str, str]:
        """Describe the session, a line for each subject."""
        try:
            model = choose_model(self.chosen or self.model, used=self.used)
        except NoModel:
            model = "none yet; %agent models lists what can be used"
        except UsageError as error:
            model = str(error)
        sandbox = self.sandbox.describe() if self.sandbox.alive else "starts with the next run"
        cells = [cell.metadata.get(KEY, {}) for cell in self.transcript.cells]
        there = [facts for facts in cells if "replaced" not in facts]
        runs = sum(facts.get("role") == "task" for facts in there)
        path = self.transcript.path
        return {
            "model": model,
            "sandbox": sandbox,
            "limits": self.sandbox.describe_limits(),
            "folder": sharing.escaped(str(self.folder)),
            "settings": settings.describe(),
            "runs": f"{runs}, {len(there)} cells",
            "used": str(self.transcript.total_usage),
            "saved": str(path) if path else "no; --save PATH saves it",
        }

    def _place_for(self, name: str, to: str, *, overwrite: bool) -> Path:
        """Return the path of a copied file; check that it is new or may be overwritten."""
        path = self._path(to)
        with _one_line(path):
            path = path / Path(name).name if path.is_dir() else path
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise UsageError(f"{str(path)!r} is not a regular file; choose another name")
            if path.exists() and not overwrite:
                raise UsageError(
                    f"{str(path)!r} exists already; choose another name, or add --force"
                )
        return path

    def _tools(self, more: Mapping[str, object], ask: Ask | None) -> Tools:
        own = [Tool.of(find(one) if isinstance(one, str) else one) for one in self._functions]
        named = [Tool.of(function, name) for name, function in more.items()]
        return Tools([*own, *named], ask=ask, max_calls=self.tool_calls)

    def _new_sandbox(self, data: list[str] | None) -> Sandbox:
        return Sandbox(self.folder, data=data, parent=self)

    async def _at(self, path: Path) -> Transcript:
        """Return the transcript of a file; a new one if the file does not exist."""
        if path == self.transcript.path:
            return self.transcript
        return await run_in_thread(functools.partial(Transcript.open, path))

    def _path(self, typed: str) -> Path:
        path = (self.folder / check_path("the name", typed)).absolute()
        if typed and os.path.basename(typed) in ("", ".", "..") and not path.is_dir():  # noqa: PTH119  # a Path has no slash at its end
            raise UsageError(f"there is no folder {typed!r}; create it first, or name a file")
        return path

    async def _sandbox_with(self, data: list[str] | None) -> Sandbox:
        """Return a sandbox that can read these paths; a new one is not started yet.

        Raises
        ------
        UsageError
            A path cannot be shared.
        """
        if data is None:
            return self.sandbox
        wanted = [] if data == ["none"] else data
        await run_in_thread(functools.partial(self.sandbox.check_data, wanted))
        return self.sandbox if wanted == self.sandbox.data else self._new_sandbox(wanted)

    async def _change_to(self, sandbox: Sandbox, workspace: Workspace) -> None:
        """Start the sandbox that this session uses from now on, and end the one before."""
        before = self.sandbox
        if sandbox is not before and self._known == (before, before.generation):
            sandbox.loss = "other --data needs a new sandbox; variables and files are gone"
        try:
            await workspace.prepare()
        except BaseException:
            if sandbox is not before:
                await sandbox.close()
            raise
        self.sandbox, self._workspace = sandbox, workspace
        if sandbox is not before:
            await before.close()

    def _note(self, fresh: bool) -> str:
        """Return what the model is told with the task."""
        notes = []
        if names := sharing.listing(self.sandbox.shares):
            notes.append(f"Files you can read here: {names}")
        if left_out := self.sandbox.left_out:
            notes.append(f"Not shared with you: {left_out}")
        if fresh and any(cell.cell_type == "code" for cell in self.transcript.cells):
            notes.append("The kernel is new: variables and files of earlier cells are gone.")
        return "\n".join(notes)


def _checked_tools(tools: object) -> list[Any]:
    offered = as_list(tools)
    fits = isinstance(offered, list) and all(isinstance(e, str) or callable(e) for e in offered)
    check_argument("tools", tools, fits=fits, wanted="a list of functions or of their names")
    assert isinstance(offered, list)
    return offered


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current folder is gone; change to another one") from None


async def _allow(permit: Permit | None, wanted: Iterable[str]) -> None:
    """Ask the user for each permission; without ``permit`` all are given."""
    if permit:
        for permission in wanted:
            await permit(permission)


async def _nobody(_question: Question) -> Verdict:
    return Verdict(allowed=False, reason=NOBODY)


def _names_file(found: object) -> bool:
    match found:
        case (str(), int()):
            return True
    return False


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn an OSError about a file into a UsageError of one line."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"cannot write {str(path)!r}: {error.strerror}; choose another name"
        ) from None
