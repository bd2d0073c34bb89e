"""The user that a guest runs as: for root, a user that no other process runs as."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

__all__ = ["unique_uid", "user_shell"]

_uids = itertools.count()


def unique_uid() -> int:
    """Return a user id that no other process has, for root; 0 for an ordinary user."""
    if os.geteuid() != 0:
        return 0
    offset = (os.getpid() % 0x100000) * 0x80 + next(_uids) % 0x80
    first, count = max(_mapped_ids(), key=lambda ids: ids[1])
    wanted = 0x70000000 + offset
    return wanted if first <= wanted < first + count else first + count - 2 - offset % (count // 4)


def _mapped_ids() -> list[tuple[int, int]]:
    """Return the ranges of user ids that exist: in a container not all (user_namespaces(7))."""
    lines = Path("/proc/self/uid_map").read_text().splitlines()
    ranges = [line.split() for line in lines]
    return [(int(first), int(count)) for first, _, count in ranges]


def user_shell() -> str:
    """Return the user's shell, if the sandbox has it, or else another one."""
    wanted = [os.environ.get("SHELL", ""), "/bin/bash", "/usr/bin/bash", "/bin/sh"]
    found = [path for path in wanted if os.access(path, os.X_OK)]
    return next(path for path in found if path.startswith(("/bin/", "/usr/")))
