"""What can go wrong on our side, as one tree.

::

    AgentError
    ├── UsageError         what was asked for cannot be done as typed; nothing was started or spent
    ├── SandboxError       the sandbox could not start or is gone
    ├── ModelError         the model could not be asked, or its reply could not be used
    ├── TranscriptError    a notebook could not be read or written
    ├── ResultError        a result that was asked for did not come out
    ├── LimitReached       a run used up its steps, its time or its tokens
    ├── Interrupted        the user stopped a run
    └── CodeError          code that the user ran in the sandbox raised

An error of the agent's own code is none of these: it is an output of its cell.
"""

from __future__ import annotations

__all__ = [
    "AgentError",
    "CodeError",
    "Interrupted",
    "LimitReached",
    "ModelError",
    "ResultError",
    "SandboxError",
    "TranscriptError",
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


class ModelError(AgentError):
    """The model could not be asked, or its reply could not be used."""


class TranscriptError(AgentError):
    """A notebook could not be read or written."""


class ResultError(AgentError):
    """A run ended without a result that was asked for, or with one that cannot cross."""


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
