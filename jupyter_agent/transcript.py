"""The notebook that holds runs: what the model reads, what is saved, what is shown."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from jupyter_agent.errors import TranscriptError, UsageError
from jupyter_agent.protocol import Message, Part, Usage, fenced

__all__ = ["ANSI", "KEY", "Change", "Transcript", "brief"]

KEY = "jupyter_agent"  # our namespace in the metadata of notebooks and cells
MOST_CHARACTERS = 20_000  # of one cell's outputs that the model reads
MOST_PICTURES = 4  # of one cell's that the model sees
KERNELSPEC = {"name": "jupyter-agent", "display_name": "Python 3 (agent)", "language": "python"}

Role = Literal["task", "prose", "code", "end"]


@dataclass(frozen=True, slots=True)
class Change:
    """A cell is new or has changed; ``done`` when it will change no more.

    A cell that is done and empty is none: it was taken back.
    """

    cell: NotebookNode
    done: bool = False


class Transcript:
    """A notebook of runs, the ways to write it and the messages it stands for.

    Each of our cells has a role in its metadata: ``task`` is the user's, ``prose`` and ``code``
    are the model's, ``end`` says why a run has no answer. Other cells are the user's own.

    Parameters
    ----------
    path
        Where to save; None keeps the notebook in memory.
    """

    def __init__(self, path: Path | None = None, notebook: NotebookNode | None = None) -> None:
        self.notebook = notebook or _empty()
        self.path = path
        self._displays: dict[str, list[NotebookNode]] = {}  # outputs by their display id

    @classmethod
    def open(cls, path: Path) -> Transcript:
        """Go on with the transcript at ``path``, or begin one there.

        Raises
        ------
        UsageError
            The folder does not exist or cannot be written, or the file is not a transcript:
            nothing is overwritten.
        """
        path = path.expanduser().absolute()
        if path.is_dir():
            raise UsageError(f"cannot save to {str(path)!r}: that is a folder; name a file in it")
        if not path.parent.is_dir():
            raise UsageError(f"cannot save to {str(path)!r}: no such folder; make it first")
        if not os.access(path.parent, os.W_OK):
            raise UsageError(f"cannot save to {str(path)!r}: the folder cannot be written")
        return cls(path, _read(path)) if path.exists() else cls(path)

    # -- writing

    @property
    def cells(self) -> list[NotebookNode]:
        """The notebook's cells."""
        cells: list[NotebookNode] = self.notebook.cells
        return cells

    def add(self, role: Role, source: str = "", **facts: Any) -> NotebookNode:
        """Append a cell; ``facts`` go beside its role in the metadata."""
        make = new_code_cell if role == "code" else new_markdown_cell
        cell = make(source, id=secrets.token_hex(4))
        cell.metadata[KEY] = {"role": role, **facts}
        self.cells.append(cell)
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
                cell.outputs.clear()
                return
            case "update_display_data":
                for shown in self._displays.get(display_id, ()):
                    shown.data, shown.metadata = output.data, output.metadata
                return
        if clear:
            cell.outputs.clear()
        last = cell.outputs[-1] if cell.outputs else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            cell.outputs.append(output)
            if display_id:
                self._displays.setdefault(display_id, []).append(output)

    def finish(self, cell: NotebookNode) -> None:
        """Record what the model reads of a code cell's outputs: cut once, the same ever after."""
        for passing in ("clear", "running"):
            cell.metadata[KEY].pop(passing, None)
        cell.metadata[KEY]["shown"] = _shown(cell.outputs)

    def save(self) -> None:
        """Write the file whole or not at all (rename(2) is atomic).

        Raises
        ------
        TranscriptError
            The disk is full or the folder is gone; what was saved before is still there.
        """
        if self.path is None:
            return
        text = nbformat.writes(self.notebook) + "\n"
        try:
            descriptor, name = tempfile.mkstemp(
                dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".tmp"
            )
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                _keep_mode(name, self.path)
                Path(name).replace(self.path)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise TranscriptError(
                f"cannot save {str(self.path)!r}: {error.strerror}; the run so far is in memory"
            ) from error

    # -- reading

    def messages(self) -> list[Message]:
        """Put the cells as the messages a model reads; a later call extends an earlier one's."""
        messages: list[Message] = []
        for cell in self.cells:
            facts = cell.metadata.get(KEY, {})
            match facts.get("role"):
                case "task":
                    notes = [cell.source, *([facts["note"]] if facts.get("note") else [])]
                    _say(messages, "user", "\n\n".join(notes))
                case "code":
                    _say(messages, "assistant", fenced(cell.source))
                    shown = facts.get("shown") or _shown(cell.outputs)
                    _say(messages, "user", shown["text"], _pictures(cell, shown["pictures"]))
                case "prose" | "end":
                    _say(messages, "assistant", cell.source)
                case _ if cell.cell_type == "markdown":
                    _say(messages, "user", cell.source)
        return messages

    @property
    def answer(self) -> str:
        """The answer of the last run; empty if it has none."""
        last = self.cells[-1] if self.cells else None
        return last.source if last and last.metadata.get(KEY, {}).get("role") == "prose" else ""

    @property
    def usage(self) -> Usage:
        """Tokens of all runs in this notebook, as far as servers counted them."""
        parts = [cell.metadata.get(KEY, {}).get("usage", {}) for cell in self.cells]
        return Usage(*(sum(part.get(f, 0) for part in parts) for f in Usage.__dataclass_fields__))


