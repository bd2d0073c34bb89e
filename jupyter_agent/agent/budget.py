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
from jupyter_agent.agent.request import characters
from jupyter_agent.agent.summary import CHARACTERS_A_TOKEN
from jupyter_agent.errors import LimitReached
from jupyter_agent.models.protocol import Usage

__all__ = ["Deadline", "TokenBudget"]

T = TypeVar("T")


class Deadline:
    """When a run has to end.

    Parameters
    ----------
    seconds
        From this moment on; 0 for no limit.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = asyncio.get_running_loop().time() + seconds if seconds else math.inf

    @contextlib.asynccontextmanager
    async def within(
        self, seconds: float = math.inf, error: Exception | None = None
    ) -> AsyncGenerator[None, None]:
        """Give what is inside until the run's time is up, or so many seconds.

        Raises
        ------
        LimitReached
            The run's time is up; after ``seconds`` it is ``error``.
        """
        loop = asyncio.get_running_loop()
        until = min(self._end, loop.time() + seconds)
        try:
            async with asyncio.timeout_at(None if until == math.inf else until):
                yield
            if loop.time() < until:  # what never waits is not timed out by the loop
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
        """Iterate until the run's time is up; the reader's own time does not count as waiting."""
        async with aclosing(source):
            while True:
                async with self.within():
                    try:
                        item = await anext(source)
                    except StopAsyncIteration:
                        return
                yield item


class TokenBudget:
    """How many tokens a run has used, of how many, and what cost that no cell records yet.

    Parameters
    ----------
    limit
        Most tokens; 0 for no limit.
    """

    def __init__(self, limit: int) -> None:
        self.spent = 0
        self._limit = limit
        self._tries: list[dict[str, Any]] = []  # what each cost that no cell records yet

    def check(self, more: int) -> None:
        """Stop before a call that the budget does not cover, and in a reply that outgrows it."""
        if self._limit and self.spent + more > self._limit:
            raise LimitReached(
                f"{self.spent:,} of {self._limit:,} tokens are used and the next reply "
                f"needs at least {more:,}; raise --budget (c.Agent.token_budget)"
            )

    def spend(self, reply: Reply, *, whole: bool) -> None:
        """Record what a try cost, once, as counted by the server or else estimated.

        What broke off is paid for too, and what was empty.
        """
        messages, reply.asked = reply.asked, None
        if messages is None or not (whole or reply.begun):
            return
        usage = reply.usage or Usage()
        counted = whole and usage.prompt > 0  # there are servers that count nothing, but say so
        if not counted:
            prompt = usage.prompt or characters(messages) // CHARACTERS_A_TOKEN
            completion = max(usage.completion, reply.paid // CHARACTERS_A_TOKEN)
            usage = replace(usage, prompt=prompt, completion=completion)
        self.spent += usage.total
        known = {name: value for name, value in asdict(usage).items() if value is not None}
        self._tries.append(known | ({} if counted else {"estimated": True}))

    def take(self) -> dict[str, Any]:
        """Return what the last try cost, and those before it that failed, for its cell."""
        return {"usage": self._tries.pop(), **self.take_failed()}

    def take_failed(self) -> dict[str, Any]:
        """Return what tries cost that came to nothing, for the cell that comes instead."""
        failed, self._tries = self._tries, []
        return {"failed": failed} if failed else {}
