"""Replaces the standard library's `_posixshmem`: shared memory in private files."""

import os

_FOLDER = os.environ["JUPYTER_AGENT_SHM"]


def _place(name: str) -> str:
    return os.path.join(_FOLDER, name.lstrip("/").replace("/", "_"))


def shm_open(path: str, flags: int, mode: int = 0o777) -> int:
    """Open shared memory (shm_open(3)); return its descriptor."""
    return os.open(_place(path), flags | os.O_NOFOLLOW, mode)


def shm_unlink(path: str) -> None:
    """Remove a name (shm_unlink(3))."""
    os.unlink(_place(path))
