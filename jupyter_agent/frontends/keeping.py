"""Keep the agent's cells as the user's own: their code, and the names that they lack there."""

from __future__ import annotations

import ast
import builtins
import contextlib
import dis
import re
import warnings
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from types import CodeType

from jupyter_agent._nbformat import NotebookNode
from jupyter_agent.errors import UsageError
from jupyter_agent.transcript.metadata import facts_of

__all__ = ["lacking_names", "last_code", "say_kept"]

MAX_NAMED = 10  # names that are listed
MAX_CELL = 20_000  # characters of a cell that is compiled; hostile text takes Python long
MAX_COMMANDS = 100_000  # characters times commands of IPython's, for each of which it reads all
_COMMAND = re.compile(r"[!%?]|^[ \t]*[,;/]", re.MULTILINE)  # perhaps one of IPython's
_NOT_PYTHON = (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError)
_LOADS = frozenset({"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"})
_STORES = frozenset({"STORE_NAME", "STORE_GLOBAL"})
_OF_A_CLASS = frozenset({"__name__", "__module__", "__qualname__", "__annotations__"})


def last_code(cells: Sequence[NotebookNode]) -> tuple[list[str], int]:
    """Return the code that the last run has run, and how many of its cells failed.

    Code that failed is left out: in one cell with the rest it would end that.

    Raises
    ------
    UsageError
        There is none.
    """
    run = list[NotebookNode]()
    for cell in reversed(cells):
        facts = facts_of(cell)
        if facts.get("role") == "code" and not facts.keys() & {"deleted", "refused", "replaced"}:
            run.insert(0, cell)
        if facts.get("role") == "task" and not facts.get("replaced"):
            break
    whole = [cell.source for cell in run if not _has_failed(cell)]
    if not whole:
        raise UsageError("there is no code to keep: the last run of this session has run none")
    return whole, len(run) - len(whole)


def _has_failed(cell: NotebookNode) -> bool:
    return any(output.output_type == "error" for output in cell.outputs)


def say_kept(sources: Sequence[str], names: Container[str] | None, *, failed: int = 0) -> str:
    """Say what becomes of cells that are the user's from now on.

    Parameters
    ----------
    names
        The names that the user's kernel has; None if the cells go on running in the sandbox.
    failed
        How many cells were left out, because they failed.
    """
    one = len(sources) == 1
    parts = [f"{len(sources)} cell{'' if one else 's'} of code {'is' if one else 'are'} yours now"]
    if names is not None:
        runs = "it runs" if one else "they run"
        parts[0] += f": {runs} in your kernel, with your rights"
        if lacks := lacking_names(sources, names):
            listed = ", ".join(lacks[:MAX_NAMED])
            more = f" and {len(lacks) - MAX_NAMED} more" if len(lacks) > MAX_NAMED else ""
            parts.append(f"missing there: {listed}{more}")
    if failed:
        parts.append(f"{failed} that failed {'is' if failed == 1 else 'are'} left out")
    return "; ".join(parts)


def lacking_names(sources: Sequence[str], names: Container[str]) -> list[str]:
    """Return the names that cells read before they set them, and that nobody else has set.

    A cell that is not Python is passed over.

    Parameters
    ----------
    names
        The names that are set already; Python's own need not be among them.
    """
    found = _Names()
    for code in filter(None, map(_compiled, sources)):
        found.add(code)
    late = [name for name in found.late if name not in found.bound]
    reads = dict.fromkeys([*found.unbound, *late])
    return [name for name in reads if not (name in names or hasattr(builtins, name))]


def _compiled(source: str) -> CodeType | None:
    """Compile a cell, which runs nothing of it; None if that cannot be done, or takes long."""
    from IPython.core.inputtransformer2 import TransformerManager

    if len(source) > MAX_CELL:
        return None
    with contextlib.suppress(*_NOT_PYTHON):
        return _code_of(source)
    if len(source) * len(_COMMAND.findall(source)) <= MAX_COMMANDS:
        with contextlib.suppress(*_NOT_PYTHON):
            return _code_of(TransformerManager().transform_cell(source))
    return None


def _code_of(source: str) -> CodeType:
    with warnings.catch_warnings(action="ignore"):  # about the code
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code: CodeType = compile(source, "<cell>", "exec", flags, dont_inherit=True)
    return code


@dataclass(slots=True)
class _Names:
    """The names that cells read and set, in their order; from the instructions of their code."""

    bound: set[str] = field(default_factory=set)
    unbound: list[str] = field(default_factory=list)  # read before they were set
    late: list[str] = field(default_factory=list)  # read in functions: when these are called

    def add(self, cell: CodeType) -> None:
        """Add the names of a cell."""
        for instruction in dis.get_instructions(cell):
            if instruction.opname in _LOADS and instruction.argval not in self.bound:
                self.unbound.append(instruction.argval)
            elif instruction.opname in _STORES:
                self.bound.add(instruction.argval)
        for inner in _functions_in(cell):
            found = list(dis.get_instructions(inner))
            # a class reads its own names so, too
            own = {each.argval for each in found if each.opname == "STORE_NAME"}
            loads = (each.argval for each in found if each.opname in _LOADS)
            self.late += [name for name in loads if name not in own | _OF_A_CLASS]
            self.bound |= {each.argval for each in found if each.opname == "STORE_GLOBAL"}


def _functions_in(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of functions, classes and comprehensions, and of those in them."""
    waiting = [code]
    while waiting:
        inner = [each for each in waiting.pop().co_consts if isinstance(each, CodeType)]
        yield from inner
        waiting += inner
