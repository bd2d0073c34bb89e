"""Run the HTML and Markdown filters in a process that is ended when it takes too long.

Cleaners build trees and decoders unpack, and bytes can be written for which that takes the square
of their number, or all memory there is. A thread cannot be ended, so there is one process for it:
it has no environment and reads and writes nothing but text. It is started when first needed and
ends with its pipe.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import resource
import select
import struct
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

from jupyter_agent.sandbox.filter.figures import NotShown
from jupyter_agent.sandbox.filter.markdown import Clean, code_block

__all__ = ["clean_prose", "cleaned", "end"]

# each maps text to text
CLEANERS = {
    "drawing": ("jupyter_agent.sandbox.filter.html", "clean_drawing"),
    "html": ("jupyter_agent.sandbox.filter.html", "clean_html"),
    "plain html": ("jupyter_agent.sandbox.filter.html", "clean_plain_html"),
    "markdown": ("jupyter_agent.sandbox.filter.markdown", "clean_markdown"),
    "picture": ("jupyter_agent.sandbox.filter.images", "fit_url"),
}
MAX_TEXT = 16 << 20  # characters, before and after
MAX_SECONDS = 2  # CPU seconds for one text; the kernel counts whole seconds
MAX_WAIT = 10.0  # seconds for one text, however busy the machine is
MAX_MEMORY = 400 << 20  # bytes of address space
KEPT_MEMORY = 128 << 20  # bytes; a process that uses more is ended after its answer
SHARE = 0.2  # of a CPU that cleaning may use over time
BURST = 4.0  # CPU seconds that it may use at once
_ASKED = struct.Struct("<II")  # bytes of the cleaner's name, and of the text
_ANSWERED = struct.Struct("<?Idq")  # whether it is clean; its bytes; CPU seconds; peak memory


def cleaned(kind: str, text: str) -> str:
    """Return what a cleaner makes of text.

    Raises
    ------
    NotShown
        It takes too long, or is too large.
    """
    with _lock:
        return _cleaners.clean(kind, text)


def clean_prose(text: str) -> Clean:
    """Clean Markdown of any origin; if that takes too long, return it as plain text.

    What is clean stays as it is, at no cost.
    """
    if isinstance(text, Clean):
        return text
    try:
        return Clean(cleaned("markdown", text))
    except NotShown:
        return code_block(text, "text")


def end() -> None:
    """End the process, if there is one; the next text starts it again."""
    with _lock:
        _cleaners.end()


class _Cleaners:
    """The process, and the CPU time that it may use."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._credit, self._since = BURST, time.monotonic()

    def clean(self, kind: str, text: str) -> str:
        now = time.monotonic()
        self._credit = min(BURST, self._credit + SHARE * (now - self._since))
        self._since = now
        if len(text) > MAX_TEXT:
            raise NotShown(f"{kind} of {len(text):,} characters")
        if self._credit <= 0:
            raise NotShown(f"{kind} after some that took too long to clean")
        try:
            data = text.encode("utf-8", "replace")
            clean, seconds, memory = self._ask(kind, data, now + MAX_WAIT)
        except (OSError, EOFError):
            self.end()
            self._credit -= MAX_SECONDS
            raise NotShown(f"{kind} that takes too long to clean") from None
        except BaseException:  # an interrupt leaves half a message in the pipe
            self.end()
            raise
        self._credit -= seconds
        if memory > KEPT_MEMORY:
            self.end()
        if clean is None:
            raise NotShown(f"{kind} that cannot be cleaned, or becomes too long")
        return clean.decode()

    def _ask(self, kind: str, text: bytes, until: float) -> tuple[bytes | None, float, int]:
        if self._process is None:
            self._process = _start()
        assert self._process.stdin
        assert self._process.stdout
        asked = memoryview(_ASKED.pack(len(kind), len(text)) + kind.encode() + text)
        out, into = self._process.stdin.fileno(), self._process.stdout.fileno()
        while asked:
            _wait(out, select.POLLOUT, until)
            asked = asked[os.write(out, asked) :]
        head = _read(into, _ANSWERED.size, until)
        clean, size, seconds, memory = _ANSWERED.unpack(head)
        if size > 4 * MAX_TEXT:
            raise EOFError("an answer that is too long")
        answer = _read(into, size, until)
        return answer if clean else None, seconds, memory

    def end(self) -> None:
        process, self._process = self._process, None
        if process:
            process.kill()
            process.communicate()  # it closes the pipes, too


def _start() -> subprocess.Popen[bytes]:
    """Start the process with the import path of this one, and with nothing else of it."""
    atexit.register(end)
    paths = filter(None, sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "jupyter_agent.sandbox.filter.cleaning"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        cwd="/",
        env={"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"},
        start_new_session=True,  # a terminal's interrupt must not reach it
    )
    for pipe in (process.stdin, process.stdout):
        assert pipe
        os.set_blocking(pipe.fileno(), False)
    return process


def _wait(descriptor: int, event: int, until: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    left = until - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise EOFError("it took too long")


def _read(descriptor: int, size: int, until: float) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        _wait(descriptor, select.POLLIN, until)
        count = os.readv(descriptor, [view])
        if not count:
            raise EOFError("it has ended")
        view = view[count:]
    return bytes(data)


def _forget() -> None:
    """Forget the process after a fork: it belongs to the parent."""
    global _lock, _cleaners
    process = _cleaners._process
    if process and process.stdin and process.stdout:
        process.stdin.close()
        process.stdout.close()
        process.returncode = 0  # it is not a child of this process
    _lock, _cleaners = threading.Lock(), _Cleaners()


_lock = threading.Lock()
_cleaners = _Cleaners()
os.register_at_fork(after_in_child=_forget)


# -- the process


def _peak() -> int:
    """Return the bytes of memory that this process has used, without its parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def _serve() -> None:
    """Clean each text that arrives, within the limits, until the pipe ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    cleaners = {}
    with open(0, "rb") as asked, open(1, "wb") as answered:
        while head := asked.read(_ASKED.size):
            name, size = _ASKED.unpack(head)
            kind, text = asked.read(name).decode(), asked.read(size).decode()
            if kind not in cleaners:
                module, function = CLEANERS[kind]
                cleaners[kind] = getattr(import_module(module), function)
            began = time.process_time()
            resource.setrlimit(resource.RLIMIT_CPU, (int(began) + MAX_SECONDS, hard))
            data, done = b"", False
            with contextlib.suppress(Exception):
                clean = cleaners[kind](text)
                done = len(clean) <= MAX_TEXT
                data = clean.encode("utf-8", "replace") if done else b""
            peak = _peak()
            answered.write(_ANSWERED.pack(done, len(data), time.process_time() - began, peak))
            answered.write(data)
            answered.flush()


if __name__ == "__main__":
    _serve()
