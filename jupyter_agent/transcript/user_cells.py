"""Cells that the user has run in the sandbox or edited, for the agent to read."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field

from jupyter_agent._nbformat import NotebookNode, new_output
from jupyter_agent.sandbox.filter.outputs import weight
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import RUN_ROLES, Transcript
from jupyter_agent.transcript.shown_outputs import MAX_PICTURES, record_user_cell

__all__ = ["UserCells", "mark_replaced", "show_given"]

MAX_CELLS = 200  # kept until the next task
MAX_KEPT = 500_000  # characters of one cell's outputs, with pictures
MAX_READ = 20_000  # characters of all cells together, for the model


@dataclass(slots=True)
class UserCell:
    """A cell that ran; it becomes a notebook cell when the next task begins."""

    code: str
    fresh: bool = False  # it ran in a newer kernel than the cell before it
    execution_count: int | None = None
    outputs: list[NotebookNode] = field(default_factory=list)
    weight: int = 0

    def add_output(self, output: NotebookNode) -> None:
        """Keep an output, if there is room."""
        self.weight += weight(output)
        if self.weight <= MAX_KEPT:
            self.outputs.append(output)


class UserCells:
    """The user's own cells, in the order in which they ran."""

    def __init__(self) -> None:
        self._cells: deque[UserCell] = deque(maxlen=MAX_CELLS)

    def __len__(self) -> int:
        return len(self._cells)

    def add(self, code: str) -> UserCell:
        """Begin a cell; beyond `MAX_CELLS` the oldest one is dropped."""
        self._cells.append(UserCell(code))
        return self._cells[-1]

    def move_to(self, transcript: Transcript, *, fresh: bool) -> bool:
        """Move all cells to the end of a transcript; the model reads as many as fit.

        Parameters
        ----------
        fresh
            Whether the kernel has none of the transcript's variables.

        Returns
        -------
        bool
            Whether the model must still be told so.
        """
        if fresh and self._cells and transcript.cells:
            self._cells[0].fresh = True
        cells = [_write(ran, transcript) for ran in self._cells]
        self._cells.clear()
        characters, pictures, left_out = MAX_READ, MAX_PICTURES, 0
        for cell in reversed(cells):
            facts = cell.metadata[KEY]
            characters -= len(facts["shown"]["text"])
            if characters < 0:
                facts["unread"] = True
                left_out += 1
            facts["pictures"] = 0 if characters < 0 else max(pictures, 0)
            record_user_cell(cell)
            pictures -= len(facts["shown"]["pictures"])
        if 0 < left_out < len(cells):
            cells[left_out].metadata[KEY]["left_out"] = left_out
            record_user_cell(cells[left_out])
        return fresh and not cells


def _write(ran: UserCell, transcript: Transcript) -> NotebookNode:
    """Write a cell that ran into a transcript."""
    cell = transcript.add("own", ran.code)
    cell.execution_count = ran.execution_count
    for output in ran.outputs:
        transcript.add_output(cell, output)
    transcript.finish(cell)
    if ran.fresh:
        cell.metadata[KEY]["fresh"] = True
    record_user_cell(cell)
    return cell


def show_given(transcript: Transcript, text: str) -> None:
    """Add a cell whose output shows what the user gives; clearing outputs clears it."""
    cell = transcript.add("own", "# what I give you with the task", given=True)
    transcript.add_output(cell, new_output("stream", name="stdout", text=f"{text}\n"))
    transcript.finish(cell)
    record_user_cell(cell)


def mark_replaced(transcript: Transcript, task: NotebookNode) -> None:
    """Hide a run from the model; cells of it that the user edited become the user's own."""
    start = next((i for i, cell in enumerate(transcript.cells) if cell is task), None)
    if start is None:
        return  # the session was reset
    for index, cell in enumerate(transcript.cells[start:], start):
        facts = cell.metadata.get(KEY, {})
        if cell is not task and not (facts.get("given") or facts.get("role") in RUN_ROLES):
            return
        facts["replaced"] = True
        if facts.get("edited"):
            transcript.cells[index] = _taken_over(cell, transcript)


def _taken_over(cell: NotebookNode, transcript: Transcript) -> NotebookNode:
    own = copy.deepcopy(cell)
    del own.metadata[KEY]
    if own.cell_type == "code":
        own.metadata[KEY] = {"role": "own"}
        transcript.finish(own)
        record_user_cell(own)
    return own
