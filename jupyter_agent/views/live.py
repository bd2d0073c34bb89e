"""Show a run while it works: its header, and its cells as they grow.

A front end that names its cells (JupyterLab, Notebook 7, VS Code) updates displays in place, so
cells stream there. Any other front end (nbclient, a console) gets each cell once, when it is done.

Where cells stream, the metadata of each message say what it means for the notebook, as
``{"jupyter_agent": {"op": ...}}``. A page with our extension makes cells of these messages
(docs/live-cells.md lists them).
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jupyter_agent._nbformat import NotebookNode
from jupyter_agent._unicode import visible_prose
from jupyter_agent.sandbox.filter.fields import printable
from jupyter_agent.sandbox.filter.markdown import Clean, code_block, folded
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Change, clean_source
from jupyter_agent.transcript.usage import TotalUsage
from jupyter_agent.views.meter import Spending, usage_facts
from jupyter_agent.views.output_area import MIME, OutputView, bundle, line_bundle
from jupyter_agent.views.publishers import Publisher, Tag
from jupyter_agent.views.thoughts import folded_thought, thought_of

__all__ = ["DisplayView", "question_tag"]

INTERVAL = 0.04  # seconds between two updates; Jupyter Server drops messages that come faster
BEAT = 0.5  # seconds between two signs of life; a page waits for several
MAX_WHY = 300  # characters of the reason why a run ended
MAX_NAME = 300  # characters of a model's name, which may come from a file


@dataclass(slots=True)
class _ShownCell:
    """A cell as it is shown on the page."""

    cell: NotebookNode
    index: int
    source: str = ""
    label: str = ""
    state: str = ""
    displayed: bool = False
    started: float = 0.0
    done: bool = False
    edit: str | None = None  # the user's edit while the agent was still writing
    outputs: OutputView | None = None
    thought: str = ""  # what the model thought before
    folded: str = ""  # the same, as clean Markdown, to stand before the cell

    @property
    def deleted(self) -> bool:
        """Whether the user has deleted it."""
        return bool(self.cell.metadata[KEY].get("deleted"))

    def take(self, source: str) -> None:
        """Apply the user's edit."""
        if source != self.cell.source:
            self.cell.source = source
            self.cell.metadata[KEY]["edited"] = True

    @property
    def kept(self) -> bool:
        """Whether the cell still exists: one that is done and empty was removed."""
        return bool(self.source or not self.done)


@dataclass(slots=True)
class _Progress:
    """The facts in the header of a run."""

    started: float = field(default_factory=time.monotonic)
    model: str = ""
    sandbox: str = ""
    step: int = 0
    usage: TotalUsage = field(default_factory=TotalUsage)
    spending: Callable[[], Spending | None] = lambda: None
    background: bool = False
    # then working, then done, stopped or failed; unstarted if the run never began
    state: str = "starting"
    doing: str = "thinking"
    why: str = ""  # the run was stopped or has failed
    waiting: str = ""  # the reason of a wait
    wait: float = 0.0  # the whole length of a wait, in seconds

    def where(self) -> list[str]:
        return [where for where in (self.model, self.sandbox) if where]

    def how_far(self) -> list[str]:
        used = [str(self.usage)] if self.usage.tokens else []
        seconds = f"{time.monotonic() - self.started:.0f} s"
        step = [f"step {self.step}"] if self.state != "starting" else []
        state = f"{self.state}: {self.why}" if self.why else self.state
        wait = f"{self.waiting} in {self.wait:.0f} s" if self.wait else self.waiting
        return [wait or state, *step, *used, seconds]

    def facts(self) -> dict[str, Any]:
        names = ("model", "sandbox", "step", "state", "doing", "why", "waiting", "wait")
        facts = {name: getattr(self, name) for name in names}
        used = {**self.used(), "used": str(self.usage)}
        facts |= {"background": True} if self.background else {}
        return {**facts, **used, "seconds": round(time.monotonic() - self.started, 1)}

    def used(self) -> dict[str, Any]:
        return usage_facts(self.usage, self.spending())


