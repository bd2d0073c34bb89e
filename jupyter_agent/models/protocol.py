"""The types of the reply protocol: messages to a model, and the deltas that it streams back.

A model replies in one of two forms. In the form "text", a reply is Markdown: prose, then at most
one fenced ``python`` block. In the form "tool", the code is the argument of a native call. In both,
a reply without code is the answer. Messages have OpenAI's chat form, which every adapter can send
or translate.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, Protocol, TypedDict

__all__ = [
    "TOOL",
    "Call",
    "Delta",
    "Form",
    "Function",
    "Kept",
    "Message",
    "Model",
    "Part",
    "ToolCall",
    "Usage",
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


# -- messages to a model


class ImageURL(TypedDict):
    """The URL of an image: here always a ``data:`` URL."""

    url: str


class Part(TypedDict):
    """One piece of a message's content: text, or an image."""

    type: Literal["text", "image_url"]
    text: NotRequired[str]
    image_url: NotRequired[ImageURL]


class Kept(TypedDict):
    """Data that a model wants back unchanged, such as signed thoughts, and that model's name."""

    by: str
    items: list[dict[str, Any]]


class Function(TypedDict):
    """The name of a called function, and its arguments as JSON."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A native call in a message; ``kept`` is sent by the adapter that knows it."""

    id: str
    type: Literal["function"]
    function: Function
    kept: NotRequired[Kept]


class Message(TypedDict):
    """One message of the conversation with a model."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[Part]
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]
    kept: NotRequired[Kept]


# -- deltas from a model


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one reply cost, as the server counted them, and its price where it says it."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    cost: float | None = None  # US dollars

    @classmethod
    def told(cls, prompt: object, completion: object, cached: object, cost: object = None) -> Usage:
        """Read a server's counts; a value that is not a number counts as 0."""
        read, written, kept = (int(number(n) or 0) for n in (prompt, completion, cached))
        return cls(read, written, kept, number(cost))

    @property
    def total(self) -> int:
        """Tokens read and written."""
        return self.prompt + self.completion


def number(value: object) -> float | None:
    """Read a count or a price from a server or a file; None if it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < _MOST else None


_MOST = 1e12  # of all counts and prices


@dataclass(frozen=True, slots=True)
class Call:
    """A piece of a native call: its index among the reply's calls, and more of its arguments.

    ``name`` comes complete in one piece.
    """

    index: int
    id: str = ""
    arguments: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a reply as it streams in: text, a call, its end or its usage.

    ``kept`` belongs to the call that comes with it, or else to what comes next. ``thought`` counts
    characters that are paid for and are not part of the reply. ``refusal`` is a piece of the text
    with which the model declines. ``end`` is the server's own stop reason; `stop_reasons` says what
    it means. It is empty if the server marks the end without a reason, and comes at most once; the
    usage may follow it.
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

    One of the deltas has the stop reason, and only some reasons mean that the reply is complete. A
    reply that breaks off without one raises `ModelError`, so that half a block of code is never
    run. Closing the iterator early stops the generation.
    """

    name: str
    window: int | None  # tokens of messages and reply together, if known

    @property
    def form(self) -> Form:
        """The form in which it is asked to reply; both forms of reply are understood."""
        ...

    async def check(self) -> None:
        """Raise `UsageError` if it is certain that no reply will come; spend nothing."""
        ...

    def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        """Yield the reply to ``messages`` piece by piece."""
        ...


def fenced(code: str, language: str = "python") -> str:
    """Put code in a block whose fence is longer than any in it."""
    runs = re.findall(r"`{3,}", code)
    fence = "`" * max([3, *(len(run) + 1 for run in runs)])
    return f"{fence}{language}\n{code}\n{fence}"
