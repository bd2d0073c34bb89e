"""Tell the agent of the user's own notebook: the last cells, the last error, the names (``-c``)."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jupyter_agent._nbformat import NotebookNode, new_output
from jupyter_agent.errors import AgentError
from jupyter_agent.exchange.values import describe
from jupyter_agent.models.protocol import fenced
from jupyter_agent.sandbox.filter.fields import printable
from jupyter_agent.sandbox.filter.host_commands import read_command
from jupyter_agent.transcript.metadata import facts_of
from jupyter_agent.transcript.shown_outputs import MAX_READ_OF_ONE, cut, describe_outputs

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["OwnError", "OwnNotebook", "Told", "given_before"]

MAX_CELLS_TEXT = 14_000  # characters of all cells together
MAX_NAMES_TEXT = 4_000  # characters of all names together
_INTRO = (
    "My own notebook so far. It runs in my own kernel, not in yours: you have its files, "
    "and none of its variables."
)
_NO_STREAMS = "[of each cell only the displayed value is known, not what it printed]"
# Packages whose objects say their shape without doing anything else. Of others, which may be of
# the user's own code, only the type is told.
_KNOWN_PACKAGES = frozenset("builtins numpy pandas polars pyarrow scipy torch".split())
_OF_SYNTAX = ("SyntaxError", "IndentationError", "TabError")


@dataclass(frozen=True, slots=True)
class OwnError:
    """An error of a cell of the user's own."""

    error: Exception
    source: str = ""  # of the cell
    count: int = 0  # the cell's execution count; 0 if it is not known


@dataclass(frozen=True, slots=True)
class Told:
    """A text about the user's notebook for the model, and what it holds, for the user."""

    text: str
    summary: str


class OwnNotebook:
    """The user's cells, their outputs and their variables, as IPython has recorded them."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell: Any = shell
        self.error = self._error_before()  # the last one
        shell.events.register("post_run_cell", self._note_error)

    def tell(self, cells: int, error: OwnError | None = None, *, known: str = "") -> Told:
        """Describe the last cells and all variables.

        Parameters
        ----------
        error
            An error whose cell is told first of all.
        known
            What the model has been told before; a cell that is in it is not told again.
        """
        needed = [error.count] if error and error.count else []
        written = {count: self._written(count) for count in {*needed, *self._counts(cells)}}
        counts = [n for n in sorted(written, reverse=True) if written[n] not in known]
        told = _fitting(written, [*needed, *counts])
        names = list(self._names())
        listed = _listed(names)
        left_out = len({*needed, *counts}) - len(told)
        parts = [
            _INTRO,
            _NO_STREAMS if self._recorded is None else "",
            f"[{left_out} cells are left out]" if left_out else "",
            *(written[count] for count in sorted(told)),
            fenced(self._text_of_error(error), "text") if error and not error.count else "",
            f"Variables in my kernel, by name and type only:\n\n{listed}" if names else "",
        ]
        text = "\n\n".join(filter(None, parts)) if told or names or error else ""
        is_known = bool(written) and not counts
        new = "no new cell" if is_known else _plural(len(told), "cell")
        return Told(text, f"{new}, {_plural(len(names), 'name')}")

    # -- errors

    def _note_error(self, result: Any) -> None:
        """Remember the error of a cell that has run, if it is the user's own."""
        error = result and (result.error_before_exec or result.error_in_exec)
        source = result.info.raw_cell if error else ""
        if isinstance(error, Exception) and not _is_ours(source):
            self.error = OwnError(error, source, result.execution_count or 0)

    def _error_before(self) -> OwnError | None:
        """Return the error that was the last one when the magics were loaded."""
        error = getattr(sys, "last_value", None)
        if not isinstance(error, Exception) or isinstance(error, AgentError):
            return None
        known = getattr(self._shell.compile, "_filename_map", {})  # of files' names to counts
        counts = [known[name] for name in _files_of(error) if name in known]
        count = counts[0] if counts else 0
        return OwnError(error, self._source(count), count)

    def _traceback(self, error: Exception) -> list[str]:
        """Write a traceback as IPython does, without the values of variables."""
        if isinstance(error, SyntaxError):
            written: list[str] = self._shell.SyntaxTB.structured_traceback(type(error), error, [])
            return written
        writer = self._shell.InteractiveTB
        mode = writer.mode
        writer.set_mode("Context")  # the user's mode may show values
        try:
            trace = (type(error), error, error.__traceback__)
            written = writer.structured_traceback(*trace, tb_offset=1)
        finally:
            writer.set_mode(mode)
        return written

    def _text_of_error(self, error: OwnError) -> str:
        return cut(_text_of([self._as_output(error.error)]), MAX_READ_OF_ONE)

    def _as_output(self, error: Exception) -> NotebookNode:
        name = type(error).__name__
        traceback = [name]
        with contextlib.suppress(Exception):  # from the error's own __str__
            traceback = self._traceback(error)
        return new_output("error", ename=name, evalue="", traceback=traceback)

    # -- cells

    def _counts(self, cells: int) -> list[int]:
        """Return the execution counts of the last cells of the user's own, the newest first."""
        sources = self._shell.history_manager.input_hist_raw
        own = [n for n, source in enumerate(sources) if source.strip() and not _is_ours(source)]
        return own[::-1][:cells]

    def _source(self, count: int) -> str:
        sources = self._shell.history_manager.input_hist_raw
        return sources[count] if 0 < count < len(sources) else ""

    def _written(self, count: int) -> str:
        """Write a cell with its outputs."""
        parts = [f"In [{count}]:", fenced(cut(self._source(count), MAX_READ_OF_ONE))]
        if outputs := list(self._outputs(count)):
            parts.append(fenced(cut(_text_of(outputs), MAX_READ_OF_ONE), "text"))
        return "\n".join(parts)

    @functools.cached_property
    def _recorded(self) -> dict[int, list[Any]] | None:
        """The outputs that IPython has recorded; None before IPython 9.1, which records none."""
        return getattr(self._shell.history_manager, "outputs", None)

    def _outputs(self, count: int) -> Iterator[NotebookNode]:
        manager = self._shell.history_manager
        if self._recorded is None:
            if count in manager.output_hist_reprs:
                yield _displayed(manager.output_hist_reprs[count])
        else:
            yield from filter(None, map(_output_of, self._recorded.get(count, ())))
        failed = getattr(manager, "exceptions", {}).get(count)
        if self.error and self.error.count == count:
            yield self._as_output(self.error.error)
        elif failed and failed["ename"] not in _OF_SYNTAX:  # IPython 9.4 counts those wrongly
            yield new_output("error", **failed)

    # -- variables

    def _names(self) -> Iterator[str]:
        """Describe each variable of the user's by its name, its type and its shape."""
        hidden = self._shell.user_ns_hidden
        for name, value in list(self._shell.user_ns.items()):
            own = name not in hidden or hidden[name] is not value
            if own and not name.startswith("_") and not issubclass(type(value), ModuleType):
                yield _described(name, value)


