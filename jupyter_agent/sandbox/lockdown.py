"""Lock the calling process down for good: no way back, and none for its children.

Standard library only: this runs in the sandbox's own process, before anything of the user's is
imported. Four parts, each of which the kernel enforces: a user without rights, Landlock (which
paths), seccomp (which system calls), and death together with the host.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
from collections.abc import Iterable
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

# --- seccomp -------------------------------------------------------------------------------------
# System call numbers: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h.

_X86_64 = {
    "acct": 163, "add_key": 248, "adjtimex": 159, "bpf": 321, "chmod": 90, "chown": 92,
    "chroot": 161, "clock_adjtime": 305, "clock_settime": 227, "clone": 56, "clone3": 435,
    "delete_module": 176, "fanotify_init": 300, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452,
    "fchown": 93, "fchownat": 260, "fcntl": 72, "finit_module": 313, "fremovexattr": 199,
    "fsconfig": 431, "fsetxattr": 190, "fsmount": 432, "fsopen": 430, "fspick": 433,
    "futimesat": 261, "init_module": 175, "inotify_add_watch": 254, "io_uring_enter": 426,
    "io_uring_register": 427, "io_uring_setup": 425, "ioctl": 16, "ioperm": 173, "iopl": 172,
    "ioprio_set": 251, "kcmp": 312, "kexec_file_load": 320, "kexec_load": 246, "keyctl": 250,
    "kill": 62, "lchown": 94, "lremovexattr": 198, "lsetxattr": 189, "mbind": 237,
    "migrate_pages": 256, "mount": 165, "mount_setattr": 442, "move_mount": 429, "move_pages": 279,
    "mq_open": 240, "mq_unlink": 241, "msgctl": 71, "msgget": 68, "msgrcv": 70, "msgsnd": 69,
    "name_to_handle_at": 303, "open_by_handle_at": 304, "open_tree": 428, "perf_event_open": 298,
    "personality": 135, "pidfd_getfd": 438, "pidfd_send_signal": 424, "pivot_root": 155,
    "prlimit64": 302, "process_madvise": 440, "process_vm_readv": 310, "process_vm_writev": 311,
    "ptrace": 101, "quotactl": 179, "quotactl_fd": 443, "reboot": 169, "removexattr": 197,
    "removexattrat": 466, "request_key": 249, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
    "sched_setaffinity": 203, "sched_setattr": 314, "sched_setparam": 142,
    "sched_setscheduler": 144, "semctl": 66, "semget": 64, "semop": 65, "semtimedop": 220,
    "setns": 308, "setpriority": 141, "settimeofday": 164, "setxattr": 188, "setxattrat": 463,
    "shmat": 30, "shmctl": 31, "shmget": 29, "socket": 41, "swapoff": 168, "swapon": 167,
    "syslog": 103, "tgkill": 234, "tkill": 200, "umount2": 166, "unshare": 272, "userfaultfd": 323,
    "utime": 132, "utimensat": 280, "utimes": 235, "vhangup": 153,
}  # fmt: skip

_AARCH64 = {
    "acct": 89, "add_key": 217, "adjtimex": 171, "bpf": 280, "chroot": 51, "clock_adjtime": 266,
    "clock_settime": 112, "clone": 220, "clone3": 435, "delete_module": 106, "fanotify_init": 262,
    "fchmod": 52, "fchmodat": 53, "fchmodat2": 452, "fchown": 55, "fchownat": 54, "fcntl": 25,
    "finit_module": 273, "fremovexattr": 16, "fsconfig": 431, "fsetxattr": 7, "fsmount": 432,
    "fsopen": 430, "fspick": 433, "init_module": 105, "inotify_add_watch": 27,
    "io_uring_enter": 426, "io_uring_register": 427, "io_uring_setup": 425, "ioctl": 29,
    "ioprio_set": 30, "kcmp": 272, "kexec_file_load": 294, "kexec_load": 104, "keyctl": 219,
    "kill": 129, "lremovexattr": 15, "lsetxattr": 6, "mbind": 235, "migrate_pages": 238,
    "mount": 40, "mount_setattr": 442, "move_mount": 429, "move_pages": 239, "mq_open": 180,
    "mq_unlink": 181, "msgctl": 187, "msgget": 186, "msgrcv": 188, "msgsnd": 189,
    "name_to_handle_at": 264, "open_by_handle_at": 265, "open_tree": 428, "perf_event_open": 241,
    "personality": 92, "pidfd_getfd": 438, "pidfd_send_signal": 424, "pivot_root": 41,
    "prlimit64": 261, "process_madvise": 440, "process_vm_readv": 270, "process_vm_writev": 271,
    "ptrace": 117, "quotactl": 60, "quotactl_fd": 443, "reboot": 142, "removexattr": 14,
    "removexattrat": 466, "request_key": 218, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240,
    "sched_setaffinity": 122, "sched_setattr": 274, "sched_setparam": 118,
    "sched_setscheduler": 119, "semctl": 191, "semget": 190, "semop": 193, "semtimedop": 192,
    "setns": 268, "setpriority": 140, "settimeofday": 170, "setxattr": 5, "setxattrat": 463,
    "shmat": 196, "shmctl": 195, "shmget": 194, "socket": 198, "swapoff": 225, "swapon": 224,
    "syslog": 116, "tgkill": 131, "tkill": 130, "umount2": 39, "unshare": 97, "userfaultfd": 282,
    "utimensat": 88, "vhangup": 58,
}  # fmt: skip

_ARCHITECTURES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}

# Refused in both tiers: other processes, kernel keys, new namespaces and mounts, the machine.
_REFUSED = (
    "acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module fanotify_init "
    "finit_module fsconfig fsmount fsopen fspick init_module io_uring_enter io_uring_register "
    "io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl mbind migrate_pages mount "
    "mount_setattr move_mount move_pages name_to_handle_at open_by_handle_at open_tree "
    "perf_event_open personality pidfd_getfd pivot_root process_madvise process_vm_readv "
    "process_vm_writev ptrace quotactl quotactl_fd reboot request_key setns settimeofday swapoff "
    "swapon syslog umount2 unshare userfaultfd vhangup"
).split()

# Where no namespace does it: what reaches other processes of the same user.
_SHARED_WITH_USER = (
    "inotify_add_watch mq_open mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop "
    "semtimedop shmat shmctl shmget"
).split()
_SIGNALS = "kill pidfd_send_signal rt_sigqueueinfo rt_tgsigqueueinfo tkill".split()

# Answered with a success that changes nothing. Landlock does not cover the attributes of files (its
# documentation, "Current limitations"): shutil.copy and tar go on, and no file of the user's is
# touched. Scheduling is set for a thread by its number, which may be any process's: libzmq aborts
# on a refusal.
_PRETENDED = (
    "chmod chown fchmod fchmodat fchmodat2 fchown fchownat fremovexattr fsetxattr futimesat "
    "ioprio_set lchown lremovexattr lsetxattr removexattr removexattrat sched_setaffinity "
    "sched_setattr sched_setparam sched_setscheduler setpriority setxattr setxattrat utime "
    "utimensat utimes"
).split()

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
# struct seccomp_data
_NUMBER, _ARCHITECTURE, _ARGUMENT_0, _ARGUMENT_1, _ARGUMENT_2 = 0, 4, 16, 24, 32
_NEW_NAMESPACE = 0x7E020000  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # type into a terminal
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE = 0
_SETLEASE, _NOTIFY = 1024, 1026  # of fcntl(2): they make others wait, or tell what they do

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def seccomp_filter(*, own_namespaces: bool, signals_scoped: bool = True) -> bytes:
    """Write the filter as classic BPF, `struct sock_filter` after `struct sock_filter`.

    Parameters
    ----------
    own_namespaces
        True inside bubblewrap. Otherwise the filter also does the work of the network and IPC
        namespaces: no socket of any family but netlink, which libzmq asks for at its start.
    signals_scoped
        False where Landlock cannot keep signals inside (ABI below 6): then none may be sent.
    """
    architecture, numbers = _ARCHITECTURES[platform.machine()]

    def answer(names: Iterable[str], error: int) -> list[Instruction]:
        return [
            instruction
            for name in names
            if name in numbers
            for instruction in _when(numbers[name], [_return(_ERRNO | error)])
        ]

    families = (_AF_UNIX, _AF_INET, _AF_INET6) if own_namespaces else ()
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        _return(_KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, 0x40000000),  # the x32 ABI has numbers of its own
        _return(_ERRNO | errno.EPERM),
        *answer(_REFUSED, errno.EPERM),
        *answer(["clone3"], errno.ENOSYS),  # its flags are behind a pointer; libc falls back
        *_when(numbers["clone"], _if_any_bit(_ARGUMENT_0, _NEW_NAMESPACE, errno.EPERM)),
        *_when(numbers["ioctl"], _unless_one_of(_ARGUMENT_1, (_TIOCSTI, _TIOCLINUX), errno.EPERM)),
        *_when(numbers["fcntl"], _unless_one_of(_ARGUMENT_1, (_SETLEASE, _NOTIFY), errno.EPERM)),
        *_when(numbers["socket"], _sockets(families)),
    ]
    if not own_namespaces:
        program += answer(_SHARED_WITH_USER, errno.EPERM)
        program += answer(_PRETENDED, 0)
        program += _when(numbers["prlimit64"], _only_one_of(_ARGUMENT_0, (0,), errno.EPERM))
    if not signals_scoped:
        program += answer(_SIGNALS, errno.EPERM)
        own = (os.getpid(),)
        program += _when(numbers["tgkill"], _only_one_of(_ARGUMENT_0, own, errno.EPERM))
    program.append(_return(_ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _return(action: int) -> Instruction:
    return (_RETURN, 0, 0, action)


def _when(number: int, then: list[Instruction]) -> list[Instruction]:
    """For one system call do ``then``, which returns on every path."""
    return [(_EQUAL, 0, len(then), number), *then]


def _sockets(families: tuple[int, ...]) -> list[Instruction]:
    """Allow these families, and of netlink the protocol that libzmq asks for at its start.

    The rest is refused by EAFNOSUPPORT: on EPERM libzmq aborts.
    """
    routes = _only_one_of(_ARGUMENT_2, (_NETLINK_ROUTE,), errno.EAFNOSUPPORT)
    netlink = [(_EQUAL, 0, len(routes), _AF_NETLINK), *routes]
    others = _only_one_of(_ARGUMENT_0, families, errno.EAFNOSUPPORT)
    return [(_LOAD, 0, 0, _ARGUMENT_0), *netlink, *others]


def _if_any_bit(argument: int, bits: int, error: int) -> list[Instruction]:
    return [
        (_LOAD, 0, 0, argument),
        (_ANY_BIT, 0, 1, bits),
        _return(_ERRNO | error),
        _return(_ALLOW),
    ]


def _only_one_of(argument: int, values: tuple[int, ...], error: int) -> list[Instruction]:
    checks = [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [(_LOAD, 0, 0, argument), *checks, _return(_ERRNO | error), _return(_ALLOW)]


def _unless_one_of(argument: int, values: tuple[int, ...], error: int) -> list[Instruction]:
    checks = [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [(_LOAD, 0, 0, argument), *checks, _return(_ALLOW), _return(_ERRNO | error)]


def seccomp_available() -> bool:
    """Tell whether a filter can be written for this machine."""
    return platform.machine() in _ARCHITECTURES


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
LEAST_ABI = 3  # below it a file that may not be written can still be truncated
SIGNALS_ABI = 6


def landlock_abi() -> int:
    """Which version of Landlock this kernel has; 0 for none."""
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
    """Turn from root into a user that nothing else runs as, without any capability.

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
