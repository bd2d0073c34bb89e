"""Import nbformat quickly; no other module imports it.

nbformat imports jsonschema, and that, where JupyterLab has brought it, rfc3987_syntax, which builds
a grammar of IRIs as it is imported: 2 s, for a check that no notebook needs. Here it is imported
when that check is first made.
"""

from __future__ import annotations

import copy
import json
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
    writes_json,
)
from nbformat.v4.rwbase import split_lines  # noqa: E402

__all__ = [
    "NotebookNode",
    "cell_json",
    "from_dict",
    "new_cell",
    "new_code_cell",
    "new_markdown_cell",
    "new_notebook",
    "new_output",
    "notebook_json",
    "reads",
    "validate",
    "writes",
]


def new_cell(kind: str, source: str, *, id: str) -> NotebookNode:  # noqa: A002
    """Make a ``code`` or ``markdown`` cell; nbformat checks each one, which takes a while."""
    cell = NotebookNode(id=id, cell_type=kind, metadata=NotebookNode(), source=source)
    return NotebookNode(cell, execution_count=None, outputs=[]) if kind == "code" else cell


# -- a notebook's file in parts, so that of a long one only what has changed is written out anew

_NO_CELLS = '"cells": []'


def notebook_json(notebook: NotebookNode) -> tuple[bytes, bytes]:
    """Write what stands in a notebook's file before and after its cells; there must be some."""
    bare = NotebookNode({**notebook, "cells": []})
    head, found, tail = writes_json(bare).partition(_NO_CELLS)
    before, after = found.split("]")[0], f"\n ]{tail}\n"
    return f"{head}{before}\n".encode(), after.encode()


def cell_json(cell: NotebookNode) -> bytes:
    """Write a cell as it stands in a notebook's file."""
    split = split_lines(NotebookNode(cells=[_copied(cell)])).cells[0]
    text = json.dumps(
        split, indent=1, sort_keys=True, separators=(",", ": "), ensure_ascii=False
    )  # as nbformat's JSONWriter
    return ("  " + text.replace("\n", "\n  ")).encode("utf-8", "replace")


def _copied(cell: NotebookNode) -> NotebookNode:
    """Copy a cell as deeply as `split_lines` changes it, without what no file holds."""
    copied = NotebookNode(cell)
    if "trusted" in cell["metadata"]:
        copied["metadata"] = NotebookNode(cell["metadata"])
        del copied["metadata"]["trusted"]
    if "attachments" in cell:
        copied["attachments"] = copy.deepcopy(cell["attachments"])
    if "outputs" in cell:
        copied["outputs"] = [_own(output) for output in cell["outputs"]]
    return copied


def _own(output: NotebookNode) -> NotebookNode:
    copied = NotebookNode(output)
    if "data" in output:
        copied["data"] = NotebookNode(output["data"])
    return copied
