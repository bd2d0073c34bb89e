"""Session: one sandbox and one transcript; runs a task, resumes or replays a saved run."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

from traitlets import Bool, Dict, Enum, Int, List, TraitError, Unicode

from jupyter_agent import settings
from jupyter_agent._files import unwritable, write_whole
from jupyter_agent._nbformat import NotebookNode
from jupyter_agent._threads import aside, aside_to_its_end
from jupyter_agent._turns import Turns
from jupyter_agent._unicode import visible
from jupyter_agent.agent.loop import Agent
from jupyter_agent.agent.request import Learnt
from jupyter_agent.errors import ResultError, SandboxError, Unsaved, UsageError
from jupyter_agent.exchange.approval import NOBODY, POLICIES, Ask, Question, Verdict, with_approval
from jupyter_agent.exchange.permission import Permit, Reach
from jupyter_agent.exchange.tools import Tool, Tools, find
from jupyter_agent.exchange.values import Inputs, read
from jupyter_agent.exchange.workspace import Border
from jupyter_agent.models import choose_model, load_model
from jupyter_agent.models.protocol import Form, Model
from jupyter_agent.sandbox.client import Answer, Request, Sandbox
from jupyter_agent.sandbox.filter.outputs import printable
from jupyter_agent.sandbox.guest.calls import MAX_FILES
from jupyter_agent.sandbox.guest.codec import encode
from jupyter_agent.sandbox.isolation import sharing
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner
from jupyter_agent.transcript.notebook import KEY, Change, Transcript, passing
from jupyter_agent.transcript.user_cells import OwnCells, replace, show_given

__all__ = ["Session"]


class Session(settings.Settled):
    """A sandbox and a transcript, and the runs that use them.

    Parameters
    ----------
    folder
        Where relative paths start: the notebook's folder, or where the command was typed.
    tools
        Functions that the agent may call, in every run.
    """

    model = Unicode("", help="The model to use, as -m names it.").tag(config=True)
    model_options = Dict(
        help="Fields added to each request to the model's server, such as {'temperature': 0}."
    ).tag(config=True)
    reply_form: Enum[Form | None] = Enum(  # type: ignore[assignment]  # it knows no literals
        ("text", "tool"),
        None,
        allow_none=True,
        help="How the model is asked for code: as text or in calls of a tool; "
        "None for what suits it best.",
    ).tag(config=True)
    keep_spare = Bool(
        False, help="After a run keep a spare kernel, so that a reset or a crash costs no time."
    ).tag(config=True)

    tools = List(
        Unicode(), help="Functions the agent may call, each as package.module:function."
    ).tag(config=True)
    tool_calls = Int(1000, min=1, help="Calls of tools that one cell may make.").tag(config=True)
    ask = Enum(
        POLICIES,
        "risky",
        help="Ask the user before each cell (always), before tools marked so (risky), or never.",
    ).tag(config=True)

    def __init__(
        self,
        folder: Path | None = None,
        *,
        tools: Sequence[Callable[..., object] | str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.results: dict[str, object] = {}  # of the last run, by name
        self._functions = [*self.tools, *tools]
        self._border: Border | None = None  # the last run's: its values and tools live on
        self.folder = folder or _current_folder()
        confined = SandboxProvisioner(config=self.config)
        self._shared = [*confined.data, *confined.exposed]  # as configured: --data changes it
        self.transcript = Transcript()
        self.learnt = Learnt()
        self.sandbox = self._new_sandbox(None)
        self._own = OwnCells()
        self._known: object = None  # the kernel that knows the transcript's variables
        self._turns = Turns()

    def run(
        self,
        task: str,
        *,
        model: str = "",
        max_steps: int | None = None,
        data: list[str] | None = None,
        save: str | None = None,
        timeout: float | None = None,
        budget: int | None = None,
        replay: bool = False,
        inputs: Mapping[str, object] | None = None,
        outputs: Sequence[str] = (),
        tools: Mapping[str, object] | None = None,
        ask: str | None = None,
        asker: Ask | None = None,
        permit: Permit | None = None,
        replaces: NotebookNode | None = None,
    ) -> AsyncGenerator[Change, None]:
        """Carry a task to its answer; yield every change of the transcript on the way.

        Parameters
        ----------
        data
            Paths that the sandbox may read; ``["none"]`` for none; None keeps what is shared.
        save
            Where to save the run, after every cell; a saved run that is there is gone on with.
        timeout
            Seconds.
        budget
            Tokens.
        replay
            Whether a finished run of this task that is recorded at ``save`` takes the model's
            place: its cells are shown again, and their code runs again.
        inputs
            Values that the agent finds as variables.
        outputs
            Variables of the agent's that are wanted; `results` holds them when the run has ended.
        tools
            Functions that the agent may call, by name, beside the session's.
        ask
            When to ask the user: ``always``, ``risky`` or ``never``; None as the session says.
        asker
            Asks the user; without it nobody can be asked, and the answer is no.
        permit
            Has the user allow what reaches beyond the notebook's folder and the configuration;
            without it all is allowed.
        replaces
            The task cell of a run whose place this one takes once it begins.

        Raises
        ------
        UsageError
            Something asked for cannot be done, or the session is at work already: nothing was
            started, spent or changed.
        ResultError
            The run has ended without one of ``outputs``; the others are there.
        Unsaved
            It has ended, and is not saved where it was to be.
        """
        limits = {"max_steps": max_steps, "max_seconds": timeout, "token_budget": budget}
        changes = self._run(
            task,
            model=model,
            limits={name: each for name, each in limits.items() if each is not None},
            data=data,
            save=save,
            replay=replay,
            inputs=inputs or {},
            outputs=outputs,
            tools=tools or {},
            ask=ask,
            asker=asker,
            permit=permit,
            replaces=replaces,
        )
        return self._turns.iterate(changes, "a run")

    async def _run(
        self,
        task: str,
        *,
        model: str,
        limits: dict[str, Any],
        data: list[str] | None,
        save: str | None,
        replay: bool,
        inputs: Mapping[str, object],
        outputs: Sequence[str],
        tools: Mapping[str, object],
        ask: str | None,
        asker: Ask | None,
        permit: Permit | None,
        replaces: NotebookNode | None,
    ) -> AsyncGenerator[Change, None]:
        settings.check()
        if not task.strip():
            raise UsageError("the task is empty; say what is to be done")
        if save is not None and not save.strip():
            raise UsageError("there is no name of a file to save to; is a variable empty?")
        reach = self._reach()
        path = self._path(save) if save else self.transcript.path
        await _allow(permit, reach.to_save(path) if path and save else ())
        transcript = await self._at(path) if path and save else self.transcript
        recorded = transcript.recorded(task) if replay and save else []
        if path and not recorded and not self.transcript.has_written(path):
            await _allow(permit, reach.to_change(path))
        await _allow(permit, () if recorded else reach.to_load(model))
        await _allow(permit, reach.to_read(data))
        await _allow(permit, reach.to_ask(ask))
        chosen = None if recorded else self._model(model)
        kept = self._kept(transcript)
        if chosen:
            await aside(transcript.check_place)
            await chosen.check()
        policy = ask or self.ask
        if policy == "always" and asker is None:
            raise UsageError(f"cannot ask before each cell: {NOBODY}")
        offered = self._tools(tools, None if policy == "never" else asker or _nobody)
        prepared = await aside(functools.partial(Inputs, inputs))
        sandbox = await self._sandbox_with(data)
        border = Border(sandbox, offered, inputs=prepared, outputs=outputs)
        agent = None
        if chosen:
            try:
                agent = Agent(chosen, border, kept, self.learnt, parent=self, **limits)
            except TraitError as error:
                raise UsageError(str(error).rstrip(".")) from None
        if not sandbox.alive:
            yield Change(passing("*Starting the sandbox*"))
        await self._change_to(sandbox, border)
        self.results = {}
        opened = self._go_on_with(kept, transcript)
        self.sandbox.saved = self.transcript.path
        if agent:
            given = prepared.preview
            changes = self._carry_out(task, agent, border, given, opened=opened, replaces=replaces)
        else:
            unsaved = unwritable(path) if path else ""
            changes = self._replay(recorded, border, unsaved)
        if policy == "always" and asker:
            changes = with_approval(changes, asker)
        failure = None
        try:
            async with aclosing(changes):
                async for change in changes:
                    yield change
        except Unsaved as error:  # all else is as it was to be
            failure = error
        self.results = border.results
        if border.missing:
            raise ResultError(f"the run ended without a result: {'; '.join(border.missing)}")
        if self.keep_spare and self.sandbox.alive:
            self.sandbox.spare = True
            await self.sandbox.start()
        if failure:
            raise failure

    def _model(self, named: str) -> Model:
        name = choose_model(named or self.model)
        return load_model(
            name, configured=self.model, options=self.model_options, form=self.reply_form
        )

    def _reach(self) -> Reach:
        """Say what the configuration lets cells have unasked."""
        models = [self.model, os.environ.get("JUPYTER_AGENT_MODEL", "")]
        return Reach(self.folder, shared=self._shared, models=models, ask=self.ask)

    async def _carry_out(
        self,
        task: str,
        agent: Agent,
        border: Border,
        given: str,
        *,
        opened: bool,
        replaces: NotebookNode | None,
    ) -> AsyncGenerator[Change, None]:
        """Have the agent carry a task out."""
        if replaces:
            replace(self.transcript, replaces)
        move = functools.partial(self._own.move_to, fresh=self._fresh() or opened)
        fresh = await aside_to_its_end(functools.partial(move, self.transcript))
        note = "\n\n".join(filter(None, [self._note(fresh), border.note()]))
        if given:
            show_given(self.transcript, given)
        async with aclosing(agent.run(task, note=note, lacks=border.collect)) as changes:
            async for change in changes:
                if change.cell.metadata[KEY]["role"] == "task":
                    facts = {"model": agent.model.name, "sandbox": self.sandbox.describe()}
                    change.cell.metadata[KEY].update(facts)
                yield change

    async def _replay(
        self, cells: list[NotebookNode], border: Border, unsaved: str
    ) -> AsyncGenerator[Change, None]:
        """Show a run that is recorded, and run its code again; the record stays as it is.

        Parameters
        ----------
        unsaved
            Why what comes after it cannot be saved there, or nothing.
        """
        scratch = Transcript()
        for recorded in cells:
            cell = copy.deepcopy(recorded)
            facts = cell.metadata[KEY]
            for cost in ("usage", "failed"):
                facts.pop(cost, None)
            if facts["role"] == "task":
                model = f"{facts.get('model', 'a model')}, as recorded (--rerun asks anew)"
                model += f"; {unsaved}, nothing is saved" if unsaved else ""
                facts.update(model=model, sandbox=self.sandbox.describe())
            if facts["role"] == "code":
                cell.outputs = []
                facts["running"] = True
                yield Change(cell)
                if "refused" not in facts:
                    async with aclosing(border.execute(cell.source)) as outputs:
                        async for output in outputs:
                            scratch.add_output(cell, output)
                            yield Change(cell)
                facts.pop("running")
            yield Change(cell, done=True)
        await border.collect()
        self._fresh()

    def execute(
        self,
        code: str,
        *,
        keep: bool = False,
        answer: Answer | None = None,
        request: Request | None = None,
    ) -> AsyncGenerator[NotebookNode, None]:
        """Run the user's own code in the sandbox and yield its outputs.

        Parameters
        ----------
        keep
            Whether the agent reads of it with its next task.
        answer, request
            As `Sandbox.execute` has them.

        Raises
        ------
        UsageError
            The session is at work already.
        """
        outputs = self._execute(code, keep=keep, answer=answer, request=request)
        return self._turns.iterate(outputs, "a cell")

    async def _execute(
        self, code: str, *, keep: bool, answer: Answer | None, request: Request | None
    ) -> AsyncGenerator[NotebookNode, None]:
        if self._border is None:
            tools = self._tools({}, _nobody)
            self._border = Border(self.sandbox, tools, inputs=Inputs({}), outputs=())
        earlier = bool(self.transcript.cells or len(self._own))
        ran = self._own.add(code) if keep else None
        try:
            outputs = self._border.execute(code, answer=answer, request=request)
            async with aclosing(outputs):
                async for output in outputs:
                    yield output
                    if ran:
                        ran.hear(output)
        finally:
            if ran:
                ran.execution_count = self.sandbox.execution_count
                ran.fresh = self._fresh() and earlier

    def _fresh(self) -> bool:
        """Tell whether the kernel is another than the one that knew the transcript's variables."""
        before, self._known = self._known, (self.sandbox, self.sandbox.generation)
        return before != self._known

    async def files(self) -> list[tuple[str, int]]:
        """List what the agent has written to its working folder, with sizes in bytes."""
        async with self._turns.take("a look at its files"):
            reply = await self._asked("files", None)
        match reply:
            case list(found) if all(_names_file(one) for one in found):
                return [(visible(printable(name))[:500], size) for name, size in found[:MAX_FILES]]
        raise SandboxError("the sandbox could not list its files: it sent something else")

    async def fetch(
        self, name: str, to: str = "", *, overwrite: bool = False, permit: Permit | None = None
    ) -> Path:
        """Copy a file of the agent's out of its working folder.

        Parameters
        ----------
        to
            A file or a folder; by default the session's folder.
        permit
            Has the user allow a place that is not the folder's own; without it all is allowed.

        Raises
        ------
        UsageError
            There is no such file, or one in its place here that was not to be overwritten.
        """
        path = self._place_for(name, to, overwrite=overwrite)
        async with self._turns.take("a copy out of the sandbox"):
            reply = await self._asked("fetch", (name, self.sandbox.max_value_mib << 20))
        match reply:
            case bytes(content):
                await _allow(permit, self._reach().to_fetch(path))
                self._place_for(name, to, overwrite=overwrite)  # what has come there meanwhile?
                with _one_line(path):
                    await aside(functools.partial(write_whole, path, content))
                return path
            case str(why):
                raise UsageError(f"cannot fetch {name!r}: {printable(why)[:200]}")
        raise SandboxError(f"cannot fetch {name!r}: the sandbox sent something else")

    async def _asked(self, function: str, value: object) -> object:
        """Have the guest call a function of `guest_calls`; return what it sends back."""
        reply = await self.sandbox.call(function, encode(value))
        try:
            return await read(reply)
        except (ValueError, ImportError) as error:
            why = printable(str(error))[:300]
            raise SandboxError(f"the sandbox could not {function!r}: {why}") from None

    async def reset(self) -> None:
        """Forget the transcript and the variables; the next run starts afresh.

        Raises
        ------
        UsageError
            The session is at work.
        """
        async with self._turns.take("a reset"):
            self.transcript = Transcript()
            self._own = OwnCells()
            self._border = None
            self.results = {}
            if self.sandbox.alive:
                await self.sandbox.restart()
            else:
                await self.sandbox.close()

    async def close(self) -> None:
        """End the sandbox and leave nothing behind."""
        await self.sandbox.close()

    def status(self) -> dict[str, str]:
        """Say in a few words each how things stand."""
        try:
            model = choose_model(self.model)
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
            "used": str(self.transcript.bill),
            "saved": str(path) if path else "no; --save PATH does it",
        }

    def _place_for(self, name: str, to: str, *, overwrite: bool) -> Path:
        """Say where a file goes: a new one, or in the place of a file that may be overwritten."""
        path = self._path(to)
        with _one_line(path):
            path = path / Path(name).name if path.is_dir() else path
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise UsageError(f"{str(path)!r} is no regular file; name another")
            if path.exists() and not overwrite:
                raise UsageError(f"{str(path)!r} is there already; name another, or say --force")
        return path

    def _tools(self, more: Mapping[str, object], ask: Ask | None) -> Tools:
        own = [Tool.of(find(one) if isinstance(one, str) else one) for one in self._functions]
        named = [Tool.of(function, name) for name, function in more.items()]
        return Tools([*own, *named], ask=ask, max_calls=self.tool_calls)

    def _new_sandbox(self, data: list[str] | None) -> Sandbox:
        return Sandbox(self.folder, data=data, parent=self)

    async def _at(self, path: Path) -> Transcript:
        """Return the transcript that is saved at a path, or would be."""
        if path == self.transcript.path:
            return self.transcript
        return await aside(functools.partial(Transcript.open, path))

    def _path(self, typed: str) -> Path:
        try:
            path = (self.folder / Path(typed).expanduser()).absolute()
            path.lstat()
        except OSError:
            pass  # whoever opens it says why
        except (RuntimeError, ValueError) as error:  # no such user, a null
            raise UsageError(f"{typed!r} is no path: {error}") from None
        if typed and os.path.basename(typed) in ("", ".", "..") and not path.is_dir():  # noqa: PTH119  # a Path has no slash at its end
            raise UsageError(f"there is no folder {typed!r}; make it first, or name a file")
        return path

    def _kept(self, transcript: Transcript) -> Transcript:
        """Say in which notebook a run is kept that is saved where a transcript is.

        Raises
        ------
        UsageError
            It holds runs, and so does this session.
        """
        if transcript is self.transcript or not transcript.cells:
            return self.transcript
        if self.transcript.cells:
            raise UsageError(
                f"{str(transcript.path)!r} holds another run, and this session has runs of its "
                "own; name another file, or forget them with %agent reset"
            )
        return transcript

    def _go_on_with(self, kept: Transcript, saved: Transcript) -> bool:
        """Keep this session's runs there from now on; tell whether it held some already."""
        opened = kept is not self.transcript
        self.transcript = kept
        if not opened and saved is not kept:
            kept.move_to(saved)
        return opened

    async def _sandbox_with(self, data: list[str] | None) -> Sandbox:
        """Return a sandbox that can read these paths, not started yet if it is another one.

        Raises
        ------
        UsageError
            They cannot be shared.
        """
        if data is None:
            return self.sandbox
        wanted = [] if data == ["none"] else data
        await aside(functools.partial(self.sandbox.check_data, wanted))
        return self.sandbox if wanted == self.sandbox.data else self._new_sandbox(wanted)

    async def _change_to(self, sandbox: Sandbox, border: Border) -> None:
        """Start a sandbox that this session uses from now on, and end the one before."""
        before = self.sandbox
        if sandbox is not before and self._known == (before, before.generation):
            sandbox.loss = "other data takes a new sandbox; variables and files are gone"
        try:
            await border.furnish()
        except BaseException:
            if sandbox is not before:
                await sandbox.close()
            raise
        self.sandbox, self._border = sandbox, border
        if sandbox is not before:
            await before.close()

    def _note(self, fresh: bool) -> str:
        """Write what the model is told after the task."""
        notes = []
        if names := sharing.listing(self.sandbox.shares):
            notes.append(f"Files you can read here: {names}")
        if left_out := self.sandbox.left_out:
            notes.append(f"Not shared with you: {left_out}")
        if fresh and any(cell.cell_type == "code" for cell in self.transcript.cells):
            notes.append("The kernel is new: variables and files of earlier cells are gone.")
        return "\n".join(notes)


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current folder is gone; change to another one") from None


async def _allow(permit: Permit | None, wanted: Iterable[str]) -> None:
    """Have the user allow each of these, if any door but his own code asks for them."""
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
    """Say in one line why a file cannot be written."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror}; name another") from None
