"""Refuse a second run or cell on a session while a run goes on."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from types import AsyncGeneratorType
from typing import Any, TypeVar

from jupyter_agent.errors import UsageError

__all__ = ["OneAtATime"]

T = TypeVar("T")


class _Activity:
    """An activity of a session, and the generator that does it, if any."""

    def __init__(self, doing: str) -> None:
        self.doing = doing
        self.over = asyncio.Event()
        self.task: asyncio.Task[Any] | None = None  # the task that took the generator's last step
        self._generator: weakref.ref[AsyncGeneratorType[Any, None]] | None = None

    def carried_by(self, generator: AsyncGenerator[Any, None]) -> None:
        assert isinstance(generator, AsyncGeneratorType)
        self._generator = weakref.ref(generator)

    async def end_if_left(self) -> bool:
        """Close a generator that was left, as by a ``break``; return whether it was."""
        if self._generator is None:
            return False
        generator = self._generator()
        if generator is None:  # not referenced any more: the event loop closes it (PEP 525)
            await self.over.wait()
            return True
        if generator.ag_running or self.task is not asyncio.current_task():
            return False
        await generator.aclose()  # its only reader is this task, which does something else now
        return True


class OneAtATime:
    """Allows one activity at a time and refuses a second one."""

    def __init__(self) -> None:
        self._going_on: _Activity | None = None

    @asynccontextmanager
    async def hold(self, doing: str) -> AsyncIterator[None]:
        """Refuse other activities meanwhile.

        Parameters
        ----------
        doing
            The name of this activity, such as "a run".

        Raises
        ------
        UsageError
            Another activity goes on.
        """
        async with self._hold(_Activity(doing)):
            yield

    def iterate(self, source: AsyncGenerator[T, None], doing: str) -> AsyncGenerator[T, None]:
        """Refuse other activities from the first step of a generator to its end."""
        activity = _Activity(doing)
        steps = self._iterate(source, activity)
        activity.carried_by(steps)
        return steps

    async def _iterate(
        self, source: AsyncGenerator[T, None], activity: _Activity
    ) -> AsyncGenerator[T, None]:
        async with self._hold(activity), aclosing(source):
            async for item in source:
                activity.task = asyncio.current_task()
                yield item

    @asynccontextmanager
    async def _hold(self, activity: _Activity) -> AsyncIterator[None]:
        while self._going_on:
            if not await self._going_on.end_if_left():
                raise UsageError(
                    f"{self._going_on.doing} is going on in this session; wait for its end "
                    "(%agent wait), or stop it (%agent stop, or aclose() of the generator of "
                    "Session.run)"
                )
        self._going_on = activity
        try:
            yield
        finally:
            self._going_on = None
            activity.over.set()
