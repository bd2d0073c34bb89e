"""Write a file whole or not at all."""

from __future__ import annotations

import hashlib
import itertools
import os
from dataclasses import dataclass
from pathlib import Path

from jupyter_agent._temporary import open_temporary

__all__ = ["Left", "unwritable", "write_beside", "write_whole"]


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
    with open_temporary(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        Path(file.name).chmod(_mode(path))
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
class Left:
    """A file as it was left by who read or wrote it; of none without a content."""

    facts: tuple[int, int, int, int] | None = None  # which file, and when it was changed
    digest: bytes = b""

    @classmethod
    def of(cls, path: Path, content: bytes) -> Left:
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


def _mode(path: Path) -> int:
    """Return the mode that a file has, or the one a new file has."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
