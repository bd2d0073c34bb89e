"""Make and remove the private folder of a sandbox.

The guest may have written in one, and a process of its own may still do so. No path of the guest's
is followed: each file and folder is reached from the descriptor of the folder above it.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Folder", "remove", "sweep"]

PREFIX = "jupyter-agent-"
ABANDONED_AFTER = 60.0  # seconds: an older folder that nobody holds was left behind
REMOVE_TIMEOUT = 60.0  # seconds to empty a folder; the next sweep removes the rest
_BELOW = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """A new folder below a root; it ends with ``close``, with this object or with this process.

    ``close`` blocks for as long as it takes to remove what the guest has written, up to a minute.
    """

    def __init__(self, root: Path) -> None:
        # in a thread that nothing waits for: how long it takes was up to other guests
        threading.Thread(target=sweep, args=(root,), daemon=True).start()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        # a client such as jupyter console ends without telling its provisioner
        self.close = weakref.finalize(self, _end, self.path, _lock(self.path))


def _end(path: Path, hold: int | None) -> None:
    remove(path)
    if hold is not None:
        os.close(hold)


def sweep(root: Path) -> None:
    """Remove the folders of hosts that were killed: those that nobody holds."""
    for folder in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            facts = folder.lstat()
            if facts.st_uid != os.geteuid() or time.time() - facts.st_mtime < ABANDONED_AFTER:
                continue
            hold = _lock(folder)
            if hold is not None:
                _end(folder, hold)


def _lock(folder: Path) -> int | None:
    """Hold a folder until this process ends; None if another does (a pid would not say so)."""
    descriptor = os.open(folder, os.O_RDONLY | _BELOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def remove(folder: Path) -> None:
    """Remove a folder that a guest has written in, whatever modes it has given, however deep."""
    with contextlib.suppress(OSError):
        top = _open(str(folder), None)
        try:
            _empty(top)
        finally:
            os.close(top)
        folder.rmdir()


def _empty(top: int) -> None:
    """Remove all that is in a folder.

    What stands in its folders is moved up, so that no depth of theirs matters.
    """
    names = map("-{}".format, itertools.count())
    deadline = time.monotonic() + REMOVE_TIMEOUT
    found = True
    while found:
        found = False
        for name in _entries(top, deadline):
            found = True
            with contextlib.suppress(OSError):
                if not _unlink(name, top):
                    _flatten(name, top, names, deadline)


def _entries(folder: int, deadline: float) -> Iterator[str]:
    """Name what is in a folder until the deadline: one by one, as there may be millions."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if time.monotonic() > deadline:
                return
            yield entry.name


def _unlink(name: str, folder: int) -> bool:
    """Remove what is no folder; say whether it was none."""
    try:
        os.unlink(name, dir_fd=folder)
    except (IsADirectoryError, PermissionError):  # as the kernel says it, and as POSIX does
        return False
    return True


def _flatten(name: str, top: int, names: Iterator[str], deadline: float) -> None:
    """Move a folder's folders up beside it, and remove it."""
    folder = _open(name, top)
    try:
        for child in _entries(folder, deadline):
            if not _unlink(child, folder):
                os.close(_open(child, folder))  # to be moved it must be writable
                _move(child, folder, top, names)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def _move(child: str, folder: int, top: int, names: Iterator[str]) -> None:
    """Give a folder a name that is free, should the guest have used those."""
    for name in names:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=top)
            os.rename(child, name, src_dir_fd=folder, dst_dir_fd=top)
            return


def _open(name: str, above: int | None) -> int:
    """Open a folder that is no link, and give its owner all rights to it."""
    place = os.open(name, os.O_PATH | _BELOW, dir_fd=above)
    try:
        same = Path(f"/proc/self/fd/{place}")  # what was opened, whatever has become of the name
        same.chmod(0o700)
        return os.open(same, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(place)
