"""Do work in a child process, which is ended if it takes too long or too much memory.

A single long call in a package cannot be interrupted, and would cost the kernel its variables.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 20  # of all results
_BLOCK = 1 << 16


def results_of(work: Callable[[], Iterable[Any]], *, seconds: float, more_memory: int) -> list[Any]:
    """Return what work yields in a child process, as JSON; as much of it as comes in time.

    Parameters
    ----------
    more_memory
        Bytes of addresses that the child may add to those of this process.

    Raises
    ------
    OSError
        No process can be started.
    """
    child, interrupted = 0, False

    def interrupt(*_: object) -> None:
        nonlocal interrupted
        interrupted = True
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)  # which ends the wait for it

    # An exception at any moment would leave the child. To block the signal in this thread does not
    # help: it comes by way of the other ones.
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        child, reader = _start(work, more_memory)
        text = b"" if interrupted else _read(reader, time.monotonic() + seconds)
        os.close(reader)
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            child = 0
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt
    lines = text.split(b"\n")
    return [json.loads(line) for line in lines[:-1]]  # the last one has no end, or is empty


def _start(work: Callable[[], Iterable[Any]], more_memory: int) -> tuple[int, int]:
    """Return the child's id, and where its results are read."""
    reader, writer = os.pipe()
    try:
        child = _fork()
        if child == 0:
            os.close(reader)
            _carry_out(work, writer, more_memory)
    except OSError:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    return child, reader


def _fork() -> int:
    with warnings.catch_warnings(action="ignore"):  # that this process has threads
        return os.fork()


def _carry_out(work: Callable[[], Iterable[Any]], writer: int, more_memory: int) -> None:
    """Write a line for each result, and end this process, which is the child."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.stdout = sys.stderr = io.StringIO()
        _limit_memory(more_memory)
        for result in work():
            line = f"{json.dumps(result)}\n".encode()
            while line:
                line = line[os.write(writer, line) :]
    finally:
        os._exit(0)


def _limit_memory(more: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + more
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if soft == resource.RLIM_INFINITY or most < soft:
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _read(reader: int, deadline: float) -> bytes:
    """Read until the end, or until the time is over."""
    text = b""
    while len(text) < MAX_BYTES:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            break
        block = os.read(reader, _BLOCK)
        if not block:
            break
        text += block
    return text
