"""The reply protocol's types: what a model is sent, and what it streams back.

A run is told as turns: what the user said, what the model replied, what came out. They are put to
a model in one of two forms. As text, a reply is Markdown: prose, then at most one fenced
``python`` block. As tool, the code is the argument of a native call. In both a reply without code
is the answer. A message is OpenAI's chat form, which every adapter can send or translate.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, Protocol, TypedDict

__all__ = [
    "TOOL",
    "Call",
    "Cell",
    "Delta",
    "Form",
    "Kept",
    "Message",
    "Model",
    "Part",
    "Replied",
    "Said",
    "ToolCall",
    "Turn",
    "Usage",
    "add_calls",
    "add_text",
    "as_calls",
    "as_text",
    "fenced",
    "number",
]

Form = Literal["text", "tool"]

TOOL: dict[str, Any] = {
    "name": "python",
    "description": "Run Python code as the next cell of the notebook and read what it puts out.",
    "parameters": {
        "type": "object",
        "properties": {"code": {"type": "string", "description": "The cell's source."}},
        "required": ["code"],
        "additionalProperties": False,
    },
}


# -- what a run is, told to no model in particular


class ImageURL(TypedDict):
    """Where an image is: here always a ``data:`` URL."""

    url: str


class Part(TypedDict):
    """One piece of a message's content: text, or an image."""

    type: Literal["text", "image_url"]
    text: NotRequired[str]
    image_url: NotRequired[ImageURL]


class Kept(TypedDict):
    """What a model wants back as it gave it, such as its signed thoughts, and whose it is."""

    by: str
    items: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Said:
    """What the user said, or we did."""

    text: str
    pictures: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """Code of a reply, and what the model reads of its outputs."""

    code: str
    call: str
    text: str
    pictures: tuple[Part, ...] = ()
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class Replied:
    """What the model replied: prose, and the cells it wrote."""

    prose: str
    cells: tuple[Cell, ...] = ()
    kept: Kept | None = None


Turn = Said | Replied


# -- what a model is sent


class Function(TypedDict):
    """What a call names, and its arguments as JSON."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A native call in a message; ``kept`` is sent by the adapter that knows it."""

    id: str
    type: Literal["function"]
    function: Function
    kept: NotRequired[Kept]


class Message(TypedDict):
    """One turn of the talk between us and a model."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[Part]
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]
    kept: NotRequired[Kept]


def as_text(turns: Iterable[Turn]) -> list[Message]:
    """Write turns as Markdown; a longer run's messages begin with a shorter one's."""
    messages: list[Message] = []
    for turn in turns:
        add_text(messages, turn)
    return messages


def add_text(messages: list[Message], turn: Turn) -> None:
    """Add a turn to messages as Markdown; of those only the last may be put anew."""
    match turn:
        case Said(text, pictures):
            _say(messages, "user", text, pictures)
        case Replied(prose, cells):
            if prose or not cells:
                _say(messages, "assistant", prose)
            for cell in cells:
                _say(messages, "assistant", fenced(cell.code))
                _say(messages, "user", cell.text, cell.pictures)


def as_calls(turns: Iterable[Turn]) -> list[Message]:
    """Write turns with native calls, each with its result; pictures follow in a user message."""
    messages: list[Message] = []
    for turn in turns:
        add_calls(messages, turn)
    return messages


def add_calls(messages: list[Message], turn: Turn) -> None:
    """Add a turn to messages with native calls; of those only the last may be put anew."""
    match turn:
        case Said(text, pictures):
            _say(messages, "user", text, pictures)
        case Replied(prose, cells, kept):
            reply = Message(role="assistant", content=prose)
            if cells:
                reply["tool_calls"] = [_call(cell) for cell in cells]
            if kept:
                reply["kept"] = kept
            messages.append(reply)
            for cell in cells:
                result = Message(role="tool", content=cell.text, tool_call_id=cell.call)
                messages.append(result)
            if drawn := [picture for cell in cells for picture in cell.pictures]:
                _say(messages, "user", "The pictures among these outputs:", drawn)


def _call(cell: Cell) -> ToolCall:
    arguments = json.dumps({"code": cell.code}, ensure_ascii=False)
    function = Function(name=TOOL["name"], arguments=arguments)
    call = ToolCall(id=cell.call, type="function", function=function)
    if cell.kept:
        call["kept"] = cell.kept
    return call


def _say(
    messages: list[Message],
    role: Literal["user", "assistant"],
    text: str,
    pictures: Iterable[Part] = (),
) -> None:
    """Add to the talk; neighbours of one role become one message, as strict servers want."""
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


# -- what a model streams back


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one reply cost, as the server counted them, and its price where it says it."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    cost: float | None = None  # US dollars

    @classmethod
    def told(cls, prompt: object, completion: object, cached: object, cost: object = None) -> Usage:
        """Read what a server says; what is no number counts nothing."""
        read, written, kept = (int(number(n) or 0) for n in (prompt, completion, cached))
        return cls(read, written, kept, number(cost))

    @property
    def total(self) -> int:
        """What is paid for: tokens read and written."""
        return self.prompt + self.completion


def number(value: object) -> float | None:
    """Read a count or a price that somebody else wrote; None if it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < _MOST else None


_MOST = 1e12  # of anything that is counted or paid


@dataclass(frozen=True, slots=True)
class Call:
    """A piece of a native call: which of the reply's calls, and more of its arguments.

    ``name`` is whole in the piece in which it comes.
    """

    index: int
    id: str = ""
    arguments: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a reply as it streams in: text, a call, its end or its bill.

    What is ``kept`` belongs to the call that comes with it, or else to what comes next.
    ``thought`` counts characters that are paid for and no part of the reply. ``refusal`` is a
    piece of the words by which the model declines to reply. ``end`` says why the reply ended, in
    the server's own word, whatever that is: `jupyter_agent.models.stop_reasons` says what it
    means. It is empty where the server marks the end and gives no reason, and comes at most once;
    the bill may follow it.
    """

    text: str = ""
    usage: Usage | None = None
    call: Call | None = None
    kept: dict[str, Any] | None = None
    thought: int = 0
    refusal: str = ""
    end: str | None = None


class Model(Protocol):
    """Anything that streams a reply to messages.

    One of its deltas says how the reply ended, and only some ends make it whole. A reply that
    broke off without an end raises `ModelError`, so that half a block of code is never taken for a
    whole one. Closing the iterator early stops the generation.
    """

    name: str
    window: int | None  # tokens of the messages and the reply together, as far as it is known

    @property
    def form(self) -> Form:
        """How it is asked to reply; either form of reply is understood."""
        ...

    async def check(self) -> None:
        """Raise `UsageError` if it is plain already that no reply will come; spend nothing."""
        ...

    def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        """Yield the reply to ``messages`` piece by piece."""
        ...


def fenced(code: str, language: str = "python") -> str:
    """Put code in a block whose fence is longer than any in it."""
    runs = re.findall(r"`{3,}", code)
    fence = "`" * max([3, *(len(run) + 1 for run in runs)])
    return f"{fence}{language}\n{code}\n{fence}"
