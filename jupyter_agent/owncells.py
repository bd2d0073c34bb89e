"""What the user has run in the sandbox since the last task, for the agent to read."""

from __future__ import annotations

from nbformat import NotebookNode

from jupyter_agent.protocol import fenced
from jupyter_agent.sandbox.outputs import weight
from jupyter_agent.transcript import KEY, MOST_PICTURES, Transcript

__all__ = ["OwnCells"]

MOST_CELLS = 200  # that are kept until a task comes
MOST_KEPT = 500_000  # characters of one cell's outputs, pictures too
MOST_READ_OF_ONE = 4_000  # characters of one cell's code, and of its outputs, that the model reads
MOST_READ = 20_000  # characters of all of them


class OwnCells:
    """The user's own cells, in the order in which they ran."""

    def __init__(self) -> None:
        self._kept = Transcript()
        self._weight = 0  # of the cell that is running

    @property
    def cells(self) -> list[NotebookNode]:
        """The cells that no task has followed yet."""
        return self._kept.cells

    def add(self, code: str) -> NotebookNode:
        """Begin a cell; beyond `MOST_CELLS` the oldest is forgotten."""
        del self.cells[: -MOST_CELLS + 1]
        self._weight = 0
        return self._kept.add("own", code)

    def hear(self, cell: NotebookNode, output: NotebookNode) -> None:
        """Add an output, while there is room."""
        self._weight += weight(output)
        if self._weight <= MOST_KEPT:
            self._kept.add_output(cell, output)

    def finish(self, cell: NotebookNode, *, fresh: bool) -> None:
        """Write what the model is to read of a cell.

        Parameters
        ----------
        fresh
            Whether it ran in another kernel than the cell before it.
        """
        self._kept.finish(cell)
        shown = cell.metadata[KEY]["shown"]
        parts = ["I ran:", fenced(_cut(cell.source)), _cut(shown["text"])]
        shown["text"] = "\n".join(parts)
        if fresh:
            _mark_fresh(cell)

    def move_to(self, transcript: Transcript, *, fresh: bool) -> bool:
        """Put all cells at the end of a transcript, those that fit for the model to read.

        Parameters
        ----------
        fresh
            Whether the kernel knows nothing of what is in the transcript already.

        Returns
        -------
        bool
            Whether that is still to be said.
        """
        cells, self._kept = self.cells, Transcript()
        if fresh and cells and transcript.cells:
            _mark_fresh(cells[0])
        characters, pictures, left_out = MOST_READ, MOST_PICTURES, 0
        for cell in reversed(cells):
            shown = cell.metadata[KEY]["shown"]
            characters -= len(shown["text"])
            if characters < 0:
                shown.update(text="", pictures=[])
                left_out += 1
            shown["pictures"] = shown["pictures"][:pictures]
            pictures -= len(shown["pictures"])
        if 0 < left_out < len(cells):
            shown = cells[left_out].metadata[KEY]["shown"]
            shown["text"] = f"[{left_out} earlier cells of mine are left out]\n{shown['text']}"
        transcript.cells.extend(cells)
        return fresh and not cells


def _mark_fresh(cell: NotebookNode) -> None:
    shown = cell.metadata[KEY]["shown"]
    shown["text"] = f"[the kernel was new here: what was defined before is gone]\n{shown['text']}"


def _cut(text: str) -> str:
    if len(text) <= MOST_READ_OF_ONE:
        return text
    half = MOST_READ_OF_ONE // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[… {left_out:,} characters left out …]\n{text[-half:]}"
