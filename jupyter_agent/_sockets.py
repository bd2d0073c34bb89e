"""Find a folder in which Unix sockets can be made."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["WHY_NO_FOLDER", "folder_for_sockets"]

MAX_ROOT = 65  # bytes: of the 107 that a socket's path may have, 42 are for what is added
WHY_NO_FOLDER = (
    "XDG_RUNTIME_DIR, TMPDIR and /tmp are missing, closed, or longer than "
    f"{MAX_ROOT} bytes; set XDG_RUNTIME_DIR to a short path of a folder that is yours"
)


def folder_for_sockets() -> Path | None:
    """Find a folder in which a new one can be made, with a path that leaves room for a socket's."""
    wanted = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp", "/var/tmp"]
    for path in wanted:
        fits = len(os.fsencode(path)) <= MAX_ROOT
        if fits and Path(path).is_absolute() and os.access(path, os.W_OK | os.X_OK):
            return Path(path)
    return None
