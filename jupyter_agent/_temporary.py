"""Make a file that replaces another when it is whole; clear what a killed process left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

__all__ = ["clear_left_over", "open_temporary"]

_SUFFIX = ".tmp"


def _prefix(path: Path) -> str:
    return f".{path.name[:50]}.jupyter-agent-"


@contextlib.contextmanager
def open_temporary(path: Path) -> Iterator[IO[bytes]]:
    """Make a file beside one that is to be written; after an error it is gone.

    It is locked while it is open, so that `clear_left_over` leaves it.
    """
    while True:
        file = tempfile.NamedTemporaryFile(  # noqa: SIM115
            dir=path.parent, prefix=_prefix(path), suffix=_SUFFIX, delete=False
        )
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # else that was quicker than the lock
            break
        file.close()
    try:
        with file:
            yield file.file
    except BaseException:
        Path(file.name).unlink(missing_ok=True)
        raise


def clear_left_over(path: Path) -> None:
    """Remove what a process that was killed as it wrote this file has left beside it.

    Who is writing holds a lock on it, which ends with the process.
    """
    path = Path(os.path.realpath(path))
    names = re.compile(re.escape(_prefix(path)) + r"\w{8}" + re.escape(_SUFFIX))
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if names.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _remove_left_over(entry.path)


def _remove_left_over(name: str) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name)  # noqa: PTH108
    finally:
        os.close(descriptor)
