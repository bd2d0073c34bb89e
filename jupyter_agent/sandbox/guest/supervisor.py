"""End all processes that a kernel has started, where there is no process namespace.

Standard library only. The kernel is a child of this process, and so becomes whatever outlives its
own parent (prctl(2), PR_SET_CHILD_SUBREAPER), however it detached itself. This process is not
confined: Landlock or the filter keeps the guest from reaching it, and it runs nothing of its.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from jupyter_agent.sandbox.guest import lockdown


def supervise(lifeline: int) -> None:
    """Return in a child process, which is to be confined; wait in this one, and end with the child.

    The end comes when the child ends, when the host writes to ``lifeline`` or closes it, as it
    does when it is killed, and when the thread ends that has started this process.
    """
    lockdown.adopt_orphans()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    kernel = os.fork()
    if kernel == 0:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.close(woken)
        os.close(wake)
        return
    lockdown.die_with_parent(signal.SIGTERM)
    _close_all_but(lifeline, woken, wake)
    status = None
    while status is None and not _told_to_end(lifeline, woken):
        status = _reap(kernel)
    _end_all()
    _end_as(status)


def _close_all_but(*kept: int) -> None:
    """Close all sockets and files of the kernel."""
    opened = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    for descriptor in opened:
        if descriptor > 2 and descriptor not in kept:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _told_to_end(lifeline: int, woken: int) -> bool:
    """Wait for a signal or for the host; say whether it is time to end."""
    ready, _, _ = select.select([lifeline, woken], [], [])
    return lifeline in ready or signal.SIGTERM in os.read(woken, 4096)


def _reap(kernel: int) -> int | None:
    """Collect processes that have ended; return the status of the kernel if it is one of them."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == kernel:
                return ended[1]
    return None


def _end_all() -> None:
    """Kill every child until there is none; what they had started comes to this process, too.

    A child of ours keeps its number until it is buried here, so no other process is hit.
    """
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while True:
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _end_as(status: int | None) -> None:
    """End as the kernel did."""
    code = -signal.SIGKILL if status is None else os.waitstatus_to_exitcode(status)
    if code < 0:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)
