"""Check the metadata of a saved run's cells: it may be forged or damaged.

Invalid metadata is removed when the file is read, so that no other code has to check it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from jupyter_agent._nbformat import NotebookNode
from jupyter_agent.models.protocol import number
from jupyter_agent.sandbox.filter.images import MIMES

__all__ = ["KEY", "Role", "as_saved", "facts_of", "sound", "sound_of_output"]

KEY = "jupyter_agent"  # our namespace in the metadata of notebooks and cells

Role = Literal["task", "prose", "code", "own", "summary", "correction", "reminder", "wait", "end"]

_MAX_COUNT = 10**9  # of cells, steps, outputs or pixels


def facts_of(cell: NotebookNode) -> dict[str, Any]:
    """Return our facts about a cell; empty if it is not of a run."""
    facts: dict[str, Any] = cell.metadata.get(KEY, {})
    return facts


def sound(facts: object, cell_type: str) -> dict[str, Any] | None:
    """Return the valid facts about a cell; None if it is not one of ours."""
    if not isinstance(facts, Mapping) or facts.get("role") not in get_args(Role):
        return None
    if (facts["role"] in ("code", "own")) != (cell_type == "code"):
        return None
    fitting = {name: facts[name] for name in facts if name in _FITS and _FITS[name](facts[name])}
    return {"role": facts["role"], **_NEEDED.get(facts["role"], {}), **fitting}


def _text(value: object) -> bool:
    return isinstance(value, str)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_COUNT


def _usage(value: object) -> bool:
    if not isinstance(value, Mapping) or not {"prompt", "completion"} <= value.keys():
        return False
    return all(name == "estimated" or number(each) is not None for name, each in value.items())


def _kept(value: object) -> bool:
    match value:
        case {"by": str(), "items": [*items]}:
            return all(isinstance(item, Mapping) for item in items)
    return False


def _picture(value: object) -> bool:
    match value:
        case {"mime": str(mime), **more}:
            size, texts = more.get("size", []), [more.get(name, "") for name in ("data", "why")]
            sized = isinstance(size, list) and all(map(_count, size))
            return mime in MIMES and sized and all(map(_text, texts))
    return False


def sound_of_output(facts: object) -> dict[str, Any]:
    """Return the valid facts about an output that has changed since the model read it."""
    if not isinstance(facts, Mapping):
        return {}
    fits = {"text": _text, "picture": _picture}
    return {name: facts[name] for name in fits if name in facts and fits[name](facts[name])}


def as_saved(cell: NotebookNode) -> NotebookNode:
    """Return a cell without the text made from its outputs, so that clearing outputs removes it."""
    facts = facts_of(cell)
    if "shown" not in facts:
        return cell
    kept = {name: fact for name, fact in facts.items() if name != "shown"}
    return NotebookNode(cell, metadata=NotebookNode(cell.metadata, **{KEY: kept}))


_FITS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("run", "note", "model", "told", "sandbox", "call", "last", "refused"), _text),
    **dict.fromkeys(("step", "cells", "window", "left_out", "pictures"), _count),
    **dict.fromkeys(
        ("deleted", "edited", "fresh", "given", "replaced", "unread"), lambda value: value is True
    ),
    "usage": _usage,
    "failed": lambda value: isinstance(value, list) and all(map(_usage, value)),
    "kept": _kept,
}
_NEEDED: dict[str, dict[str, Any]] = {
    "task": {"run": ""},
    "summary": {"cells": 0, "window": 0},
}
