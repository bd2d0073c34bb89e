"""Show outputs, an answer, or that a run is recorded, in the output of a cell."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

from jupyter_agent._nbformat import NotebookNode
from jupyter_agent.errors import Interrupted, LimitReached, Unsaved
from jupyter_agent.sandbox.filter.markdown import Clean, one_line
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Change, clean_source
from jupyter_agent.transcript.shown_outputs import brief
from jupyter_agent.views.page_requests import Note
from jupyter_agent.views.publishers import Publisher, Tag

__all__ = ["MIME", "AnswerView", "OutputView", "bundle", "ending", "line_bundle", "show_recorded"]

MAX_TEXT = 1_000_000  # characters of a stream; the server drops 3 MB within 3 s
MAX_LINE = 4_000  # characters; JupyterLab 4.2 draws a line in the square of its length
MAX_OUTPUTS = 100  # of a cell; JupyterLab itself draws 50
NOT_SHOWN = "\n[the rest of this text is not shown]\n"
_LONG_LINE = re.compile(rf"([^\r\n]{{{MAX_LINE}}})[^\r\n]+")
MIME = "application/vnd.jupyter-agent.run+json"  # the header, for who can draw it


class OutputView:
    """Shows the outputs of one code cell as they come.

    Parameters
    ----------
    tag
        Returns the tag of a message about an output, from its index and other facts.
    clear
        Clears what was shown so far; its argument tells whether new outputs follow at once.
    """

    def __init__(
        self,
        cell_id: str,
        publisher: Publisher,
        *,
        tag: Callable[..., Tag | None] = lambda **_: None,
        clear: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self.sent: list[NotebookNode] = []  # the outputs as they were shown
        self._id = cell_id
        self._publisher = publisher
        self._tag = tag
        self._clear = clear
        self._seen: list[NotebookNode] = []
        text = f"[outputs after the first {MAX_OUTPUTS} are not shown]\n"
        self._more = NotebookNode(output_type="stream", name="stderr", text=text)
        self._displayed: set[int] = set()  # indices of outputs whose displays can be updated

    def __call__(self, outputs: list[NotebookNode]) -> None:
        """Show what is new since the last call."""
        outputs = self._worth_showing(outputs)
        kept = all(before is now for before, now in zip(self._seen, outputs, strict=False))
        if not kept or len(outputs) < len(self._seen):
            self.sent.clear()
            self._clear(bool(outputs))
        for index, output in enumerate(outputs):
            before = self.sent[index] if index < len(self.sent) else None
            del self.sent[index : index + 1]
            self.sent.insert(index, self._show(index, output, before))
        self._seen = outputs

    def _worth_showing(self, outputs: list[NotebookNode]) -> list[NotebookNode]:
        """Leave out outputs beyond `MAX_OUTPUTS`, but keep errors."""
        rest = outputs[MAX_OUTPUTS:]
        if not rest:
            return list(outputs)
        errors = [output for output in rest if output.output_type == "error"]
        return [*outputs[:MAX_OUTPUTS], self._more, *errors]

    def _show(self, index: int, output: NotebookNode, before: NotebookNode | None) -> NotebookNode:
        match output.output_type:
            case "stream":
                text, start = _worth_showing(output.text), len(before.text) if before else 0
                if len(text) > start:
                    self._publisher.stream(output.name, text[start:], self._tag(index=index))
                return NotebookNode(output_type="stream", name=output.name, text=text)
            case "error" if before is None:
                # as text, because an error message would mark the %%agent cell as failed
                output = NotebookNode({**output, "traceback": brief(output.traceback)})
                text = "\n".join(output.traceback) + "\n" if output.traceback else ""
                self._publisher.stream("stderr", text, self._tag(index=index, error=dict(output)))
                return output
            case _ if before is None or before.get("data") != output.get("data"):
                data = dict(output.data)
                metadata = {name: each for name, each in output.metadata.items() if name != KEY}
                tag = self._tag(index=index, count=output.get("execution_count"))
                self._publisher.display(
                    data,
                    metadata,
                    display_id=f"{self._id}-{index}",
                    update=index in self._displayed,
                    tag=tag,
                )
                self._displayed.add(index)
            case _:
                return before
        shown: NotebookNode = copy.copy(output)
        if KEY in output.get("metadata", {}):
            shown.metadata = NotebookNode(metadata)
        return shown


def _worth_showing(text: str) -> str:
    """Cut what a page cannot show; the cut text of a growing text only grows."""
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT] + NOT_SHOWN
    return _LONG_LINE.sub(r"\1 […]", text)


def show_recorded(publisher: Publisher, note: Note, *, header: dict[str, Any] | None) -> None:
    """Show that the notebook already holds the run, and that no model was asked.

    Parameters
    ----------
    header
        The run's last header; None if this kernel did not run it, because any file can claim to
        hold a run.
    """
    what = "shown as in the file; this kernel did not run it"
    state, before, facts = "claimed", "agent", {}
    if header is not None:
        what, state = "shown as recorded", "recorded"
        before, facts = header.get("text/plain", before), header.get(MIME, {})
    text = f"{before}: {what}" if before == "agent" else f"{before} · {what}"
    text += "; no model was asked. Edit the task to ask the model"
    data = {**line_bundle(text), MIME: {**facts, "run": note.run, "state": state}}
    tag = {"op": "recorded", "run": note.run, "anchor": note.cell_id, "state": state}
    publisher.display(data, {}, display_id=f"{note.run}-header", update=False, tag=tag)


def ending(error: BaseException) -> tuple[str, str]:
    """Return the state and the reason with which an error ends a run, for `DisplayView.finish`."""
    if isinstance(error, LimitReached):
        return "stopped", str(error)
    if isinstance(error, Unsaved):
        return "done", str(error)
    if isinstance(error, Exception) and not isinstance(error, Interrupted):
        return "failed", str(error) or type(error).__name__
    return "stopped", ""


class AnswerView:
    """Shows only the answer."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._last: NotebookNode | None = None

    def __call__(self, change: Change) -> None:
        """Remember a cell that may be the answer."""
        prose = change.done and change.cell.metadata[KEY]["role"] == "prose"
        self._last = change.cell if prose else None

    def finish(self, state: str, why: str = "") -> None:  # noqa: ARG002
        """Show the answer, if there is one."""
        if self._last and self._last.source and state == "done":
            answer = clean_source(self._last)
            data = bundle(answer, answer)
            self._publisher.display(data, {}, display_id=self._last.id, update=False)


def bundle(markdown: Clean, plain: str) -> dict[str, Any]:
    """Make a mime bundle of sanitised Markdown; a page gets Markdown in no other way."""
    return {"text/markdown": markdown, "text/plain": plain}


def line_bundle(text: str) -> dict[str, Any]:
    """Make a mime bundle of one line of this package's own text."""
    return bundle(Clean(f"*{one_line(text)}*"), text)
