"""Decide whether to ask for a reply again after a fault that may pass (a 429), and when."""

from __future__ import annotations

import asyncio
import random

from jupyter_agent.errors import ModelError

__all__ = ["Retries"]

_MAX_WAIT = 30.0  # seconds, unless the server asks for more


class Retries:
    """The retries of one reply.

    Parameters
    ----------
    limit
        Maximum number of retries.
    seconds
        Seconds from now in which a retry may begin.
    first_wait
        Seconds before the first retry; doubled before each further one.
    """

    def __init__(self, limit: int, *, seconds: float, first_wait: float) -> None:
        self._left = limit
        self._latest = asyncio.get_running_loop().time() + seconds
        self._wait = first_wait

    def next_wait(self, error: ModelError) -> float | None:
        """Return how many seconds to wait before the next retry; None if there is none."""
        wait = self._wait_after(error)
        late = asyncio.get_running_loop().time() + wait > self._latest
        if not error.passing or not self._left or late:
            return None
        self._left -= 1
        self._wait *= 2
        return wait

    def _wait_after(self, error: ModelError) -> float:
        """Return a wait: what the server asks for, or longer each time; with a random part."""
        if error.retry_after is not None:
            return error.retry_after * random.uniform(1, 1.1)
        return min(self._wait, _MAX_WAIT) * random.uniform(0.5, 1)
