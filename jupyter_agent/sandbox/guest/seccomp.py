"""The seccomp filter: the list of system calls that a sandbox may make.

An allow-list: a call that stands in no group below answers ENOSYS, as on a kernel that was built
without it, so libraries fall back and a call that a new kernel brings is refused until somebody
has looked at it. Calls that do many things have an allow-list of their arguments.

Left out on purpose: tracing and the memory of other processes, kernel keys, mounts and namespaces,
clocks, modules, the machine; io_uring, seccomp and Landlock (much code of the kernel's for few
users); the old asynchronous I/O, inotify, fanotify and POSIX message queues (each takes from a
number that the machine or the user has but once); handles of files, NUMA policies, capset, vmsplice
and what came after Linux 6.6. Compared with moby's default profile.
"""

from __future__ import annotations

import errno
import platform
import struct

__all__ = ["ARCHITECTURES", "GROUPS", "numbers", "seccomp_available", "seccomp_filter"]

# The number of each processor in a filter (linux/audit.h).
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Each name with its number on x86-64 (asm/unistd_64.h) and on aarch64 (asm-generic/unistd.h), which
# lacks calls that a newer call replaces.
GROUPS = {
    "files": """
        access 21 -, chdir 80 49, close 3 57, close_range 436 436, copy_file_range 326 285,
        creat 85 -, dup 32 23, dup2 33 -, dup3 292 24, faccessat 269 48, faccessat2 439 439,
        fadvise64 221 223, fallocate 285 47, fchdir 81 50, fdatasync 75 83, flock 73 32,
        fstat 5 80, fstatfs 138 44, fsync 74 82, ftruncate 77 46, getcwd 79 17, getdents 78 -,
        getdents64 217 61, link 86 -, linkat 265 37, lseek 8 62, lstat 6 -, mkdir 83 -,
        mkdirat 258 34, mknod 133 -, mknodat 259 33, newfstatat 262 79, open 2 -, openat 257 56,
        openat2 437 437, pipe 22 -, pipe2 293 59, pread64 17 67, preadv 295 69, preadv2 327 286,
        pwrite64 18 68, pwritev 296 70, pwritev2 328 287, read 0 63, readahead 187 213,
        readlink 89 -, readlinkat 267 78, readv 19 65, rename 82 -, renameat 264 38,
        renameat2 316 276, rmdir 84 -, sendfile 40 71, splice 275 76, stat 4 -, statfs 137 43,
        statx 332 291, symlink 88 -, symlinkat 266 36, sync_file_range 277 84, tee 276 77,
        truncate 76 45, umask 95 166, unlink 87 -, unlinkat 263 35, write 1 64, writev 20 66
    """,
    "waiting": """
        epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21, epoll_pwait 281 22,
        epoll_pwait2 441 441, epoll_wait 232 -, eventfd 284 -, eventfd2 290 19, poll 7 -,
        ppoll 271 73, pselect6 270 72, select 23 -, signalfd 282 -, signalfd4 289 74,
        timerfd_create 283 85, timerfd_gettime 287 87, timerfd_settime 286 86
    """,
    "memory": """
        brk 12 214, madvise 28 233, membarrier 324 283, mincore 27 232, mlock 149 228,
        mlock2 325 284, mlockall 151 230, mmap 9 222, mprotect 10 226, mremap 25 216, msync 26 227,
        munlock 150 229, munlockall 152 231, munmap 11 215, pkey_alloc 330 289, pkey_free 331 290,
        pkey_mprotect 329 288
    """,
    "processes": """
        execve 59 221, execveat 322 281, exit 60 93, exit_group 231 94, fork 57 -, futex 202 98,
        getcpu 309 168, getpgid 121 155, getpgrp 111 -, getpid 39 172, getppid 110 173,
        getpriority 140 141, getrandom 318 278, getrlimit 97 163, getrusage 98 165, getsid 124 156,
        gettid 186 178, ioprio_get 252 31, pidfd_open 434 434, restart_syscall 219 128,
        rseq 334 293, sched_get_priority_max 146 125, sched_get_priority_min 147 126,
        sched_getaffinity 204 123, sched_getattr 315 275, sched_getparam 143 121,
        sched_getscheduler 145 120, sched_rr_get_interval 148 127, sched_yield 24 124,
        set_robust_list 273 99, set_tid_address 218 96, setpgid 109 154, setrlimit 160 164,
        setsid 112 157, sysinfo 99 179, times 100 153, uname 63 160, vfork 58 -, wait4 61 260,
        waitid 247 95
    """,
    "signals and time": """
        alarm 37 -, getitimer 36 102, pause 34 -, rt_sigaction 13 134, rt_sigpending 127 136,
        rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigsuspend 130 133, rt_sigtimedwait 128 137,
        setitimer 38 103, sigaltstack 131 132,
        clock_getres 229 114, clock_gettime 228 113, clock_nanosleep 230 115, gettimeofday 96 169,
        nanosleep 35 101, time 201 -, timer_create 222 107, timer_delete 226 111,
        timer_getoverrun 225 109, timer_gettime 224 108, timer_settime 223 110
    """,
    # without capabilities these change nothing, but programs set the ids that they have
    "users": """
        capget 125 90, getegid 108 177, geteuid 107 175, getgid 104 176, getgroups 115 158,
        getresgid 120 150, getresuid 118 148, getuid 102 174, setgid 106 144, setregid 114 143,
        setresgid 119 149, setresuid 117 147, setreuid 113 145, setuid 105 146
    """,
    # on existing sockets: the kernel's own, and pairs
    "sockets": """
        accept 43 202, accept4 288 242, getpeername 52 205, getsockname 51 204, getsockopt 55 209,
        recvfrom 45 207, recvmmsg 299 243, recvmsg 47 212, sendmmsg 307 269, sendmsg 46 211,
        sendto 44 206, setsockopt 54 208, shutdown 48 210
    """,
    # allowed only if the sandbox has its own namespaces
    "named sockets": "bind 49 200, connect 42 203, listen 50 201",
    "System V": """
        msgctl 71 187, msgget 68 186, msgrcv 70 188, msgsnd 69 189, semctl 66 191, semget 64 190,
        semop 65 193, semtimedop 220 192, shmat 30 196, shmctl 31 195, shmdt 67 197, shmget 29 194
    """,
    # Without namespaces these succeed and change nothing. Landlock does not cover the attributes of
    # files (its documentation, "Current limitations"): shutil.copy and tar go on, and no file of
    # the user changes. Scheduling is set by a thread's number, which may belong to any process;
    # libzmq aborts on a refusal.
    "attributes": """
        chmod 90 -, chown 92 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, fchown 93 55,
        fchownat 260 54, futimesat 261 -, lchown 94 -, utime 132 -, utimensat 280 88, utimes 235 -
    """,
    "priorities": """
        ioprio_set 251 30, sched_setaffinity 203 122, sched_setattr 314 274, sched_setparam 142 118,
        sched_setscheduler 144 119, setpriority 141 140
    """,
    # the process namespace limits who gets them, or Landlock from ABI 6 on
    "sent signals": """
        kill 62 129, pidfd_send_signal 424 424, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240,
        tgkill 234 131, tkill 200 130
    """,
    # they would flush every disk of the machine: they succeed and do nothing
    "sync": "sync 162 81, syncfs 306 267",
    # Landlock does not cover them, and their values may be secrets. A file system without them also
    # answers "not supported", so ls -l, cp -a, tar and shutil go on.
    "extended attributes": """
        fgetxattr 193 10, flistxattr 196 13, fremovexattr 199 16, fsetxattr 190 7, getxattr 191 8,
        lgetxattr 192 9, listxattr 194 11, llistxattr 195 12, lremovexattr 198 15, lsetxattr 189 6,
        removexattr 197 14, setxattr 188 5
    """,
    "by their arguments": """
        arch_prctl 158 -, clone 56 220, fcntl 72 25, ioctl 16 29, memfd_create 319 279,
        personality 135 92, prctl 157 167, prlimit64 302 261, socket 41 198, socketpair 53 199
    """,
}

