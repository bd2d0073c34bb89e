"""Replaces the standard library's `_multiprocessing`: semaphores in private files.

As in CPython's Modules/_multiprocessing/semaphore.c, but for where a semaphore lies: in memory that
children inherit, or in a file by which a process that was started anew finds it.
"""

import _posixshmem  # type: ignore[import-not-found]  # found beside this file
import ctypes
import errno
import mmap
import os
import threading
import time
from multiprocessing import context, heap
from typing import Any

shm_open, sem_unlink = _posixshmem.shm_open, _posixshmem.shm_unlink

__all__ = ["SemLock", "flags", "sem_unlink"]

flags: dict[str, int] = {"HAVE_SEM_OPEN": 1, "HAVE_SEM_TIMEDWAIT": 1, "HAVE_FD_TRANSFER": 1}
heap.Arena._dir_candidates = []  # type: ignore[attr-defined]  # of shared arrays: no /dev/shm
_contexts: Any = context
_default = _contexts._default_context
if _default._default_context.get_start_method() == "forkserver":  # from Python 3.14 on
    _default._default_context = _contexts._concrete_contexts["fork"]  # the other needs a socket
_RECURSIVE_MUTEX, _SEMAPHORE = 0, 1
_SIZE = 64  # bytes; a sem_t has 32
_libc = ctypes.CDLL(None, use_errno=True)


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class SemLock:
    """A semaphore of several processes, or a lock that its thread may take again."""

    SEM_VALUE_MAX = 0x7FFFFFFF

    def __init__(self, kind: int, value: int, maxvalue: int, name: str, unlink: bool) -> None:
        if kind not in (_RECURSIVE_MUTEX, _SEMAPHORE):
            raise ValueError("unrecognized kind")
        made = -1 if unlink else shm_open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        self._set(made, kind, maxvalue, None if unlink else name)
        if _libc.sem_init(self._semaphore, 1, ctypes.c_uint(value)):
            raise _error()

    @classmethod
    def _rebuild(cls, _handle: int, kind: int, maxvalue: int, name: str) -> "SemLock":
        found = cls.__new__(cls)
        found._set(shm_open(name, os.O_RDWR), kind, maxvalue, name)
        return found

    def _set(self, descriptor: int, kind: int, maxvalue: int, name: str | None) -> None:
        if descriptor >= 0:
            os.ftruncate(descriptor, _SIZE)
        memory = mmap.mmap(descriptor, _SIZE)
        if descriptor >= 0:
            os.close(descriptor)
        self._semaphore = (ctypes.c_char * _SIZE).from_buffer(memory)
        self.handle = ctypes.addressof(self._semaphore)
        self.kind, self.maxvalue, self.name = kind, maxvalue, name
        self._held, self._by = 0, 0

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take it, and tell whether that was possible in time."""
        if self.kind == _RECURSIVE_MUTEX and self._is_mine():
            self._held += 1
            return True
        if self._wait(block, timeout):
            return False
        self._held, self._by = self._held + 1, threading.get_ident()
        return True

    def _wait(self, block: bool, timeout: float | None) -> bool:
        """Wait for it; tell whether it was in vain."""
        whole, part = divmod(time.time() + max(0.0, timeout or 0.0), 1)
        until = _Time(int(whole), int(part * 1e9))
        while True:
            if _libc.sem_trywait(self._semaphore) == 0:  # most often it can be had at once
                return False
            if block and timeout is None:
                failed = _libc.sem_wait(self._semaphore)
            elif block:
                failed = _libc.sem_timedwait(self._semaphore, ctypes.byref(until))
            else:
                failed = -1
            if not failed:
                return False
            if ctypes.get_errno() in (errno.EAGAIN, errno.ETIMEDOUT):
                return True
            if ctypes.get_errno() != errno.EINTR:  # after a signal Python's own handler has run
                raise _error()

    def release(self) -> None:
        """Give it back."""
        if self.kind == _RECURSIVE_MUTEX:
            if not self._is_mine():
                raise AssertionError("attempt to release recursive lock not owned by thread")
            if self._held > 1:
                self._held -= 1
                return
        elif self._get_value() >= self.maxvalue:
            raise ValueError("semaphore or lock released too many times")
        if _libc.sem_post(self._semaphore):
            raise _error()
        self._held -= 1

    def _get_value(self) -> int:
        value = ctypes.c_int()
        if _libc.sem_getvalue(self._semaphore, ctypes.byref(value)):
            raise _error()
        return max(0, value.value)

    def _is_zero(self) -> bool:
        return self._get_value() == 0

    def _is_mine(self) -> bool:
        return self._held > 0 and self._by == threading.get_ident()

    def _count(self) -> int:
        return self._held

    def _after_fork(self) -> None:
        self._held = 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: Any) -> None:
        self.release()


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
