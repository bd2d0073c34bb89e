"""Carry a run out in a thread, while the user's own cells run (``--background``)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from jupyter_agent.frontends.event_loop import shared_loop

if TYPE_CHECKING:
    from jupyter_agent.transcript.notebook import Change

__all__ = ["BackgroundRun", "LaterView"]


class _View(Protocol):
    """Shows a run."""

    def __call__(self, change: Change) -> None:
        """Show a change."""
        ...

    def finish(self, state: str, why: str = "") -> None:
        """Say how the run ended."""
        ...


class LaterView:
    """Shows the answer where the user waits for it, not where the run ended.

    A front end without our page shows what a thread prints below whatever cell runs then.
    """

    def __init__(self, view: _View) -> None:
        self._view = view
        self._end: tuple[str, str] | None = None

    def __call__(self, change: Change) -> None:
        """Remember a cell that may be the answer."""
        self._view(change)

    def finish(self, state: str, why: str = "") -> None:
        """Remember how the run ended."""
        self._end = (state, why)

    def show(self) -> None:
        """Show the answer, once."""
        if self._end:
            self._view.finish(*self._end)
            self._end = None


class BackgroundRun:
    """A run that goes on in a thread of its own.

    Parameters
    ----------
    work
        Carries the run out; it calls its argument when the run has begun.
    view
        Shows the run.
    """

    def __init__(self, work: Callable[[Callable[[], None]], None], view: _View) -> None:
        self._work, self._view = work, view
        self._begun, self._ended = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._carry_out, name="agent run", daemon=True)

    @property
    def run(self) -> str:
        """The id of the run, where a page shows it."""
        return str(getattr(self._view, "run", ""))

    def start(self) -> None:
        """Start the run; return when it has begun, and raise what it ended with before."""
        self._thread.start()
        try:
            self._begun.wait()
        except KeyboardInterrupt:
            self.stop()
            self.wait()
        if self._ended.is_set():
            self.wait()

    def wait(self) -> None:
        """Wait for the end; show the answer, or raise the run's error, once.

        An interrupt ends the wait, and the run goes on.
        """
        self._ended.wait()
        if isinstance(self._view, LaterView):
            self._view.show()
        error, self._error = self._error, None
        if error:
            raise error

    def stop(self) -> bool:
        """Stop the run; return whether it went on."""
        return not self._ended.is_set() and shared_loop().stop(self._thread.ident)

    def _carry_out(self) -> None:
        try:
            self._work(self._begun.set)
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()
            self._begun.set()
