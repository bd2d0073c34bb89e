"""A file that is written whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: Path, content: bytes) -> None:
    """Put a file at a path, in the place of what is there (rename(2) is atomic).

    A full disk, or a kill in the middle, leaves what is there as it is. Its mode stays.

    Raises
    ------
    OSError
        It cannot be written.
    """
    descriptor, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name[:50]}.", suffix=".tmp"
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(_mode(path))
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _mode(path: Path) -> int:
    """Return the mode that a file has, or the one a new file has."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
