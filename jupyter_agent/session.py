"""What lives on between runs: one sandbox, one transcript. The only thing a door holds."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from traitlets import Bool, Dict, Enum, Unicode
from traitlets.config import LoggingConfigurable

from jupyter_agent.agent import Agent
from jupyter_agent.errors import UsageError
from jupyter_agent.models import choose_model, load_model
from jupyter_agent.options import LINE_HELP
from jupyter_agent.owncells import OwnCells
from jupyter_agent.protocol import Form
from jupyter_agent.request import Learnt
from jupyter_agent.sandbox import files
from jupyter_agent.sandbox.kernel import Answer, Request, Sandbox
from jupyter_agent.transcript import KEY, Change, Transcript

__all__ = ["Session"]


class Session(LoggingConfigurable):
    """A sandbox and a transcript, and the runs that use them.

    Parameters
    ----------
    folder
        Where relative paths start: the notebook's folder, or where the command was typed.
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

    def __init__(self, folder: Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = folder or Path.cwd()
        self.transcript = Transcript()
        self.learnt = Learnt()
        self.sandbox = self._new_sandbox(None)
        self._own = OwnCells()
        self._known: object = None  # the kernel that knows the transcript's variables

    async def run(
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

        Raises
        ------
        UsageError
            Something asked for cannot be done: nothing was started or spent.
        """
        if not task.strip():
            raise UsageError("the task is empty; say what is to be done")
        if replay and save and (cells := self._at(save).recorded(task)):
            self._save_to(save)
            async with aclosing(self._replay(cells)) as changes:
                async for change in changes:
                    yield change
            return
        chosen = load_model(
            choose_model(model or self.model), options=self.model_options, form=self.reply_form
        )
        opened = self._save_to(save)
        await chosen.check()
        await self._share(data)
        asked = {"max_steps": max_steps, "max_seconds": timeout, "token_budget": budget}
        limits: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        agent = Agent(chosen, self.sandbox, self.transcript, self.learnt, parent=self, **limits)
        await self.sandbox.start()
        note = self._note(self._own.move_to(self.transcript, fresh=self._fresh() or opened))
        async with aclosing(agent.run(task, note=note)) as changes:
            async for change in changes:
                if change.cell.metadata[KEY]["role"] == "task":
                    facts = {"model": chosen.name, "sandbox": self.sandbox.describe()}
                    change.cell.metadata[KEY].update(facts)
                yield change
        if self.keep_spare and self.sandbox.alive:
            self.sandbox.spare = True
            await self.sandbox.start()

    async def _replay(self, cells: list[NotebookNode]) -> AsyncGenerator[Change, None]:
        """Show a run that is recorded, and run its code again; the record stays as it is."""
        await self.sandbox.start()
        scratch = Transcript()
        for recorded in cells:
            cell = copy.deepcopy(recorded)
            facts = cell.metadata[KEY]
            facts.pop("usage", None)
            if facts["role"] == "task":
                model = f"{facts.get('model', 'a model')}, as recorded (--rerun asks anew)"
                facts.update(model=model, sandbox=self.sandbox.describe())
            if facts["role"] == "code":
                cell.outputs = []
                facts["running"] = True
                yield Change(cell)
                async with aclosing(self.sandbox.execute(cell.source)) as outputs:
                    async for output in outputs:
                        scratch.add_output(cell, output)
                        yield Change(cell)
                facts.pop("running")
            yield Change(cell, done=True)
        self._fresh()

    async def execute(
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
        """
        earlier = bool(self.transcript.cells or len(self._own))
        ran = self._own.add(code) if keep else None
        try:
            outputs = self.sandbox.execute(code, answer=answer, request=request)
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

    async def command(self, words: str) -> str:
        """Do what ``%agent WORDS`` asks for and return what there is to say.

        Raises
        ------
        UsageError
            It is none of status, reset and help.
        """
        match words:
            case "status":
                return "\n".join(f"{name:<8} {value}" for name, value in self.status().items())
            case "reset":
                await self.reset()
                return "The sandbox is new and the session's runs are forgotten."
            case "help" | "":
                return LINE_HELP
        raise UsageError(
            f"%agent does not know {words!r}: it takes status, reset or help; "
            "a task goes below a line %%agent"
        )

    async def reset(self) -> None:
        """Forget the transcript and the variables; the next run starts afresh."""
        self.transcript = Transcript()
        self._own = OwnCells()
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
        except UsageError:
            model = "none by default; name one with -m or JUPYTER_AGENT_MODEL"
        sandbox = self.sandbox.describe() if self.sandbox.alive else "starts with the next run"
        runs = sum(c.metadata.get(KEY, {}).get("role") == "task" for c in self.transcript.cells)
        path = self.transcript.path
        return {
            "model": model,
            "sandbox": sandbox,
            "limits": self.sandbox.describe_limits(),
            "folder": str(self.folder),
            "runs": f"{runs}, {len(self.transcript.cells)} cells",
            "used": str(self.transcript.bill),
            "saved": str(path) if path else "no; --save PATH does it",
        }

    def _new_sandbox(self, data: list[str] | None) -> Sandbox:
        return Sandbox(self.folder, data=data, parent=self)

    def _at(self, save: str) -> Transcript:
        """Return the transcript that is saved at a path, or would be."""
        path = (self.folder / Path(save).expanduser()).absolute()
        return self.transcript if path == self.transcript.path else Transcript.open(path)

    def _save_to(self, save: str | None) -> bool:
        """Save this session's runs at a path from now on; tell whether it held some already."""
        transcript = self._at(save) if save else self.transcript
        if transcript is self.transcript:
            return False
        if self.transcript.cells and transcript.cells:
            raise UsageError(
                f"{str(transcript.path)!r} holds another run, and this session has runs of its "
                "own; name another file, or forget them with %agent reset"
            )
        if transcript.cells:
            self.transcript = transcript
            return True
        self.transcript.path = transcript.path
        return False

    async def _share(self, data: list[str] | None) -> None:
        """Let the sandbox read these paths; other ones than before need a new sandbox."""
        if data is None:
            return
        wanted = [] if data == ["none"] else data
        self.sandbox.check_data(wanted)
        if wanted != self.sandbox.data:
            await self.sandbox.close()
            self.sandbox = self._new_sandbox(wanted)

    def _note(self, fresh: bool) -> str:
        """Write what the model is told after the task."""
        notes = []
        if names := files.listing(self.sandbox.shares):
            notes.append(f"Files you can read here: {names}")
        if fresh and any(cell.cell_type == "code" for cell in self.transcript.cells):
            notes.append("The kernel is new: variables and files of earlier cells are gone.")
        return "\n".join(notes)
