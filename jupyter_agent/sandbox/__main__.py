"""The launcher: ``python -m jupyter_agent.sandbox FD`` becomes a confined kernel.

``FD`` is an inherited descriptor with the provisioner's plan as JSON. Whatever goes wrong ends the
process before any code of the agent's has run, with one line on stderr.
``python -m jupyter_agent.sandbox install`` is a user's command, in `install`.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import runpy
import select
import sys
from pathlib import Path
from typing import Any

from jupyter_agent.sandbox.guest import lockdown, seccomp, supervisor

# What the kernel counts for each user: an ordinary user's sandbox takes it from the host. No
# priority above that of others, either.
SHARED_LIMITS = {"MEMLOCK": 1 << 16, "MSGQUEUE": 0, "NICE": 0, "RTPRIO": 0, "SIGPENDING": 256}
USAGE = "usage: python -m jupyter_agent.sandbox install KERNEL (its options: install --help)"
MISUSED = 2


def main() -> None:
    """Confine this process as planned, then run the kernel in it."""
    if sys.argv[1:2] == ["install"]:  # on the host; nothing of it is imported in a sandbox
        del sys.argv[1]
        runpy.run_module("jupyter_agent.frontends.wrap_kernelspec", run_name="__main__")
    if not "".join(sys.argv[1:]).isdecimal():
        print(USAGE, file=sys.stderr)  # noqa: T201
        sys.exit(MISUSED)
    with os.fdopen(int(sys.argv[1])) as file:
        plan = json.load(file)
    try:
        if not plan["namespaces"]:
            supervisor.supervise(plan["lifeline"])
        confine(plan)
        _see_that_the_host_lives(plan["lifeline"])
    except OSError as error:
        sys.exit(f"jupyter_agent.sandbox: {error}")
    from jupyter_agent.sandbox.guest import confined_kernel, working_folder

    folder = working_folder.WorkingFolder(
        plan["folder"], plan["shares"], plan["copied"], links=plan["links"]
    )
    folder.update()
    if plan["command"]:
        os.execvp(plan["command"][0], plan["command"])
    sockets = {int(port): fd for port, fd in plan["sockets"].items()}
    confined_kernel.serve(
        plan["connection"],
        sockets=sockets,
        folder=folder,
        facts=plan["facts"],
        search=plan["search"],
    )


def confine(plan: dict[str, Any]) -> None:
    """Give up all rights that the plan does not name."""
    os.chdir(plan["folder"])
    os.environ["PWD"] = plan["folder"]  # bubblewrap has set it to its own
    if os.getpgid(0) != os.getpid():
        os.setpgid(0, 0)  # so that an interrupt reaches the children too
    for name, value in (plan["limits"] | SHARED_LIMITS).items():
        _limit(getattr(resource, f"RLIMIT_{name}"), value)
    with contextlib.suppress(OSError):  # where memory runs out, this ends before Jupyter does
        Path("/proc/self/oom_score_adj").write_text("1000")
    if plan["uid"]:
        lockdown.become(plan["uid"], reads_all=plan["reads_all"])
    namespaces = plan["namespaces"]
    if not namespaces:
        lockdown.die_with_parent()
    if rules := plan["landlock"]:
        if not namespaces:
            rules["read"] += _limits_of_own_groups()
        lockdown.restrict_paths(**rules, own_network=namespaces)
    scoped = namespaces or lockdown.landlock_abi() >= lockdown.SIGNALS_ABI
    lockdown.install_filter(
        seccomp.seccomp_filter(own_namespaces=namespaces, signals_scoped=scoped)
    )


# What a control group (cgroups(7), versions 2 and 1) says of its limits, not of its members.
LIMITS = (
    "cpu.max cpuset.cpus.effective memory.high memory.max pids.max "
    "cpu.cfs_period_us cpu.cfs_quota_us cpu.shares cpuset.cpus memory.limit_in_bytes"
).split()


def _limits_of_own_groups() -> list[str]:
    """Return the files that hold the limits of this process, and of the groups above it.

    Libraries such as DuckDB and joblib read them where there are any, and fail where they may not.
    """
    found = []
    try:
        groups = os.fsdecode(Path("/proc/self/cgroup").read_bytes())
    except OSError:  # a kernel without control groups
        return []
    for line in filter(None, groups.split("\n")):
        _, controllers, group = line.split(":", 2)
        root = Path("/sys/fs/cgroup", controllers)
        own = Path(os.path.normpath(root / group.lstrip("/")))
        folders = [path for path in (own, *own.parents) if path.is_relative_to(root)]
        found += [str(folder / name) for folder in folders for name in LIMITS]
    return found


def _see_that_the_host_lives(lifeline: int) -> None:
    """End if the host ended before this process was bound to end with it.

    The host holds the other end of a pipe and never writes: readable means that it is closed.
    """
    readable, _, _ = select.select([lifeline], [], [], 0)
    os.close(lifeline)
    if readable:
        sys.exit("jupyter_agent.sandbox: the host has ended")


def _limit(kind: int, value: int) -> None:
    """Set a limit for good, or leave a lower one that is there."""
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    main()
