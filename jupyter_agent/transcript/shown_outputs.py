"""Choose which outputs of a cell the model reads: text, cut once, and a few pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from jupyter_agent._nbformat import NotebookNode, from_dict
from jupyter_agent.models.protocol import fenced
from jupyter_agent.sandbox.filter.cleaning import cleaned
from jupyter_agent.sandbox.filter.figures import NotShown
from jupyter_agent.sandbox.filter.images import MIMES
from jupyter_agent.transcript.metadata import KEY

__all__ = [
    "ANSI",
    "MAX_CHARACTERS",
    "MAX_PICTURES",
    "brief",
    "cut",
    "describe_outputs",
    "fit_picture",
    "output_of_picture",
    "picture_of",
    "pictures_in",
    "record_user_cell",
]

MAX_CHARACTERS = 20_000  # of one cell's outputs, for the model
MAX_LOOKED_AT = 4 << 20  # characters of one output that are searched for them
MAX_PICTURES = 4  # of one cell, for the model
MAX_READ_OF_ONE = 4_000  # characters of a user's cell, and of its outputs, for the model
_NEW = "[the kernel was new here: what was defined before is gone]"
ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")
# A frame of an installed package, of Python itself, of code compiled elsewhere, or of no file. The
# other frames are of the user's files, mostly as "~/work/a.py".
_OF_A_LIBRARY = re.compile(
    r"File (?:[^~/]|/usr/|.*/(?:(?:site|dist)-packages|lib(?:64)?/python3[\d.]*t?)/)"
)
# what a progress bar has overwritten; searched from line starts only, or long lines take too long
_OVERWRITTEN = re.compile(r"^[^\n]*\r(?!\n|\Z)", re.MULTILINE)


def describe_outputs(outputs: list[NotebookNode]) -> dict[str, Any]:
    """Return what the model reads of outputs: text, and which pictures go with it.

    A resized picture is stored on its output, because resizing it again may give other bytes.
    """
    texts = [(_kind(each), text) for each in outputs if (text := _text_of(each)).strip()]
    text = cut("\n".join(_labelled(texts)), MAX_CHARACTERS) or "(none)"
    drawn = pictures_in(outputs)
    pictures: list[dict[str, Any]] = []
    for index, picture in drawn[:MAX_PICTURES]:
        fit_picture(picture, outputs[index])
        if why := picture.get("why"):
            text += f"\n[a picture {why}]"
        else:
            pictures.append({"output": index, **picture})
    if len(drawn) > MAX_PICTURES:
        text += f"\n[{len(drawn) - MAX_PICTURES} more pictures are not shown]"
    ends = ", which ends in an error" if any(kind == "error" for kind, _ in texts) else ""
    return {"text": f"Output{ends}:\n{text}", "pictures": pictures}


def _kind(output: NotebookNode) -> str:
    return output.get("name") or ("error" if output.output_type == "error" else "displayed")


def _labelled(texts: list[tuple[str, str]]) -> Iterator[str]:
    """Yield texts; where they are of several kinds, what was printed and what was displayed."""
    kinds = [kind for kind, _ in texts]
    for before, (kind, text) in zip(["", *kinds], texts, strict=False):
        if kind != before and len({*kinds}) > 1:
            yield f"[{kind}]"
        yield text.rstrip("\n")


def pictures_in(outputs: list[NotebookNode]) -> list[tuple[int, dict[str, Any]]]:
    """Find the outputs that hold a picture; return the index of each and the facts about it."""
    return [(index, p) for index, output in enumerate(outputs) if (p := picture_of(output))]


def fit_picture(picture: dict[str, Any], output: NotebookNode) -> None:
    """Make an output's picture small enough for a model, once, and store the result."""
    if picture.keys() == {"mime"}:
        picture |= _fitted(picture["mime"], output.data.get(picture["mime"], ""))
        output.metadata[KEY] = {**output.metadata.get(KEY, {}), "picture": from_dict(picture)}


def picture_of(output: NotebookNode) -> dict[str, Any] | None:
    """Return the facts about an output's picture, as it was when the model read it."""
    read = output.get("metadata", {}).get(KEY, {})
    if "text" in read:  # the output has changed since
        return dict(read["picture"]) if "picture" in read else None
    mime = next((mime for mime in MIMES if mime in output.get("data", {})), "")
    return {"mime": mime, **read.get("picture", {})} if mime else None


def record_user_cell(cell: NotebookNode) -> None:
    """Record what the model reads of a user's cell."""
    facts = cell.metadata[KEY]
    shown = describe_outputs(cell.outputs)
    most = MAX_CHARACTERS if (given := facts.get("given")) else MAX_READ_OF_ONE
    code, text = (cut(each, most) for each in (cell.source, shown["text"]))
    said = [f"[{n} earlier cells of mine are left out]"] if (n := facts.get("left_out")) else []
    said += [_NEW] if facts.get("fresh") else []
    ran = [text.removeprefix("Output:\n")] if given else ["I ran:", fenced(code), text]
    text = "\n".join([*said, *ran])
    pictures = shown["pictures"][: facts.get("pictures", MAX_PICTURES)]
    facts["shown"] = {"text": "" if facts.get("unread") else text, "pictures": pictures}


def _fitted(mime: str, data: str) -> dict[str, Any]:
    """Make a picture small enough for a model; else return the reason as ``why``."""
    try:
        fitted = json.loads(cleaned("picture", f"data:{mime};base64,{data}"))
    except NotShown:
        fitted = "that takes too much to decode"
    return fitted if isinstance(fitted, dict) else {"why": str(fitted)}


def _text_of(output: NotebookNode) -> str:
    match output.output_type:
        case "stream":
            text = cut(output.text, MAX_LOOKED_AT)
        case "error":
            text = "\n".join(brief(output.traceback)) or f"{output.ename}: {output.evalue}"
        case _:
            read = output.metadata.get(KEY, {}).get("text", output.data.get("text/plain", ""))
            text = cut(read, MAX_LOOKED_AT)
    return _OVERWRITTEN.sub("", ANSI.sub("", text))


def brief(traceback: list[str]) -> list[str]:
    """Keep the frames of cells and of the user's own files, without those of libraries."""
    own = [frame for frame in traceback[:-1] if not _OF_A_LIBRARY.match(ANSI.sub("", frame))]
    return [*own, *traceback[-1:]]


def cut(text: str, max_characters: int) -> str:
    """Keep the beginning and the end of a long text."""
    if len(text) <= max_characters:
        return text
    half = max_characters // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[… {left_out:,} characters left out …]\n{text[-half:]}"


def output_of_picture(cell: NotebookNode, picture: dict[str, Any]) -> NotebookNode | None:
    """Find the output that a picture is in; None if the user has cleared the cell."""
    outputs: list[NotebookNode] = cell.get("outputs", [])
    return outputs[picture["output"]] if picture["output"] < len(outputs) else None
