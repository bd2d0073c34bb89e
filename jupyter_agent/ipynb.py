"""nbformat, by a quick way in: the only room that imports it.

nbformat imports jsonschema, and that, where JupyterLab has brought it, rfc3987_syntax, which builds
a grammar of IRIs as it is imported: 2 s, for a check that no notebook needs. Here it is imported
when that check is first made.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

_GRAMMAR = "rfc3987_syntax"


def _is_valid_syntax(term: str, value: str) -> bool:
    """Check an IRI, as jsonschema has it checked."""
    return bool(import_module(_GRAMMAR).is_valid_syntax(term, value))


def _import_jsonschema() -> None:
    """Import jsonschema, and give it something that stands for the grammar meanwhile."""
    if {"jsonschema", _GRAMMAR} & sys.modules.keys() or find_spec(_GRAMMAR) is None:
        return
    stand_in = ModuleType(_GRAMMAR)
    stand_in.is_valid_syntax = _is_valid_syntax  # type: ignore[attr-defined]
    sys.modules[_GRAMMAR] = stand_in
    try:
        import_module("jsonschema")
    finally:
        del sys.modules[_GRAMMAR]


_import_jsonschema()

from nbformat import NotebookNode, from_dict, reads, validate, writes  # noqa: E402
from nbformat.v4 import (  # noqa: E402
    new_code_cell,
    new_markdown_cell,
    new_notebook,
    new_output,
)

__all__ = [
    "NotebookNode",
    "from_dict",
    "new_code_cell",
    "new_markdown_cell",
    "new_notebook",
    "new_output",
    "reads",
    "validate",
    "writes",
]
