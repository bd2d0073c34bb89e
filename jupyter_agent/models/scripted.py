"""A model that replies from a file: for tests, demos and lessons.

The file is Markdown with a line ``<!-- next reply -->`` between two replies. Each run starts with
the first reply.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from pathlib import Path

from jupyter_agent.errors import ModelError, UsageError
from jupyter_agent.models.parser import ReplyReader
from jupyter_agent.models.protocol import Delta, Form, Message

__all__ = ["ScriptedModel"]

_SEPARATOR = re.compile(r"^<!-- next reply -->[ \t]*$\n?", re.MULTILINE)
_PIECE = re.compile(r"\s*\S+\s?|\s+")  # about a token


class ScriptedModel:
    """Replies with prepared texts, one after another."""

    form: Form = "text"
    window: int | None = None

    def __init__(self, replies: list[str], *, name: str = "scripted") -> None:
        self.name = name
        self._replies = replies
        self._next = 0

    @classmethod
    def load(cls, path: str) -> ScriptedModel:
        """Read a script.

        Raises
        ------
        UsageError
            The file cannot be read, or its last reply is not an answer, so that a run would ask
            for one more reply than there is.
        """
        try:
            file = Path(path).expanduser()
            if file.exists() and not file.is_file():  # a pipe or a device may never end
                raise UsageError(f"cannot read the script {path!r}: it is no regular file")
            text = file.read_text(encoding="utf-8")
        except (OSError, RuntimeError, UnicodeError) as error:  # or a ~ of no user
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot read the script {path!r}: {reason}") from None
        replies = [reply.strip("\n") for reply in _SEPARATOR.split(text)]
        reader = ReplyReader()
        reader.feed(replies[-1])
        reader.close()
        if reader.code is not None or not replies[-1].strip():
            raise UsageError(
                f"the script {path!r} has too few replies: the last of its {len(replies)} must be "
                "an answer, without a python block"
            )
        return cls(replies, name=f"scripted:{path}")

    async def check(self) -> None:
        """Do nothing: the script was read already."""

    async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:  # noqa: ARG002
        """Yield the next reply word by word; the messages are ignored."""
        if self._next >= len(self._replies):
            raise ModelError(
                f"{self.name} has {len(self._replies)} replies and was asked for one more; "
                "end it with an answer, without a python block"
            )
        reply = self._replies[self._next]
        self._next += 1
        for piece in _PIECE.findall(reply):
            yield Delta(piece)
        yield Delta(end="stop")
