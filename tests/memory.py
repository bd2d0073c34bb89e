"""How much memory a process and those it has started take at most while something goes on."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from types import TracebackType

from .servers import descendants

EVERY = 0.01  # seconds


def max_resident(pid: int) -> int:
    """Say how many bytes a process had resident at most, since its mark was last reset."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return 1024 * sum(map(int, found))  # a zombie has none


class Peak:
    """What a host and the processes that it has started take at most, as long as this is entered.

    The kernel keeps the high-water mark of each (proc(5), VmHWM), so no moment is missed; the sum
    of the marks is at least what they took together.

    Parameters
    ----------
    pid
        The host.
    guest
        The process of its sandbox, whose memory is not the host's.
    """

    def __init__(self, pid: int, *, guest: int | None = None) -> None:
        self._pid, self._guest = pid, guest
        self._marks: dict[int, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before = 0

    @property
    def grown(self) -> int:
        """Bytes that they took at most beside those they had before."""
        return sum(self._marks.values()) - self.before

    def __enter__(self) -> Peak:
        for pid in self._processes():
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._look()
        self.before = sum(self._marks.values())
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
        self._look()

    def _processes(self) -> set[int]:
        guest: set[int] = set()
        if self._guest is not None:
            with contextlib.suppress(OSError):
                guest = {self._guest, *descendants(self._guest)}
        return {self._pid, *descendants(self._pid)} - guest

    def _look(self) -> None:
        """Note the marks; those of processes that have ended stay as they were seen last."""
        with contextlib.suppress(OSError):
            for pid in self._processes():
                mark = max_resident(pid)
                self._marks[pid] = max(mark, self._marks.get(pid, 0))

    def _watch(self) -> None:
        while not self._done.wait(EVERY):
            self._look()
