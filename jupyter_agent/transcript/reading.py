"""Turn the notebook's cells into turns, and turns into the messages that a model reads.

A turn is what the user said or what the model replied, independent of the form of the messages. In
the form "text" a reply is Markdown with fenced blocks; in the form "tool" its code is in native
calls. In both forms the messages of a longer notebook begin with those of a shorter one.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from jupyter_agent._nbformat import NotebookNode
from jupyter_agent.models.protocol import (
    TOOL,
    Form,
    Function,
    Kept,
    Message,
    Part,
    ToolCall,
    fenced,
)
from jupyter_agent.transcript.incremental import Fingerprint, IncrementalList, fingerprints_of
from jupyter_agent.transcript.metadata import facts_of
from jupyter_agent.transcript.shown_outputs import describe_outputs, output_of_picture

__all__ = ["MessageWriter"]

_DELETED = "[I deleted a cell of yours that stood here, with its outputs]"


@dataclass(frozen=True, slots=True)
class UserTurn:
    """A text for the model, from the user or from this program."""

    text: str
    pictures: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class ExecutedCode:
    """A code cell of a reply, and what the model reads of its outputs."""

    code: str
    call: str
    text: str
    pictures: tuple[Part, ...] = ()
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class ModelTurn:
    """A reply of the model: prose and code."""

    prose: str
    ran: tuple[ExecutedCode, ...] = ()
    kept: Kept | None = None


Turn = UserTurn | ModelTurn


class MessageWriter:
    """Writes cells as messages; reuses the messages of cells that have not changed."""

    def __init__(self) -> None:
        self._turns = {
            with_pictures: IncrementalList(
                functools.partial(_add_turn, with_pictures=with_pictures)
            )
            for with_pictures in (True, False)
        }
        self._messages = {"text": IncrementalList(_add_text), "tool": IncrementalList(_add_calls)}

    def messages(
        self,
        cells: Sequence[NotebookNode],
        form: Form,
        *,
        with_pictures: bool,
        fingerprints: Sequence[Fingerprint] | None = None,
    ) -> list[Message]:
        """Write cells as messages, except those whose run was replaced.

        Parameters
        ----------
        fingerprints
            The cells' fingerprints, if the caller has them already.
        """
        pairs = zip(cells, fingerprints or fingerprints_of(cells), strict=True)
        read = [(cell, mark) for cell, mark in pairs if not mark[-1]]
        turns = self._turns[with_pictures].of(
            [cell for cell, _ in read], [mark for _, mark in read]
        )
        return self._messages[form].of(turns, turns)


# -- cells as turns


def _add_turn(
    turns: list[Turn], cells: Sequence[NotebookNode], index: int, *, with_pictures: bool
) -> None:
    """Add a cell: as a turn of its own, or to the turn of its reply."""
    cell = cells[index]
    facts = facts_of(cell)
    role = facts.get("role")
    match role:
        case _ if facts.get("deleted"):  # said once, in the place of code and outputs
            turns += [UserTurn(_DELETED)] if role == "code" else []
        case "task":
            note = [facts["note"]] if facts.get("note") else []
            turns.append(UserTurn("\n\n".join([cell.source, *note])))
        case "prose":
            turns.append(ModelTurn(cell.source, kept=facts.get("kept")))
        case "code":
            if not _continues_reply(cells, index):
                turns.append(ModelTurn(""))
            reply = turns[-1]
            assert isinstance(reply, ModelTurn)
            turns[-1] = replace(reply, ran=(*reply.ran, _executed_code(cell, facts, with_pictures)))
        case "own":
            if facts["shown"]["text"]:  # empty if there was no room for it
                turns.append(UserTurn(*_shown(cell, facts["shown"], with_pictures)))
        case "end":
            turns.append(ModelTurn(cell.source))
        case _ if cell.cell_type == "markdown":
            turns.append(UserTurn(cell.source))


def _continues_reply(cells: Sequence[NotebookNode], index: int) -> bool:
    """Tell whether a code cell belongs to the same reply as the cell before it."""
    facts, before = facts_of(cells[index]), facts_of(cells[index - 1]) if index else {}
    is_reply = before.get("role") in ("prose", "code") and not before.get("deleted")
    return is_reply and before.get("step") is not None and before["step"] == facts.get("step")


def _executed_code(cell: NotebookNode, facts: dict[str, Any], with_pictures: bool) -> ExecutedCode:
    shown = facts.get("shown") or describe_outputs(cell.outputs)
    text, pictures = _shown(cell, shown, with_pictures)
    call = facts.get("call") or f"c{cell.id}"  # Mistral wants nine letters and digits
    return ExecutedCode(cell.source, call, text, pictures, kept=facts.get("kept"))


def _shown(
    cell: NotebookNode, shown: dict[str, Any], with_pictures: bool
) -> tuple[str, tuple[Part, ...]]:
    """Return what the model reads of outputs: text, and pictures or descriptions of them."""
    if with_pictures:
        return shown["text"], tuple(_pictures(cell, shown["pictures"]))
    return "\n".join([shown["text"], *map(_in_words, shown["pictures"])]), ()


def _pictures(cell: NotebookNode, pictures: list[dict[str, Any]]) -> Iterable[Part]:
    """Yield the pictures that the model was given, from the metadata or from the outputs."""
    for picture in pictures:
        mime, data = picture["mime"], picture.get("data", "")
        if not data and (output := output_of_picture(cell, picture)):
            data = "".join(output.get("data", {}).get(mime, "").split())
        if data:
            yield Part(type="image_url", image_url={"url": f"data:{mime};base64,{data}"})


def _in_words(picture: dict[str, Any]) -> str:
    size = "x".join(map(str, picture.get("size", ())))
    return f"[a picture{f' of {size} px' * bool(size)}, which you cannot see]"


# -- turns as messages


def _add_text(messages: list[Message], turns: Sequence[Turn], index: int) -> None:
    """Add a turn as Markdown."""
    match turns[index]:
        case UserTurn(text, pictures):
            _say(messages, "user", text, pictures)
        case ModelTurn(prose, ran):
            if prose or not ran:
                _say(messages, "assistant", prose)
            for each in ran:
                _say(messages, "assistant", fenced(each.code))
                _say(messages, "user", each.text, each.pictures)


def _add_calls(messages: list[Message], turns: Sequence[Turn], index: int) -> None:
    """Add a turn with native calls, each with its result; pictures follow in a user message."""
    match turns[index]:
        case UserTurn(text, pictures):
            _say(messages, "user", text, pictures)
        case ModelTurn(prose, ran, kept):
            reply = Message(role="assistant", content=prose)
            if ran:
                reply["tool_calls"] = [_call(each) for each in ran]
            if kept:
                reply["kept"] = kept
            messages.append(reply)
            for each in ran:
                result = Message(role="tool", content=each.text, tool_call_id=each.call)
                messages.append(result)
            if drawn := [picture for each in ran for picture in each.pictures]:
                _say(messages, "user", "The pictures among these outputs:", drawn)


def _call(ran: ExecutedCode) -> ToolCall:
    arguments = json.dumps({"code": ran.code}, ensure_ascii=False)
    function = Function(name=TOOL["name"], arguments=arguments)
    call = ToolCall(id=ran.call, type="function", function=function)
    if ran.kept:
        call["kept"] = ran.kept
    return call


def _say(
    messages: list[Message],
    role: Literal["user", "assistant"],
    text: str,
    pictures: Iterable[Part] = (),
) -> None:
    """Add a message; join it to one of the same role before it, as strict servers require."""
    pictures = list(pictures)
    content: str | list[Part]
    if not messages or messages[-1]["role"] != role:
        content = [Part(type="text", text=text), *pictures] if pictures else text
        messages.append(Message(role=role, content=content))
        return
    before = messages[-1]["content"]
    if isinstance(before, str) and not pictures:
        content = f"{before}\n\n{text}"
    else:
        parts = [Part(type="text", text=before)] if isinstance(before, str) else before
        content = [*parts, Part(type="text", text=text), *pictures]
    messages[-1] = Message(role=role, content=content)
