"""Folders that are never shared as a whole: homes, the system's, temporary ones."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import tempfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["homes", "is_system", "looks_like_home", "too_wide", "whose_home", "wide_folders"]

# Folders whose subfolders are homes, on Linux, macOS and the BSDs, and where users share disks.
_HOMES = ("/home", "/Users", "/export/home", "/var/home", "/usr/home", "/run/user")
# The system's: themselves, and with all that is in them.
_TOPS = (
    "/bin /boot /lib /lib32 /lib64 /libx32 /media /mnt /nix /opt /run /sbin /snap /srv /usr "
    "/usr/bin /usr/lib /usr/local /usr/share /var /var/cache /var/lib /var/log /var/opt /var/spool "
    "/Applications /Library /System /Volumes /private /private/var"
).split()
_TREES = (
    "/etc /dev /proc /sys /run/secrets /run/credentials /var/backups /var/mail "
    "/var/spool/mail /private/etc"
).split()
# A folder with two of these is somebody's home, wherever it stands and however it got there.
_OF_A_HOME = frozenset(
    ".ssh .gnupg .bashrc .bash_history .bash_logout .bash_profile .profile .zshrc .zsh_history "
    ".zprofile .cshrc .tcshrc .login .python_history .lesshst .viminfo .Xauthority .ICEauthority "
    ".xsession-errors .CFUserTextEncoding AppData NTUSER.DAT ntuser.ini "
    ".cache .config .local".split()
)
_NO_LOGIN = ("nologin", "false", "sync", "halt", "shutdown")


def looks_like_home(names: Iterable[str]) -> bool:
    """Tell by the names in a folder whether it is a home."""
    return len(_OF_A_HOME.intersection(names)) >= 2


def too_wide(path: Path) -> str:
    """Say what a path is that is never shared as a whole; empty if it may be.

    Parameters
    ----------
    path
        As it is after all links have been followed.
    """
    if any(path.is_relative_to(tree) for tree in _TREES):
        return "the system's own"
    if not path.is_dir():
        return ""
    if whose := whose_home(path):
        return whose
    temporary = _temporary()
    if any(_same(path, root) for root in temporary):
        return "a folder for temporary files"
    inside = [*homes(), *temporary, *map(Path, _HOMES)]
    of_homes = any(_same(path, Path(folder)) for folder in _HOMES)
    if of_homes or any(each.is_relative_to(path) for each in inside):
        return "too wide a folder"
    return "the system's own" if str(path) in _TOPS or is_system(path) else ""


def whose_home(path: Path) -> str:
    """Say whose home folder a path is, as far as that is known; empty if it is none."""
    for home, whose in homes().items():
        if _same(path, home):
            return whose
    above = any(_same(path.parent, Path(folder)) for folder in _HOMES)
    found = (name for name in _OF_A_HOME if os.path.lexists(path / name))
    return "a home folder" if above or looks_like_home(found) else ""


def wide_folders() -> set[tuple[int, int]]:
    """Name the folders that are never shared as a whole by device and inode.

    These are the same wherever a folder is bound.
    """
    found = set()
    for path in (*homes(), *_temporary(), *map(Path, (*_HOMES, *_TOPS, *_TREES))):
        with contextlib.suppress(OSError):  # most systems have only some of them
            facts = path.stat()
            found.add((facts.st_dev, facts.st_ino))
    return found


def homes() -> dict[Path, str]:
    """Name the homes of all users that this machine knows: each with whose it is."""
    found = {_real(home): f"the home folder of {name}" for home, name in _accounts(_users())}
    with contextlib.suppress(RuntimeError):  # a user without an entry, and no HOME
        found[_real("~")] = "your home folder"
    return {home: whose for home, whose in found.items() if home != Path("/")}


def _users() -> tuple[int, int, int]:
    """Tell one list of users from the next; a directory's users are asked for once."""
    try:
        facts = Path("/etc/passwd").stat()
    except OSError:
        return 0, 0, 0
    return facts.st_ino, facts.st_size, facts.st_ctime_ns


@functools.lru_cache(maxsize=1)
def _accounts(_as_listed: tuple[int, int, int]) -> tuple[tuple[str, str], ...]:
    """Name the homes of those who can log in; others' are folders of programs, or nothing."""
    users = [user for user in pwd.getpwall() if not user.pw_shell.endswith(_NO_LOGIN)]
    for name in filter(None, map(os.environ.get, ("SUDO_USER", "DOAS_USER"))):
        with contextlib.suppress(KeyError):  # one that a directory knows but does not list
            users.append(pwd.getpwnam(name))
    return ("/root", "root"), *((user.pw_dir, user.pw_name) for user in users)


def _real(path: str) -> Path:
    return Path(path).expanduser().resolve()


def _temporary() -> set[Path]:
    roots = [tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]
    roots.append(os.environ.get("XDG_RUNTIME_DIR") or "/run/user")
    return {Path(root).resolve() for root in roots}


def _same(path: Path, other: Path) -> bool:
    """Tell whether two paths are one folder: bound twice, or written in other letters."""
    try:
        return path == other or path.samefile(other)
    except OSError:
        return False


def is_system(path: Path) -> bool:
    """Tell whether this is the root of a system, such as a mounted backup of one."""
    return os.path.lexists(path / "etc" / "passwd") and os.path.lexists(path / "usr")
