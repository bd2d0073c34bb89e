"""The loop: ask the model, run the cell it writes, show it what came out, until it answers."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import Any, Protocol, TypeVar

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_output
from traitlets import Bool, Float, Int
from traitlets.config import LoggingConfigurable

from jupyter_agent import summary
from jupyter_agent.errors import AgentError, LimitReached, ModelError, TranscriptError
from jupyter_agent.examples import EXAMPLES
from jupyter_agent.protocol import Message, Model, ReplyReader, Usage
from jupyter_agent.sandbox.outputs import clean_markdown, printable
from jupyter_agent.transcript import KEY, Change, Transcript

__all__ = ["Agent", "Learnt"]

T = TypeVar("T")
_CHARACTERS_A_TOKEN = 4  # a rule of thumb, for servers that do not count


class Kernel(Protocol):
    """Anything that runs a cell and streams its outputs."""

    execution_count: int | None

    def execute(self, code: str) -> AsyncGenerator[NotebookNode, None]:
        """Yield the outputs of ``code``; closing early interrupts it."""
        ...


@dataclass(slots=True)
class Step:
    """The cells of one reply, while they are not done."""

    number: int
    prose: NotebookNode | None = None
    code: NotebookNode | None = None
    running: bool = False
    usage: Usage | None = None


@dataclass(slots=True)
class Learnt:
    """What servers have told of their models, by name; a session keeps it from run to run."""

    blind: set[str] = field(default_factory=set)
    windows: dict[str, int] = field(default_factory=dict)  # tokens


class Agent(LoggingConfigurable):
    """Carries a task to its answer, one cell at a time."""

    max_steps = Int(20, min=1, help="Most replies of the model in one run.").tag(config=True)
    max_seconds = Float(0, min=0, help="Most seconds one run may take; 0 for no limit.").tag(
        config=True
    )
    token_budget = Int(0, min=0, help="Most tokens one run may use; 0 for no limit.").tag(
        config=True
    )

    context_window = Int(
        0, min=0, help="Tokens that the model can read; 0 for what its server says."
    ).tag(config=True)

    examples = Bool(False, help="Show the model a few examples first; small models need them.").tag(
        config=True
    )

    def __init__(
        self,
        model: Model,
        sandbox: Kernel,
        transcript: Transcript | None = None,
        learnt: Learnt | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.sandbox = sandbox
        self.transcript = transcript or Transcript()
        self.learnt = learnt or Learnt()
        self._deadline: float | None = None
        self._spent = 0

    async def run(self, task: str, *, note: str = "") -> AsyncGenerator[Change, None]:
        """Yield every change that the run makes to the transcript.

        A code cell is yielded before it runs: what its source holds when the iteration goes on
        is what runs. Closing or cancelling the iteration stops model and sandbox, and leaves the
        transcript whole and saved.

        Parameters
        ----------
        note
            Facts that the model reads after the task, such as the files it can read.

        Raises
        ------
        LimitReached
            The run used up its steps, seconds or tokens. The transcript says so too.
        ModelError
            The model could not be asked, or broke off.
        """
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + self.max_seconds if self.max_seconds else None
        self._spent = 0
        run = secrets.token_hex(4)
        step = Step(0)
        try:
            yield self._done(self.transcript.add("task", task, run=run, note=note))
            for number in range(1, self.max_steps + 1):
                step = Step(number)
                async with aclosing(self._mended_reply(step)) as changes:
                    async for change in changes:
                        yield change
                if step.code is None:
                    return
                async with aclosing(self._execute(step)) as changes:
                    async for change in changes:
                        yield change
            raise LimitReached(
                f"no answer after {self.max_steps} steps; raise c.Agent.max_steps or ask for less"
            )
        except BaseException as error:
            for change in self._close(step, error):
                if not isinstance(error, GeneratorExit):  # nobody listens any more
                    yield change
            raise

    # -- what the model is sent

    def _messages(self, cells: list[NotebookNode] | None = None) -> list[Message]:
        seeing = self.model.name not in self.learnt.blind
        return [*self._head(), *self.transcript.messages(cells, seeing=seeing)]

    def _head(self) -> list[Message]:
        """Write what every request begins with."""
        return [_system(), *(_examples() if self.examples else ())]

    def _size(self, cells: list[NotebookNode] | None = None) -> int:
        """Estimate the tokens of a request about these cells, by default the next one."""
        return summary.size(cells or self.transcript.in_reach(), _characters(self._head()))

    async def _mended_reply(self, step: Step) -> AsyncGenerator[Change, None]:
        """Take a reply; where the server refuses what it was sent, mend that and ask again."""
        while True:
            async with aclosing(self._make_room()) as changes:
                async for change in changes:
                    yield change
            try:
                async with aclosing(self._reply(step)) as changes:
                    async for change in changes:
                        yield change
            except ModelError as error:
                if step.prose or step.code or not self._learn(error):
                    raise
            else:
                return

    def _learn(self, error: ModelError) -> bool:
        """Remember what a refusal tells of the model; return whether that mends the request."""
        model = self.model.name
        if model not in self.learnt.blind and _sees(self._messages()) and _refuses_pictures(error):
            self.learnt.blind.add(model)
            self.log.info("%s cannot see: pictures are told in words", model)
            return True
        if error.kind == "context":
            refused = self._size()  # the estimate may be too low: its scale is what counts here
            self.learnt.windows[model] = min(error.window or refused, refused)
            return self._old_cells() > 0
        return False

    # -- long runs

    @property
    def _window(self) -> int:
        """Tokens that the model can read; 0 if nobody knows."""
        known = self.context_window or getattr(self.model, "window", None) or 0
        learnt = self.learnt.windows.get(self.model.name, known)
        return min(known, learnt) if known else learnt

    def _old_cells(self) -> int:
        """Say how many of the cells in reach can be summed up; a quarter of the window stays."""
        return summary.split(self.transcript.in_reach(), self._window // 4)

    async def _make_room(self) -> AsyncGenerator[Change, None]:
        """Put a summary before the newest steps when the request nears the model's window."""
        cells, window = self.transcript.in_reach(), self._window
        if not window or self._size() <= window * 3 // 4 or not (old := self._old_cells()):
            return
        text, usage = await self._sum_up(cells[:old], most=window // 2)
        index = len(self.transcript.cells) - len(cells) + old
        tasks = [c for c in self.transcript.cells if c.metadata.get(KEY, {}).get("role") == "task"]
        task = tasks[-1] if tasks and tasks[-1] not in cells[old:] else None
        facts = {"cells": old, "window": window, "last": cells[-1].id, **usage}
        cell = self.transcript.insert(index, "summary", summary.write(task, text), **facts)
        yield self._done(cell)

    async def _sum_up(
        self, cells: list[NotebookNode], *, most: int
    ) -> tuple[str, dict[str, dict[str, Any]]]:
        """Return the model's summary of cells, in so many characters, and what it cost.

        The request extends earlier ones, so that it is cheap where prompts are cached. If it
        fails, heads and tails of the cells have to do.
        """
        messages = self._messages([*cells, new_markdown_cell(summary.INSTRUCTION)])
        self._check_budget(self._size(cells))
        text, counted = "", None
        try:
            async with aclosing(self._in_time(self.model.stream(messages))) as deltas:
                async for delta in deltas:
                    text += delta.text
                    counted = delta.usage or counted
                    if len(text) > most:
                        break
        except ModelError as error:
            self.log.info("no summary by the model, so one by rule: %s", error)
            return summary.digest(cells, most), {}
        usage = self._spend(counted, messages, len(text))
        text = clean_markdown(text[:most]).strip()
        return text or summary.digest(cells, most), {"usage": usage}

    # -- the two halves of a step

    async def _reply(self, step: Step) -> AsyncGenerator[Change, None]:
        """Stream the model's reply into cells: prose, then code."""
        messages = self._messages()
        asked = self._size()
        self._check_budget(asked)
        reader = ReplyReader()
        read = 0
        async with aclosing(self._in_time(self.model.stream(messages))) as deltas:
            async for delta in deltas:
                read += len(delta.text)
                step.usage = delta.usage or step.usage
                over = reader.feed(delta.text)
                for change in self._write(step, reader):
                    yield change
                if over:
                    break
                self._check_budget(asked + read // _CHARACTERS_A_TOKEN)
        reader.close()
        for change in self._write(step, reader):
            yield change
        self._count(step, messages, read)
        last = step.code or step.prose
        if last is None:
            raise ModelError(f"{self.model.name} gave an empty reply; ask again or another model")
        if step.code is None:
            yield self._done(last)

    def _write(self, step: Step, reader: ReplyReader) -> Iterator[Change]:
        """Bring the step's cells up to what has been read."""
        prose = clean_markdown(reader.prose)
        if prose and step.prose is None:
            step.prose = self.transcript.add("prose", step=step.number)
        if step.prose and step.prose.source != prose:
            step.prose.source = prose
            yield Change(step.prose)
        if reader.code is None:
            return
        code = printable(reader.code)
        if step.code is None:
            if step.prose:
                yield Change(step.prose, done=True)
            step.code = self.transcript.add("code", step=step.number)
            yield Change(step.code)
        if step.code.source != code:
            step.code.source = code
            yield Change(step.code)

    async def _execute(self, step: Step) -> AsyncGenerator[Change, None]:
        """Run the step's code cell and fill in its outputs."""
        cell = step.code
        assert cell is not None
        step.running = cell.metadata[KEY]["running"] = True
        self._save()
        yield Change(cell)
        async with aclosing(self._in_time(self.sandbox.execute(cell.source))) as outputs:
            async for output in outputs:
                self.transcript.add_output(cell, output)
                yield Change(cell)
        cell.execution_count = self.sandbox.execution_count
        self.transcript.finish(cell)
        step.running = False
        yield self._done(cell)

    # -- ends

    def _close(self, step: Step, error: BaseException) -> Iterator[Change]:
        """Leave the transcript whole: take back half a reply, say why the run has no answer."""
        with contextlib.suppress(TranscriptError):  # the disk is full: the error says it already
            if step.running and step.code is not None:
                why = "TimeLimit" if isinstance(error, LimitReached) else "KeyboardInterrupt"
                stopped = new_output("error", ename=why, evalue="stopped", traceback=[])
                self.transcript.add_output(step.code, stopped)
                self.transcript.finish(step.code)
                yield Change(step.code, done=True)
            elif step.usage is None:
                for cell in filter(None, (step.prose, step.code)):
                    self.transcript.drop(cell)
                    yield Change(cell, done=True)
            yield self._done(self.transcript.add("end", f"*Stopped: {_reason(error)}.*"))

    def _done(self, cell: NotebookNode) -> Change:
        self._save()
        return Change(cell, done=True)

    def _save(self) -> None:
        self.transcript.save()

    # -- limits

    async def _in_time(self, source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """Iterate until the run's time is up."""
        async with aclosing(source):
            while True:
                try:
                    async with asyncio.timeout_at(self._deadline):
                        item = await anext(source)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise LimitReached(
                        f"no answer after {self.max_seconds:g} s; raise c.Agent.max_seconds"
                    ) from None
                yield item

    def _check_budget(self, more: int) -> None:
        """Stop before a call that the budget does not cover, and in a reply that outgrows it."""
        if self.token_budget and self._spent + more > self.token_budget:
            raise LimitReached(
                f"{self._spent:,} of {self.token_budget:,} tokens are used and the next reply "
                f"takes {more:,} or more; raise --budget (c.Agent.token_budget)"
            )

    def _count(self, step: Step, messages: list[Message], read: int) -> None:
        """Record what the reply cost."""
        usage = self._spend(step.usage, messages, read)
        step.usage = step.usage or Usage()
        cell = step.code or step.prose
        if cell:
            cell.metadata[KEY]["usage"] = usage

    def _spend(self, counted: Usage | None, messages: list[Message], read: int) -> dict[str, Any]:
        """Return what a reply cost, as counted by the server or else estimated."""
        usage = counted or Usage(_characters(messages) // _CHARACTERS_A_TOKEN, read // 4)
        self._spent += usage.total
        known = {name: value for name, value in asdict(usage).items() if value is not None}
        return known | ({} if counted else {"estimated": True})


def _system() -> Message:
    text = resources.files("jupyter_agent").joinpath("system.md").read_text(encoding="utf-8")
    return Message(role="system", content=text.strip())


def _examples() -> list[Message]:
    """Tell the examples as a transcript of runs would."""
    runs = Transcript()
    for example in EXAMPLES:
        runs.add("task", example.task)
        runs.add("prose", example.prose, step=1)
        shown = {"text": f"Output:\n{example.output}", "pictures": []}
        runs.add("code", example.code, step=1, shown=shown)
        runs.add("prose", example.answer, step=2)
    return runs.messages()


def _characters(messages: list[Message]) -> int:
    """Count the characters of messages, without their pictures."""
    contents = [message["content"] for message in messages]
    return sum(
        len(content) if isinstance(content, str) else sum(len(p.get("text", "")) for p in content)
        for content in contents
    )


def _sees(messages: list[Message]) -> bool:
    contents = [message["content"] for message in messages]
    return any(not isinstance(c, str) and any("image_url" in p for p in c) for c in contents)


# how servers say that a model takes no pictures, or no content but text
_NO_PICTURES = re.compile(
    r"image|picture|vision|visual|multi-?modal|modalit|content must be a string|valid string", re.I
)


def _refuses_pictures(error: ModelError) -> bool:
    """Tell whether a server has refused a request for its pictures (llama.cpp does it by 500)."""
    said = error.said or str(error).partition(": ")[2]  # without the name of the model
    return error.kind in ("bad_request", "server") and bool(_NO_PICTURES.search(said))


def _reason(error: BaseException) -> str:
    if isinstance(error, AgentError):
        return str(error)
    stopped = isinstance(error, asyncio.CancelledError | GeneratorExit)
    return "interrupted" if stopped else f"{type(error).__name__}: {error}"
