"""The bubblewrap tier: its command line, and what is mounted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from jupyter_agent.errors import SandboxError
from jupyter_agent.sandbox.isolation.descriptors import Descriptors
from jupyter_agent.sandbox.isolation.guest_user import unique_uid, user_shell
from jupyter_agent.sandbox.isolation.interpreter import font_lists
from jupyter_agent.sandbox.isolation.path_policy import ETC, PROCESSORS, SYSTEM, Policy

__all__ = [
    "HOME",
    "LATE_FILES",
    "arguments",
    "check",
    "landlock_rules",
    "own_sockets",
]

HOME = "/home/agent"
WRITABLE = (HOME, "/tmp", "/dev/shm")
LATE_FILES = "/late-files"  # where the files are bound that have come since the start
# Where a path below one of those is bound; it is a link there. Landlock has no rule for a part of
# what may be written, so nothing that is shared may lie in it.
SHARED = "/shared"
# What of /proc is not about the machine as a whole; the rest of it is covered.
PROC = (
    "cgroups cpuinfo devices diskstats filesystems loadavg meminfo mounts net partitions pressure "
    "self stat swaps sysvipc thread-self uptime version vmstat"
).split()
MAX_COVERS = 400  # in all: bubblewrap takes no more than 9,000 words
MAX_BINDS = 100  # of a share: for each, bubblewrap reads the list of all (200 take 70 ms)


def check() -> str:
    """Try bubblewrap with the options of a sandbox; return what is wrong, or an empty text."""
    path = shutil.which("bwrap")
    if path is None or path in _working:
        return "" if path else "not installed"
    if not (problem := _try_bubblewrap(path)):
        _working.add(path)
    return problem


_working: set[str] = set()  # what has failed may work the next time: a busy machine, a setting


def _try_bubblewrap(path: str) -> str:
    trial = [path, *options(unique_uid()), *mounts(Policy([])), "--remount-ro", "/", "--", "true"]
    try:
        done = subprocess.run(trial, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    lines = done.stderr.strip().splitlines()
    return (lines[-1] if lines else f"exit code {done.returncode}") if done.returncode else ""


def arguments(
    policy: Policy,
    *,
    uid: int,
    work: Path,
    private_size: int,
    late_files: Path,
    environment: Mapping[str, str],
    descriptors: Descriptors,
    sockets: Sequence[str] | None,
    landlocked: bool,
) -> list[str]:
    """Write all options of bubblewrap, but the command that it starts.

    Parameters
    ----------
    work
        The working folder, below `HOME`.
    private_size
        Bytes that the private folder may hold.
    late_files
        The folder of the host that files come into after the start.
    sockets
        What `own_sockets` returns, for a kernel that binds its own; None for ours, which needs no
        terminals, of which the machine has a fixed number.
    """
    ids = f"{uid or 1000}:{uid or 1000}"
    terminals = () if sockets is not None else ("--tmpfs", "/dev/pts", "--remount-ro", "/dev/pts")
    return [
        *options(uid, private_size, reads_all=policy.reads_all),
        *_file("/etc/passwd", descriptors.add_text(f"agent:x:{ids}::{HOME}:{user_shell()}\n")),
        *_file("/etc/group", descriptors.add_text(f"agent:x:{uid or 1000}:\n")),
        *mounts(policy, sockets or (), landlocked=landlocked),
        *("--ro-bind", str(late_files), LATE_FILES),
        *private_folders(work),
        *fonts(),
        *terminals,
        *("--remount-ro", "/"),
        *(word for name, value in environment.items() for word in ("--setenv", name, value)),
    ]


def own_sockets(folder: Path, connection_file: str, descriptor: int) -> list[str]:
    """Bind the folder for a kernel's own sockets, and its connection file, from a descriptor."""
    return [
        *parents(folder),
        *("--bind", str(folder), str(folder)),
        *parents(Path(connection_file)),
        *_file(connection_file, descriptor),
    ]


def landlock_rules(
    policy: Policy, *, read: Sequence[str], write: Sequence[str]
) -> dict[str, list[str]]:
    """List the paths that may be read, listed and written, for Landlock within bubblewrap."""
    fixed = ["/etc", "/proc", PROCESSORS, LATE_FILES]
    return {
        "read": [*map(str, policy.read), *fixed, *read],
        "listed": ["/"],
        "write": [*WRITABLE, "/dev", *write],
    }


def _file(path: str, descriptor: int) -> list[str]:
    """Put a file of our own there, for all to read."""
    return ["--perms", "0444", "--ro-bind-data", str(descriptor), path]


