"""Transcript: the notebook that holds runs. The model reads its cells; a file saves them."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import secrets
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_agent._arguments import check_path
from jupyter_agent._files import FileState, clear_left_over, unwritable, write_beside, write_whole
from jupyter_agent._nbformat import (
    NotebookNode,
    from_dict,
    new_cell,
    new_notebook,
    reads,
    validate,
)
from jupyter_agent._threads import run_in_thread
from jupyter_agent.errors import TranscriptError, UsageError
from jupyter_agent.models.protocol import Form, Message
from jupyter_agent.sandbox.filter.cleaning import clean_prose
from jupyter_agent.sandbox.filter.host_commands import agents_code, inert
from jupyter_agent.sandbox.filter.markdown import Clean, as_read, clean_folded, clean_markdown
from jupyter_agent.transcript.incremental import Fingerprint
from jupyter_agent.transcript.metadata import KEY, Role, facts_of, sound, sound_of_output
from jupyter_agent.transcript.reading import MessageWriter
from jupyter_agent.transcript.saving import NotebookText
from jupyter_agent.transcript.shown_outputs import (
    MAX_PICTURES,
    describe_outputs,
    fit_picture,
    output_of_picture,
    picture_of,
    pictures_in,
    record_user_cell,
)
from jupyter_agent.transcript.usage import TotalUsage

__all__ = [
    "RUN_ROLES",
    "Change",
    "Transcript",
    "clean_source",
    "temporary_cell",
]

RAISES_TAG = "raises-exception"  # with it Jupyter's Run All goes on after the cell's error
VERSION = 1  # of our metadata in a saved notebook
MAX_CLEANED_HERE = 20_000  # characters of a file's Markdown; the rest in a process with a limit
RUN_ROLES = (
    "prose",
    "code",
    "summary",
    "correction",
    "reminder",
    "end",
)  # of the cells of a run after its task
# Cells that may quote what a server or the sandbox has said
_QUOTING_ROLES = ("correction", "reminder", "end")
LANGUAGE = {  # the same as ipykernel's
    "name": "python",
    "version": platform.python_version(),
    "mimetype": "text/x-python",
    "codemirror_mode": {"name": "ipython", "version": 3},
    "pygments_lexer": "ipython3",
    "nbconvert_exporter": "python",
    "file_extension": ".py",
}
KERNELSPEC = {"name": "jupyter-agent", "display_name": "Python 3 (agent)", "language": "python"}


_Displayed = tuple[NotebookNode, NotebookNode]  # a cell, and an output of it


@dataclass(frozen=True, slots=True)
class Change:
    """A cell is new or has changed; ``done`` if it will not change again.

    A cell that is done and empty was removed.
    """

    cell: NotebookNode
    done: bool = False

    @property
    def text(self) -> str:
        """The cell's source as text for a terminal, without the escapes that a page needs."""
        source: str = self.cell.source
        return as_read(source) if self.cell.cell_type == "markdown" else source


