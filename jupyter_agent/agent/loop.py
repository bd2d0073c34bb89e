"""Agent: the steps of a run, its limits, and the retries after a fault such as a 429."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from traitlets import Bool, Int
from traitlets.config import LoggingConfigurable

from jupyter_agent._arguments import check_argument, check_traits
from jupyter_agent._nbformat import NotebookNode, new_markdown_cell, new_output
from jupyter_agent._threads import cancel
from jupyter_agent._traits import Seconds
from jupyter_agent.agent import summary
from jupyter_agent.agent.budget import Deadline, TokenBudget
from jupyter_agent.agent.reply import Reply
from jupyter_agent.agent.request import ModelFacts, Requests
from jupyter_agent.agent.retries import Retries
from jupyter_agent.agent.summary import CHARACTERS_A_TOKEN
from jupyter_agent.errors import AgentError, LimitReached, ModelError, TranscriptError, Unsaved
from jupyter_agent.models.faults import cut_short
from jupyter_agent.models.parser import LOOK_AHEAD, LOOK_AHEAD_LATER
from jupyter_agent.models.protocol import Delta, Model
from jupyter_agent.models.stop_reasons import unfinished
from jupyter_agent.sandbox.filter.fields import printable
from jupyter_agent.sandbox.filter.host_commands import agents_code
from jupyter_agent.sandbox.filter.markdown import one_line
from jupyter_agent.transcript.metadata import facts_of
from jupyter_agent.transcript.notebook import Change, Transcript, temporary_cell
from jupyter_agent.transcript.saving import BackgroundSaver

__all__ = ["Agent"]

_MAX_UNREAD = 3  # replies in a row that cannot be read
_HOW = {
    "text": "To run code, write it in a ```python block; to finish, answer in words.",
    "tool": 'To run code, call python with {"code": "..."} as its arguments; '
    "to finish, answer in words.",
}
_MEANT = " If that was your answer, repeat it."
_UNFINISHED = "*The reply was not finished, and nothing of it was run:*"
_PIECE = 4_000  # characters of a reply that are read before other tasks run
_NOT_RUN = "Not run: an earlier cell of the same reply failed\n"


class CellRunner(Protocol):
    """Anything that runs a cell and streams its outputs."""

    @property
    def execution_count(self) -> int | None:
        """The execution count of the last cell."""
        ...

    def execute(self, code: str) -> AsyncGenerator[NotebookNode, None]:
        """Yield the outputs of ``code``; closing the generator early interrupts the code."""
        ...


@dataclass(slots=True)
class Step:
    """One reply and the state of its cells."""

    reply: Reply
    whole: bool = False
    to_run: list[NotebookNode] = field(default_factory=list)
    running: NotebookNode | None = None
    waiting: NotebookNode | None = None  # shown during the wait before a retry


class Agent(LoggingConfigurable):
    """Carries out a task, one cell at a time."""

    max_steps = Int(20, min=1, help="Maximum number of replies of the model in one run.").tag(
        config=True
    )
    max_seconds = Seconds(0, min=0, help="Maximum seconds for one run; 0 for no limit.").tag(
        config=True
    )
    reply_timeout = Seconds(600, min=0.01, help="Maximum seconds for one reply of the model.").tag(
        config=True
    )
    reply_length = Int(200_000, min=1, help="Maximum number of characters in one reply.").tag(
        config=True
    )
    retries = Int(4, min=0, help="Maximum number of retries of one reply after a fault.").tag(
        config=True
    )
    retry_seconds = Seconds(
        120,
        min=0,
        help="Seconds from the first request for a reply in which it is retried.",
    ).tag(config=True)
    retry_wait = Seconds(
        1, min=0, help="Seconds before the first retry; doubled before each further one."
    ).tag(config=True)
    token_budget = Int(0, min=0, help="Maximum number of tokens for one run; 0 for no limit.").tag(
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
        sandbox: CellRunner,
        transcript: Transcript | None = None,
        model_facts: ModelFacts | None = None,
        **kwargs: Any,
    ) -> None:
        check_traits(self, kwargs)
        wanted = "a model, as load_model() returns it"
        check_argument("model", model, fits=hasattr(model, "stream"), wanted=wanted)
        check_argument("sandbox", sandbox, fits=hasattr(sandbox, "execute"), wanted="a Sandbox")
        super().__init__(**kwargs)
        self.model = model
        self.sandbox = sandbox
        self.transcript = Transcript() if transcript is None else transcript
        is_transcript = isinstance(self.transcript, Transcript)
        check_argument("transcript", transcript, fits=is_transcript, wanted="a Transcript")
        self.model_facts = model_facts or ModelFacts()
        self.budget = TokenBudget(self.token_budget)  # of the current run, or the last one

    async def run(
        self, task: str, *, note: str = "", lacks: Callable[[], Awaitable[str]] | None = None
    ) -> AsyncGenerator[Change, None]:
        """Yield every change that the run makes to the transcript.

        A code cell is yielded before it runs. What runs is the source that it has when the
        iteration continues, or nothing if its metadata hold why it was ``refused``. Closing or
        cancelling the iteration stops the model and the sandbox; the transcript is complete and
        saved.

        Parameters
        ----------
        note
            Facts that the model reads with the task, such as the files that it can read.
        lacks
            Returns what an answer still lacks, for the model to add; empty for nothing.

        Raises
        ------
        LimitReached
            The run used up its steps, seconds or tokens. The transcript says so, too.
        ModelError
            The model could not be asked, or did not finish its reply.
        TranscriptError
            The run did not begin, because it cannot be saved.
        Unsaved
            The run has its answer, but its file could not be written.
        """
        self._deadline = Deadline(self.max_seconds)
        self.budget = TokenBudget(self.token_budget)
        self._saver = BackgroundSaver(self.transcript)
        self._requests = Requests(
            self.model, self.transcript, self.model_facts, self.examples, self.context_window
        )
        step = self._step(0)
        corrected: list[str] = []  # the kinds of problems of the last replies
        try:
            yield await self._begin(task, note)
            for number in range(1, self.max_steps + 1):
                step = self._step(number)
                for part in (self._ask(step), self._run_cells(step)):
                    async with aclosing(part) as changes:
                        async for change in changes:
                            yield change
                is_last = number == self.max_steps
                reminder = self._correct(step, corrected, last=is_last)
                if not reminder and not step.reply.code:
                    lack = await lacks() if lacks else ""
                    if not lack or is_last:
                        break
                    reminder = self.transcript.add("reminder", lack)
                if reminder:
                    yield self._done(reminder)
            else:
                raise LimitReached(
                    f"no answer after {self.max_steps} step{'s' * (self.max_steps > 1)}; "
                    "raise -n (c.Agent.max_steps), or make the task smaller"
                )
        except BaseException as error:
            for change in [*self._close(step, error)]:  # all of them, even if nobody reads them
                if not isinstance(error, GeneratorExit):  # nobody reads any more
                    yield change
            raise
        finally:
            await self._saver.end()
            if unsaved := self._saver.problem or self._saver.notice:
                self.log.warning(unsaved)
        if unsaved:
            raise Unsaved(unsaved)

    async def _begin(self, task: str, note: str) -> Change:
        """Write the task, and check that it can be saved before anything is spent."""
        begun = self._done(self.transcript.add("task", task, run=secrets.token_hex(4), note=note))
        await self._saver.end()
        if self._saver.problem:
            raise TranscriptError(self._saver.problem)
        return begun

    def _step(self, number: int) -> Step:
        name = self.model.name
        far = {None: LOOK_AHEAD, True: self.reply_length, False: LOOK_AHEAD_LATER}
        look_ahead = far[self._thinks_aloud]
        return Step(Reply(self.transcript, number, name, self.model.form, look_ahead))

    def _correct(self, step: Step, corrected: list[str], *, last: bool) -> NotebookNode | None:
        """Add a cell that tells the model what is wrong with its reply, if anything is."""
        if step.reply.code:
            corrected.clear()
        said = self._correction(step, corrected, last=last)
        return self.transcript.add("correction", said) if said else None

    def _correction(self, step: Step, corrected: list[str], *, last: bool) -> str:
        """Return what is wrong with a reply; empty if it is an answer or its code is correct.

        A problem that is not certain is reported once. The second time the reply is an answer.
        """
        problem = step.reply.problem
        if not problem:
            return ""
        if problem.certain and len(corrected) >= _MAX_UNREAD - 1:
            said = f"{problem.said[0].lower()}{problem.said[1:]}"
            raise ModelError(
                f"{self.model.name} gave {_MAX_UNREAD} replies in a row that cannot be used "
                f"({said}); rephrase the task, or use another model",
                kind="protocol",
            )
        if not problem.certain and (last or problem.kind in corrected):
            return ""
        corrected.append(problem.kind)
        how = _HOW[self.model.form] + _MEANT * (not problem.certain)
        ran = "; the other code was run" if step.reply.code else ", and nothing was run"
        return f"{problem.said}{ran}. {how}"

    # -- the reply

    async def _ask(self, step: Step) -> AsyncGenerator[Change, None]:
        """Ask for the reply; ask again after a fault that can be corrected or may pass."""
        retries = Retries(self.retries, seconds=self.retry_seconds, first_wait=self.retry_wait)
        while True:
            if summed_up := await self._make_room():
                yield summed_up
            try:
                async with aclosing(self._stream_into(step)) as changes:
                    async for change in changes:
                        yield change
                return
            except ModelError as error:
                mended = not step.reply.cells and self._requests.learn(error)
                seconds = None if mended else retries.next_wait(error)
                if not mended and seconds is None:
                    raise
                problem = printable(str(error))
            for change in step.reply.drop():
                yield change
            step.reply = step.reply.anew(self.model.form)
            if seconds is None:
                self.log.info("asking again, in another way: %s", problem)
                continue
            why = f"*Asking again in {seconds:.0f} s. {problem}*"
            step.waiting = temporary_cell(why, seconds=seconds, problem=problem)
            yield Change(step.waiting)
            async with self._deadline.within():
                await asyncio.sleep(seconds)
            yield _over(step.waiting)
            step.waiting = None

    async def _stream_into(self, step: Step) -> AsyncGenerator[Change, None]:
        """Stream one reply of the model into cells."""
        reply, news = step.reply, asyncio.Event()
        reading = asyncio.create_task(self._read(reply, news))
        reading.add_done_callback(lambda _: news.set())
        try:
            while not reading.done():
                await news.wait()
                news.clear()
                for change in reply.write():
                    yield change
                await asyncio.wait({reading}, timeout=reply.rest)
            reading.result()
        except ModelError as error:
            if not self._is_needless(reply, error):
                raise
            reply.end = "stop"
        finally:
            await cancel(reading)
        for change in reply.close():
            yield change
        fault = unfinished(self.model.name, reply.end, refusal=reply.refusal, is_open=reply.is_open)
        if fault and not self._is_needless(reply, fault):
            raise fault
        self.model_facts.thinks_aloud[self.model.name] = (
            self._thinks_aloud or reply.reader.thinks_aloud
        )
        for cell in reply.cells[-1:]:
            facts_of(cell).update(self.budget.take())
        step.whole, step.to_run = True, reply.code
        if reply.prose and not reply.is_prose_final:
            yield self._done(reply.prose)

    @property
    def _thinks_aloud(self) -> bool | None:
        return self.model_facts.thinks_aloud.get(self.model.name)

    def _is_needless(self, reply: Reply, fault: ModelError) -> bool:
        """Tell whether a fault cut off only text that the model adds after its code block."""
        return fault.kind == "truncated" and reply.reader.closed and self._thinks_aloud is False

    async def _read(self, reply: Reply, news: asyncio.Event) -> None:
        """Read a reply to its end, and set ``news`` whenever more of it has come."""
        async with self._reply_in_time(), aclosing(self._stream(reply)) as deltas:
            async for delta in deltas:
                over = reply.read(delta)
                news.set()
                if over and self.model.form == "text":
                    reply.end = "stop"  # ended here: the rest is not read
                    return

    async def _stream(
        self, reply: Reply, cells: list[NotebookNode] | None = None
    ) -> AsyncGenerator[Delta, None]:
        """Send the next request, or one about these cells; yield the reply, within limits."""
        messages, asked = self._requests.sized(cells)
        self.budget.check(asked)
        whole = False
        try:
            async with aclosing(self.model.stream(messages)) as deltas:
                async for delta in _in_pieces(deltas):
                    yield delta
                    if reply.length > self.reply_length:
                        limit = f"c.Agent.reply_length ({self.reply_length:,} characters)"
                        raise cut_short(self.model.name, limit)
                    self.budget.check(asked, reply.paid // CHARACTERS_A_TOKEN)
            whole = True
        finally:
            self.budget.spend(reply, whole=whole)

    def _reply_in_time(self) -> AbstractAsyncContextManager[None]:
        late = ModelError(
            f"{self.model.name} did not finish its reply within {self.reply_timeout:g} s; "
            "try again, or raise c.Agent.reply_timeout",
            kind="timeout",
        )
        return self._deadline.within(self.reply_timeout, late)

    # -- long runs

    async def _make_room(self) -> Change | None:
        """Replace older steps by a summary when the request nearly fills the model's window."""
        window = self._requests.window
        if not window or self._requests.size() <= window * 3 // 4:
            return None
        if not (old := self._requests.old_cells()):
            return None
        cells = self.transcript.cells_in_context()
        text, costs = await self._sum_up(cells[:old], max_characters=window // 2)
        index = len(self.transcript.cells) - len(cells) + old
        tasks = [cell for cell in self.transcript.cells if facts_of(cell).get("role") == "task"]
        task = tasks[-1] if tasks and tasks[-1] not in cells[old:] else None
        facts = {"cells": old, "window": window, "last": cells[-1].id, **costs}
        return self._done(
            self.transcript.insert(index, "summary", summary.write(task, text), **facts)
        )

    async def _sum_up(
        self, cells: list[NotebookNode], *, max_characters: int
    ) -> tuple[str, dict[str, Any]]:
        """Return the model's summary of cells, and what it cost.

        The request extends earlier ones, so it is cheap where prompts are cached. If it fails,
        the summary is made by rule from the cells.
        """
        asked = [*cells, new_markdown_cell(summary.INSTRUCTION)]
        reply, text = self._step(0).reply, ""
        try:
            async with self._reply_in_time(), aclosing(self._stream(reply, asked)) as deltas:
                async for delta in deltas:
                    reply.read(delta)
                    text += delta.text
                    if len(text) > max_characters:
                        break
        except ModelError as error:
            self.log.info("no summary by the model, so one by rule: %s", error)
            text = ""
        if text := text[:max_characters].strip():
            return text, self.budget.take()
        return summary.digest(cells, max_characters), self.budget.take_failed()

    # -- its cells

    async def _run_cells(self, step: Step) -> AsyncGenerator[Change, None]:
        """Run the reply's cells in order, up to the first one that ends in an error."""
        while step.to_run:
            step.running = cell = step.to_run.pop(0)
            facts_of(cell)["running"] = True
            self._saver.begin()
            yield Change(cell)
            if cell.source != (code := agents_code(cell.source)):  # the user may have edited it
                cell.source = code
                yield Change(cell)
            refused = facts_of(cell).get("refused")
            running = self.sandbox.execute(cell.source) if refused is None else _refusal(refused)
            async with aclosing(self._deadline.iterate(running)) as outputs:
                async for output in outputs:
                    self.transcript.add_output(cell, output)
                    yield Change(cell)
            cell.execution_count = self.sandbox.execution_count if refused is None else None
            await self.transcript.fit_pictures(cell)
            self.transcript.finish(cell)
            step.running = None
            yield self._done(cell)
            if any(output.output_type == "error" for output in cell.outputs):
                for change in self._leave_out(step):
                    yield change

    def _leave_out(self, step: Step) -> Iterator[Change]:
        """Mark the remaining cells as not run, for the model and the user."""
        while step.to_run:
            cell = step.to_run.pop(0)
            self.transcript.add_output(cell, new_output("stream", name="stderr", text=_NOT_RUN))
            self.transcript.finish(cell)
            yield self._done(cell)

    # -- ends

    def _close(self, step: Step, error: BaseException) -> Iterator[Change]:
        """Complete the transcript: add why there is no answer, keep an unfinished reply as text."""
        half = ""
        if step.waiting:
            yield _over(step.waiting)
        if not step.whole:
            yield from step.reply.write()
            self.budget.spend(step.reply, whole=False)  # its stream may not be closed yet
            half = step.reply.text  # kept because it was paid for
            yield from step.reply.drop()
        if cell := step.running:
            name = "TimeLimit" if isinstance(error, LimitReached) else "KeyboardInterrupt"
            stopped = new_output("error", ename=name, evalue="stopped", traceback=[])
            self.transcript.add_output(cell, stopped)
            self.transcript.finish(cell)
            yield Change(cell, done=True)
        yield from self._leave_out(step)
        why = f"*Stopped: {one_line(_reason(error))}.*".replace("?.*", "?*")
        if half:
            why = f"{why}\n\n{_UNFINISHED}\n\n{half}"
        facts = {"unfinished": True} if half else {}
        yield self._done(self.transcript.add("end", why, **facts, **self.budget.take_failed()))

    def _done(self, cell: NotebookNode) -> Change:
        self._saver.begin()
        return Change(cell, done=True)


def _over(cell: NotebookNode) -> Change:
    """Remove a temporary cell."""
    cell.source = ""
    return Change(cell, done=True)


async def _refusal(reason: str) -> AsyncGenerator[NotebookNode, None]:
    """Yield an error in the place of the outputs of a cell that the user refused."""
    why = f"the user did not let this cell run: {reason}"
    yield new_output("error", ename="Refused", evalue=why, traceback=[f"Refused: {why}"])


def _reason(error: BaseException) -> str:
    if isinstance(error, AgentError):
        return str(error)
    stopped = isinstance(error, asyncio.CancelledError | GeneratorExit)
    return "interrupted" if stopped else f"{type(error).__name__}: {error}"


async def _in_pieces(deltas: AsyncIterable[Delta]) -> AsyncGenerator[Delta, None]:
    """Cut long texts into pieces, and let other tasks run between them.

    Some servers send a whole reply at once, and a model that replies from a file never waits.
    """
    async for delta in deltas:
        texts = [delta.text[i : i + _PIECE] for i in range(0, len(delta.text), _PIECE)]
        first = replace(delta, text=texts[0]) if len(texts) > 1 else delta
        for piece in (first, *map(Delta, texts[1:])):
            yield piece
            await asyncio.sleep(0)
