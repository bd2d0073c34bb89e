"""The reply protocol: what a model is sent, what it streams back, and how its reply is read.

A message is OpenAI's chat form, which every adapter can send or translate. A reply is Markdown:
prose, then at most one fenced ``python`` block. A reply without that block is the answer.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, NotRequired, Protocol, TypedDict

__all__ = ["Delta", "Message", "Model", "Part", "ReplyReader", "Usage", "fenced"]


class ImageURL(TypedDict):
    """Where an image is: here always a ``data:`` URL."""

    url: str


class Part(TypedDict):
    """One piece of a message's content: text, or an image."""

    type: Literal["text", "image_url"]
    text: NotRequired[str]
    image_url: NotRequired[ImageURL]


class Message(TypedDict):
    """One turn of the talk between us and a model."""

    role: Literal["system", "user", "assistant"]
    content: str | list[Part]


@dataclass(frozen=True, slots=True)
class Usage:
    """What one reply cost, as the server counted it: tokens, and US dollars where it says so."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    cost: float | None = None

    @property
    def total(self) -> int:
        """What is paid for: tokens read and written."""
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a reply as it streams in: some text, or the bill at its end."""

    text: str = ""
    usage: Usage | None = None


class Model(Protocol):
    """Anything that streams a reply to messages.

    The iterator ends when the reply is whole. A reply that broke off raises `ModelError`, so that
    half a block of code is never taken for a whole one. Closing it early stops the generation.
    """

    name: str

    async def check(self) -> None:
        """Raise `UsageError` if it is plain already that no reply will come; spend nothing."""
        ...

    def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        """Yield the reply to ``messages`` piece by piece."""
        ...


_OPENING = re.compile(r"^ {0,3}(?P<fence>`{3,}|~{3,})[ \t]*(?P<label>[^\s`]*)[^`]*$")
_MAYBE_FENCE = re.compile(r"^ {0,3}(`{1,2}$|~{1,2}$|`{3}|~{3}|$)")
_PYTHON = {"python", "python3", "py", "ipython"}


class ReplyReader:
    """Split a reply into prose and code while its text arrives.

    `prose` and `code` are what may be shown now: a line that could still turn out to be a fence
    is held back until it is whole. `code` is None until a ``python`` block opens.
    """

    def __init__(self) -> None:
        self.closed = False
        self._prose: list[str] = []
        self._code: list[str] | None = None
        self._fence = ""  # what opened the ``python`` block
        self._aside = ""  # what opened a block of another language, which is prose
        self._rest = ""  # the last line, not whole yet

    @property
    def prose(self) -> str:
        """The prose so far."""
        lines = [*self._prose]
        if self._code is None and not _MAYBE_FENCE.match(self._rest):
            lines.append(self._rest)
        return "\n".join(lines).strip()

    @property
    def code(self) -> str | None:
        """The code so far; None while there is none."""
        if self._code is None:
            return None
        lines = [*self._code]
        if not self.closed and not _MAYBE_FENCE.match(self._rest):
            lines.append(self._rest)
        return "\n".join(lines).rstrip().lstrip("\n")

    def feed(self, text: str) -> bool:
        """Read more text; return whether the reply is over because more follows its block."""
        if self.closed:
            return bool(text.strip())
        self._rest += text
        while "\n" in self._rest and not self.closed:
            line, self._rest = self._rest.split("\n", 1)
            self._read(line.rstrip("\r"))
        return bool(self.closed) and bool(self._rest.strip())

    def close(self) -> None:
        """Read what is left when the reply has ended; a block left open counts as closed."""
        if not self.closed:
            self._read(self._rest.rstrip("\r"))
            self._rest = ""
            self.closed = True

    def _read(self, line: str) -> None:
        if self._code is not None:
            if _closes(line, self._fence) and not _ends_in_string("\n".join(self._code)):
                self.closed = True
            else:
                self._code.append(line)
        elif self._aside:
            self._prose.append(line)
            if _closes(line, self._aside):
                self._aside = ""
        elif (opening := _OPENING.match(line)) and opening["label"].lower() in _PYTHON:
            self._fence, self._code = opening["fence"], []
        else:
            self._prose.append(line)
            self._aside = opening["fence"] if opening else ""


def _closes(line: str, fence: str) -> bool:
    """Tell whether a line closes the block that ``fence`` opened (CommonMark 4.5)."""
    line = line.strip()
    return len(line) >= len(fence) and set(line) == {fence[0]}


def _ends_in_string(code: str) -> bool:
    """Tell whether code ends inside a triple-quoted string, where a fence is only text."""
    try:
        for _ in tokenize.generate_tokens(io.StringIO(code).readline):
            pass
    except tokenize.TokenError as error:
        return "multi-line string" in error.args[0] or "triple-quoted" in error.args[0]
    except SyntaxError:
        pass
    return False


def fenced(code: str, language: str = "python") -> str:
    """Put code in a block whose fence is longer than any in it."""
    runs = re.findall(r"`{3,}", code)
    fence = "`" * max([3, *(len(run) + 1 for run in runs)])
    return f"{fence}{language}\n{code}\n{fence}"