class Transcript:
    """A notebook of runs: adds cells and outputs, saves them, and writes them as messages.

    Each of our cells has a role in its metadata: ``task`` is the user's, ``prose`` and ``code``
    are the model's, ``summary`` replaces the cells before it, ``correction`` tells the model what
    is wrong with its reply, ``reminder`` what its answer lacks, ``end`` says why a run has no
    answer, ``own`` is code that the user ran in the sandbox. Cells without a role are the user's.
    The model does not read cells that the user has ``deleted`` or whose run was ``replaced``.

    Parameters
    ----------
    path
        The file to save to; None to keep the notebook in memory.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, notebook: NotebookNode | None = None
    ) -> None:
        self.notebook = notebook or _empty()
        self.path = None if path is None else check_path("path", path)
        self._file = FileState()  # of the file when it was last read or written
        self._wrote = False  # whether this transcript has written it
        self._notebook_text = NotebookText()
        self._message_writer = MessageWriter()
        self._displays: dict[str, list[_Displayed]] = {}  # outputs by their display id

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Transcript:
        """Read the saved run at ``path``, or begin one there.

        Raises
        ------
        UsageError
            The folder does not exist, or the file is not a saved run. It is not overwritten.
        """
        path = check_path("path", path).absolute()
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            pass  # the checks below say it better
        except OSError as error:  # no permission, a name that is too long, a link to itself
            raise UsageError(f"cannot save to {str(path)!r}: {error.strerror}") from None
        if path.is_dir():
            raise UsageError(f"cannot save to {str(path)!r}: that is a folder; name a file in it")
        if not path.resolve().parent.is_dir():
            raise UsageError(
                f"cannot save to {str(path)!r}: the folder does not exist; create it first"
            )
        clear_left_over(path)
        if not path.exists():
            return cls(path)
        if not path.is_file():  # a pipe or a device may never end
            raise UsageError(
                f"cannot save to {str(path)!r}: that is not a regular file; name another"
            )
        notebook, left = _read(path)
        transcript = cls(path, notebook)
        transcript._file = left
        return transcript

    def move_to(self, other: Transcript) -> None:
        """From now on save this notebook to the file of another transcript."""
        self.path, self._file, self._wrote = other.path, other._file, other._wrote

    def check_writable(self) -> None:
        """Check that the notebook can be saved to its file.

        Raises
        ------
        UsageError
            It cannot, or another program has written there. Nothing is overwritten.
        """
        if self.path is None:
            return
        if why := unwritable(self.path):
            raise UsageError(f"cannot save to {str(self.path)!r}: {why}")
        if self.path.exists() and not self._file.is_same(self.path):
            raise UsageError(
                f"{str(self.path)!r} was changed by another program since this session read or "
                "saved it, and is not overwritten; save to another file, or forget this session's "
                "runs (%agent reset) and continue with what the file holds now"
            )

    # -- cells and outputs

    @property
    def cells(self) -> list[NotebookNode]:
        """The notebook's cells."""
        cells: list[NotebookNode] = self.notebook.cells
        return cells

    def add(self, role: Role, source: str = "", **facts: Any) -> NotebookNode:
        """Append a cell; ``facts`` are stored with its role in the metadata."""
        return self.insert(len(self.cells), role, source, **facts)

    def insert(self, index: int, role: Role, source: str = "", **facts: Any) -> NotebookNode:
        """Insert a cell before the one at ``index``."""
        kind = "code" if role in ("code", "own") else "markdown"
        source = clean_prose(source) if role in _QUOTING_ROLES else source
        cell = new_cell(kind, source, id=secrets.token_hex(4))
        cell.metadata[KEY] = {"role": role, **facts}
        self.cells.insert(index, cell)
        return cell

    def drop(self, cell: NotebookNode) -> None:
        """Remove a cell."""
        cell.source = ""
        with contextlib.suppress(ValueError):
            self.cells.remove(cell)

    def add_output(self, cell: NotebookNode, output: NotebookNode) -> None:
        """Add an output to a code cell as a front end does: join, update or clear."""
        clear = cell.metadata[KEY].pop("clear", False)
        display_id = output.pop("transient", {}).get("display_id", "")
        match output.output_type:
            case "clear_output" if output.wait:
                cell.metadata[KEY]["clear"] = True
                return
            case "clear_output":
                self._clear(cell)
                return
            case "update_display_data":
                for of, shown in self._displays.get(display_id, ()):
                    kept = self._keep(shown)
                    shown.data, shown.metadata = output.data, from_dict({**output.metadata, **kept})
                    self._notebook_text.forget(of)
                return
        if clear:
            self._clear(cell)
        self._notebook_text.forget(cell)
        last = cell.outputs[-1] if cell.outputs else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            cell.outputs.append(output)
            if display_id:
                self._displays.setdefault(display_id, []).append((cell, output))

    def _clear(self, cell: NotebookNode) -> None:
        """Remove a cell's outputs; later updates of their displays do not change them."""
        dropped = {id(output) for output in cell.outputs}
        for display_id, shown in list(self._displays.items()):
            self._displays[display_id] = [each for each in shown if id(each[1]) not in dropped]
            if not self._displays[display_id]:
                del self._displays[display_id]
        cell.outputs.clear()
        self._notebook_text.forget(cell)

    def _keep(self, output: NotebookNode) -> dict[str, Any]:
        """Return what the model has read of an output, to be kept when a later cell changes it."""
        for cell in self.cells:
            shown = facts_of(cell).get("shown")
            if not shown or not any(each is output for each in cell.outputs):
                continue
            kept = {"text": output.data.get("text/plain", ""), **facts_of(output)}
            if picture := picture_of(output):
                kept["picture"] = picture
            for read in shown["pictures"]:
                if output_of_picture(cell, read) is output:
                    read.setdefault("data", "".join(output.data.get(read["mime"], "").split()))
                    kept["picture"] = {name: read[name] for name in read if name != "output"}
            return {KEY: kept}
        return {}

    async def fit_pictures(self, cell: NotebookNode) -> None:
        """Resize pictures on threads, so that `finish` does not block the event loop."""
        for index, picture in pictures_in(cell.outputs)[:MAX_PICTURES]:
            await run_in_thread(functools.partial(fit_picture, picture, cell.outputs[index]))

    def finish(self, cell: NotebookNode) -> None:
        """Record what the model reads of a code cell's outputs; it is cut once and stays the same.

        It is kept in memory only. A file holds the outputs that it follows from.
        """
        for temporary in ("clear", "running"):
            cell.metadata[KEY].pop(temporary, None)
        cell.metadata[KEY]["shown"] = describe_outputs(cell.outputs)
        self._notebook_text.forget(cell)
        cell.metadata.pop("tags", None)
        if any(output.output_type == "error" for output in cell.outputs):
            cell.metadata.tags = [RAISES_TAG]

    def save(self) -> str:
        """Write the file completely or not at all; return a notice for the user, or nothing.

        If another program has written the file meanwhile, the notebook is saved beside it.

        Raises
        ------
        TranscriptError
            The file cannot be written. It still holds what was saved before.
        """
        write = self.prepare_save()
        return write() if write else ""

    def prepare_save(self) -> Callable[[], str] | None:
        """Compose the file now, and return a function that writes it, as `save` does.

        None if the notebook is kept in memory.
        """
        if self.path is None:
            return None
        return functools.partial(self._write, self.path, self._notebook_text.compose(self.notebook))

    def _write(self, path: Path, parts: list[bytes]) -> str:
        content = b"".join(parts)
        taken = path.exists() and not self._file.is_same(path)
        try:
            if taken:
                self.path = write_beside(path, content)
            else:
                write_whole(path, content)
        except OSError as error:
            there = self._wrote and path.exists()
            held = "the file holds what was saved before" if there else "nothing is saved"
            raise TranscriptError(f"cannot save {str(path)!r}: {error.strerror}; {held}") from error
        written = self.path or path
        self._file, self._wrote = FileState.of(written, content), True
        if not taken:
            return ""
        return (
            f"{str(path)!r} was changed by another program meanwhile, and is not overwritten; "
            f"this run is saved as {str(written)!r}"
        )

    def has_written(self, path: Path) -> bool:
        """Tell whether this transcript wrote the file at a path and nobody has changed it since."""
        return self._wrote and self._file.is_at(path)

    # -- messages

    def cells_in_context(self) -> list[NotebookNode]:
        """Return the cells that a model reads: the last summary and the cells after it."""
        cells = self.cells
        for index in reversed(range(len(cells))):
            facts = cells[index]["metadata"].get(KEY, ())
            if "role" in facts and facts["role"] == "summary" and "replaced" not in facts:
                return cells[index:]
        return cells[:]

    def messages(
        self,
        form: Form = "text",
        cells: Sequence[NotebookNode] | None = None,
        *,
        with_pictures: bool = True,
        fingerprints: Sequence[Fingerprint] | None = None,
    ) -> list[Message]:
        """Write cells as messages for a model; a later call extends the messages of an earlier one.

        Parameters
        ----------
        cells
            By default `cells_in_context`.
        with_pictures
            Whether the model gets pictures, or a description of each in words.
        fingerprints
            The cells' fingerprints, if the caller has them already.
        """
        cells = self.cells_in_context() if cells is None else cells
        return self._message_writer.messages(
            cells, form, with_pictures=with_pictures, fingerprints=fingerprints
        )

    @property
    def answer(self) -> str:
        """The answer of the last run; empty if it has none."""
        last = self.cells[-1] if self.cells else None
        return last.source if last and facts_of(last).get("role") == "prose" else ""

    @property
    def total_usage(self) -> TotalUsage:
        """The tokens and the cost of all runs in this notebook."""
        total = TotalUsage()
        for cell in self.cells:
            total.add(facts_of(cell))
        return total


