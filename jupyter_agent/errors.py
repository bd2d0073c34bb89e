"""All errors of this package, as one tree.

::

    AgentError
    ├── UsageError         a request cannot be carried out as typed; nothing was started or spent
    │   └── NoModel        no model is named or configured
    ├── SandboxError       the sandbox could not start, or has ended
    ├── ModelError         the model could not be asked, or its reply could not be used
    ├── TranscriptError    a notebook could not be read or written
    │   └── Unsaved        a run has its answer, but its file could not be written
    ├── ResultError        a result of a run is missing
    ├── LimitReached       a run used up its steps, its time or its tokens
    ├── Interrupted        the user stopped a run
    ├── CodeError          code that the user ran in the sandbox raised
    └── Defect             an unexpected error: a bug in this package

An error in the agent's own code is not one of these: it is an output of its cell.
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
    "NoModel",
    "ResultError",
    "SandboxError",
    "TranscriptError",
    "Unsaved",
    "UsageError",
]


class AgentError(Exception):
    """Base class of this package's errors: one line that says what failed and what to do next."""

    def _render_traceback_(self) -> list[str]:
        """Show one line in IPython: the frames are of this package and would not help the user."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(AgentError):
    """A request cannot be carried out as typed; nothing was started or spent."""


class NoModel(UsageError):
    """No model is named or configured; front ends show what could be."""


class SandboxError(AgentError):
    """The sandbox could not start, or has ended."""


Kind = Literal[
    "auth",  # the key is missing, wrong or not sufficient
    "quota",  # the account's money or daily limit is used up
    "bad_request",  # the server cannot carry out the request
    "context",  # the messages are longer than the model's context window
    "rate_limit",  # too many requests
    "server",  # the server failed or is overloaded
    "network",  # the connection could not be made, or broke
    "timeout",  # the reply took too long
    "truncated",  # the reply ended before it was complete
    "refused",  # the model, or a filter of its service, declined to reply
    "protocol",  # the server's data break its protocol
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
        The server's own message, uncut.
    passing
        Whether another try may succeed; None to decide by the kind.
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
    """A run has its answer, but its file could not be written."""


class ResultError(AgentError):
    """A run ended without one of its results, or with one that cannot be copied out."""


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
    """An unexpected error, in one line: a bug in this package."""

    @classmethod
    def of(cls, error: BaseException, more: str) -> Self:
        """Describe what was raised and where.

        Parameters
        ----------
        more
            Where the user finds the traceback.
        """
        frames = traceback.extract_tb(error.__traceback__)
        where = next((f for f in reversed(frames) if "jupyter_agent" in f.filename), None)
        place = f" in {where.filename.rpartition('/')[2]}, line {where.lineno}" if where else ""
        said = "".join(c if c.isprintable() else " " for c in str(error))[:300].strip()
        what = f"unexpected {type(error).__name__}{place}{said and f': {said}'}"
        return cls(f"{what}; this is a bug in jupyter_agent; the cells so far are kept. {more}")
