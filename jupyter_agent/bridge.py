"""The one bridge from synchronous code, such as a magic, to our coroutines.

They run on one event loop in one thread that lives as long as the process: a sandbox dies with the
thread that started it, and its sockets belong to a loop. An interrupt cancels what runs there and
waits until it has tidied up (`jupyter_core.utils.run_sync` lets it go on).
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["Bridge", "shared_bridge"]

T = TypeVar("T")
_END: Any = object()


class Bridge:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="jupyter_agent", daemon=True).start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result; a KeyboardInterrupt cancels it first."""
        result: Future[T] = Future()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:  # in the caller's context: IPython keeps the current cell there
            tasks.append(self._loop.create_task(coroutine))
            tasks[0].add_done_callback(functools.partial(_hand_over, result))

        self._loop.call_soon_threadsafe(begin)
        while True:
            try:
                return result.result()
            except KeyboardInterrupt:
                if result.done():
                    raise
                self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())

    def iterate(self, source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """Iterate an async generator. After an interrupt it may still yield its last items."""

        async def step() -> T:
            return await anext(source, _END)

        try:
            while (item := self.call(step())) is not _END:
                yield item
        finally:
            self.call(source.aclose())


def _hand_over(result: Future[T], task: asyncio.Task[T]) -> None:
    if task.cancelled():
        result.set_exception(KeyboardInterrupt())
    elif error := task.exception():
        result.set_exception(error)
    else:
        result.set_result(task.result())


@functools.cache
def shared_bridge() -> Bridge:
    """Return the process's bridge, made when first asked for."""
    return Bridge()
