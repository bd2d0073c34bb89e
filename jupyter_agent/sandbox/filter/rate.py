"""Slow down floods of outputs to what a page can draw.

A burst passes at once. What comes faster for long is held for a moment and joined as a page would
join it: pieces of a stream, updates of a display, what was cleared. What is too much even so is
left out, and a note says how much.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from itertools import groupby

from jupyter_agent._nbformat import NotebookNode
from jupyter_agent.sandbox.filter.outputs import weight

__all__ = ["Displays", "OutputRate"]

OUTPUTS_A_SECOND = 50.0
SIZE_A_SECOND = float(1 << 20)  # bytes; a Jupyter server lets as much pass
MAX_HELD = 10_000  # pieces
MAX_UPDATED = 1_000  # displays
MAX_DISPLAYS = 10_000  # of which it is known how often they are shown


class OutputRate:
    """Let the outputs of one cell pass.

    Parameters
    ----------
    outputs, size
        How many, and how many bytes, pass at once.
    weigh
        Says how many bytes an output is.
    """

    def __init__(
        self, outputs: int, size: int, *, weigh: Callable[[NotebookNode], int] = weight
    ) -> None:
        self._weigh = weigh
        self._max_outputs, self._max_size = float(outputs), float(size)
        self._outputs, self._size = self._max_outputs, self._max_size  # that may pass now
        self._since = time.monotonic()
        self._forget()

    def _forget(self) -> None:
        self._clear: NotebookNode | None = None  # before what is held
        self._held: list[NotebookNode] = []
        self._updates: dict[str, NotebookNode] = {}  # by the display's id
        self._clearing: NotebookNode | None = None  # what is held, once something follows
        self._ending: NotebookNode | None = None  # an error or a result there was no room for
        self._room = self._max_size / 4
        self._note: NotebookNode | None = None  # among what is held: what was left out there
        self._left_out = 0

    @property
    def holds(self) -> bool:
        """Whether it holds any output back."""
        return bool(self._clear or self._held or self._updates or self._clearing)

    def take(self, output: NotebookNode | None = None) -> list[NotebookNode]:
        """Take the next output, if there is one, and return what may pass now."""
        if output is not None:
            self._hold(output)
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        self._outputs = min(self._max_outputs, self._outputs + seconds * OUTPUTS_A_SECOND)
        self._size = min(self._max_size, self._size + seconds * SIZE_A_SECOND)
        return self.rest() if self._outputs > 0 and self._size > 0 else []

    def rest(self) -> list[NotebookNode]:
        """Return all that is held."""
        held, updates = _joined(self._held), self._updates.values()
        passed = (self._clear, *held, *updates, self._clearing, self._ending)
        found = [output for output in passed if output is not None]
        self._outputs -= len(found)
        self._size -= sum(map(self._weigh, found))
        self._forget()
        return found

    def _hold(self, output: NotebookNode) -> None:
        display_id = output.get("transient", {}).get("display_id", "")
        match output.output_type:
            case "clear_output" if output.wait:
                self._clearing = output
            case "clear_output":
                self._clear_now(output)
            case "update_display_data":
                known = self._updates.pop(display_id, None)
                self._room += self._weigh(known) if known else 0
                if self._weigh(output) > max(weight(output), self._max_size):
                    self._leave_out()  # it would change many displays
                elif self._fits(output, among=len(self._updates), max_pieces=MAX_UPDATED):
                    self._updates[display_id] = output
            case _:
                if self._clearing:
                    self._clear_now(self._clearing)
                if self._fits(output, among=len(self._held), max_pieces=MAX_HELD):
                    self._updates.pop(display_id, None)
                    self._held.append(output)

    def _clear_now(self, clear: NotebookNode) -> None:
        self._room += sum(map(self._weigh, self._held))
        self._clear, self._clearing, self._held = clear, None, []
        self._note, self._left_out = None, 0

    def _fits(self, output: NotebookNode, *, among: int, max_pieces: int) -> bool:
        """Make room for an output, or leave it out; one alone always fits."""
        size = self._weigh(output)
        if among >= max_pieces or (size > self._room and self.holds):
            self._leave_out()
            self._ending = output if output.output_type in _ENDINGS else self._ending
            return False
        self._room -= size
        return True

    def _leave_out(self) -> None:
        if self._note is None:
            self._note = NotebookNode(output_type="stream", name="stderr")
            self._held.append(self._note)
        self._left_out += 1
        text = f"[{self._left_out:,} outputs left out: they came faster than a page draws]\n"
        self._note.text = text


_ENDINGS = ("error", "execute_result")


class Displays:
    """How often each display is shown: an update changes it wherever it stands."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._max_forgotten = 1  # count of one that is no longer known

    def add(self, display_id: str) -> None:
        """Count one that is shown."""
        self._counts[display_id] += 1
        if len(self._counts) > MAX_DISPLAYS:
            self._max_forgotten = max(
                self._max_forgotten, self._counts.pop(next(iter(self._counts)))
            )

    def forget(self, shown: Counter[str]) -> None:
        """Remove displays that were cleared."""
        for display_id, count in shown.items():
            self._counts[display_id] -= count
            if self._counts[display_id] <= 0:
                del self._counts[display_id]

    def weigh(self, output: NotebookNode) -> int:
        """Estimate how many bytes of a notebook an output makes or changes."""
        if output.output_type != "update_display_data":
            return weight(output)
        display_id = output.get("transient", {}).get("display_id", "")
        return weight(output) * max(self._counts[display_id], self._max_forgotten)


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join the pieces of streams."""
    found: list[NotebookNode] = []
    for name, pieces in groupby(outputs, lambda output: output.get("name")):
        if name is None:
            found += pieces
        else:
            text = "".join(piece.text for piece in pieces)
            found.append(NotebookNode(output_type="stream", name=name, text=text))
    return found