def given_before(cells: list[NotebookNode]) -> str:
    """Return what the model has been told with earlier tasks, from a transcript's cells."""
    given = [cell for cell in cells if facts_of(cell).get("given")]
    outputs = [
        each for cell in given if not facts_of(cell).get("replaced") for each in cell.outputs
    ]
    return "\n".join(output.get("text", "") for output in outputs)


def _is_ours(source: str) -> bool:
    """Tell whether a cell is for the agent, and so no cell of the user's own."""
    return read_command(source) is not None or source.strip() == "%load_ext jupyter_agent"


def _files_of(error: Exception) -> Iterator[str]:
    """Name the files that an error came through, the outermost first."""
    trace = error.__traceback__
    while trace:
        yield trace.tb_frame.f_code.co_filename
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        yield error.filename or ""


def _fitting(written: dict[int, str], order: list[int]) -> set[int]:
    """Choose the cells that there is room for, in this order."""
    told, room = set[int](), MAX_CELLS_TEXT
    for count in dict.fromkeys(order):
        room -= len(written[count])
        if room < 0:
            break
        told.add(count)
    return told


def _listed(lines: list[str]) -> str:
    """Join lines as far as there is room."""
    kept, room = list[str](), MAX_NAMES_TEXT
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            return "\n".join([*kept, f"- and {len(lines) - len(kept):,} more"])
        kept.append(line)
    return "\n".join(kept)


def _text_of(outputs: list[NotebookNode]) -> str:
    text: str = describe_outputs(outputs)["text"]
    return text


def _output_of(recorded: Any) -> NotebookNode | None:
    """Make an output of what IPython has recorded; only its text."""
    bundle = recorded.bundle
    if "stream" in bundle:
        name = "stderr" if recorded.output_type == "err_stream" else "stdout"
        return new_output("stream", name=name, text="".join(bundle["stream"]))
    text = bundle.get("text/plain")
    return _displayed(text) if isinstance(text, str) else None


def _displayed(text: str) -> NotebookNode:
    return new_output("execute_result", data={"text/plain": text})


def _described(name: str, value: object) -> str:
    kind = type(value)
    if str(kind.__module__).partition(".")[0] in _KNOWN_PACKAGES:
        with contextlib.suppress(Exception):
            return describe(name, value)
    return f"- `{name}`: {printable(kind.__name__)}"


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
