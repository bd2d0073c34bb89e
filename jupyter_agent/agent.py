"""The loop: ask the model, run the cell it writes, show it what came out, until it answers."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, Protocol, TypeVar

from nbformat import NotebookNode
from nbformat.v4 import new_output
from traitlets import Float, Int
from traitlets.config import LoggingConfigurable

from jupyter_agent.errors import AgentError, LimitReached, ModelError, TranscriptError
from jupyter_agent.protocol import Message, Model, ReplyReader, Usage
from jupyter_agent.sandbox.outputs import clean_markdown, printable
from jupyter_agent.transcript import KEY, Change, Transcript

__all__ = ["Agent"]

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


class Agent(LoggingConfigurable):
    """Carries a task to its answer, one cell at a time."""

    max_steps = Int(20, min=1, help="Most replies of the model in one run.").tag(config=True)
    max_seconds = Float(0, min=0, help="Most seconds one run may take; 0 for no limit.").tag(
        config=True
    )
    token_budget = Int(0, min=0, help="Most tokens one run may use; 0 for no limit.").tag(
        config=True
    )

    def __init__(
        self, model: Model, sandbox: Kernel, transcript: Transcript | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.sandbox = sandbox
        self.transcript = transcript or Transcript()
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
                async with aclosing(self._reply(step)) as changes:
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

    # -- the two halves of a step

    async def _reply(self, step: Step) -> AsyncGenerator[Change, None]:
        """Stream the model's reply into cells: prose, then code."""
        messages = [_system(), *self.transcript.messages()]
        self._check_budget()
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
                self._check_budget(read // _CHARACTERS_A_TOKEN)
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
        if step.prose and step.code is None and step.prose.source != prose:
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

    def _check_budget(self, more: int = 0) -> None:
        if self.token_budget and self._spent + more >= self.token_budget:
            raise LimitReached(
                f"{self._spent + more:,} of {self.token_budget:,} tokens are used; "
                "raise c.Agent.token_budget"
            )

    def _count(self, step: Step, messages: list[Message], read: int) -> None:
        """Record what the reply cost, as counted by the server or else estimated."""
        counted = step.usage
        step.usage = counted or Usage(_characters(messages) // _CHARACTERS_A_TOKEN, read // 4)
        self._spent += step.usage.total
        cell = step.code or step.prose
        if cell:
            estimated = {} if counted else {"estimated": True}
            cell.metadata[KEY]["usage"] = asdict(step.usage) | estimated


def _system() -> Message:
    text = resources.files("jupyter_agent").joinpath("system.md").read_text(encoding="utf-8")
    return Message(role="system", content=text.strip())


def _characters(messages: list[Message]) -> int:
    """Count the characters of messages, without their pictures."""
    contents = [message["content"] for message in messages]
    return sum(
        len(content) if isinstance(content, str) else sum(len(p.get("text", "")) for p in content)
        for content in contents
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, AgentError):
        return str(error)
    stopped = isinstance(error, asyncio.CancelledError | GeneratorExit)
    return "interrupted" if stopped else f"{type(error).__name__}: {error}"
