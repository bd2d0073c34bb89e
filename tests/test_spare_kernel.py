"""The kernel that is started before it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from jupyter_agent.sandbox.spare_kernel import SpareKernel


class Kernel:
    """Stands for a kernel that has started."""

    closed = False

    async def close(self) -> None:
        self.closed = True


async def test_a_kernel_that_starts_as_its_taker_is_cancelled_is_ended() -> None:
    kernel, may_start = Kernel(), asyncio.Event()
    ends: list[Coroutine[Any, Any, None]] = []

    async def launch() -> Any:
        await may_start.wait()
        return kernel

    spare = SpareKernel(launch, ends.append)
    spare.start()
    started = spare.starting
    assert started
    taker = asyncio.create_task(spare.take())
    await asyncio.sleep(0)
    may_start.set()
    while not started.done():
        await asyncio.sleep(0)
    taker.cancel()  # before it has heard that the kernel is there
    with pytest.raises(asyncio.CancelledError):
        await taker
    for end in ends:
        await end
    assert kernel.closed
