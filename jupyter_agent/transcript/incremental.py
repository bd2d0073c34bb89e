"""Derive a list from another one, and after a change only from the first changed item on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from jupyter_agent._nbformat import NotebookNode
from jupyter_agent.transcript.metadata import KEY

__all__ = ["Fingerprint", "IncrementalList", "fingerprints_of", "first_change"]

_NONE: dict[str, object] = {}
A = TypeVar("A")
B = TypeVar("B")


class IncrementalList(Generic[A, B]):
    """Makes a list of another one, item by item.

    Parameters
    ----------
    add
        Told what is made so far and the place of an item among all of them, adds what becomes of
        that: it may append to the list and put something else in the place of its last entry.
    """

    def __init__(self, add: Callable[[list[B], Sequence[A], int], None]) -> None:
        self._add = add
        self._fingerprints: Sequence[object] = ()
        self._made: list[B] = []
        self._ends: list[tuple[int, list[B]]] = []  # how long it was after each item, and its last

    def of(self, items: Sequence[A], fingerprints: Sequence[object]) -> list[B]:
        """Return the list that these items make; what has the mark that it had is as it was."""
        first = first_change(self._fingerprints, fingerprints)
        length, last = self._ends[first - 1] if first else (0, [])
        self._made[max(0, length - 1) :] = last
        del self._ends[first:]
        for index in range(first, len(items)):
            self._add(self._made, items, index)
            self._ends.append((len(self._made), self._made[-1:]))
        self._fingerprints = list(fingerprints)
        return list(self._made)


def first_change(before: Sequence[object], after: Sequence[object]) -> int:
    """Say from where on two lists differ."""
    pairs = enumerate(zip(before, after, strict=False))
    different = (i for i, (old, new) in pairs if old is not new and old != new)
    return next(different, min(len(before), len(after)))


Fingerprint = tuple[object, ...]  # its last item: whether the cell is replaced, and read no more


def fingerprints_of(cells: Sequence[NotebookNode]) -> list[Fingerprint]:
    """Return a fingerprint of each cell: of all that a model reads of it."""
    return [
        (
            cell.get("id"),
            cell["source"],
            len(facts := cell["metadata"].get(KEY, _NONE)),
            facts.get("shown"),
            len(cell.get("outputs", ())),
            "replaced" in facts,
        )
        for cell in cells
    ]
