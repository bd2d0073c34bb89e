"""The control group that limits the memory and processes of one sandbox, where one can be made.

Resource limits bound each process by itself; many processes, memfds and memory file systems go
past them. A group is made where this process may write its own (as root, mostly). Elsewhere
nothing here does anything, and `%agent status` says so.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Group", "make", "memory_limits"]

PREFIX = "jupyter-agent-"
ABANDONED_AFTER = 60.0  # seconds: an older group without a process was left behind
ROOT = Path("/sys/fs/cgroup")
# Join the groups, then become the command: a child that was forked before would stay outside.
_JOIN = """\
n=$1; shift
while [ $n -gt 0 ]; do echo $$ > "$1" || exit 1; shift; n=$((n-1)); done
exec "$@"
"""
_OOM = ("memory.events", "memory.oom_control")


@dataclass(frozen=True, slots=True)
class Group:
    """One folder in version 2 of the kernel's interface, one for each controller in version 1."""

    folders: tuple[Path, ...]

    def wrap(self, command: list[str]) -> list[str]:
        """Write the command that runs ``command`` in this group."""
        lists = [str(folder / "cgroup.procs") for folder in self.folders]
        return ["/bin/sh", "-c", _JOIN, "sh", str(len(lists)), *lists, *command]

    def exhausted(self) -> bool:
        """Tell whether a process was killed because memory was used up."""
        files = (folder / name for folder in self.folders for name in _OOM)
        return any(re.search(r"^oom_kill [1-9]", _text(file), re.MULTILINE) for file in files)

    def end(self) -> None:
        """Kill what is left in it, then remove it."""
        deadline = time.monotonic() + 2
        for folder in self.folders:
            while folder.exists() and time.monotonic() < deadline:
                for pid in _pids(folder):
                    _kill(pid, folder)
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    break
                time.sleep(0.005)


def _kill(pid: int, folder: Path) -> None:
    """Kill a process of a group, and no other one that has got its number since."""
    with contextlib.suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            if pid in _pids(folder):
                signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)


def _pids(folder: Path) -> list[int]:
    return [int(pid) for pid in _text(folder / "cgroup.procs").split()]


def memory_limits() -> Iterator[int]:
    """Name the limits of memory that this process itself is under, as in a container."""
    folder = _own_groups().get("memory")
    for above in (folder, *folder.parents) if folder else ():
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _text(above / name).strip()
            if limit.isdecimal():
                yield int(limit)


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def make(*, memory: int, processes: int) -> Group | None:
    """Bound memory, in bytes, and processes by a group below our own; None if we may make none."""
    # not of the module secrets: nbconvert --execute takes one that lies beside the notebook
    name = f"{PREFIX}{os.urandom(4).hex()}"
    own = _own_groups()
    for parent in set(own.values()):
        _sweep(parent)
    limits = {
        "memory": {"memory.max": memory, "memory.swap.max": 0, "memory.limit_in_bytes": memory},
        "pids": {"pids.max": processes},
    }
    folders: list[Path] = []
    try:
        for controller, values in limits.items():
            above = own.get(controller)
            if above is None:
                raise OSError(f"no controller {controller}")
            folder = above / name
            if folder not in folders:
                folder.mkdir()
                folders.append(folder)
            _limit(folder, values)
    except OSError:
        Group(tuple(folders)).end()
        return None
    return Group(tuple(folders))


def _sweep(parent: Path) -> None:
    """Remove the groups of hosts that were killed: those that hold no process."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > ABANDONED_AFTER:
                folder.rmdir()


def _limit(folder: Path, values: dict[str, int]) -> None:
    """Set those of the values that this version of the interface knows, at least one."""
    known = [name for name in values if (folder / name).exists()]
    if not known:
        raise OSError(f"{folder} has none of {', '.join(values)}")
    for name in known:
        (folder / name).write_text(str(values[name]))


def _own_groups() -> dict[str, Path]:
    """Find, for each controller, the group that this process is in (cgroups(7))."""
    found: dict[str, Path] = {}
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(",") if controllers else ("memory", "pids"):
            folder = ROOT / controller if controllers else ROOT
            if (folder / "cgroup.procs").exists():
                found.setdefault(controller, folder / path.lstrip("/"))
    return found
