"""Start a kernel before it is needed, and end it if it is not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from jupyter_agent.errors import SandboxError
from jupyter_agent.sandbox.connection import KernelConnection

__all__ = ["SpareKernel"]

DELAY = 1.0  # seconds that a cell has for itself before the next spare kernel starts


class SpareKernel:
    """The kernel that a sandbox has started for later, if any.

    Parameters
    ----------
    launch
        Starts a kernel.
    end_in_background
        Runs what ends one, beside the kernel that is at work.
    """

    def __init__(
        self,
        launch: Callable[[], Coroutine[Any, Any, KernelConnection]],
        end_in_background: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self.starting: asyncio.Task[KernelConnection] | None = None
        self._launch, self._end_in_background = launch, end_in_background
        self._timers: list[asyncio.TimerHandle] = []

    def start(self) -> None:
        """Begin to start a kernel, if there is none."""
        if self.starting is None:
            self.starting = asyncio.create_task(self._launch())
            self.starting.add_done_callback(_retrieve_exception)

    def start_soon(self, *, idle_seconds: float) -> None:
        """Start a kernel in a moment, and end it when this is not called again for long."""
        for timer in self._timers:
            timer.cancel()
        loop = asyncio.get_running_loop()
        self._timers = [
            loop.call_later(DELAY, self.start),
            loop.call_later(idle_seconds, self.end),
        ]

    async def take(self) -> KernelConnection | None:
        """Return the kernel, once it has started; None if there is none or it could not start."""
        starting, self.starting = self.starting, None
        if starting is None:
            return None
        try:
            return await starting
        except asyncio.CancelledError:  # it may have started at the same moment
            self._end_in_background(_end_started(starting))
            raise
        except SandboxError:  # the cause may have gone, or the next start says it
            return None

    def end(self) -> None:
        """End the kernel, and start no other."""
        starting, self.starting = self.starting, None
        for timer in self._timers:
            timer.cancel()
        if starting:
            self._end_in_background(_end_started(starting))


async def _end_started(starting: asyncio.Task[KernelConnection]) -> None:
    """End a kernel that has started, or is about to."""
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await (await starting).close()


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Keep asyncio from saying that nobody has looked at why the start failed."""
    if not task.cancelled():
        task.exception()
