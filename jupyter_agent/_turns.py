"""Refuse a second run or cell on a session while a run goes on."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from types import AsyncGeneratorType
from typing import Any, TypeVar

from jupyter_agent.errors import UsageError

__all__ = ["Turns"]

T = TypeVar("T")


class _Turn:
    """Something that goes on, and the generator that carries it on, if one does."""

    def __init__(self, doing: str) -> None:
        self.doing = doing
        self.over = asyncio.Event()
        self.task: asyncio.Task[Any] | None = None  # who took the generator's last step
        self._generator: weakref.ref[AsyncGeneratorType[Any, None]] | None = None

    def carried_by(self, generator: AsyncGenerator[Any, None]) -> None:
        assert isinstance(generator, AsyncGeneratorType)
        self._generator = weakref.ref(generator)

    async def end_if_left(self) -> bool:
        """Close what nobody will go on with, as after a ``break``; tell whether it was that."""
        if self._generator is None:
            return False
        generator = self._generator()
        if generator is None:  # forgotten: the event loop closes it (PEP 525)
            await self.over.wait()
            return True
        if generator.ag_running or self.task is not asyncio.current_task():
            return False
        await generator.aclose()  # its only reader is here, and wants something else
        return True


class Turns:
    """Lets one thing go on at a time; a second one is refused."""

    def __init__(self) -> None:
        self._turn: _Turn | None = None

    @asynccontextmanager
    async def take(self, doing: str) -> AsyncIterator[None]:
        """Hold the turn.

        Parameters
        ----------
        doing
            What goes on meanwhile, as "a run".

        Raises
        ------
        UsageError
            Something else goes on.
        """
        async with self._hold(_Turn(doing)):
            yield

    def iterate(self, source: AsyncGenerator[T, None], doing: str) -> AsyncGenerator[T, None]:
        """Hold the turn from the first step of a generator to its end."""
        turn = _Turn(doing)
        steps = self._iterate(source, turn)
        turn.carried_by(steps)
        return steps

    async def _iterate(
        self, source: AsyncGenerator[T, None], turn: _Turn
    ) -> AsyncGenerator[T, None]:
        async with self._hold(turn), aclosing(source):
            async for item in source:
                turn.task = asyncio.current_task()
                yield item

    @asynccontextmanager
    async def _hold(self, turn: _Turn) -> AsyncIterator[None]:
        while self._turn:
            if not await self._turn.end_if_left():
                raise UsageError(
                    f"{self._turn.doing} is going on in this session; wait for its end, or stop it "
                    "(%agent stop, or aclose() of what Session.run gave)"
                )
        self._turn = turn
        try:
            yield
        finally:
            self._turn = None
            turn.over.set()
