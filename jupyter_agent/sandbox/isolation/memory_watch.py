"""Watch from outside how much memory a sandbox holds, where there is no control group.

What one process reserves for itself is limited by Linux (RLIMIT_DATA), and is an error in the code
that asks for more. Address space is not limited: V8, lmdb and numpy.memmap take far more of it than
they ever fill. What many processes hold together, or in shared memory, is counted here.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from jupyter_agent.sandbox.isolation.processes import descendants

__all__ = ["MemoryWatch", "gibibytes"]

FASTEST = 4 << 30  # bytes a second that a sandbox can fill
SOONEST, LATEST = 0.02, 0.5  # seconds between two looks
REST = 2  # times as long as a look takes: who has many processes gets no more of this thread
MIN_AVAILABLE_PART = 25  # one part in so many of the machine's memory: below, it runs out soon
# Memory of a process's own, by the names in /proc/PID/status and, shared fairly among those who
# have it, in /proc/PID/smaps_rollup. Pages of files are none: Linux takes them back when it must.
_HELD = "RssAnon RssShmem VmSwap Pss_Anon Pss_Shmem SwapPss".split()


class MemoryWatch:
    """Ends a sandbox that holds more memory than it may, and says so in ``cause``.

    Parameters
    ----------
    pid
        Its first process; all others descend from it, however they detach themselves.
    limit
        Bytes.
    end
        Ends it; called at most once, from another thread.
    """

    def __init__(self, pid: int, limit: int, end: Callable[[], None]) -> None:
        self.cause = ""
        self._pid, self._limit, self._end = pid, limit, end
        self._available = _machine("MemAvailable")
        self._stopped = threading.Event()
        self._ending = threading.Lock()
        # the guest has a say in how long it takes to add up what it holds; the other is never late
        loops = (self._watch_processes, self._watch_machine)
        self._threads = [
            threading.Thread(
                target=self._run, args=(loop,), name="jupyter_agent memory", daemon=True
            )
            for loop in loops
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop watching; nothing is ended after this."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, loop: Callable[[], str]) -> None:
        """Run a loop that returns why the sandbox is to be ended, if it is."""
        try:
            cause = loop()
        except Exception as error:  # nothing may go on unwatched
            cause = f"its memory could not be watched ({error})"
        with self._ending:
            if cause and not self._stopped.is_set():
                self._stopped.set()
                self.cause = cause
                self._end()

    def _watch_processes(self) -> str:
        pause = 0.0
        while not self._stopped.wait(pause):
            started = time.monotonic()
            held = _held(self._pid, "status")
            if held > self._limit:  # those who have forked count what they share twice
                held = _held(self._pid, "smaps_rollup")
            if held > self._limit:
                return (
                    f"it held {gibibytes(held)} of memory, and may hold "
                    f"{gibibytes(self._limit)}: c.SandboxProvisioner.memory_mib"
                )
            pause = max(_pause(self._limit - held), REST * (time.monotonic() - started))
        return ""

    def _watch_machine(self) -> str:
        pause = 0.0
        while not self._stopped.wait(pause):
            if self._starves():
                return "the machine was about to run out of memory"
            pause = _pause(_machine("MemAvailable") - _little())
        return ""

    def _starves(self) -> bool:
        """Tell whether memory that is in no process (a memfd, a file in memory) may have gone here.

        Nobody can say whose it is; the sandbox is the one that can be spared.
        """
        available = _machine("MemAvailable")
        lost = self._available - available
        return available < _little() and lost > min(self._limit, self._available) // 2


def _little() -> int:
    return _machine("MemTotal") // MIN_AVAILABLE_PART


def _pause(room: int) -> float:
    """Return the seconds until the next look, if so many bytes are left to be filled."""
    return min(LATEST, max(SOONEST, room / FASTEST))


def gibibytes(size: int) -> str:
    """Write a number of bytes for people."""
    return f"{size / (1 << 30):.1f} GiB"


def _held(pid: int, name: str) -> int:
    """Add up what all hold, as a file says or, if that may not be read, as ``status`` says."""
    return sum(_held_by(Path(f"/proc/{each}"), name) for each in descendants(pid))


def _held_by(process: Path, name: str) -> int:
    """Return what one process holds; if its first thread has ended, only the others know it."""
    if held := _sum(process, name):
        return held
    with contextlib.suppress(OSError):  # it has ended
        for thread in (process / "task").iterdir():
            if held := _sum(thread, name):
                return held
    return 0


def _sum(process: Path, name: str) -> int:
    """Add up what a file says, and the page tables, which are in ``status`` only."""
    facts = _facts(_read(process / "status"))
    tables = facts.get("VmPTE", 0)  # they grow with what is only read, too
    if name != "status":
        facts = _facts(_read(process / name)) or facts
    return tables + sum(facts.get(key, 0) for key in _HELD)


def _machine(field: str) -> int:
    return _facts(_read(Path("/proc/meminfo"))).get(field, 0)


def _facts(text: str) -> dict[str, int]:
    """Read lines such as ``VmSwap:  4 kB``, as bytes; a process may be named ``x kB``."""
    lines = (line.split() for line in text.split("\n"))  # a name may hold any other end of line
    return {
        line[0].removesuffix(":"): int(line[1]) << 10
        for line in lines
        if len(line) == 3 and line[1].isdecimal() and line[2] == "kB"
    }


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")  # a process's name need be no text
    except OSError:  # it has ended, or is not ours to read
        return ""
