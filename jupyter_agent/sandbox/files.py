"""Which of the user's files the sandbox may read, and under which names."""

from __future__ import annotations

import fnmatch
import os
import tempfile
from collections import deque
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from jupyter_agent.errors import UsageError

__all__ = ["Share", "describe", "listing", "resolve", "too_wide", "uncovered"]

# What looks like a secret. A dot file is one: .env, .git, .netrc, .aws, .ssh.
SECRETS = [
    ".*",
    "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*",
    "credentials*", "secrets*", "*secret*.json", "service-account*.json", "service_account*.json",
]  # fmt: skip
MOST_ENTRIES = 20_000  # read while looking for secrets; folders not reached by then stay hidden


@dataclass(frozen=True, slots=True)
class Share:
    """A file or folder of the user's that the sandbox may read, less what is hidden of it.

    With ``name`` empty the folder's contents stand in the sandbox's working folder themselves.
    """

    path: Path
    name: str = ""
    hidden: tuple[Path, ...] = ()

    def visible(self) -> list[Path]:
        """Cover all but the hidden paths by as few files and folders as will do."""
        return uncovered(self.path, set(self.hidden))


def resolve(
    data: list[str], folder: Path, *, exposed: Sequence[str] = ()
) -> tuple[list[Share], str]:
    """Say what is shared, and why not if nothing is.

    Parameters
    ----------
    data
        Paths as the user typed them, relative to ``folder``; ``"."`` is the folder itself, and is
        left out with a reason where it would share too much.
    exposed
        Paths that the user has named as no secrets, whatever they look like.

    Raises
    ------
    UsageError
        A path is missing or unreadable, or would share a home folder, ``/`` or a temporary root.
    """
    shares, reason = [], ""
    open_to_all = {_absolute(typed, folder) for typed in exposed}
    for typed in data:
        path = _absolute(typed, folder)
        why = too_wide(path)
        if typed == "." and why:
            reason = f"{path} is {why}"
        elif _in_secret(path) and not _among(path, open_to_all):
            raise UsageError(
                f"--data {typed!r}: {path} is where secrets are kept; copy what is needed "
                f"elsewhere, or say that it is none: c.SandboxProvisioner.exposed = [{str(path)!r}]"
            )
        elif why:
            raise UsageError(f"--data {typed!r}: that is {why}; name the files or folders in it")
        else:
            shares.append(
                Share(path, _name(typed, path, folder), tuple(_hidden(path, typed, open_to_all)))
            )
    return shares, reason


def _name(typed: str, path: Path, folder: Path) -> str:
    """Where a path stands in the working folder: as typed if it lies below, else its own name."""
    if typed == ".":
        return ""
    folder = folder.resolve()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name


def too_wide(path: Path) -> str:
    """Say what a folder is that is never shared as a whole; empty if it may be."""
    home = Path.home().resolve()
    roots = [tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]
    roots.append(os.environ.get("XDG_RUNTIME_DIR", "/run/user"))
    temporary = {Path(root).resolve() for root in roots}
    if path == home:
        return "your home folder"
    if path in temporary:
        return "a folder for temporary files"
    if home.is_relative_to(path) or any(root.is_relative_to(path) for root in temporary):
        return "too wide a folder"
    return ""


def _absolute(typed: str, folder: Path) -> Path:
    return (folder / Path(typed).expanduser()).resolve()


def _among(path: Path, paths: Set[Path]) -> bool:
    """Tell whether a path is one of these or lies below one."""
    return not paths.isdisjoint([path, *path.parents])


def _in_secret(path: Path) -> bool:
    """Tell whether a path lies in a folder that tools keep for themselves, or is such a file."""
    home = Path.home().resolve()
    inside = path.relative_to(home).parts if path.is_relative_to(home) else (path.name,)
    return any(map(_secret, inside)) or _among(path, _kept_by_tools())


def _kept_by_tools() -> set[Path]:
    """Name the folders where Jupyter and the Hub's client keep their secrets, if moved too."""
    moved = ("HF_HOME", "HF_TOKEN_PATH", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")
    return {Path(os.environ[name]).resolve() for name in moved if os.environ.get(name)}


def _hidden(path: Path, typed: str, exposed: Set[Path]) -> list[Path]:
    """Find what looks like a secret or is no file below a path, and what was not looked at."""
    if not path.exists():
        raise UsageError(f"--data {typed!r}: there is no {path}; check the spelling")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise UsageError(f"--data {typed!r}: {path} cannot be read; check its permissions")
    if not path.is_dir():
        return []
    kept_by_tools = _kept_by_tools()
    hidden, seen, waiting = [], 0, deque([path])
    while waiting:
        entries = list(os.scandir(waiting.popleft())) if os.access(waiting[0], os.R_OK) else []
        seen += len(entries)
        for entry in entries:
            here = Path(entry.path)
            secret = _secret(entry.name) or here in kept_by_tools
            if (secret and not _among(here, exposed)) or not _readable_kind(entry):
                hidden.append(here)
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(here)
        if seen > MOST_ENTRIES:
            hidden += waiting
            break
    return hidden


def _readable_kind(entry: os.DirEntry[str]) -> bool:
    """Tell files, folders and links from sockets, which a read-only mount does not close."""
    return entry.is_symlink() or entry.is_file() or entry.is_dir()


def _secret(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in SECRETS)


def uncovered(path: Path, hidden: Set[Path]) -> list[Path]:
    """Cover a path, less others and the links in it, by as few files and folders as will do."""
    above = {parent for each in hidden for parent in each.parents}

    def cover(path: Path) -> list[Path]:
        if path in hidden or path.is_symlink():
            return []
        if path not in above:
            return [path]
        return [found for child in sorted(path.iterdir()) for found in cover(child)]

    return [] if _among(path, hidden) else cover(path)


def listing(shares: list[Share], most: int = 40) -> str:
    """Name the shared files as code in the sandbox finds them."""
    names = []
    for share in shares:
        if share.name:
            names.append(share.name + "/" * share.path.is_dir())
        else:
            names += [
                child.name + "/" * child.is_dir()
                for child in sorted(share.path.iterdir())
                if not _secret(child.name)
            ]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def describe(shares: list[Share], reason: str) -> str:
    """Say in a few words what the sandbox can read."""
    if not shares:
        return f"no files ({reason})" if reason else "no files"
    return ", ".join(share.name or f"{share.path.name}/" for share in shares)