def options(uid: int, private: int = 1 << 20, *, reads_all: bool = False) -> list[str]:
    """Write the options that do not depend on what is shared, and the system's own files."""
    words = ["--die-with-parent", "--new-session"]
    words += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"]
    words += ["--unshare-cgroup-try", "--hostname", "sandbox", "--clearenv", "--cap-drop", "ALL"]
    if uid:  # root of the host stays root in a user namespace: use a real, powerless user instead
        for capability in ("SETUID", "SETGID", *(["DAC_READ_SEARCH"] if reads_all else [])):
            words += ["--cap-add", f"CAP_{capability}"]
    else:
        words += ["--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"]
    for path in map(Path, SYSTEM):
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    words += ["--perms", "0755", "--dir", "/etc", "--perms", "0755", "--dir", "/etc/ssl"]
    for path in ETC:
        words += ["--ro-bind-try", str(path), str(path)]
    words += [*parents(Path(PROCESSORS)), "--ro-bind-try", PROCESSORS, PROCESSORS]
    words += ["--proc", "/proc", *_cover_proc(), "--dev", "/dev"]
    for root, size in ((HOME, private), ("/tmp", private // 4), ("/dev/shm", private // 4)):
        words += ["--perms", "1777", "--size", str(size), "--tmpfs", root]
    return [*words, "--remount-ro", "/dev"]


def _cover_proc() -> list[str]:
    """Cover what describes or changes the machine: sys, kcore, kpageflags, keys and the like."""
    words = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() and entry.name not in PROC:
            words += cover(Path(entry.path), Path(entry.path))
            if entry.is_dir():
                words += ["--remount-ro", entry.path]
    return words


def mounts(policy: Policy, more: Sequence[str] = (), *, landlocked: bool = False) -> list[str]:
    """Bind what may be read, and ``more``.

    What lies deeper comes later, so that the nearest path decides. A shared folder that holds
    something hidden is made anew, of what is visible in it, so that not even names are seen. Where
    that takes too many binds it is bound as it is, and what is hidden is covered; where that takes
    too many covers it is left to Landlock, which hides what is in them, but not their names.

    Parameters
    ----------
    landlocked
        Whether the sandbox restricts itself by Landlock, too.

    Raises
    ------
    SandboxError
        A share hides too much, and there is no Landlock.
    """
    bound = {path for path in policy.python if policy.visible(path) and not _below_usr(path)}
    whole = {*map(Path, SYSTEM), *policy.python}
    for share in policy.imports:
        visible = policy.visible_of(share)
        bound |= {share.path} if landlocked and len(visible) > MAX_BINDS else {*visible}
    covers = 0
    for share in policy.shares:
        visible = policy.visible_of(share)
        if len(visible) > MAX_BINDS:
            visible = [share.path]
            if covers + len(policy.hidden_below(share.path)) <= MAX_COVERS:
                covers += len(policy.hidden_below(share.path))
                whole.add(share.path)
            elif not landlocked:
                raise SandboxError(
                    f"{share.path} holds more than {MAX_COVERS} paths that are hidden, and this "
                    "kernel has no Landlock to hide them; name what is needed in it: --data PATH"
                )
        bound |= {*visible}
    covered = {
        root / path.relative_to(root.resolve())
        for root in whole
        if not root.is_symlink()
        for path in policy.hidden_below(root)
    }
    # what is gone meanwhile cannot be covered: its folder may be read-only
    covered = {path for path in covered - bound if not path.is_symlink() and path.exists()}
    steps = sorted(bound | covered, key=lambda path: len(path.parts))
    made: set[Path] = set()
    words = [
        word
        for path in steps
        for word in (
            *parents(_place(path), made),
            *(cover(path, _place(path)) if path in covered else _read_only(path)),
        )
    ]
    closed = [str(_place(path)) for path in steps if path in covered and path.is_dir()]
    links, folders = _links(bound)
    return [
        *words,
        *links,
        *more,
        *(word for path in (*closed, *folders) for word in ("--remount-ro", path)),
    ]


def _read_only(path: Path) -> list[str]:
    return ["--ro-bind-try", str(path), str(_place(path))]


def _place(path: Path) -> Path:
    """Return where a path is bound."""
    return Path(f"{SHARED}{path}") if _writable_above(path) else path


def _writable_above(path: Path) -> Path | None:
    return next((Path(root) for root in WRITABLE if path.is_relative_to(root)), None)


def _links(bound: Set[Path]) -> tuple[list[str], list[str]]:
    """Link what is bound elsewhere to where it belongs; return also the folders that this makes."""
    words: list[str] = []
    folders: dict[str, None] = {}
    for path in bound:
        root = _writable_above(path)
        if root and bound.isdisjoint(path.parents):
            top = root / path.relative_to(root).parts[0]
            if top != path:
                folders[str(top)] = None
            words += [*parents(path), "--symlink", str(_place(path)), str(path)]
    made = [word for top in folders for word in ("--perms", "0755", "--tmpfs", top)]
    return [*made, *words], [*folders]


def _below_usr(path: Path) -> bool:
    return path.is_relative_to("/usr")


def parents(path: Path, made: set[Path] | None = None) -> list[str]:
    """Make the folders above a path, but for those ``made``; bubblewrap makes missing ones 0700."""
    made = set() if made is None else made
    above = [folder for folder in reversed(path.parents[:-1]) if folder not in made]
    made |= {*above}
    return [word for folder in above for word in ("--perms", "0755", "--dir", str(folder))]


def cover(path: Path, place: Path) -> list[str]:
    """Put an empty file or folder over a path."""
    if path.is_dir():
        return ["--perms", "0755", "--tmpfs", str(place)]
    return ["--ro-bind", "/dev/null", str(place)]


def private_folders(work: Path) -> list[str]:
    """Make the working folder, those above it in the home folder, and one for temporary files."""
    inner = work.relative_to(HOME)
    paths = [*reversed(inner.parents[:-1]), inner, Path("tmp")]
    return [word for path in paths for word in ("--perms", "0777", "--dir", str(Path(HOME, path)))]


def fonts() -> list[str]:
    """Bind matplotlib's list of fonts where it looks for it."""
    cache = f"{HOME}/.cache/matplotlib"
    folders = ["--perms", "0777", "--dir", f"{HOME}/.cache", "--perms", "0777", "--dir", cache]
    lists = [
        word for path in font_lists() for word in ("--ro-bind", str(path), f"{cache}/{path.name}")
    ]
    return [*folders, *lists]
