"""Attacks by system calls: what the filter of them has to stop."""

from __future__ import annotations

from .battery import Attack, decoy_changed, heard, inode_changed, secret


def _pair(name: str, code: str, listener: str, plain: str = "") -> Attack:
    return Attack("network", name, code, heard(listener), plain=plain)


def _attribute(name: str, code: str) -> Attack:
    return Attack("files and secrets", name, code, secret)


def _inode(name: str, code: str) -> Attack:
    return Attack("files and secrets", name, code, inode_changed)


def _signal(name: str, code: str, plain: str = "") -> Attack:
    return Attack("processes", name, code + "\ntime.sleep(.1)", decoy_changed, plain=plain)


def _share(name: str, code: str, plain: str = "") -> Attack:
    return Attack("bombs", name, code, plain=plain)


def _call(name: str, code: str, plain: str = "") -> Attack:
    return Attack("system calls", name, code, plain=plain)


_CONNECTED = "Linux refuses it to sockets that are connected"
_SHARED_FILE = "fd = os.open(W.project + '/data.csv', os.O_RDONLY)\n"

SYSTEM_CALLS: list[Attack] = [
    _pair(
        "reach a host's socket through a pair of datagram sockets",
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "a.connect(W.run + '/log.sock')\na.send(b'x')",
        "unix datagram",
    ),
    _pair(
        "send to a host's socket by name through a pair",
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "a.sendto(b'x', W.run + '/log.sock')",
        "unix datagram",
    ),
    _pair(
        "send to an abstract socket through a pair",
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "a.sendmsg([b'x'], [], 0, '\\0datagram-' + W.abstract)",
        "abstract datagram",
    ),
    _pair(
        "reach a host's socket through a pair of another kind or with other flags",
        "import itertools\npair = (ctypes.c_int * 2)()\n"
        "for kind, flags in itertools.product((2, 3, 4, 6, 10), (0, 0x800, 0x80000, 0x80800)):\n"
        "    try: syscall('socketpair', 1, kind | flags, 0, pair)\n"
        "    except OSError: continue\n"
        "    try: socket.socket(fileno=pair[0]).sendto(b'x', W.run + '/log.sock')\n"
        "    except OSError: pass",
        "unix datagram",
    ),
    _pair(
        "reach a host's socket through a pair that is named by high bits",
        "pair = (ctypes.c_int * 2)()\nsyscall('socketpair', 0x500000001, 0x500000002, 0, pair)\n"
        "socket.socket(fileno=pair[0]).sendto(b'x', W.run + '/log.sock')",
        "unix datagram",
    ),
    _pair(
        "dissolve a connected pair and connect it to the host",
        "nowhere, path = struct.pack('H14x', 0), struct.pack('H', 1) + (W.run + '/docker.sock').encode() + b'\\0'\n"
        "for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):\n"
        "    a, b = socket.socketpair(socket.AF_UNIX, kind)\n"
        "    b.close()\n"
        "    libc.connect(a.fileno(), nowhere, len(nowhere))\n"
        "    libc.connect(a.fileno(), path, len(path))\n"
        "    try: a.sendmsg([b'x'], [], 0, W.run + '/docker.sock')\n"
        "    except OSError: pass",
        "unix",
        plain=_CONNECTED,
    ),
    Attack(
        "network",
        "list the host's addresses by a pair's ioctl",
        "a, b = socket.socketpair()\nspace = ctypes.create_string_buffer(4096)\n"
        "asked = struct.pack('i4xQ', 4096, ctypes.addressof(space))\n"
        "size = struct.unpack('i4xQ', fcntl.ioctl(a, 0x8912, asked))[0]\n"
        "names = {space.raw[at:at + 16].rstrip(b'\\0')[:16].split(b'\\0')[0] for at in range(0, size, 40)}\n"
        "judge(names - {b'lo'}, names)",
    ),
    Attack(
        "network",
        "use a rarer protocol of the internet's",
        "made = []\nfor family in (2, 10):\n    for kind in (1, 2, 5):\n"
        "        for protocol in (1, 33, 58, 132, 136, 262):\n"
        "            try: socket.socket(family, kind, protocol).close()\n"
        "            except OSError: continue\n"
        "            made.append(protocol)\njudge(made, made)",
    ),
    # attributes of files
    _inode(
        "set the flags of a shared file",
        _SHARED_FILE + "fcntl.ioctl(fd, 0x40086602, struct.pack('Q', 0x80040))",
    ),
    _inode(
        "set the flags of a shared file by a disguised ioctl",
        _SHARED_FILE + "syscall('ioctl', fd, 0x7f40086602, struct.pack('Q', 0x80040))",
    ),
    _inode(
        "set the version of a shared file",
        _SHARED_FILE + "fcntl.ioctl(fd, 0x40087602, struct.pack('Q', 4711))",
    ),
    _inode(
        "set the extended flags of a shared file",
        _SHARED_FILE + "fcntl.ioctl(fd, 0x401c5820, struct.pack('7I', 0x80, 0, 0, 0, 0, 0, 0))",
    ),
    _inode(
        "set the flags of a shared file by file_setattr",
        "syscall('file_setattr', -100, (W.project + '/data.csv').encode(), struct.pack('Q4I', 0x80, 0, 0, 0, 0), 24, 0)",
    ),
    _attribute(
        "read an attribute of a file that is not shared",
        "print(os.getxattr(W.outside + '/secret.txt', 'user.decoy'))",
    ),
    _attribute(
        "read an attribute without following links",
        "print(os.getxattr(W.outside + '/secret.txt', 'user.decoy', follow_symlinks=False))",
    ),
    _attribute(
        "read an attribute by the newer call",
        "value = ctypes.create_string_buffer(100)\n"
        "asked = struct.pack('QII', ctypes.addressof(value), 100, 0)\n"
        "syscall('getxattrat', -100, (W.outside + '/secret.txt').encode(), 0, b'user.decoy', asked, 16)\n"
        "print(value.value)",
    ),
    _call(
        "list the attributes of a file that is not shared",
        "found = os.listxattr(W.outside + '/secret.txt')\njudge(found, found)",
    ),
    Attack(
        "files and secrets",
        "read where a link of the user's leads",
        "print(os.readlink(W.home + '/lock'))",
        secret,
        known={"landlock": "where symbolic links lead"},
    ),
    _call(
        "have the machine write out all that it holds",
        "try: syscall('syncfs', -1)\nexcept OSError as error: judge(error.errno == errno.EBADF)\nelse: stopped()",
    ),
    # signals by way of something else
    _signal(
        "kill by the owner of a pipe, set by F_SETOWN_EX",
        "read, write = os.pipe()\nfcntl.fcntl(read, 15, struct.pack('ii', 1, W.decoy))\n"
        "fcntl.fcntl(read, 10, 9)\nfcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC)\nos.write(write, b'x')",
    ),
    _signal(
        "kill by the owner of a pipe, a process group",
        "read, write = os.pipe()\nfcntl.fcntl(read, fcntl.F_SETOWN, -W.decoy)\n"
        "fcntl.fcntl(read, 10, 9)\nfcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC)\nos.write(write, b'x')",
    ),
    _signal(
        "kill by the owner of a socket",
        "a, b = socket.socketpair()\nfcntl.ioctl(a, 0x8902, struct.pack('i', W.decoy))\n"
        "fcntl.ioctl(a, 0x5452, struct.pack('i', 1))\nb.send(b'x')",
    ),
    _signal(
        "kill by the owner of a file, set by a disguised fcntl",
        "read, write = os.pipe()\nfor command, value in ((8, W.decoy), (10, 9), (4, os.O_ASYNC)):\n"
        "    syscall('fcntl', read, 0x700000000 | command, value)\nos.write(write, b'x')",
    ),
    _signal(
        "kill by the timer of another thread",
        "ident, event = ctypes.c_int(), struct.pack('QiiI44x', 0, 9, 4, W.decoy)\n"
        "syscall('timer_create', 1, event, ctypes.byref(ident))\n"
        "syscall('timer_settime', ident.value, 0, struct.pack('4q', 0, 0, 0, 1), None)",
        plain="Linux allows threads of the same process only",
    ),
    Attack(
        "processes",
        "see which process numbers are in use",
        "os.close(os.pidfd_open(W.decoy))\nescaped()",
        known={"landlock": "which process numbers are in use"},
    ),
    Attack(
        "processes",
        "leave its children to the host (CLONE_PARENT)",
        "def bear():\n    pid = syscall('clone', 0x8011, 0, 0, 0, 0)\n    if not pid: os._exit(0)\n"
        "    try: os.waitpid(pid, 0)\n    except ChildProcessError: return pid\n"
        "    raise OSError(0, 'a child of its own')\nescaped(in_child(bear))",
    ),
    _call(
        "change a terminal's line discipline",
        "import pty\nmaster, slave = pty.openpty()\nescaped(fcntl.ioctl(slave, 0x5423, struct.pack('i', 0)))",
    ),
    # numbers that the user or the machine has but once
    _share(
        "take the machine's terminals",
        "found = [fd for _ in range(50) for fd in os.openpty()]\nfor fd in found: os.close(fd)\nescaped(len(found))",
    ),
    _share(
        "take the user's inotify instances",
        "found = [syscall('inotify_init1', 0) for _ in range(5)]\nfor fd in found: os.close(fd)\nescaped(len(found))",
    ),
    _share(
        "take the user's pending signals",
        "found = []\ntry:\n    while len(found) < 1000:\n        ident = ctypes.c_int()\n"
        "        syscall('timer_create', 1, None, ctypes.byref(ident))\n        found.append(ident.value)\n"
        "    escaped(len(found))\nfinally:\n    for ident in found: syscall('timer_delete', ident)",
    ),
    _share(
        "take the user's message queues",
        "name = b'/' + W.mark.encode()\nqueue = libc.mq_open(name, os.O_RDWR | os.O_CREAT, 0o600, None)\n"
        "libc.mq_unlink(name)\nif queue < 0: raise OSError(ctypes.get_errno(), 'mq_open')\n"
        "os.close(queue)\nescaped()",
    ),
    _share(
        "take the user's pipe pages",
        "read, write = os.pipe()\nescaped(fcntl.fcntl(write, 1031, 1 << 19))",
    ),
    _share(
        "lock memory",
        "space = mmap.mmap(-1, 4 << 20)\nat = ctypes.addressof(ctypes.c_char.from_buffer(space))\n"
        "syscall('mlock', at, 4 << 20)\nsyscall('munlock', at, 4 << 20)\nescaped()",
    ),
    _share(
        "take the machine's asynchronous requests",
        "context = ctypes.c_ulong()\nescaped(syscall('io_setup', 100, ctypes.byref(context)))",
    ),
    _share(
        "take the machine's huge pages", "os.close(syscall('memfd_create', b'x', 4))\nescaped()"
    ),
    _share(
        "take the processor by a real-time priority",
        "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))\nfound = os.sched_getscheduler(0)\n"
        "if found == os.SCHED_FIFO: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))\n"
        "judge(found == os.SCHED_FIFO, found)",
    ),
    # what is new, or wide
    _call(
        "make one of the newest calls",
        "found = []\nfor name in ('cachestat map_shadow_stack futex_wake futex_wait futex_requeue statmount listmount '\n"
        "             'lsm_get_self_attr lsm_list_modules mseal setxattrat getxattrat listxattrat '\n"
        "             'removexattrat open_tree_attr file_getattr file_setattr').split():\n"
        "    try: syscall(name, 0, 0, 0, 0, 0, 0)\n    except OSError as error:\n"
        "        if error.errno == errno.ENOSYS: continue\n    found.append(name)\njudge(found, found)",
    ),
    _call("ask for another filter", "reaches('seccomp', 2, 0, struct.pack('I', 0x7fff0000))"),
    _call("ask for Landlock", "reaches('landlock_create_ruleset', None, 0, 1)"),
    _call(
        "hide memory from the kernel (memfd_secret)",
        "os.close(syscall('memfd_secret', 0))\nescaped()",
    ),
]
