"""Show a run in the output area of its cell, as ordinary display messages.

A front end that names its cells (JupyterLab, Notebook 7, VS Code) updates displays in place, so
there every cell streams. Any other (nbclient, a console) is given each cell once, when it is whole.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from nbformat import NotebookNode

from jupyter_agent.bill import Bill
from jupyter_agent.protocol import fenced
from jupyter_agent.transcript import KEY, Change, brief

__all__ = ["AnswerView", "CellOutlet", "DisplayView", "Outlet", "OutputView"]

INTERVAL = 0.05  # seconds between two updates of a display; Jupyter Server drops floods


class Outlet(Protocol):
    """Where display messages go."""

    def display(
        self, data: dict[str, Any], metadata: dict[str, Any], *, display_id: str, update: bool
    ) -> None:
        """Send a mime bundle, or change the one that has this id."""
        ...

    def stream(self, name: str, text: str) -> None:
        """Write to ``stdout`` or ``stderr``."""
        ...


class CellOutlet:
    """The output area of the cell that is running in this IPython."""

    def display(
        self, data: dict[str, Any], metadata: dict[str, Any], *, display_id: str, update: bool
    ) -> None:
        """Send a mime bundle, or change the one that has this id."""
        from IPython.display import publish_display_data

        transient = {"display_id": display_id}
        publish_display_data(data, metadata, transient=transient, update=update)

    def stream(self, name: str, text: str) -> None:
        """Write to ``stdout`` or ``stderr``."""
        stream = sys.stderr if name == "stderr" else sys.stdout
        stream.write(text)
        stream.flush()


class OutputView:
    """Shows the outputs of one code cell as they come."""

    def __init__(self, cell_id: str, outlet: Outlet) -> None:
        self._id = cell_id
        self._outlet = outlet
        self._shown: list[Any] = []  # for each output, how much text or which data was shown

    def __call__(self, outputs: list[NotebookNode]) -> None:
        """Show what is new since the last time."""
        for index, output in enumerate(outputs):
            before = self._shown[index] if index < len(self._shown) else None
            del self._shown[index : index + 1]
            self._shown.insert(index, self._show(output, before, f"{self._id}-{index}"))

    def _show(self, output: NotebookNode, before: Any, display_id: str) -> Any:
        match output.output_type:
            case "stream":
                start = before if isinstance(before, int) and before <= len(output.text) else 0
                if text := output.text[start:]:
                    self._outlet.stream(output.name, text)
                return len(output.text)
            case "error":
                # as text: an error message would mark the %%agent cell failed
                if before is None and output.traceback:
                    self._outlet.stream("stderr", "\n".join(brief(output.traceback)) + "\n")
            case _ if output.data != before:
                update = isinstance(before, dict)
                data, metadata = dict(output.data), dict(output.metadata)
                self._outlet.display(data, metadata, display_id=display_id, update=update)
                return data
        return before or output.output_type


@dataclass(slots=True)
class _Shown:
    """What of a cell is on the screen."""

    source: str = ""
    label: str = ""
    at: float = 0.0
    started: float = 0.0
    outputs: OutputView | None = None


@dataclass(slots=True)
class _Progress:
    """What the header says."""

    started: float = field(default_factory=time.monotonic)
    model: str = ""
    sandbox: str = ""
    step: int = 0
    bill: Bill = field(default_factory=Bill)
    state: str = "working"

    def where(self) -> list[str]:
        return [self.model, self.sandbox]

    def how_far(self) -> list[str]:
        used = [str(self.bill)] if self.bill.total else []
        seconds = f"{time.monotonic() - self.started:.0f} s"
        return [self.state, f"step {self.step}", *used, seconds]


class DisplayView:
    """Shows a run below its ``%%agent`` cell.

    Parameters
    ----------
    live
        Whether the front end changes a display in place.
    """

    def __init__(self, outlet: Outlet, *, live: bool) -> None:
        self._outlet = outlet
        self._live = live
        self._cells: dict[str, _Shown] = {}
        self._progress = _Progress()
        self._header_id = ""
        self._header_at = 0.0

    def __call__(self, change: Change) -> None:
        """Show a change."""
        facts = change.cell.metadata[KEY]
        self._note(change, facts)
        shown = self._cells.setdefault(change.cell.id, _Shown())
        match facts["role"]:
            case "prose" | "summary":
                self._prose(change, shown)
            case "code":
                self._code(change, shown, facts)
            case "wait":
                self._progress.state = change.cell.source.strip("*") or "working"
        self._header(force=change.done or facts["role"] == "wait")

    def finish(self, state: str) -> None:
        """Say how the run ended."""
        self._progress.state = state
        if self._live:
            self._header(force=True)
        elif self._header_id:
            self._publish_header(f"{self._header_id}-end", self._progress.how_far(), update=False)

    # -- the header

    def _note(self, change: Change, facts: dict[str, Any]) -> None:
        """Take from a change what the header says."""
        progress = self._progress
        if facts["role"] == "task":
            progress.model, progress.sandbox = facts["model"], facts["sandbox"]
            self._header_id = f"{change.cell.id}-header"
            parts = [*(progress.how_far() if self._live else []), *progress.where()]
            self._publish_header(self._header_id, parts, update=False)
        progress.step = max(progress.step, facts.get("step", 0))
        if change.done and "usage" in facts:
            progress.bill.add(facts["usage"])

    def _header(self, *, force: bool) -> None:
        late = time.monotonic() - self._header_at > 1
        if self._live and self._header_id and (force or late):
            parts = [*self._progress.how_far(), *self._progress.where()]
            self._publish_header(self._header_id, parts, update=True)

    def _publish_header(self, display_id: str, parts: list[str], *, update: bool) -> None:
        self._header_at = time.monotonic()
        text = "agent: " + " · ".join(parts)
        data = {"text/markdown": f"*{_escape(text)}*", "text/plain": text}
        self._outlet.display(data, {}, display_id=display_id, update=update)

    # -- cells

    def _prose(self, change: Change, shown: _Shown) -> None:
        source = change.cell.source
        data = {"text/markdown": source, "text/plain": source}
        self._upsert(change, shown, data)

    def _code(self, change: Change, shown: _Shown, facts: dict[str, Any]) -> None:
        running = facts.get("running", False)
        if running and not shown.started:
            shown.started = time.monotonic()
        took = f"{time.monotonic() - shown.started:.1f} s" if shown.started else ""
        label = "running" if running else took if change.done else "writing"
        source = change.cell.source
        title = f"step {facts.get('step', '')}" + f" · {label}" * self._live
        summary = f"<summary>{title}</summary>"
        data = {
            "text/markdown": f"<details open>{summary}\n\n{fenced(source)}\n\n</details>",
            "text/plain": source,
        }
        # before the outputs, so that they stand below
        starts = running and shown.outputs is None
        self._upsert(change, shown, data, label=label, whole=starts)
        if starts:
            shown.outputs = OutputView(change.cell.id, self._outlet)
        if shown.outputs:
            shown.outputs(change.cell.outputs)

    def _upsert(
        self,
        change: Change,
        shown: _Shown,
        data: dict[str, Any],
        *,
        label: str = "",
        whole: bool = False,
    ) -> None:
        """Show a cell's source: each time it grows where the front end is live, else once."""
        source = change.cell.source
        if (source, label) == (shown.source, shown.label) or not (source or shown.source):
            return
        whole = whole or (change.done and shown.outputs is None)
        if self._live:
            soon = time.monotonic() - shown.at < INTERVAL
            if soon and not (whole or change.done or label != shown.label):
                return
        elif not whole or not source:
            return
        self._outlet.display(data, {}, display_id=change.cell.id, update=bool(shown.at))
        shown.source, shown.label, shown.at = source, label, time.monotonic()


class AnswerView:
    """Shows nothing but the answer."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._last = ""
        self._id = ""

    def __call__(self, change: Change) -> None:
        """Keep what may be the answer."""
        prose = change.done and change.cell.metadata[KEY]["role"] == "prose"
        self._last = change.cell.source if prose else ""
        self._id = change.cell.id

    def finish(self, state: str) -> None:
        """Show the answer, if the run came to one."""
        if self._last and state == "done":
            data = {"text/markdown": self._last, "text/plain": self._last}
            self._outlet.display(data, {}, display_id=self._id, update=False)


def _escape(text: str) -> str:
    """Keep names and paths from being read as Markdown."""
    return "".join(f"&#{ord(c)};" if c in "\\`*_[]#~$&<>:" else c for c in text)
