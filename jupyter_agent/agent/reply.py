"""Turn a reply into cells while it streams in."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from jupyter_agent._nbformat import NotebookNode
from jupyter_agent._unicode import visible_prose
from jupyter_agent.models.native_calls import CallReader
from jupyter_agent.models.parser import LOOK_AHEAD, Problem, ReplyReader, unread_call
from jupyter_agent.models.protocol import Delta, Form, Kept, Usage, fenced
from jupyter_agent.models.text_calls import is_python_tool
from jupyter_agent.sandbox.filter.host_commands import agents_code
from jupyter_agent.sandbox.filter.markdown import Clean, clean_markdown
from jupyter_agent.transcript.metadata import Role
from jupyter_agent.transcript.notebook import Change, Transcript

__all__ = ["Reply"]

_MAX_UNREAD = 2_000  # characters of a call without code, kept as prose
_FRAME = 1 / 60  # seconds between two frames of a page
_FENCED = -1  # the index of a fenced block, among the indices of calls


class Reply:
    """A reply that is written into cells while it streams in: prose, then code.

    Code is a fenced block or native calls. If there are calls, a fenced block before them only
    shows what they do, and text after them is left out.

    Parameters
    ----------
    by
        The model's name. What a model wants back in later requests is kept under it.
    form
        How the model was asked to reply; with "tool" a fenced block is prose.
    look_ahead
        Characters that are read after a block (`ReplyReader`).
    """

    def __init__(
        self, transcript: Transcript, number: int, by: str, form: Form, look_ahead: int = LOOK_AHEAD
    ) -> None:
        self.prose: NotebookNode | None = None
        self.usage: Usage | None = None
        self.length = 0  # characters read
        self.rest = 0.0  # seconds to wait before the next write
        self.paid = 0  # characters, with the model's thoughts
        self.end: str | None = None  # the stop reason that the server gave
        self.refusal = ""  # the text with which the model declined
        self.problem: Problem | None = None  # why a complete reply may not be an answer
        self.unread: list[str] = []  # calls without code, as blocks
        self._transcript = transcript
        self._number = number
        self._by = by
        self._form: Form = form
        self._look_ahead = look_ahead
        self.reader = ReplyReader(fences=form == "text", look_ahead=look_ahead)
        self._calls: dict[int, CallReader] = {}
        self._ids: dict[int, str] = {}
        self._code: dict[int, NotebookNode] = {}
        self._said = ""
        self._final: str | None = None  # the prose when its code began
        self._read, self._clean = "", Clean()  # the prose, and its sanitised form
        self._kept: list[dict[str, Any]] = []  # for the cell that comes next
        self._kept_by_call: dict[int, list[dict[str, Any]]] = {}

    def anew(self, form: Form) -> Reply:
        """Return a new reply for the same step, maybe in the other form."""
        return Reply(self._transcript, self._number, self._by, form, self._look_ahead)

    @property
    def begun(self) -> bool:
        """Whether anything of the reply has come."""
        return bool(self.paid or self.usage or self._calls)

    @property
    def is_open(self) -> bool:
        """Whether a block of code has begun and not ended."""
        return self.reader.is_open and not self._calls

    @property
    def is_prose_final(self) -> bool:
        """Whether the prose has not changed since the code began."""
        return self.prose is None or self._final == self._said

    @property
    def code(self) -> list[NotebookNode]:
        """The code cells, in the order in which they run."""
        return list(self._code.values())

    @property
    def cells(self) -> list[NotebookNode]:
        """All cells of the reply."""
        return [*filter(None, [self.prose]), *self.code]

    @property
    def text(self) -> str:
        """The reply so far, as Markdown; its code is only shown."""
        prose = [self.prose.source] if self.prose else []
        return "\n\n".join([*prose, *(fenced(cell.source) for cell in self.code)])

    def read(self, delta: Delta) -> bool:
        """Add a piece; return whether the reply is complete and the text after it is ignored."""
        self.usage = delta.usage or self.usage
        self.end = self.end if delta.end is None else delta.end
        self.refusal += delta.refusal
        self.length += len(delta.text) + len(delta.refusal)
        if call := delta.call:
            self.length += len(call.arguments)
            reader = self._calls.setdefault(call.index, CallReader())
            reader.name = call.name or reader.name
            reader.feed(call.arguments)
            self._ids[call.index] = call.id or self._ids.get(call.index, "")
        self.paid += len(call.arguments) if call else 0
        self.paid += len(delta.text) + len(delta.refusal) + delta.thought
        if delta.kept and call:
            self._kept_by_call.setdefault(call.index, []).append(delta.kept)
        elif delta.kept:
            self._kept.append(delta.kept)
        return not self._calls and self.reader.feed(delta.text)

    def write(self) -> Iterator[Change]:
        """Update the cells to what has been read; set ``rest`` to the wait before the next update.

        It is at least one frame. Since all of a long reply is written each time, the wait also
        keeps writing to a quarter of the time.
        """
        began = time.thread_time()
        yield from self._write()
        self.rest = max(_FRAME, 3 * (time.thread_time() - began))

    def _write(self) -> Iterator[Change]:
        words = self.reader.lead if self._calls else self.reader.prose
        prose = self._cleaned("\n\n".join([words, *self.unread]).strip())
        blocks = [*self._blocks()]  # a list: more may be read while a change is shown
        is_taken_back = self._calls or self.reader.code is None
        if prose and self.prose is None:
            self.prose = self._add("prose", self._take_kept())
        if self.prose and self._said != prose:  # else keep it: the user may have edited it
            self.prose.source = self._said = prose
            yield Change(self.prose)
        if _FENCED in self._code and is_taken_back:
            yield self._drop(self._code.pop(_FENCED))
        for index, code in blocks:
            source = agents_code(_writable(code))
            if is_new := index not in self._code:
                if self.prose and not self._code:
                    self._final = prose
                    yield Change(self.prose, done=True)
                self._code[index] = self._begin(index)
            cell = self._code[index]
            if is_new or cell.source != source:
                cell.source = source
                yield Change(cell)

    def _cleaned(self, said: str) -> Clean:
        if said == self._read:
            return self._clean
        self._read, self._clean = said, clean_markdown(visible_prose(_writable(said)))
        return self._clean

    def close(self) -> Iterator[Change]:
        """Finish a reply that has ended as a whole."""
        self.reader.close()
        problem = self.reader.problem
        if self.reader.unread:
            self.unread.append(fenced(self.reader.unread[:_MAX_UNREAD], "text"))
        for index, call in list(self._calls.items()):
            whole = call.close()
            if not whole or not call.code.strip() or not is_python_tool(call.name):
                problem = self.problem = unread_call(call.name)
                self.unread.append(fenced(call.arguments[:_MAX_UNREAD], "json"))
                del self._calls[index]
                if index in self._code:
                    yield self._drop(self._code.pop(index))
        yield from self._write()
        if self.prose and not self.prose.source:
            yield self._drop(self.prose)
            self.prose = None
        if not self._calls:  # with calls, the prose has no problem
            self.problem = problem
        if not self.cells and not self.problem:
            self.problem = Problem("empty", "The reply was empty", certain=True)

    def drop(self) -> Iterator[Change]:
        """Remove the reply's cells."""
        for cell in self.cells:
            yield self._drop(cell)

    def _blocks(self) -> Iterator[tuple[int, str]]:
        if self._calls:
            for index, call in self._calls.items():
                code = call.code.rstrip().lstrip("\n")  # stripped as the code of a block is
                if code and is_python_tool(call.name):
                    yield index, code
        elif self.reader.code is not None and not self.unread:
            yield _FENCED, self.reader.code

    def _begin(self, index: int) -> NotebookNode:
        facts = self._take_kept(*self._kept_by_call.get(index, ()))
        if call := self._ids.get(index):
            facts["call"] = call
        return self._add("code", facts)

    def _take_kept(self, *more: dict[str, Any]) -> dict[str, Any]:
        kept = [_as_saved(each) for each in (*self._kept, *more)]
        self._kept = []
        return {"kept": Kept(by=self._by, items=kept)} if kept else {}

    def _add(self, role: Role, facts: dict[str, Any]) -> NotebookNode:
        return self._transcript.add(role, step=self._number, **facts)

    def _drop(self, cell: NotebookNode) -> Change:
        self._transcript.drop(cell)
        return Change(cell, done=True)


def _as_saved(kept: dict[str, Any]) -> dict[str, Any]:
    """Sort keys as a saved notebook does, so that a resumed run sends the same bytes."""
    ordered: dict[str, Any] = json.loads(json.dumps(kept, sort_keys=True))
    return ordered


def _writable(text: str) -> str:
    """Replace lone surrogates, which cannot be written to a file."""
    return text.encode("utf-8", "replace").decode("utf-8")