_IOCTLS = (
    *(0x5401, 0x5402, 0x5403, 0x5404),  # TCGETS, TCSETS, TCSETSW, TCSETSF
    *(0x5413, 0x5414, 0x541B, 0x5411),  # TIOCGWINSZ, TIOCSWINSZ, FIONREAD, TIOCOUTQ
    *(0x5421, 0x5450, 0x5451),  # FIONBIO, FIONCLEX, FIOCLEX
    *(0x5409, 0x540A, 0x540B),  # TCSBRK, TCXONC, TCFLSH
    *(0x802C542A, 0x402C542B, 0x402C542C, 0x402C542D),  # TCGETS2, TCSETS2, TCSETSW2, TCSETSF2
    *(0x540E, 0x540F, 0x5410, 0x5422, 0x5429),  # TIOCSCTTY, -GPGRP, -SPGRP, -NOTTY, -GSID
    *(0x80045430, 0x40045431, 0x5441),  # TIOCGPTN, TIOCSPTLCK, TIOCGPTPEER: a terminal of its own
    0x8905,  # SIOCATMARK
)
_INTERFACE_IOCTLS = (
    *(0x8910, 0x8912, 0x8933),  # SIOCGIFNAME, SIOCGIFCONF, SIOCGIFINDEX
    *(0x8913, 0x8915, 0x8919, 0x891B),  # SIOCGIF-FLAGS, -ADDR, -BRDADDR, -NETMASK
    *(0x8921, 0x8927),  # SIOCGIF-MTU, -HWADDR
)
_FCNTLS = (
    *(0, 1, 2, 3, 4, 1030),  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
    *(5, 6, 7, 36, 37, 38),  # F_GETLK, F_SETLK, F_SETLKW, F_OFD_*: locks of byte ranges
    *(1032, 1033, 1034),  # F_GETPIPE_SZ; F_ADD_SEALS, F_GET_SEALS: of a memfd
    *(9, 11, 16, 1025),  # F_GETOWN, F_GETSIG, F_GETOWN_EX, F_GETLEASE
)
_PRCTLS = (
    *(15, 16),  # PR_SET_NAME, PR_GET_NAME
    *(1, 2),  # PR_SET_PDEATHSIG, PR_GET_PDEATHSIG
    *(3, 4),  # PR_GET_DUMPABLE, PR_SET_DUMPABLE
    *(21, 23, 38, 39),  # PR_GET_SECCOMP, PR_CAPBSET_READ, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS
    *(29, 30, 41, 42),  # PR_{SET,GET}_TIMERSLACK, PR_{SET,GET}_THP_DISABLE
    *(50, 51, 55, 56),  # PR_SVE_{SET,GET}_VL, PR_{SET,GET}_TAGGED_ADDR_CTRL, of aarch64
    0x41555856,  # PR_GET_AUXV
)
_ARCH_PRCTLS = (
    *(0x1001, 0x1002, 0x1003, 0x1004),  # ARCH_SET_GS, ARCH_SET_FS, ARCH_GET_FS, ARCH_GET_GS
    *(0x1011, 0x1021, 0x1022, 0x1023),  # ARCH_GET_CPUID, ARCH_{GET_XCOMP_SUPP,GET,REQ}_XCOMP_PERM
)