def clean_source(cell: NotebookNode, clean: Callable[[str], Clean] = clean_prose) -> Clean:
    """Return the sanitised Markdown of a cell that may come from a file or a page.

    Markdown that is marked as clean is returned as it is.
    """
    source: str = cell.source
    if isinstance(source, Clean):
        return source
    return clean_folded(source, clean) if _role(cell) == "summary" else clean(source)


def _role(cell: NotebookNode) -> str:
    role: str = facts_of(cell).get("role", "")
    return role


def temporary_cell(source: str, **facts: Any) -> NotebookNode:
    """Make a cell that is shown for a while and is not part of the transcript."""
    cell = new_cell("markdown", source, id=secrets.token_hex(4))
    cell.metadata[KEY] = {"role": "wait", **facts}
    return cell


def _empty() -> NotebookNode:
    metadata = {
        "kernelspec": dict(KERNELSPEC),
        "language_info": dict(LANGUAGE),
        KEY: {"version": VERSION},
    }
    return new_notebook(metadata=metadata)


def _read(path: Path) -> tuple[NotebookNode, FileState]:
    try:
        content = path.read_bytes()
        left = FileState.of(path, content)
        with warnings.catch_warnings(action="ignore"):  # about cells without an id: they get one
            notebook = reads(content.decode(), as_version=4)
            validate(notebook)
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except Exception as error:  # nbformat raises whatever its json and schema libraries do
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UsageError(
            f"{str(path)!r} is not a notebook ({reason}); it is not overwritten; name another file"
        ) from None
    about = notebook.metadata.get(KEY)
    if not isinstance(about, dict):
        raise UsageError(
            f"{str(path)!r} is a notebook but not a saved run; it is not overwritten; "
            "name another file"
        )
    if about.get("version", VERSION) != VERSION:
        raise UsageError(
            f"{str(path)!r} was saved by another version of jupyter_agent, in a form that this one "
            "does not know; it is not overwritten; name another file, or upgrade"
        )
    room = MAX_CLEANED_HERE
    for cell in notebook.cells:
        _mend(cell)
        if cell.cell_type == "markdown" and _role(cell) not in ("", "task"):
            room -= len(cell.source)
            cell.source = clean_source(cell, clean_markdown if room >= 0 else clean_prose)
    return notebook, left


def _mend(cell: NotebookNode) -> None:
    """Remove what is not valid from a cell that was read from a file."""
    facts = sound(cell.metadata.pop(KEY, None), cell.cell_type)
    for output in cell.get("outputs", ()):
        if read := sound_of_output(output.get("metadata", {}).pop(KEY, None)):
            output.metadata[KEY] = read
    if facts:
        if facts["role"] in ("own", "code"):  # a kernel of the user's own added this line
            cell.source = cell.source.removeprefix("%%sandbox\n")
        if facts["role"] == "own":
            cell.source = inert(cell.source)
        if facts["role"] == "code":
            cell.source = agents_code(cell.source)
            facts["shown"] = describe_outputs(cell.outputs)
        cell.metadata[KEY] = from_dict(facts)
        if facts["role"] == "own":
            record_user_cell(cell)
