"""Write a file whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["FileState", "clear_left_over", "unwritable", "write_beside", "write_whole"]

_SUFFIX = ".tmp"


def write_whole(path: Path, content: bytes) -> None:
    """Put a file at a path, in the place of what is there (rename(2) is atomic).

    A full disk, or a kill in the middle, leaves what is there as it is. Its mode stays; where a
    link is, the file that it leads to is written.

    Raises
    ------
    OSError
        It cannot be written.
    """
    path = Path(os.path.realpath(path))
    mode = path.stat().st_mode & 0o777 if path.exists() else None
    with _open_temporary(path, 0o666 if mode is None else 0o600) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        if mode is not None:
            Path(file.name).chmod(mode)
        Path(file.name).replace(path)


def write_beside(path: Path, content: bytes) -> Path:
    """Write a file under a name that is free: run-2.ipynb beside run.ipynb. Return where.

    Raises
    ------
    OSError
        It cannot be written.
    """
    names = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    free = next(name for name in names if not os.path.lexists(name))
    write_whole(free, content)
    return free


def unwritable(path: Path) -> str:
    """Return why a file cannot be written at a path, whose folder is there; or nothing.

    A file that nobody may write is none that root shall overwrite either.
    """
    path = Path(os.path.realpath(path))
    if not os.access(path.parent, os.W_OK):
        return "the folder cannot be written"
    if path.exists() and not (path.stat().st_mode & 0o222 and os.access(path, os.W_OK)):
        return "the file is read-only"
    return ""


@dataclass(frozen=True, slots=True)
class FileState:
    """A file as it was left by who read or wrote it; of none without a content."""

    facts: tuple[int, int, int, int] | None = None  # which file, and when it was changed
    digest: bytes = b""

    @classmethod
    def of(cls, path: Path, content: bytes) -> FileState:
        """Note what was read or written just now."""
        return cls(_facts(path), _digest(content))

    def is_at(self, path: Path) -> bool:
        """Tell whether this very file is there, as it was left."""
        return self.facts is not None and self.facts == _facts(path)

    def is_same(self, path: Path) -> bool:
        """Tell whether what is there has the content that was left, in whichever file."""
        if self.is_at(path):
            return True
        facts = _facts(path)
        if facts is None or self.facts is None or facts[2] != self.facts[2]:
            return False
        try:
            return _digest(path.read_bytes()) == self.digest
        except OSError:
            return False


def _facts(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


# -- beside the file that is written


def _prefix(path: Path) -> str:
    return f".{path.name[:50]}.jupyter-agent-"


@contextlib.contextmanager
def _open_temporary(path: Path, mode: int) -> Iterator[IO[bytes]]:
    """Make a file, of a mode less the umask, beside one that is to be written.

    After an error it is gone. It is locked while it is open, so that `clear_left_over` leaves it.
    """
    while True:
        name = path.with_name(f"{_prefix(path)}{secrets.token_hex(4)}{_SUFFIX}")
        file = open(name, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:  # else that was quicker than the lock
            break
        file.close()
    try:
        with file:
            yield file
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
