"""Find and count processes of the host, and wait for one to end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["count_tasks", "descendants", "grandchildren", "kill_with_children", "wait_for_end"]


def grandchildren(pid: int) -> list[int]:
    """Find what bubblewrap's first process has started: the kernel."""
    return [found for child in children(pid) for found in children(child)]


def descendants(pid: int) -> Iterator[int]:
    """Yield a process and all that it has started, directly or not."""
    waiting = [pid]
    while waiting:
        yield (found := waiting.pop())
        waiting += children(found)


def children(pid: int) -> list[int]:
    """Find what a process has started; nothing if it has ended, which it may at any moment.

    Not by `Path.glob`: that raises if a folder goes away while it is read.
    """
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def kill_with_children(process: subprocess.Popen[bytes]) -> None:
    """Kill a process of ours, and what it has started.

    It is stopped first: it then starts nothing more, and no other process gets the number of a
    child that ends, as nobody else takes note of that end.
    """
    if process.poll() is not None:  # its number may be another's by now
        return
    try:
        process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(ChildProcessError):  # another thread has seen its end
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            for child in children(process.pid):
                with contextlib.suppress(OSError):
                    os.kill(child, signal.SIGKILL)
    finally:
        process.kill()


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