# Namespaces (CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}), and CLONE_PARENT: it makes a child that
# the host would have to wait for.
_REFUSED_CLONES = 0x7E020000 | 0x8000
_REFUSED_MEMFDS = 0xFFFFFFFF & ~0x1B  # all but MFD_{CLOEXEC,ALLOW_SEALING,NOEXEC_SEAL,EXEC}
_ASK_PERSONALITY = 0xFFFFFFFF
_OWN_GROUP = 0  # for kill(2)
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE = 0
_PROTOCOLS = (0, 6, 17)  # the default one, TCP, UDP
# SOCK_STREAM and SOCK_SEQPACKET, with or without SOCK_NONBLOCK and SOCK_CLOEXEC
_CONNECTED = tuple(kind | flags for kind in (1, 5) for flags in (0, 0x800, 0x80000, 0x80800))

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant
Program = tuple[Instruction, ...]  # returns on every path

_LOAD, _JUMP, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_KILL, _ERRNO = 0x80000000, 0x00050000
_ALLOWED: Program = ((_RETURN, 0, 0, 0x7FFF0000),)
# struct seccomp_data; only the lower half of each argument, which is all that these calls use
_NUMBER, _ARCHITECTURE, _ARGUMENT_0, _ARGUMENT_1, _ARGUMENT_2 = 0, 4, 16, 24, 32


