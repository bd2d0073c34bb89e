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
    """A list that is derived from another list, item by item.

    Parameters
    ----------
    add
        Gets the derived list so far, all items, and the index of one of them, and adds that item:
        it may append to the derived list, and replace the list's last entry.
    """

    def __init__(self, add: Callable[[list[B], Sequence[A], int], None]) -> None:
        self._add = add
        self._fingerprints: Sequence[object] = ()
        self._made: list[B] = []
        self._ends: list[tuple[int, list[B]]] = []  # the length after each item, and the last entry

    def of(self, items: Sequence[A], fingerprints: Sequence[object]) -> list[B]:
        """Return the derived list; items with the same fingerprints as before are reused."""
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
    """Return the first index at which two lists differ."""
    pairs = enumerate(zip(before, after, strict=False))
    different = (i for i, (old, new) in pairs if old is not new and old != new)
    return next(different, min(len(before), len(after)))


Fingerprint = tuple[object, ...]  # its last item: whether the cell's run was replaced


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
