"""The Landlock tier: rules and a private folder for a sandbox without namespaces."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from jupyter_agent.sandbox.guest import lockdown, seccomp, shm
from jupyter_agent.sandbox.isolation.guest_environment import guest_environment
from jupyter_agent.sandbox.isolation.interpreter import font_lists, search_path
from jupyter_agent.sandbox.isolation.path_policy import PROCESSORS, Policy

__all__ = ["check", "environment", "prepare", "rules"]

DEVICES = ("/dev/null", "/dev/zero", "/dev/full")  # no terminal: it may be the user's
# not all of /proc/self: below net it lists the connections of the host
PROC = "cgroup cmdline fd limits maps stat statm status".split()


def check() -> str:
    """Return why Landlock and seccomp cannot confine a kernel here, or nothing."""
    if not sys.platform.startswith("linux"):
        return f"needs Linux, not {sys.platform}"
    if not seccomp.seccomp_available():
        return "no seccomp filter for this processor"
    abi = lockdown.landlock_abi()
    if abi < lockdown.MIN_ABI:
        return f"this kernel has Landlock ABI {abi}, at least {lockdown.MIN_ABI} is needed"
    return ""


def rules(policy: Policy, private: Path, late_files: Path) -> dict[str, list[str]]:
    """List the paths that may be read, listed and written."""
    proc = [f"/proc/self/{name}" for name in PROC]
    proc += [f"/proc/{name}" for name in "cpuinfo loadavg meminfo stat uptime version".split()]
    proc += ["/dev/random", "/dev/urandom"]
    proc.append(PROCESSORS)
    return {
        "read": [*map(str, policy.read), *proc, str(late_files)],
        "listed": [str(path) for path in policy.listed()],
        "write": [str(private), *DEVICES],
    }


def prepare(private: Path, work: Path, policy: Policy) -> dict[Path, Path]:
    """Fill a new private folder; return where in it the modules of each folder are found.

    They are linked there: to look for them in the folders they are in, names of other files
    would have to be shown.
    """
    private.mkdir(mode=0o700)
    work.mkdir(parents=True)
    (private / "tmp").mkdir()
    (private / "shm").mkdir()
    cache = private / ".cache" / "matplotlib"
    cache.mkdir(parents=True)
    for fonts in font_lists():
        shutil.copy(fonts, cache)
    search = {}
    for number, place in enumerate(search_path()):
        search[place] = place if place.is_file() else private / "modules" / str(number)
        for share in policy.imports:
            if share.path.parent == place:
                for name, path, _ in policy.links(share):
                    link = search[place] / share.path.name / name
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(path)
    return search


def environment(private: Path, search: Sequence[Path]) -> dict[str, str]:
    """Write the guest's environment; ``search`` names folders that it imports from."""
    modules = [Path(shm.__file__).parent, *search]
    found = guest_environment(f"{private}/tmp", str(private), modules)
    found[shm.VARIABLE] = f"{private}/shm"
    # its workers end where they may not read what /proc says of them; without, it is serial
    found["JOBLIB_MULTIPROCESSING"] = "0"
    return found