def seccomp_available() -> bool:
    """Tell whether there is a filter for this machine."""
    return platform.machine() in ARCHITECTURES


def seccomp_filter(*, own_namespaces: bool, signals_scoped: bool = True) -> bytes:
    """Write the filter as classic BPF, `struct sock_filter` after `struct sock_filter`.

    Parameters
    ----------
    own_namespaces
        True inside bubblewrap. Otherwise the filter also does the work of the network and IPC
        namespaces: no socket can be made but pairs that are connected for good.
    signals_scoped
        False where Landlock cannot keep signals inside (ABI below 6): then they may be sent to the
        caller's own process group only, as an interrupt is. A number of a process would not do: it
        may become another's.
    """
    allowed = ["files", "waiting", "memory", "processes", "signals and time", "users", "sockets"]
    refused = {"extended attributes": errno.EOPNOTSUPP}
    pretended = ["sync"]
    checked = _checks(own_namespaces=own_namespaces)
    if own_namespaces:
        allowed += ["named sockets", "System V", "attributes", "priorities"]
    else:
        pretended += ["attributes", "priorities"]
    if signals_scoped:
        allowed += ["sent signals"]
    else:
        refused["sent signals"] = errno.EPERM
        checked["kill"] = _only(_ARGUMENT_0, (_OWN_GROUP,), errno.EPERM)
    rules: dict[int, Program] = {}
    for group in allowed:
        rules |= dict.fromkeys(_numbers(group).values(), _ALLOWED)
    for group in pretended:
        rules |= dict.fromkeys(_numbers(group).values(), _refuse(0))
    for group, error in refused.items():
        rules |= dict.fromkeys(_numbers(group).values(), _refuse(error))
    for group in ("by their arguments", "sent signals"):
        rules |= {no: checked[name] for name, no in _numbers(group).items() if name in checked}
    program = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, ARCHITECTURES[platform.machine()]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *_search(_ranges(rules)),
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def numbers(calls: str, machine: str) -> dict[str, int]:
    """Read a processor's call numbers from one of the groups above."""
    column = 1 + list(ARCHITECTURES).index(machine)
    words = [call.split() for call in calls.split(",")]
    return {word[0]: int(word[column]) for word in words if word[column] != "-"}


def _numbers(group: str) -> dict[str, int]:
    return numbers(GROUPS[group], platform.machine())


