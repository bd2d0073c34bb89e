"""How much memory a process and those it has started take at most while something goes on."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import TracebackType

from .servers import descendants

EVERY = 0.01  # seconds


def resident(pid: int, *, leave_out: frozenset[int] = frozenset()) -> int:
    """Sum the resident bytes of a process and its descendants, less some and theirs."""
    total = 0
    for each in {pid, *descendants(pid)} - leave_out:
        with contextlib.suppress(OSError, ProcessLookupError):
            status = Path(f"/proc/{each}/status").read_text()
            found = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
            total += 1024 * sum(map(int, found))
    return total


class Peak:
    """Looks at a host again and again, as long as it is entered.

    Parameters
    ----------
    pid
        The host.
    guest
        The process of its sandbox, whose memory is not the host's.
    """

    def __init__(self, pid: int, *, guest: int | None = None) -> None:
        self._pid, self._guest = pid, guest
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = self.most = 0

    @property
    def grown(self) -> int:
        """Bytes that it took at most beside those it had before."""
        return self.most - self.before

    def __enter__(self) -> Peak:
        self.before = self.most = self._look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> int:
        guest: set[int] = set()
        if self._guest is not None:
            with contextlib.suppress(OSError):
                guest = {self._guest, *descendants(self._guest)}
        return resident(self._pid, leave_out=frozenset(guest))

    def _watch(self) -> None:
        while not self._done.wait(EVERY):
            with contextlib.suppress(OSError):
                self.most = max(self.most, self._look())
