"""Confine the calling process for good: user, Landlock, seccomp, death with its host.

Standard library only: this runs in the sandbox's own process, before anything of the user's is
imported. Four parts, each of which the kernel enforces: a user without rights, Landlock (which
paths), seccomp (which system calls), and death together with the host.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
from collections.abc import Iterable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

# --- seccomp -------------------------------------------------------------------------------------


def install_filter(program: bytes) -> None:
    """Put a filter on this process and all its children, for good (seccomp(2))."""
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if _libc.prctl(_PR_SET_SECCOMP, 2, head, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp refused the filter")


# --- Landlock ------------------------------------------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # bits that an ABI knows; 16 from ABI 5 on
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_FILE_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # those that a file can have
MIN_ABI = 3  # below it a file that may not be written can still be truncated
SIGNALS_ABI = 6


def landlock_abi() -> int:
    """Return the version of Landlock that this kernel has; 0 for none."""
    abi: int = _libc.syscall(_CREATE_RULESET, None, 0, 1)
    return max(0, abi)


def restrict_paths(
    *, read: Iterable[str], listed: Iterable[str], write: Iterable[str], own_network: bool
) -> None:
    """Let this process reach these paths and no others (Documentation/userspace-api/landlock.rst).

    ``listed`` folders show names, no content. A path that does not exist is left out. TCP is
    refused but where the network is the sandbox's own.
    """
    abi = landlock_abi()
    everything = (1 << _FS_RIGHTS.get(abi, 16)) - 1
    network = 3 if abi >= 4 and not own_network else 0  # bind and connect TCP
    scopes = 3 if abi >= SIGNALS_ABI else 0  # abstract sockets, signals
    attributes = struct.pack("QQQ", everything, network, scopes)
    size = 24 if abi >= SIGNALS_ABI else 16 if abi >= 4 else 8
    ruleset = _libc.syscall(_CREATE_RULESET, attributes[:size], size, 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "Landlock refused the rule set")
    readable = _EXECUTE | _READ_FILE | _READ_DIR
    for paths, rights in ((read, readable), (listed, _READ_DIR), (write, everything)):
        for path in paths:
            _add_rule(ruleset, path, rights)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if _libc.syscall(_RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), "Landlock refused to restrict")
    os.close(ruleset)


def _add_rule(ruleset: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not Path(path).is_dir():
        rights &= _FILE_RIGHTS
    if rights and _libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, beneath), 0):
        raise OSError(ctypes.get_errno(), f"Landlock refused a rule for {path}")
    os.close(beneath)


# --- who and how long ----------------------------------------------------------------------------

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_SECCOMP = 1, 4, 8, 22
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 38, 47, 2
_CAP_DAC_READ_SEARCH = 2
_CAPSET = {"x86_64": 126, "aarch64": 91}


def become(uid: int, *, reads_all: bool) -> None:
    """Change from root to a user that no other process runs as, without any capability.

    With ``reads_all`` one stays: to read what its mode alone would forbid, for an interpreter below
    ``/root`` and private data files. Which paths at all is Landlock's or the mount namespace's say,
    and opening files by handle is refused by seccomp.
    """
    if reads_all:
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_DUMPABLE, 1)  # else /proc/self stays root's
    bit = reads_all << _CAP_DAC_READ_SEARCH
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    sets = struct.pack("=6I", bit, bit, bit, 0, 0, 0)
    if _libc.syscall(_CAPSET[platform.machine()], header, sets):
        raise OSError(ctypes.get_errno(), "capset failed")
    if reads_all:
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_READ_SEARCH)


def adopt_orphans() -> None:
    """Be the parent of what children leave behind (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(by: int = signal.SIGKILL) -> None:
    """Get a signal when the thread that started this process ends (prctl(2), PR_SET_PDEATHSIG)."""
    _prctl(_PR_SET_PDEATHSIG, by)


def _prctl(option: int, value: int, third: int = 0) -> None:
    if _libc.prctl(option, value, third, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")