def _checks(*, own_namespaces: bool) -> dict[str, Program]:
    """Write the rules for the arguments of calls that do many things."""
    interfaces = _INTERFACE_IOCTLS if own_namespaces else ()
    pairs = _ALLOWED if own_namespaces else _only(_ARGUMENT_1, _CONNECTED, errno.EPROTONOSUPPORT)
    any_pid = _ALLOWED if own_namespaces else _only(_ARGUMENT_0, (0,), errno.EPERM)
    return {
        "arch_prctl": _only(_ARGUMENT_0, _ARCH_PRCTLS, errno.EINVAL),
        "clone": _without(_ARGUMENT_0, _REFUSED_CLONES, errno.EPERM),  # clone3: libc falls back
        "fcntl": _only(_ARGUMENT_1, _FCNTLS, errno.EINVAL),
        "ioctl": _only(_ARGUMENT_1, (*_IOCTLS, *interfaces), errno.ENOTTY),
        "memfd_create": _without(_ARGUMENT_1, _REFUSED_MEMFDS, errno.EINVAL),
        "personality": _only(_ARGUMENT_0, (_ASK_PERSONALITY,), errno.EPERM),
        "prctl": _only(_ARGUMENT_0, _PRCTLS, errno.EINVAL),
        "prlimit64": any_pid,
        "socket": _sockets() if own_namespaces else _no_sockets(),
        "socketpair": _switch(_ARGUMENT_0, {_AF_UNIX: pairs}, errno.EAFNOSUPPORT),
    }


def _sockets() -> Program:
    """Allow sockets that a network namespace confines, without the kernel's rarer protocols."""
    internet = _only(_ARGUMENT_2, _PROTOCOLS, errno.EPROTONOSUPPORT)
    netlink = _only(_ARGUMENT_2, (_NETLINK_ROUTE,), errno.EAFNOSUPPORT)
    families = {_AF_UNIX: _ALLOWED, _AF_INET: internet, _AF_INET6: internet, _AF_NETLINK: netlink}
    return _switch(_ARGUMENT_0, families, errno.EAFNOSUPPORT)


def _no_sockets() -> Program:
    """Refuse every family, with errors after which libzmq and libc go on.

    libzmq asks for the network interfaces at its start and aborts unless netlink is "not supported"
    (ip_resolver.cpp, resolve_nic_name).
    """
    return _switch(_ARGUMENT_0, {_AF_NETLINK: _refuse(errno.EOPNOTSUPP)}, errno.EAFNOSUPPORT)


# -- classic BPF


def _refuse(error: int) -> Program:
    """Answer with an error; error 0 is a success that does nothing."""
    return ((_RETURN, 0, 0, _ERRNO | error),)


def _switch(argument: int, cases: dict[int, Program], error: int) -> Program:
    """Apply the rule for the value of an argument, or refuse."""
    program: Program = ((_LOAD, 0, 0, argument),)
    for value, then in cases.items():
        program += ((_EQUAL, 0, len(then), value), *then)
    return program + _refuse(error)


def _only(argument: int, values: tuple[int, ...], error: int) -> Program:
    """Allow only these values of an argument."""
    checks = [(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return ((_LOAD, 0, 0, argument), *checks, *_refuse(error), *_ALLOWED)


def _without(argument: int, bits: int, error: int) -> Program:
    """Allow an argument with none of these bits."""
    return ((_LOAD, 0, 0, argument), (_ANY_BIT, 0, 1, bits), *_refuse(error), *_ALLOWED)


def _ranges(rules: dict[int, Program]) -> list[tuple[int, Program]]:
    """Write rules as ranges: each has a start, and holds up to the next; gaps are refused."""
    unknown = _refuse(errno.ENOSYS)
    found = [(0, unknown)]
    for number in range(max(rules) + 2):
        program = rules.get(number, unknown)
        if program != found[-1][1]:
            found.append((number, program))
    return found[1:] if found[1][0] == 0 else found


def _search(ranges: list[tuple[int, Program]]) -> Program:
    """Find the range of the loaded number by binary search."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    below, above = _search(ranges[:middle]), _search(ranges[middle:])
    if len(below) < 256:
        return ((_AT_LEAST, len(below), 0, ranges[middle][0]), *below, *above)
    jump = (_JUMP, 0, 0, len(below))  # a conditional jump reaches no further than 255
    return ((_AT_LEAST, 0, 1, ranges[middle][0]), jump, *below, *above)
