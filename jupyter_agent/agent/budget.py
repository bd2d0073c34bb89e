"""Limit the seconds and tokens of a run, and count what it has used."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, replace
from typing import Any, TypeVar

from jupyter_agent.agent.reply import Reply
from jupyter_agent.agent.summary import CHARACTERS_A_TOKEN
from jupyter_agent.errors import LimitReached
from jupyter_agent.models.protocol import Usage
from jupyter_agent.transcript.usage import TotalUsage

__all__ = ["Deadline", "TokenBudget"]

T = TypeVar("T")


class Deadline:
    """The time at which a run has to end.

    Parameters
    ----------
    seconds
        Counted from now; 0 for no limit.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = asyncio.get_running_loop().time() + seconds if seconds else math.inf

    @contextlib.asynccontextmanager
    async def within(
        self, seconds: float = math.inf, error: Exception | None = None
    ) -> AsyncGenerator[None, None]:
        """Limit the time of what is inside to the rest of the run's time, or to fewer seconds.

        Raises
        ------
        LimitReached
            The run's time is up. After ``seconds``, ``error`` is raised instead.
        """
        loop = asyncio.get_running_loop()
        until = min(self._end, loop.time() + seconds)
        try:
            async with asyncio.timeout_at(None if until == math.inf else until):
                yield
            if loop.time() < until:  # the loop does not time out what never waits
                return
        except TimeoutError:
            if loop.time() < until:
                raise
        if error and until != self._end:
            raise error
        raise LimitReached(
            f"no answer after {self._seconds:g} s; raise --timeout (c.Agent.max_seconds)"
        )

    async def iterate(self, source: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """Iterate until the run's time is up; the time between two steps is the reader's own."""
        async with aclosing(source):
            while True:
                async with self.within():
                    try:
                        item = await anext(source)
                    except StopAsyncIteration:
                        return
                yield item


class TokenBudget:
    """The tokens that a run has used, their limit, and costs that no cell records yet.

    Parameters
    ----------
    limit
        Maximum number of tokens; 0 for no limit.
    """

    def __init__(self, limit: int) -> None:
        self.used = TotalUsage()
        self.limit = limit
        self.asked, self.written = 0, 0  # estimates of the try that goes on, until it is recorded
        self._tries: list[dict[str, Any]] = []  # the costs that no cell records yet

    def check(self, asked: int, written: int = 0) -> None:
        """Note the size of a request and of its reply so far.

        Raises
        ------
        LimitReached
            The run would need more tokens than its limit.
        """
        self.asked, self.written = asked, written
        if self.limit and self.used.tokens + asked + written > self.limit:
            raise LimitReached(
                f"{self.used.tokens:,} of {self.limit:,} tokens are used and the next reply "
                f"needs at least {asked + written:,}; raise --budget (c.Agent.token_budget)"
            )

    def spend(self, reply: Reply, *, whole: bool) -> None:
        """Record the cost of a try once, as counted by the server or else estimated.

        A reply that broke off, or was empty, is paid for, too.
        """
        asked, self.asked, self.written = self.asked, 0, 0
        if not asked or not (whole or reply.begun):
            return
        usage = reply.usage or Usage()
        counted = whole and usage.prompt > 0  # some servers report a count of 0
        if not counted:
            completion = max(usage.completion, reply.paid // CHARACTERS_A_TOKEN)
            usage = replace(usage, prompt=usage.prompt or asked, completion=completion)
        known = {name: value for name, value in asdict(usage).items() if value is not None}
        self._tries.append(known | ({} if counted else {"estimated": True}))
        self.used.add({"usage": self._tries[-1]})

    def take(self) -> dict[str, Any]:
        """Return the cost of the last try, and of the failed ones before it, for its cell."""
        return {"usage": self._tries.pop(), **self.take_failed()}

    def take_failed(self) -> dict[str, Any]:
        """Return the cost of failed tries, for the cell that replaces them."""
        failed, self._tries = self._tries, []
        return {"failed": failed} if failed else {}
