"""Find and count processes of the host, and wait for one to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

__all__ = ["count_tasks", "grandchildren", "wait_for_end"]


def grandchildren(pid: int) -> list[int]:
    """Find what bubblewrap's first process has started: the kernel."""
    found = [pid]
    for _ in range(2):
        lists = [path for each in found for path in Path(f"/proc/{each}/task").glob("*/children")]
        found = [int(child) for path in lists for child in path.read_text().split()]
    return found


def count_tasks(uid: int) -> int:
    """Count the threads a user has: where the sandbox runs as that user, its limit counts them."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == uid:
                count += len(list((process / "task").iterdir()))
    return count


async def wait_for_end(pid: int, *, within: float) -> None:
    """Wait for the end of a process of ours, at most so many seconds."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # it has none (before Linux 5.3): look again soon
        await asyncio.sleep(0.05)
        return
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(within):
            await ended.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
