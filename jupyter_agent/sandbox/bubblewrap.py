"""The bubblewrap tier: a command that shows a kernel only what is bound into its namespaces."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from jupyter_agent.sandbox.files import uncovered
from jupyter_agent.sandbox.interpreter import font_lists, interpreter_paths

__all__ = ["check", "command", "fonts", "masked", "parents", "read_only", "unique_uid"]

HOME = "/home/agent"
# What a program needs of the system's own files; /etc is never shared as a whole.
SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
ETC = (
    "alternatives fonts host.conf ld.so.cache ld.so.conf ld.so.conf.d localtime matplotlibrc "
    "mime.types nsswitch.conf ssl/certs ssl/openssl.cnf timezone"
).split()
_uids = itertools.count()


def check() -> str:
    """Try bubblewrap with the very options a sandbox uses; return what is wrong, or nothing."""
    path = shutil.which("bwrap")
    return _try_bubblewrap(path) if path else "not installed"


@functools.lru_cache(maxsize=8)
def _try_bubblewrap(path: str) -> str:
    trial = [path, *command(unique_uid())[1:], "--remount-ro", "/", "--", "true"]
    try:
        done = subprocess.run(trial, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    lines = done.stderr.strip().splitlines()
    return (lines[-1] if lines else f"exit code {done.returncode}") if done.returncode else ""


def unique_uid() -> int:
    """For root, a user id that nothing else runs as; 0 for an ordinary user, who needs none."""
    if os.geteuid() != 0:
        return 0
    return 0x70000000 + (os.getpid() % 0x100000) * 0x80 + next(_uids) % 0x80


def command(uid: int, private: int = 1 << 20) -> list[str]:
    """Write all of the command that does not depend on what is shared."""
    command = [shutil.which("bwrap") or "bwrap", "--die-with-parent", "--new-session"]
    command += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"]
    command += ["--unshare-cgroup-try", "--hostname", "sandbox", "--clearenv", "--cap-drop", "ALL"]
    if uid:  # root of the host stays root in a user namespace: use a real, powerless user instead
        for capability in ("SETUID", "SETGID", "DAC_READ_SEARCH"):
            command += ["--cap-add", f"CAP_{capability}"]
    else:
        command += ["--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"]
    command += ["--ro-bind", "/usr", "/usr"]
    for path in map(Path, SYSTEM):
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            command += ["--ro-bind", str(path), str(path)]
    command += ["--perms", "0755", "--dir", "/etc", "--perms", "0755", "--dir", "/etc/ssl"]
    for name in ETC:
        command += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    command += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]
    for root, size in (("/tmp", private // 4), ("/dev/shm", private // 4), (HOME, private)):
        command += ["--perms", "1777", "--size", str(size), "--tmpfs", root]
    command += ["--remount-ro", "/dev"]
    return command + read_only([path for path in interpreter_paths() if not _below_usr(path)])


def _below_usr(path: str) -> bool:
    return Path(path).is_relative_to("/usr")


def read_only(paths: Iterable[str]) -> list[str]:
    """Bind paths read-only."""
    return [word for path in paths for word in (*parents(path), "--ro-bind", path, path)]


def parents(path: str) -> list[str]:
    """Make the folders above a path; bubblewrap itself makes missing ones 0700."""
    above = reversed(Path(path).parents[:-1])
    return [word for folder in above for word in ("--perms", "0755", "--dir", str(folder))]


def fonts() -> list[str]:
    """Bind matplotlib's list of fonts where it looks for it."""
    cache = f"{HOME}/.cache/matplotlib"
    parents = ["--perms", "0777", "--dir", f"{HOME}/.cache", "--perms", "0777", "--dir", cache]
    lists = [
        word for path in font_lists() for word in ("--ro-bind", str(path), f"{cache}/{path.name}")
    ]
    return [*parents, *lists]


def masked(paths: list[Path]) -> list[str]:
    """Cover paths by empty files and folders, less what the kernel runs on, such as .venv/lib."""
    command = []
    needed = set(map(Path, interpreter_paths()))
    for path in itertools.chain(*(uncovered(path, needed) for path in paths)):
        if path.is_dir():
            command += ["--perms", "0000", "--tmpfs", str(path), "--remount-ro", str(path)]
        else:
            command += ["--ro-bind", "/dev/null", str(path)]
    return command
