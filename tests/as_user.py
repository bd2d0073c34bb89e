"""Run a command as an ordinary user, for whom the interpreter may be out of reach.

An interpreter below ``/root`` (mode 700) is no use to anybody else. So the command gets a mount
namespace of its own, in which a closed folder above what it needs is covered by an open one, and
what it needs is bound back read-only. Nothing on this machine changes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

UID = 64_321  # nobody's: an ordinary user needs no entry in /etc/passwd


def as_user(command: list[str]) -> list[str]:
    """Wrap a command, to be run by root."""
    return ["unshare", "--mount", "--propagation", "private", sys.executable, __file__, *command]


def let_in(folder: Path) -> None:
    """Let others enter a folder and those above it, as a folder of pytest's is its user's alone."""
    for path in (folder, *folder.parents):
        if not path.stat().st_mode & 0o001:
            path.chmod(0o755)


def closed(path: Path) -> Path | None:
    """Find the topmost folder above a path that others may not enter."""
    for parent in reversed(path.parents):
        if not parent.stat().st_mode & 0o001:
            return parent
    return None


def needed() -> list[Path]:
    """Every folder without which neither Python nor these tests run."""
    root = Path(__file__).resolve().parent.parent
    interpreter = Path(sys.executable).resolve().parent.parent
    paths = [root, Path(sys.prefix), Path(sys.base_prefix), interpreter]
    return sorted({path.resolve() for path in paths})


def open_up(paths: list[Path]) -> None:
    """Cover what is closed above these paths and bind them back, read-only."""
    covers: dict[Path, list[Path]] = {}
    for path in paths:
        cover = closed(path)
        if cover:
            covers.setdefault(cover, []).append(path)
    for cover, below in covers.items():
        held = [os.open(path, os.O_PATH) for path in below]
        _run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(cover))
        for path, descriptor in zip(below, held, strict=True):
            path.mkdir(parents=True, exist_ok=True)
            source = f"/proc/{os.getpid()}/fd/{descriptor}"
            _run("mount", "--no-canonicalize", "--rbind", source, str(path))
            _run("mount", "-o", "remount,bind,ro", str(path))
            os.close(descriptor)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def main() -> None:
    """Open up, drop every right and become the command."""
    mine, callers = (Path(f"/proc/{pid}/ns/mnt") for pid in ("self", os.getppid()))
    if mine.readlink() == callers.readlink():
        sys.exit("as_user.py would cover folders of this machine: use as_user(command)")
    open_up(needed())
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
