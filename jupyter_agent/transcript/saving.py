"""Save a notebook that grows: each cell is serialised once, and the file written on a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from jupyter_agent._nbformat import NotebookNode, cell_json, notebook_json, writes
from jupyter_agent._threads import run_in_thread
from jupyter_agent.errors import TranscriptError
from jupyter_agent.transcript.metadata import KEY, as_saved

__all__ = ["BackgroundSaver", "NotebookText"]

_BETWEEN = b",\n"
_Fingerprint = tuple[int, str, int, int]


class NotebookText:
    """A notebook as the text of a file; a cell that has not changed is not serialised again.

    A new source, added or removed metadata and added outputs are noticed. Call `forget` after any
    other change.
    """

    def __init__(self) -> None:
        self._cells: list[NotebookNode] = []
        self._fingerprints: list[_Fingerprint] = []
        self._texts: list[bytes] = []
        self._changed: set[int] = set()

    def forget(self, cell: NotebookNode) -> None:
        """Note that a cell has changed and must be serialised again."""
        self._changed.add(id(cell))

    def compose(self, notebook: NotebookNode) -> list[bytes]:
        """Return the parts of the file."""
        cells: list[NotebookNode] = list(notebook.cells)
        if not cells:
            return [(writes(notebook) + "\n").encode()]
        fingerprints = _fingerprints(cells)
        pairs = enumerate(zip(self._fingerprints, fingerprints, strict=False))
        first = next(
            (i for i, (old, new) in pairs if old != new or new[0] in self._changed),
            min(len(fingerprints), len(self._fingerprints)),
        )
        texts = self._texts[:first]
        known = dict(zip(self._fingerprints[first:], self._texts[first:], strict=True))
        for cell, fingerprint in zip(cells[first:], fingerprints[first:], strict=True):
            text = None if fingerprint[0] in self._changed else known.get(fingerprint)
            texts.append(text or _BETWEEN + cell_json(as_saved(cell)))
        self._cells, self._fingerprints, self._texts = cells, fingerprints, texts
        self._changed.clear()
        head, tail = notebook_json(notebook)
        return [head, texts[0][len(_BETWEEN) :], *texts[1:], tail]


def _fingerprints(cells: list[NotebookNode]) -> list[_Fingerprint]:
    """Return a fingerprint of each cell, of the changes that `NotebookText` notices."""
    return [
        (id(c), c["source"], len(c["metadata"].get(KEY, ())), len(c.get("outputs", ())))
        for c in cells
    ]


class Savable(Protocol):
    """A notebook that can be saved (`transcript.Transcript`)."""

    def prepare_save(self) -> Callable[[], str] | None:
        """Compose the file now, and return a function that writes it in any thread; or None.

        That function returns a notice for the user, or raises TranscriptError.
        """
        ...


class BackgroundSaver:
    """Saves a notebook on a thread: always its newest state, one write at a time."""

    def __init__(self, notebook: Savable) -> None:
        self._notebook = notebook
        self._wanted = False
        self._writer: asyncio.Task[None] | None = None
        self.problem = ""  # why the newest state is not written
        self.notice = ""  # for the user, about what was written

    def begin(self) -> None:
        """Save soon, and do not wait for it."""
        self._wanted = True
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        while self._wanted:
            self._wanted = False
            if (write := self._notebook.prepare_save()) is None:
                continue
            try:
                self.notice = await run_in_thread(write) or self.notice
                self.problem = ""
            except TranscriptError as problem:
                self.problem = str(problem)

    async def end(self) -> None:
        """Wait until everything is written, or cannot be."""
        while self._writer and not self._writer.done():
            await asyncio.wait({self._writer})
        if self._writer:
            self._writer.result()