def _empty() -> NotebookNode:
    metadata = {
        "kernelspec": dict(KERNELSPEC),
        "language_info": {"name": "python"},
        KEY: {"version": 1},
    }
    return new_notebook(metadata=metadata)


def _read(path: Path) -> NotebookNode:
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except Exception as error:  # nbformat raises whatever its json and schema libraries do
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UsageError(
            f"{str(path)!r} is not a notebook ({reason}); it is left as it is: name another file"
        ) from None
    if KEY not in notebook.metadata:
        raise UsageError(
            f"{str(path)!r} is a notebook but not a saved run; it is left as it is: "
            "name another file"
        )
    return notebook


def _keep_mode(new: str, old: Path) -> None:
    """Give a file written anew the mode it had, or the one a new file has."""
    if old.exists():
        mode = old.stat().st_mode & 0o777
    else:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    Path(new).chmod(mode)


def _say(
    messages: list[Message],
    role: Literal["user", "assistant"],
    text: str,
    pictures: Iterable[Part] = (),
) -> None:
    """Add to the talk; neighbours of one role become one message, as strict servers want."""
    pictures = list(pictures)
    if not messages or messages[-1]["role"] != role:
        content: str | list[Part] = [Part(type="text", text=text), *pictures] if pictures else text
        messages.append(Message(role=role, content=content))
        return
    before = messages[-1]["content"]
    if isinstance(before, str) and not pictures:
        messages[-1]["content"] = f"{before}\n\n{text}"
    else:
        parts = [Part(type="text", text=before)] if isinstance(before, str) else before
        messages[-1]["content"] = [*parts, Part(type="text", text=text), *pictures]


# -- what the model is shown of outputs

ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")
# what a progress bar has drawn over; from the start of a line only, or a long one takes for ever
_OVERWRITTEN = re.compile(r"^[^\n]*\r(?!\n|\Z)", re.MULTILINE)


def _shown(outputs: list[NotebookNode]) -> dict[str, Any]:
    """Say what the model reads of outputs: text, and which pictures go with it."""
    texts = [text for text in map(_text_of, outputs) if text.strip()]
    pictures = [
        [index, mime]
        for index, output in enumerate(outputs)
        for mime in ("image/png", "image/jpeg", "image/gif")
        if mime in output.get("data", {})
    ]
    text = _cut("\n".join(text.rstrip("\n") for text in texts)) or "(none)"
    if len(pictures) > MOST_PICTURES:
        text += f"\n[{len(pictures) - MOST_PICTURES} more pictures are not shown]"
    return {"text": f"Output:\n{text}", "pictures": pictures[:MOST_PICTURES]}


def _text_of(output: NotebookNode) -> str:
    match output.output_type:
        case "stream":
            text = output.text
        case "error":
            text = "\n".join(brief(output.traceback)) or f"{output.ename}: {output.evalue}"
        case _:
            text = output.data.get("text/plain", "")
    return _OVERWRITTEN.sub("", ANSI.sub("", text))


def brief(traceback: list[str]) -> list[str]:
    """Keep of a traceback the frames of the notebook's cells; those of libraries teach little."""
    own = [frame for frame in traceback[:-1] if not ANSI.sub("", frame).startswith("File ")]
    return [*own, *traceback[-1:]]


def _cut(text: str) -> str:
    """Keep the beginning and the end of a long text."""
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[… {left_out:,} characters left out …]\n{text[-half:]}"


def _pictures(cell: NotebookNode, pictures: list[list[Any]]) -> Iterable[Part]:
    for index, mime in pictures:
        if index < len(cell.outputs) and mime in cell.outputs[index].get("data", {}):
            data = "".join(cell.outputs[index].data[mime].split())
            yield Part(type="image_url", image_url={"url": f"data:{mime};base64,{data}"})
