"""All errors of this package, as one tree.

::

    AgentError
    ├── UsageError         what was asked for cannot be done as typed; nothing was started or spent
    ├── SandboxError       the sandbox could not start or is gone
    ├── ModelError         the model could not be asked, or its reply could not be used
    ├── TranscriptError    a notebook could not be read or written
    │   └── Unsaved        a run has its answer, and is not saved where it was to be
    ├── ResultError        a result that was asked for did not come out
    ├── LimitReached       a run used up its steps, its time or its tokens
    ├── Interrupted        the user stopped a run
    ├── CodeError          code that the user ran in the sandbox raised
    └── Defect             something that nobody has foreseen

An error of the agent's own code is none of these: it is an output of its cell.
"""

from __future__ import annotations

import traceback
from typing import Literal, Self

__all__ = [
    "AgentError",
    "CodeError",
    "Defect",
    "Interrupted",
    "Kind",
    "LimitReached",
    "ModelError",
    "ResultError",
    "SandboxError",
    "TranscriptError",
    "Unsaved",
    "UsageError",
]


class AgentError(Exception):
    """Anything this package raises on purpose: one line, what failed and what to do next."""

    def _render_traceback_(self) -> list[str]:
        """Show one line in IPython: the frames are ours and would tell the user nothing."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(AgentError):
    """What was asked for cannot be done as typed; nothing was started or spent."""


class SandboxError(AgentError):
    """The sandbox could not start or is gone."""


Kind = Literal[
    "auth",  # the key is missing, wrong or not allowed this
    "quota",  # the account's money, or what it may use in a day, is used up
    "bad_request",  # the server cannot do what it was asked
    "context",  # the messages do not fit the model's context window
    "rate_limit",  # too many requests
    "server",  # the server failed or is overloaded
    "network",  # the connection could not be made, or broke
    "timeout",  # the reply took too long
    "truncated",  # the reply ended before it was whole
    "refused",  # the model, or a filter of its service, declined to reply
    "protocol",  # what came is not what the wire protocol says
]


class ModelError(AgentError):
    """The model could not be asked, or its reply could not be used.

    Parameters
    ----------
    retry_after
        Seconds that the server asks to wait.
    window
        The model's context window in tokens, where a ``context`` error tells it.
    said
        What the server said, uncut.
    passing
        Whether asking again may help; None leaves it to the kind.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: Kind = "bad_request",
        retry_after: float | None = None,
        window: int | None = None,
        said: str = "",
        passing: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after = retry_after
        self.window = window
        self.said = said
        self.passing = (
            kind not in ("auth", "quota", "bad_request", "context", "refused")
            if passing is None
            else passing
        )


class TranscriptError(AgentError):
    """A notebook could not be read or written."""


class Unsaved(TranscriptError):
    """A run came to its answer, and is not saved where it was to be."""


class ResultError(AgentError):
    """A run ended without a result that was asked for, or with one that cannot be copied."""


class LimitReached(AgentError):
    """A run used up its steps, its time or its tokens before the model gave an answer."""


class Interrupted(AgentError):
    """The user stopped a run."""


class CodeError(AgentError):
    """Code that the user ran in the sandbox raised; shown with its own traceback."""

    def __init__(self, message: str, traceback: list[str]) -> None:
        super().__init__(message)
        self.traceback = traceback

    def _render_traceback_(self) -> list[str]:
        return self.traceback or super()._render_traceback_()


class Defect(AgentError):
    """Something that nobody has foreseen, in one line; it is ours to mend."""

    @classmethod
    def of(cls, error: BaseException, more: str) -> Self:
        """Say what was raised and where.

        Parameters
        ----------
        more
            Where the whole traceback is to be found.
        """
        frames = traceback.extract_tb(error.__traceback__)
        where = next((f for f in reversed(frames) if "jupyter_agent" in f.filename), None)
        place = f" in {where.filename.rpartition('/')[2]}, line {where.lineno}" if where else ""
        said = "".join(c if c.isprintable() else " " for c in str(error))[:300].strip()
        what = f"unexpected {type(error).__name__}{place}{said and f': {said}'}"
        return cls(f"{what}; this is a bug in jupyter_agent; the cells so far are kept. {more}")
