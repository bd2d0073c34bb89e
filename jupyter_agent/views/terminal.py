"""Show a run as text in a terminal."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from typing import Any, TextIO

from jupyter_agent._nbformat import NotebookNode
from jupyter_agent._unicode import visible, visible_prose
from jupyter_agent.sandbox.filter.markdown import as_read
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Change
from jupyter_agent.transcript.shown_outputs import ANSI, brief
from jupyter_agent.transcript.usage import TotalUsage

__all__ = ["TerminalView"]

_MARK = re.compile(r"[^\w\s.,;:!?'\"()%/=+]")  # may be Markdown syntax


class TerminalView:
    """Writes prose and code while they stream in, outputs as they come, and the answer last.

    Parameters
    ----------
    out
        The stream for the steps and the answer.
    notes
        The stream for the header and the totals, so that ``out`` ends with the answer.
    quiet
        Show only the answer.
    """

    def __init__(
        self, out: TextIO | None = None, notes: TextIO | None = None, *, quiet: bool = False
    ) -> None:
        self._out = out or sys.stdout
        self._notes = notes or sys.stderr
        self._quiet = quiet
        self._coloured = self._out.isatty()
        self._started = time.monotonic()
        self._sources: dict[str, str] = {}
        self._outputs: dict[str, list[Any]] = {}
        self._fresh = True  # whether the cursor is at the start of a line
        self._answer = ""
        self._began = False
        self._steps = 0
        self._usage = TotalUsage()

    def __call__(self, change: Change) -> None:
        """Show a change."""
        facts, cell = change.cell.metadata[KEY], change.cell
        self._began |= facts["role"] == "task"
        self._steps = max(self._steps, facts.get("step", 0))
        self._answer = cell.source if change.done and facts["role"] == "prose" else ""
        if change.done:
            self._usage.add(facts)
        if self._quiet:
            return
        match facts["role"]:
            case "task":
                told = f", {facts['told']}" if "told" in facts else ""
                self._note(f"{facts['model']} in {facts['sandbox']}{told}")
            case "summary":
                self.end_line()
                self._note(
                    f"summed up {facts['cells']} cells: the model's window of "
                    f"{facts['window']:,} tokens is nearly full"
                )
            case "prose":
                self._prose(cell, done=change.done)
            case "wait" if cell.source:
                self.end_line()
                self._note(cell.source.strip("*"))
            case "end" if facts.get("unfinished"):
                self.end_line()
                self._note("the reply was not finished, and nothing of it was run")
            case "code":
                self._code(cell, done=change.done or facts.get("running", False))

    def finish(self, state: str, why: str = "") -> None:  # noqa: ARG002  # the error tells the reason
        """Write how the run ended, if it began."""
        if not self._began:
            return
        if self._quiet:
            if self._answer and state == "done":
                self._write(as_read(self._answer).rstrip() + "\n")
            return
        self.end_line()
        seconds = time.monotonic() - self._started
        plural = "s" * (self._steps != 1)
        self._note(f"{state} after {self._steps} step{plural}, {self._usage}, {seconds:.0f} s")

    def end_line(self) -> None:
        """Begin a new line, if this one is not empty."""
        if not self._fresh:
            self._write("\n")

    def outputs(self, cell_id: str, outputs: list[NotebookNode]) -> None:
        """Show what is new in a cell's outputs."""
        seen = self._outputs.setdefault(cell_id, [])
        for index, output in enumerate(outputs):
            text = _harmless(_plain(output)) if self._coloured else ANSI.sub("", _plain(output))
            before = seen[index] if index < len(seen) else None
            if before is None:
                seen.append(text)
                self.end_line()
                if index == 0 and cell_id in self._sources:
                    self._write("\n")
                self._write_output(text)
            elif text != before:
                seen[index] = text
                self._write_output(text[len(before) :] if text.startswith(before) else text)

    def _write_output(self, text: str) -> None:
        """Write an output, and reset the colours after it."""
        end = "\n" * text.endswith("\n")
        self._write(f"{text.removesuffix(end)}{_PLAIN}{end}" if "\x1b" in text else text)

    def _prose(self, cell: NotebookNode, *, done: bool) -> None:
        """Write prose while it grows; keep back Markdown that the next characters may change."""
        now, before = as_read(cell.source), self._sources.get(cell.id, "")
        if not done:
            unsettled = _MARK.search(now, now.rfind("\n\n") + 1)  # in the last paragraph
            now = now[: unsettled.start()] if unsettled else now
            if not now.startswith(before) or now == before:
                return
        elif not now.startswith(before):
            same = os.path.commonprefix([before, now])  # noqa: RUF071  # of text
            self.end_line()
            self._sources[cell.id] = now[: same.rfind("\n\n") + 1]
        self._grow(cell, now, "")
        if done:
            self.end_line()

    def _code(self, cell: NotebookNode, *, done: bool) -> None:
        source = visible(cell.source)
        self._grow(cell, source if done else source[: source.rfind("\n") + 1], "    ")
        if done and cell.source and cell.id not in self._outputs:
            self.end_line()
        self.outputs(cell.id, cell.outputs)

    def _grow(self, cell: NotebookNode, now: str, indent: str) -> None:
        """Write what is new in a cell's source."""
        before = self._sources.get(cell.id)
        if before is None:
            self.end_line()
            self._write("\n" * bool(self._sources))
            before = ""
        if not now.startswith(before):  # removed, or written again
            self.end_line()
            before = ""
        self._sources[cell.id] = now
        for line in now[len(before) :].splitlines(keepends=True):
            self._write(indent * (self._fresh and bool(line.strip())) + line)

    def _write(self, text: str) -> None:
        if text:
            self._out.write(text)
            self._out.flush()
            self._fresh = text.endswith("\n")

    def _note(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the run does not need its notes
            self._notes.write(f"[agent] {visible_prose(text)}\n")
            self._notes.flush()


_PLAIN = "\x1b[0m"
_HIDES = re.compile(r"\x1b\[[0-9;:]*m|\x08")


def _harmless(text: str) -> str:
    """Remove escape sequences that hide or overwrite text; keep colours."""
    return _HIDES.sub(lambda found: "" if _hides(found[0]) else found[0], text)


def _hides(sequence: str) -> bool:
    return sequence == "\b" or "8" in re.split("[;:]", sequence[2:-1])


def _plain(output: NotebookNode) -> str:
    match output.output_type:
        case "stream":
            text: str = output.text
            return text
        case "error":
            return "\n".join(brief(output.traceback)) + "\n"
        case _:
            return f"{output.data.get('text/plain', '')}\n"
