"""Answer pages that ask for a run: after a reload, an edit, a deletion.

A page asks on the control channel, which answers while a cell runs (message spec: control). It
stores a note in the metadata of each of the agent's cells. A request to run a cell carries that
note (`Note`).
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from jupyter_agent.errors import Defect

if TYPE_CHECKING:
    from jupyter_agent._nbformat import NotebookNode
    from jupyter_agent.views.publishers import Tag

__all__ = ["REPLACED", "REQUEST", "KnownRuns", "Note", "ShownRun", "checksum", "digest"]

REQUEST = "jupyter_agent_request"
REPLACED = (
    "This cell is part of a run that was replaced, so it was not run. "
    "Edit it to keep it as your own, or delete it."
)
PAGE_SECONDS = 10.0  # that a page has to answer
MAX_RUNS = 100  # that are kept for pages
_KEY = "jupyter_agent"


class ShownRun(Protocol):
    """A run that a view has shown (`views.live.DisplayView`)."""

    run: str
    task: NotebookNode | None  # its task cell

    @property
    def replaces(self) -> str:
        """The run that this one replaces."""
        ...

    @property
    def header(self) -> dict[str, Any]:
        """The header that was sent last."""
        ...

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        ...

    @property
    def digest(self) -> str:
        """The digest of the text of the ``%%agent`` cell."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Return the whole run."""
        ...

    def known(self) -> dict[str, Any]:
        """Describe the run: its place, its state, and the sources of its cells."""
        ...

    def edit(self, cell_id: str, source: str) -> None:
        """Apply the user's edit of a cell."""
        ...

    def delete(self, cell_id: str) -> None:
        """Mark a cell as deleted."""
        ...

    def cell(self, cell_id: str) -> NotebookNode | None:
        """Find one of its cells."""
        ...

    def still_busy(self) -> None:
        """Tell pages that the run goes on, if it does."""
        ...


@dataclass(frozen=True, slots=True)
class Note:
    """A page's note on a cell that is to run, with only its valid fields.

    Notes are saved with notebooks, so a note may be forged; nothing in it is ever run. `KnownRuns`
    holds the runs that there really were.
    """

    cell_id: str = ""
    source: str = ""  # the code to run
    run: str = ""
    state: str = ""  # on a %%agent cell: how its run ended
    digest: str = ""  # of the text of that %%agent cell
    checksum: str = ""  # of the source that the agent wrote
    session: str = ""  # of the page, from the request itself
    page: bool = False  # on a %agent cell: whether the page can change its cells

    @classmethod
    def of(cls, request: dict[str, Any]) -> Note:
        """Read the note of an execute_request; return an empty one if it has none."""
        metadata = request.get("metadata") or {}
        source = request.get("content", {}).get("code", "")
        cell_id, note = metadata.get("cellId"), metadata.get(_KEY)
        cell_id = cell_id if isinstance(cell_id, str) else ""
        session = str(request.get("header", {}).get("session", ""))
        # the copy of a cell carries the note of the original
        if not isinstance(note, dict) or not cell_id or note.get("id") != cell_id:
            return cls(cell_id, source, session=session)
        names = ("run", "state", "digest", "checksum")
        facts = {name: value for name in names if isinstance(value := note.get(name), str)}
        page = note.get("page") is True
        return cls(cell_id, source, session=session, page=page, **facts)

    @property
    def held(self) -> bool:
        """Whether the notebook claims to hold the finished run of this text."""
        return bool(self.run) and self.state == "done" and self.digest == digest(self.source)

    @property
    def again(self) -> bool:
        """Whether the user pressed *Run again*, so that a model is asked in any case."""
        return self.state == "again"