class _Pace:
    """Calls a function at most once in an interval, on a timer's thread if it has to wait.

    Its owner holds a lock while it uses this.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._called = 0.0
        self.timer: threading.Timer | None = None

    def call_soon(self) -> None:
        """Call the function now, or once when the interval is over."""
        early = self._called + INTERVAL - time.monotonic()
        if early <= 0:
            self._function()
        elif self.timer is None:
            self.timer = threading.Timer(early, self._function)
            self.timer.daemon = True
            self.timer.start()

    def note_call(self) -> None:
        """Begin an interval, as the function is called now."""
        if self.timer:
            self.timer.cancel()
            self.timer = None
        self._called = time.monotonic()


class DisplayView:
    """Shows a run below its ``%%agent`` cell.

    Parameters
    ----------
    anchor
        The id of that cell, in a front end that updates displays in place; empty in any other.
    digest
        The digest of that cell's text.
    replaces
        The run whose cells are replaced.
    first_line
        The first line of code cells in a kernel of the user's own.
    session
        The session of the page that asked for the run. Of pages that share a document, it writes.
    spending
        Returns what the run has used so far, if an agent carries it out.
    background
        Whether the kernel is free meanwhile, so that an interrupt of it is none of the run.
    """

    def __init__(
        self,
        publisher: Publisher,
        *,
        anchor: str = "",
        digest: str = "",
        replaces: str = "",
        first_line: str = "",
        session: str = "",
        spending: Callable[[], Spending | None] = lambda: None,
        background: bool = False,
    ) -> None:
        self.run = ""
        self.task: NotebookNode | None = None
        self._replaces = replaces
        self._publisher = publisher
        self._live = bool(anchor)
        self._anchor = anchor
        self._digest = digest
        self._first_line = first_line
        self._session = session
        self._sent = 0  # the count of messages, so that a page notices a lost one
        self._cells: dict[str, _ShownCell] = {}
        self._progress = _Progress(spending=spending, background=background)
        self._header: dict[str, Any] = {}
        self._header_at = 0.0
        self._waiting: dict[str, Change] = {}  # what is not shown yet, by cell
        self._question: Tag = {}  # that the user is asked, as `question_tag` makes it
        self._pace = _Pace(self._show)
        self._ended = threading.Event()
        self._lock = threading.RLock()  # a timer shows changes, and a page may ask at any time

    def __call__(self, change: Change) -> None:
        """Show a change, at once or together with the next ones."""
        with self._lock:
            facts = change.cell.metadata[KEY]
            shown = self._cells.get(change.cell.id)
            cell = facts["role"] in ("prose", "summary", "code") or "unfinished" in facts
            if shown is None and cell:
                shown = _ShownCell(change.cell, len(self._cells) + 1, thought=thought_of(facts))
                shown.folded = folded_thought(shown.thought)
                self._cells[change.cell.id] = shown
            if shown and shown.edit is not None and (change.done or facts.get("running")):
                shown.take(shown.edit)
                shown.edit = None
            self._update_progress(change, facts)
            if shown:
                shown.done |= change.done
                self._waiting[change.cell.id] = change
                if facts.get("running") and not shown.started:
                    shown.started = time.monotonic()
            waits = facts["role"] == "wait"
            if waits or not self._live:
                self._show(force=waits)
            else:
                self._pace.call_soon()

    def finish(self, state: str, why: str = "") -> None:
        """Say how the run ended."""
        self._ended.set()
        with self._lock:
            progress, began = self._progress, self._progress.state != "starting"
            progress.state, progress.doing = state if began else "unstarted", ""
            progress.why = " ".join(printable(why).split())[:MAX_WHY]
            progress.waiting, progress.wait = "", 0.0
            if self._live:
                self._show(force=True)
            elif self.run:
                self._publish_header("-end", self._progress.how_far(), update=False)

    def still_busy(self) -> None:
        """Tell pages that the run goes on, if it does."""
        if self._live and self.run and self._progress.state in ("starting", "working"):
            self._publisher.busy()

    def ask(self, question: Tag) -> None:
        """Tell pages what the user is asked; an empty question says that none is open any more."""
        if not self._live:
            return
        with self._lock:
            self._question = self._tagged(question) if question else {}
            self._progress.doing = "asking" if question else "running"
            for shown in self._cells.values():
                if shown.started and not shown.done:
                    shown.started = time.monotonic()  # the wait is no part of the time it takes
            self._show(force=True)  # the cell first
            over = question_tag({}, run=self.run, anchor=self._anchor)
            self._publisher.busy(self._question or over)

    def _tagged(self, question: Tag) -> Tag:
        """Say which cell a question is about: a tool's is the one that runs."""
        running = [each.cell.id for each in self._cells.values() if each.started and not each.done]
        place = {"id": question["id"] or (running or [self._anchor])[-1]}
        first_line = {"first_line": self._first_line}
        return question_tag({**question, **place, **first_line}, run=self.run, anchor=self._anchor)

    @property
    def replaces(self) -> str:
        """The run that this one replaces; empty before it has begun."""
        return self._replaces if self._progress.state not in ("starting", "unstarted") else ""

    def _beat(self) -> None:
        """Tell pages at intervals that this kernel is alive, and what the run has used."""
        tag = {"op": "beat", "run": self.run, "anchor": self._anchor}
        while not self._ended.wait(BEAT):
            self._publisher.busy({**tag, "used": self._progress.used()})

    # -- what pages ask

    def snapshot(self) -> dict[str, Any]:
        """Return the whole run, for a page that has missed messages."""
        with self._lock:
            cells = [self._snapshot(each) for each in self._kept()]
            facts = {**self._facts(), "sent": self._sent, "header": self._header}
            return {**facts, "cells": cells, "asks": self._question or None}

    @property
    def header(self) -> dict[str, Any]:
        """The header that was sent last."""
        return self._header

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        return self._progress.state == "done"

    @property
    def digest(self) -> str:
        """The digest of the text of the ``%%agent`` cell."""
        return self._digest

    def known(self) -> dict[str, Any]:
        """Describe the run: its cell, its session, its state, and the sources of its cells."""
        with self._lock:
            cells = {each.cell.id: self._first(each) + each.source for each in self._kept()}
            deleted = [each.cell.id for each in self._cells.values() if each.kept and each.deleted]
            where = {"anchor": self._anchor, "session": self._session}
            facts = self._header.get(MIME, {})
            return {**where, "facts": facts, "cells": cells, "deleted": deleted}

    def _kept(self) -> list[_ShownCell]:
        return [each for each in self._cells.values() if each.kept and not each.deleted]

    def edit(self, cell_id: str, source: str) -> None:
        """Apply the user's edit of a cell: now, or when the agent has finished writing it."""
        with self._lock:
            shown = self._cells.get(cell_id)
            if shown is None:
                return
            shown.cell.metadata[KEY].pop("deleted", None)  # it exists again
            source = self._without_first_line(source)
            running = shown.cell.metadata[KEY].get("running", False)
            if shown.done or running:
                shown.take(source)
                shown.source = source
            else:
                shown.edit = source

    def delete(self, cell_id: str) -> None:
        """Mark a cell as deleted: it will not run, and the model will not read it."""
        with self._lock:
            if shown := self._cells.get(cell_id):
                facts = shown.cell.metadata[KEY]
                facts["deleted"] = True
                asked = self._question.get("id") == cell_id
                if not shown.done and (asked or not facts.get("running")):
                    facts["refused"] = "deleted"

    def cell(self, cell_id: str) -> NotebookNode | None:
        """Find one of the run's cells."""
        shown = self._cells.get(cell_id)
        return shown.cell if shown else None

    def _first(self, shown: _ShownCell) -> str:
        return self._first_line if shown.cell.cell_type == "code" else ""

    def _without_first_line(self, source: str) -> str:
        return source.removeprefix(self._first_line).lstrip("\n") if self._first_line else source

    def _snapshot(self, shown: _ShownCell) -> dict[str, Any]:
        outputs = shown.outputs.sent if shown.outputs else []
        thought = {"thought": shown.thought}
        return {**self._cell_facts(shown), **thought, "source": shown.source, "outputs": outputs}

    def _facts(self) -> Tag:
        state = self._progress.state
        return {"run": self.run, "anchor": self._anchor, "state": state, "digest": self._digest}

    def _cell_facts(self, shown: _ShownCell) -> Tag:
        return {
            "id": shown.cell.id,
            "index": shown.index,
            "type": shown.cell.cell_type,
            "state": shown.state,
            "first_line": self._first(shown),
            "count": shown.cell.get("execution_count"),
            "step": shown.cell.metadata[KEY].get("step", 0),
        }

    def _tag(self, op: str, **facts: Any) -> Tag | None:
        if not self._live:
            return None
        self._sent += 1
        return {"op": op, "run": self.run, "anchor": self._anchor, "sent": self._sent, **facts}

    # -- the header

    def _update_progress(self, change: Change, facts: dict[str, Any]) -> None:
        """Update the facts in the header from a change."""
        progress = self._progress
        if facts["role"] == "task":
            self.task = change.cell
            progress.model = visible_prose(facts["model"])[:MAX_NAME]
            where = (facts.get("told", ""), facts["sandbox"])
            progress.sandbox = " · ".join(filter(None, where))
            progress.state, progress.waiting, progress.wait = "working", "", 0.0
            self.run = self.run or _new_id()
            parts = [*(progress.how_far() if self._live else []), *progress.where()]
            self._publish_header("-header", parts, update=bool(self._header))
        progress.step = max(progress.step, facts.get("step", 0))
        if change.done:
            progress.usage.add(facts)
        if facts["role"] == "wait":
            progress.waiting, progress.wait = change.cell.source.strip("*"), 0.0
            if progress.waiting and "seconds" in facts:  # a page shows a countdown
                problem = facts["problem"].removeprefix(
                    f"{progress.model}: "
                )  # the header names it already
                for advice in ("; try again", "; wait and try again"):  # the run does so itself
                    problem = problem.removesuffix(advice)
                progress.waiting = f"Asking again: {problem}"
                progress.wait = facts["seconds"]
            self.run = self.run or (_new_id() if self._live else "")
        if change.done:
            progress.doing = "thinking"
        else:
            progress.doing = "running" if facts.get("running") else "writing"

    def _update_header(self, *, force: bool) -> None:
        late = time.monotonic() - self._header_at > 1
        if self._live and self.run and (force or late):
            parts = [*self._progress.how_far(), *self._progress.where()]
            self._publish_header("-header", parts, update=bool(self._header))

    def _publish_header(self, suffix: str, parts: list[str], *, update: bool) -> None:
        self._header_at = time.monotonic()
        text = "agent: " + " · ".join(parts)
        data = line_bundle(text)
        if self._live:
            if not (self._header or self._ended.is_set()):
                threading.Thread(target=self._beat, daemon=True).start()
            cells = sum(shown.kept for shown in self._cells.values())
            data[MIME] = {"run": self.run, **self._progress.facts(), "cells": cells}
            self._header = data
        tag = self._tag("run", state=self._progress.state, digest=self._digest)
        display_id = f"{self.run}{suffix}"
        self._publisher.display(data, {}, display_id=display_id, update=update, tag=tag)

    # -- cells

    def _show(self, *, force: bool = False) -> None:
        """Show the collected changes."""
        with self._lock:
            self._pace.note_call()
            doing, waiting = self._progress.doing, self._waiting
            self._waiting = {}
            for cell_id, change in waiting.items():
                shown = self._cells[cell_id]
                if change.cell.cell_type == "code":
                    self._code(change, shown)
                else:
                    self._prose(change, shown)
            said = self._header.get(MIME, {}).get("doing", doing)
            done = any(change.done for change in waiting.values())
            self._update_header(force=force or done or said != doing)

    def _prose(self, change: Change, shown: _ShownCell) -> None:
        source = clean_source(change.cell)
        if change.cell.metadata[KEY]["role"] == "end":  # the error below says why it ended
            source = Clean(source.partition("\n\n")[2])
        shown.state = "done" if change.done else "writing"
        data = bundle(Clean(shown.folded + source), source)
        self._upsert(change, shown, data, label=shown.state)

    def _code(self, change: Change, shown: _ShownCell) -> None:
        facts = change.cell.metadata[KEY]
        running = facts.get("running", False)
        took = f"{time.monotonic() - shown.started:.1f} s" if shown.started else ""
        label = "running" if running else took if change.done else "writing"
        if shown.outputs:
            shown.outputs(change.cell.outputs)
        shown.state = "running" if running else "done" if change.done else "writing"
        starts = bool(shown.started) and shown.outputs is None
        self._upsert(change, shown, self._code_data(shown, label), label=label, whole=starts)
        if starts:  # below the code
            shown.outputs = OutputView(
                change.cell.id,
                self._publisher,
                tag=lambda **facts: self._tag("output", id=change.cell.id, **facts),
                clear=lambda more: self._cleared(shown, more=more),
            )
            shown.outputs(change.cell.outputs)

    def _code_data(self, shown: _ShownCell, label: str) -> dict[str, Any]:
        source = shown.cell.source
        step = shown.cell.metadata[KEY].get("step", "")
        title = f"step {step}" + f" · {label}" * self._live
        code = folded(title, code_block(source))
        return bundle(Clean(shown.folded + code), source)

    def _cleared(self, shown: _ShownCell, *, more: bool) -> None:
        """Clear a cell's outputs; only a page with live cells can do that."""
        if self._live:
            tag = self._tag("clear", id=shown.cell.id, wait=more)
            data = self._code_data(shown, shown.label)
            self._publisher.display(data, {}, display_id=shown.cell.id, update=True, tag=tag)

    def _upsert(
        self,
        change: Change,
        shown: _ShownCell,
        data: dict[str, Any],
        *,
        label: str,
        whole: bool = False,
    ) -> None:
        """Show a cell's source: each time it grows in a live front end, else once."""
        source = data["text/plain"]
        if (source, label) == (shown.source, shown.label) or not (source or shown.displayed):
            return
        whole = whole or (change.done and shown.outputs is None)
        if self._live or (whole and source):
            thought = {} if shown.displayed else {"thought": shown.thought}
            tag = self._tag("cell", **self._cell_facts(shown), **thought)
            display_id, update = change.cell.id, shown.displayed
            self._publisher.display(data, {}, display_id=display_id, update=update, tag=tag)
            shown.source, shown.label, shown.displayed = source, label, True


def question_tag(question: Tag, *, run: str = "", anchor: str = "") -> Tag:
    """Make the tag that tells a page of a question, or that none is open any more."""
    where = {"run": run, "anchor": anchor}
    return {"op": "ask", **where, **question} if question else {"op": "answered", **where}


def _new_id() -> str:
    return secrets.token_hex(4)
