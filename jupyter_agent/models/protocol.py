"""The reply protocol's types: what a model is sent, and what it streams back.

A model is asked in one of two forms. As text, a reply is Markdown: prose, then at most one fenced
``python`` block. As tool, the code is the argument of a native call. In both a reply without code
is the answer. A message is OpenAI's chat form, which every adapter can send or translate.
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


# -- what a model is sent


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