class KnownRuns:
    """The runs of one kernel, and the answers to pages that ask about them.

    Parameters
    ----------
    say_kept
        Says what the user has to know of code cells that become the user's own.
    stop
        Stops the run in the background that has this id, and tells if there is one.
    """

    def __init__(
        self,
        say_kept: Callable[[list[str]], str] = lambda _: "",
        stop: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._shown: deque[ShownRun] = deque(maxlen=MAX_RUNS)
        self._say_kept, self._stop = say_kept, stop
        self._kept = threading.Event()  # a page keeps the cells of a run
        self._said = ""

    def add(self, shown: ShownRun) -> None:
        """Add a run that will be shown."""
        self._shown.append(shown)

    def forget(self) -> None:
        """Forget all runs, after the session has forgotten them."""
        self._shown.clear()

    def is_replaced(self, note: Note) -> bool:
        """Tell whether a cell is the agent's and its run was replaced before it could run.

        Run All sends all cells at once, also those that the first run then replaces.
        """
        replaced = any(shown.run and shown.replaces == note.run for shown in self._shown)
        return bool(note.run) and replaced and note.checksum == checksum(note.source)

    def cell(self, note: Note) -> NotebookNode | None:
        """Find the agent's cell that the user runs again."""
        shown = self._find(note.run)
        return shown.cell(note.cell_id) if shown else None

    def held(self, note: Note) -> bool:
        """Tell whether the notebook holds the finished run of this text.

        A request that was sent before the end of the run does not say so, but this object knows.
        """
        shown = self._find(note.run)
        done = shown is not None and shown.done and shown.digest == digest(note.source)
        return note.held or (done and not note.again)

    def header(self, note: Note) -> dict[str, Any] | None:
        """Return the last header of a %%agent cell's run, if this kernel ran it."""
        shown = self._find(note.run)
        return shown.header if shown else None

    def last(self) -> Tag:
        """Name the last run that has begun, and its cell; empty if there is none."""
        begun = (shown for shown in reversed(self._shown) if shown.task is not None)
        shown = next(begun, None)
        return {"run": shown.run, "anchor": shown.known()["anchor"]} if shown else {}

    def offer(self, code: str) -> Tag:
        """Make the tag of a message by which a page puts code into a cell below the last run."""
        return {"op": "offer", **self.last(), "text": code}

    def keep(self, ask: Callable[[Tag], None]) -> str:
        """Have a page make the cells of the last run the user's own; return what there is to say.

        It blocks. The text is empty if no page does it.

        Parameters
        ----------
        ask
            Sends a message with a tag to pages.
        """
        if not (last := self.last()):
            return ""
        self._kept.clear()
        ask({"op": "keep", **last})
        return self._said if self._kept.wait(PAGE_SECONDS) else ""

    def task(self, run: str) -> NotebookNode | None:
        """Find the task cell of a run."""
        shown = self._find(run)
        return shown.task if shown else None

    def listen(self, kernel: Any) -> None:
        """Answer the requests of pages, if this kernel has a control channel."""

        def answer(stream: object, identity: object, message: dict[str, Any]) -> None:
            try:
                reply = self.answer(message.get("content"))
            except Exception as error:  # without a reply the page would wait for ever
                kernel.log.exception("jupyter_agent")
                defect = Defect.of(error, "The kernel's log has the traceback")
                reply = _refusal("Defect", str(defect))
            kernel.session.send(stream, "jupyter_agent_reply", reply, message, identity)
            asyncio.get_running_loop().call_soon(self._still_busy)

        handlers = getattr(kernel, "control_handlers", None)
        if isinstance(handlers, dict):
            handlers[REQUEST] = answer

    def answer(self, content: object) -> dict[str, Any]:
        """Answer a page that asks for runs, or reports an edit or a deletion."""
        match content:
            case {"op": "known", "runs": [*runs]}:
                found = {run: shown.known() for run in runs if (shown := self._find(run))}
                return {"status": "ok", "runs": found}
            case {"op": "sync", "run": str(run)} if shown := self._find(run):
                return {"status": "ok", **shown.snapshot()}
            case {"op": "edit", "run": str(run), "id": str(cell_id), "source": str(source)} if (
                shown := self._find(run)
            ):
                shown.edit(cell_id, source)
                return {"status": "ok"}
            case {"op": "delete", "run": str(run), "id": str(cell_id)} if shown := self._find(run):
                shown.delete(cell_id)
                return {"status": "ok"}
            case {"op": "stop", "run": str(run)} if run and self._stop(run):
                return {"status": "ok"}
            case {"op": "keep", "run": str(run), "cells": [*cells]} if self._find(run):
                self._said = self._say_kept([cell for cell in cells if isinstance(cell, str)])
                self._kept.set()
                return {"status": "ok", "said": self._said}
        return _refusal("UnknownRun", "no such run")

    def _still_busy(self) -> None:
        """Tell pages that a run goes on: the idle status after a request looks like its end."""
        for shown in self._shown:
            shown.still_busy()

    def _find(self, run: object) -> ShownRun | None:
        return next((shown for shown in self._shown if run and shown.run == run), None)


def _refusal(name: str, why: str) -> dict[str, Any]:
    return {"status": "error", "ename": name, "evalue": why, "traceback": []}


def digest(text: str) -> str:
    """Return a digest of the text of a ``%%agent`` cell."""
    return hashlib.sha256(text.strip().encode("utf-8", "replace")).hexdigest()[:16]


def checksum(source: str) -> str:
    """Return the checksum of a source as the page does: FNV-1a over UTF-16 code units, in hex."""
    units = memoryview(source.encode("utf-16-le", "surrogatepass")).cast("H")
    value = 0x811C9DC5
    for unit in units:
        value = ((value ^ unit) * 0x01000193) & 0xFFFFFFFF
    return f"{value:x}"
