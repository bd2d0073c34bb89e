"""Transcript: the notebook that holds runs; the model reads its cells, a file saves them."""

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
VERSION = 1  # of what stands there
MAX_CLEANED_HERE = 20_000  # characters of a file's Markdown; more of it where that can be ended
RUN_ROLES = ("prose", "code", "summary", "correction", "reminder", "end")  # beside its task
# Cells that may quote what a server or the sandbox has said
_QUOTING_ROLES = ("correction", "reminder", "end")
LANGUAGE = {  # as ipykernel says it
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
    """A cell is new or has changed; ``done`` when it will change no more.

    A cell that is done and empty is none: it was taken back.
    """

    cell: NotebookNode
    done: bool = False

    @property
    def text(self) -> str:
        """The cell's source as text for a terminal, without the escapes that a page needs."""
        source: str = self.cell.source
        return as_read(source) if self.cell.cell_type == "markdown" else source


class Transcript:
    """A notebook of runs, the ways to write it and the messages it stands for.

    Each of our cells has a role in its metadata: ``task`` is the user's, ``prose`` and ``code``
    are the model's, ``summary`` stands for the cells before it, ``correction`` tells the model what
    could not be read of its reply, ``reminder`` what its answer lacks, ``end`` says why a run has
    none, ``own`` is code that the user ran in the sandbox. Other cells are the user's too. The
    model does not read those that the user has ``deleted`` or whose run was ``replaced``.

    Parameters
    ----------
    path
        Where to save; None keeps the notebook in memory.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, notebook: NotebookNode | None = None
    ) -> None:
        self.notebook = notebook or _empty()
        self.path = None if path is None else check_path("path", path)
        self._file = FileState()  # the file as it was read or written last
        self._wrote = False  # whether that was written here
        self._notebook_text = NotebookText()
        self._message_writer = MessageWriter()
        self._displays: dict[str, list[_Displayed]] = {}  # outputs by their display id

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Transcript:
        """Go on with the transcript at ``path``, or begin one there.

        Raises
        ------
        UsageError
            The folder does not exist, or the file is not a transcript: nothing is overwritten.
        """
        path = check_path("path", path).expanduser().absolute()
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            pass  # below it is said better
        except OSError as error:  # a closed folder, too long a name, a link to itself
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
        if not path.is_file():  # a pipe or a device, whose end may never come
            raise UsageError(
                f"cannot save to {str(path)!r}: that is not a regular file; name another"
            )
        notebook, left = _read(path)
        transcript = cls(path, notebook)
        transcript._file = left
        return transcript

    def move_to(self, other: Transcript) -> None:
        """Save this notebook from now on where another one is saved."""
        self.path, self._file, self._wrote = other.path, other._file, other._wrote

    def check_writable(self) -> None:
        """See that the notebook can be saved where it is to be saved.

        Raises
        ------
        UsageError
            It cannot, or somebody else has written there: nothing is overwritten.
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

    # -- writing

    @property
    def cells(self) -> list[NotebookNode]:
        """The notebook's cells."""
        cells: list[NotebookNode] = self.notebook.cells
        return cells

    def add(self, role: Role, source: str = "", **facts: Any) -> NotebookNode:
        """Append a cell; ``facts`` go beside its role in the metadata."""
        return self.insert(len(self.cells), role, source, **facts)

    def insert(self, index: int, role: Role, source: str = "", **facts: Any) -> NotebookNode:
        """Put a cell before the one at ``index``."""
        kind = "code" if role in ("code", "own") else "markdown"
        source = clean_prose(source) if role in _QUOTING_ROLES else source
        cell = new_cell(kind, source, id=secrets.token_hex(4))
        cell.metadata[KEY] = {"role": role, **facts}
        self.cells.insert(index, cell)
        return cell

    def drop(self, cell: NotebookNode) -> None:
        """Take a cell back."""
        cell.source = ""
        with contextlib.suppress(ValueError):
            self.cells.remove(cell)

    def add_output(self, cell: NotebookNode, output: NotebookNode) -> None:
        """Add an output to a code cell as a front end would: joined, updated or cleared."""
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
        """Drop a cell's outputs, which no update changes any more."""
        dropped = {id(output) for output in cell.outputs}
        for display_id, shown in list(self._displays.items()):
            self._displays[display_id] = [each for each in shown if id(each[1]) not in dropped]
            if not self._displays[display_id]:
                del self._displays[display_id]
        cell.outputs.clear()
        self._notebook_text.forget(cell)

    def _keep(self, output: NotebookNode) -> dict[str, Any]:
        """Return what the model has read of an output, before a later cell changes it."""
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
        """Make ready what `finish` would wait for, while the event loop goes on."""
        for index, picture in pictures_in(cell.outputs)[:MAX_PICTURES]:
            await run_in_thread(functools.partial(fit_picture, picture, cell.outputs[index]))

    def finish(self, cell: NotebookNode) -> None:
        """Record what the model reads of a code cell's outputs: cut once, the same ever after.

        It stands in memory alone: it follows from the outputs, and goes from a file with them.
        """
        for passing in ("clear", "running"):
            cell.metadata[KEY].pop(passing, None)
        cell.metadata[KEY]["shown"] = describe_outputs(cell.outputs)
        self._notebook_text.forget(cell)
        cell.metadata.pop("tags", None)
        if any(output.output_type == "error" for output in cell.outputs):
            cell.metadata.tags = [RAISES_TAG]

    def save(self) -> str:
        """Write the file whole or not at all; return what else the user should know.

        Where another program has written meanwhile, the notebook is saved beside that.

        Raises
        ------
        TranscriptError
            The disk is full or the folder is gone; what was saved before is still there.
        """
        write = self.prepare_save()
        return write() if write else ""

    def prepare_save(self) -> Callable[[], str] | None:
        """Compose the file as things stand, and return what writes it, as `save` does.

        None where nothing is to be saved.
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
        """Tell whether what is at a path is what was saved last, and nobody has changed it."""
        return self._wrote and self._file.is_at(path)

    # -- reading

    def cells_in_context(self) -> list[NotebookNode]:
        """Return the cells that a model reads: the last summary and what follows it."""
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
        """Write cells as the messages a model reads; a later call extends an earlier one's.

        Parameters
        ----------
        cells
            Which; by default those in reach.
        with_pictures
            Whether the model gets pictures, or is told of them in words.
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
        """What all runs in this notebook cost."""
        total = TotalUsage()
        for cell in self.cells:
            total.add(facts_of(cell))
        return total


def clean_source(cell: NotebookNode, clean: Callable[[str], Clean] = clean_prose) -> Clean:
    """Return the Markdown of a cell that is not the user's; what was clean already stays as it is.

    A file may have brought it, or a page.
    """
    source: str = cell.source
    if isinstance(source, Clean):
        return source
    return clean_folded(source, clean) if _role(cell) == "summary" else clean(source)


def _role(cell: NotebookNode) -> str:
    role: str = facts_of(cell).get("role", "")
    return role


def temporary_cell(source: str, **facts: Any) -> NotebookNode:
    """Make a cell that is shown for a while and never in the transcript."""
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
        with warnings.catch_warnings(action="ignore"):  # of cells without an id: they get one
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
    """Leave out what does not fit of a cell that was read."""
    facts = sound(cell.metadata.pop(KEY, None), cell.cell_type)
    for output in cell.get("outputs", ()):
        if read := sound_of_output(output.get("metadata", {}).pop(KEY, None)):
            output.metadata[KEY] = read
    if facts:
        if facts["role"] in ("own", "code"):  # in a user's own kernel it was given a first line
            cell.source = cell.source.removeprefix("%%sandbox\n")
        if facts["role"] == "own":
            cell.source = inert(cell.source)
        if facts["role"] == "code":
            cell.source = agents_code(cell.source)
            facts["shown"] = describe_outputs(cell.outputs)
        cell.metadata[KEY] = from_dict(facts)
        if facts["role"] == "own":
            record_user_cell(cell)
