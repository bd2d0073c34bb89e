"""What runs the attacks: the decoys they go for, the kernels, and the judgement.

Each attack is code for the guest. It works if it prints ``ESCAPED``, or if its proof, looked for on
the host, is there. In a plain kernel each one does work, or the table says why it cannot; nothing
but decoys is at stake, and every bomb is small.

``main`` runs the whole table in one tier and writes ``WORLD/TIER.json``.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import fcntl
import json
import os
import platform
import pty
import re
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import zmq
from jupyter_client.manager import AsyncKernelManager
from nbformat.v4 import output_from_msg
from traitlets.config import Config

from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.guest import seccomp
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner

from .memory import max_resident
from .system_call_numbers import REFUSED

ROOT = Path(__file__).parent.parent
LIMITS = {  # what the bombs are to stay within; small enough that a bomb is small
    "memory_mib": 4096, "processes": 256, "open_files": 1024, "file_size_mib": 2048, "private_size_mib": 256,
}  # fmt: skip
SECRET_NAMES = (
    "kubeconfig terraform.tfstate prod.env server.key.bak token.json htpasswd profiles.yml "
    "secrets.toml.gz"
).split()
MARK = "attack-mark"  # in the name of what an attack leaves outside the decoy folders
MISSING = "Function not implemented"  # a call that this machine's kernel was built without
WORKS, STOPPED, UNCLEAR = "works", "stopped", "unclear"


@dataclass
class Ran:
    """What the host saw of an attack."""

    outputs: list[dict[str, Any]] = field(default_factory=list)
    raised: str = ""
    ended: bool = True  # by itself, in time
    seconds: float = 0.0
    later: list[dict[str, Any]] = field(default_factory=list)  # outputs of the cell after it
    grown: int = 0  # bytes of memory that the host needed for it
    peak: int = 0  # bytes that it needed for a moment
    left: list[str] = field(default_factory=list)  # paths, after the kernel was closed
    alive: bool = False  # whether the kernel is still there

    @property
    def text(self) -> str:
        """All that was printed."""
        return "".join(str(output.get("text", "")) for output in self.outputs)

    @property
    def shown(self) -> str:
        """All that would reach the notebook, as JSON."""
        return json.dumps(self.outputs, ensure_ascii=False)


Proof = Callable[["World", Ran], bool]


@dataclass(frozen=True)
class Attack:
    """A row of the table."""

    group: str
    name: str
    code: str
    proof: Proof | None = None  # None: the guest's own word, ESCAPED or STOPPED
    plain: str = ""  # why it cannot work, or is not tried, in a plain kernel on this machine
    known: dict[str, str] = field(
        default_factory=dict
    )  # tier, or tier and user: where SECURITY.md owns up
    seconds: float = 10
    closing: bool = False  # the proof is looked for after the kernel was closed
    raw: bool = False  # code that must run as it stands
    told: Callable[[World], dict[str, Any]] | None = None


# -- proofs


def secret(world: World, ran: Ran) -> bool:
    return world.secret in ran.text


def files_changed(world: World, ran: Ran) -> bool:
    return world.mend_files()


def marked(world: World, ran: Ran) -> bool:
    return world.remove_marks()


def decoy_changed(world: World, ran: Ran) -> bool:
    return world.mend_decoy()


def inode_changed(world: World, ran: Ran) -> bool:
    return world.mend_inode()


def heard(name: str) -> Proof:
    return lambda world, ran: world.heard(name)


def shows(pattern: str) -> Proof:
    """Find what would act in a browser or a terminal, in outputs that did arrive."""

    def proof(world: World, ran: Ran) -> bool:
        if not ran.outputs:
            raise AssertionError("no output arrived")
        return re.search(pattern, ran.shown) is not None

    return proof


def confuses(world: World, ran: Ran) -> bool:
    """Tell whether a message broke off the cell, or the one after it."""
    return bool(ran.raised) or not ran.ended or "innocent" not in json.dumps(ran.later)


def swells(world: World, ran: Ran) -> bool:
    """Tell whether a message filled the host's memory, or took the next cell's outputs along."""
    return ran.grown > 80_000_000 or confuses(world, ran)


def overfills(world: World, ran: Ran) -> bool:
    """Tell whether the host needed much memory, if only for a moment."""
    return ran.peak > 300_000_000


def leaks_into_the_next_cell(world: World, ran: Ran) -> bool:
    return bool(ran.raised) or "FORGED" in json.dumps(ran.later)


# -- what the guest is given

PRELUDE = r"""
import ctypes, errno, fcntl, json, mmap, os, platform, resource, select, signal, socket, struct
import subprocess, sys, threading, time
from types import SimpleNamespace
libc = ctypes.CDLL(None, use_errno=True)
PROBLEMS = (OSError, MemoryError, subprocess.SubprocessError)

def escaped(what=''):
    print('ESCAPED', what)

def stopped(why=''):
    print('STOPPED', why)

def judge(works, what=''):
    (escaped if works else stopped)(what)

def syscall(call, *args):
    number = call if isinstance(call, int) else W.calls[call]
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(ctypes.c_long(number), *args)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def reaches(call, *args):
    'A call that the kernel itself answers, if only because its arguments are wrong.'
    try:
        escaped(syscall(call, *args))
    except OSError as error:
        judge(error.errno not in (errno.EPERM, errno.ENOSYS, errno.EACCES), error.strerror)

def in_child(function, tries=3):
    'Do what changes the whole process in one of its own.'
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            said = str(function())
        except PROBLEMS as error:
            said = 'ERROR ' + str(error)
        except BaseException as error:
            said = 'WRONG ' + repr(error)
        os.write(write, said[:4000].encode())
        os._exit(0)
    os.close(write)
    silent = not select.select([read], [], [], 2)[0]
    if silent:  # the fork of a process with threads may find a lock held for ever
        os.kill(pid, 9)
    with open(read) as file:
        said = file.read()
    status = os.waitpid(pid, 0)[1]
    if silent and tries > 1:
        return in_child(function, tries - 1)
    if status:
        raise OSError(errno.EPERM, f'ended by signal {status & 127}')
    if said.startswith('ERROR '):
        raise OSError(errno.EPERM, said[6:])
    assert not said.startswith('WRONG '), said
    return said

def machine_code(code, *args):
    memory = mmap.mmap(-1, 4096, prot=7)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_long] * len(args))(address)(*args)

def send(frames):
    'Send frames, raw, on the socket that carries outputs.'
    get_ipython().kernel.iopub_thread.send_multipart([bytes(f) for f in frames])
    time.sleep(0.05)

def signed(header, parent, metadata, content, buffers=()):
    'Sign what may be no message at all; bytes are sent as they are.'
    session = get_ipython().kernel.session
    parts = [p if isinstance(p, bytes) else json.dumps(p).encode()
             for p in (header, parent, metadata, content)]
    return [b'topic', b'<IDS|MSG>', session.sign(parts), *parts, *buffers]

def header(kind, **more):
    return get_ipython().kernel.session.msg_header(kind) | {'date': '2026-01-01T00:00:00Z'} | more

def parent():
    return json.loads(json.dumps(get_ipython().kernel.get_parent('shell')['header'], default=str))

def bundle(**data):
    from IPython.display import display
    display({mime.replace('_', '/', 1): value for mime, value in data.items()}, raw=True)

def attack(body):
    try:
        exec(body, globals())
    except PROBLEMS as error:
        stopped(f'{type(error).__name__}: {error}')
"""


def guest_code(attack: Attack, world: World) -> str:
    """Write the cell of an attack."""
    prelude = f"if 'attack' not in globals():\n    exec({PRELUDE!r}, globals())\n"
    facts = json.dumps(world.facts())
    prelude += f"W = SimpleNamespace(**json.loads({facts!r}))\n"
    return prelude + (attack.code if attack.raw else f"attack({attack.code!r})\n")


# -- the host's decoys

DECOY = r"""
import ctypes, json, os, signal, sys, time
held = ctypes.create_string_buffer(sys.argv[2].encode(), 64)
file = open(sys.argv[1])
read, write = os.pipe()
print(json.dumps([ctypes.addressof(held), file.fileno(), read]), flush=True)
time.sleep(900)
"""


class World:
    """What an attack may hit: files, processes, sockets and terminals of nobody's."""

    def __init__(self, root: Path, *, secret: str) -> None:
        self.root, self.secret = root, secret
        self.home, self.project = root / "home", root / "project"
        self.outside, self.run = root / "outside", root / "run"
        self.connection_file = ""
        self._heard: set[str] = set()
        self._inode: list[bytes] = []
        self._sockets: list[socket.socket] = []
        self._ports: dict[str, int] = {}
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        for folder in (self.home, self.project, self.outside, self.run, root / "watched"):
            folder.mkdir(exist_ok=True)
        self._write_files()
        self.system_file = Path("/usr/local/share") / f"{root.name}.txt"
        if os.geteuid() == 0:
            self.system_file.touch(mode=0o600)
            self.system_file.write_text(secret)
        os.environ |= {
            "HOME": str(self.home), "DECOY_API_KEY": secret, "XDG_RUNTIME_DIR": str(self.run),
            "JUPYTER_RUNTIME_DIR": str(self.run), "IPYTHONDIR": str(self.home / ".ipython"),
            "JUPYTER_CONFIG_DIR": str(self.home / ".jupyter"),
        }  # fmt: skip
        os.chdir(self.project)
        sys.path.append(str(root / "code"))  # as a user's kernel may have it
        self._start_decoy()
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        os.set_blocking(self._master, False)
        self._slave = slave
        self.terminal = os.ttyname(slave)
        self.mend_inode()
        self._share_memory()
        self._listen()
        self._start(self._touch)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._threads.append(thread)

    def facts(self) -> dict[str, Any]:
        """Tell the guest where things are, as an attacker who has looked around would know."""
        return {
            "home": str(self.home), "project": str(self.project), "outside": str(self.outside),
            "watched": str(self.root / "watched"), "run": str(self.run), "root": str(self.root),
            "host": os.getpid(), "decoy": self.decoy.pid, "address": self.address,
            "decoy_file": self.decoy_file, "decoy_pipe": self.decoy_pipe,
            "ports": self._ports, "abstract": self.root.name, "terminal": self.terminal,
            "segment": self.segment, "queue": self.queue, "mark": f"{MARK}-{self.root.name}",
            "site": str(Path(zmq.__file__).parent.parent), "setuid": str(self.root / "setuid"),
            "connection_file": self.connection_file, "calls": _calls(), "limits": LIMITS,
            "machine": platform.machine(), "python": sys.executable, "host_uid": os.geteuid(),
            "system_file": str(self.system_file),
        }  # fmt: skip

    # files

    def _decoy_files(self) -> dict[Path, str]:
        return {
            self.home / ".ssh/id_ed25519": self.secret,
            self.home / ".cache/huggingface/token": self.secret,
            self.home / ".aws/credentials": self.secret,
            self.home / ".netrc": self.secret,
            self.home / ".bash_history": f"export KEY={self.secret}",
            self.home / ".bashrc": "",
            self.project / "data.csv": "a,b\n1,2\n",
            self.project / "deep/numbers.txt": "1 2 3\n",
            self.project / "plain/notes.txt": "nothing hidden here\n",
            self.project / ".env": f"KEY={self.secret}",
            self.project / "deep/server.key": self.secret,
            self.project / ".git/config": f"url = https://{self.secret}@example.org",
            **{self.project / name: self.secret for name in SECRET_NAMES},
            self.project / "notes.txt": f"glpat-{self.secret}aB3dE6gH9",
            self.project / "load.py": f"url = 'postgres://anna:{self.secret}@db.corp.net/x'",
            self.project
            / "old.ipynb": f'{{"cells": [{{"source": "k = \'hvs.{self.secret}Ab1\'"}}]}}',
            self.root / "code/module_of_mine.py": "X = 1",
            self.root / "code/package_of_mine/__init__.py": "",
            self.root / "code/package_of_mine/.git/config": self.secret,
            self.root / "code/package_of_mine/customers.csv": self.secret,
            self.root / "code/package_of_mine/deploy.key": self.secret,
            self.root / "code/space_of_mine/part.py": "",
            self.root / "code/space_of_mine/customers.csv": self.secret,
            self.root / "code/.env": self.secret,
            self.root / "code/customers.csv": self.secret,
            self.outside / "secret.txt": self.secret,
            self.outside / "nested/secret.txt": self.secret,
        }

    def _write_files(self) -> None:
        for path, text in self._decoy_files().items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        with contextlib.suppress(OSError):  # a file system without attributes
            os.setxattr(self.outside / "secret.txt", "user.decoy", self.secret.encode())
        lock = self.home / "lock"  # as editors and browsers have them
        if not lock.is_symlink():
            lock.symlink_to(f"{self.secret}@host:1234")
        link = self.project / "link.txt"
        if not link.is_symlink():
            link.symlink_to(self.outside / "secret.txt")
        for path in (self.home / ".ipython/startup", self.home / ".jupyter"):
            path.mkdir(parents=True, exist_ok=True)
        self._tree = self._look()

    def _look(self) -> dict[str, object]:
        found: dict[str, object] = {}
        for top in (self.home, self.project, self.outside, self.root / "code"):
            for path in top.rglob("*"):
                name = str(path.relative_to(self.home)) if top == self.home else ""
                if name.startswith((".ipython/profile", ".ipython/ext", ".ipython/nb")):
                    continue  # IPython's own
                facts = path.lstat()
                kind = (facts.st_mode, facts.st_size, facts.st_uid, int(facts.st_mtime))
                regular = path.is_file() and not path.is_symlink()
                attributes = os.listxattr(path, follow_symlinks=False)
                text = path.read_bytes() if regular else b""
                found[str(path)] = kind if path.is_dir() else (*kind, text, attributes)
        return {
            path: fact[:3:2] if Path(path).is_dir() and isinstance(fact, tuple) else fact
            for path, fact in found.items()
        }

    def save_anew(self, name: str) -> None:
        """Save a file of the project as many programs do: write another and put it in its place."""
        path = self.project / name
        (self.run / "saved").write_text(path.read_text())
        (self.run / "saved").replace(path)
        self._tree = self._look()

    def add_pipe(self, name: str) -> None:
        """Make a pipe in the project."""
        if not (self.project / name).exists():
            os.mkfifo(self.project / name)
        self._tree = self._look()

    def add_socket(self, name: str) -> None:
        """Listen on a socket in the project."""
        if not (self.project / name).exists():
            made = socket.socket(socket.AF_UNIX)
            made.bind(str(self.project / name))
            (self.project / name).chmod(0o777)
            made.listen()
            self._sockets.append(made)
        self._tree = self._look()

    def mend_files(self) -> bool:
        """Tell whether a decoy file was changed, added or removed, and put all back."""
        now = self._look()
        if now == self._tree:
            return False
        for path in now.keys() - self._tree.keys():
            _remove(Path(path))
        for path in self._tree.keys() & now.keys():
            if now[path] != self._tree[path] and Path(path).is_file():
                Path(path).unlink()
        self._write_files()
        return True

    def mend_inode(self) -> bool:
        """Tell whether the flags or the version of a shared file were changed; put them back."""
        with (self.project / "data.csv").open() as file:
            now = [fcntl.ioctl(file, ask, bytes(8)) for ask in (0x80086601, 0x80087601)]
            self._inode = self._inode or now  # FS_IOC_GETFLAGS, FS_IOC_GETVERSION
            for change, value in zip((0x40086602, 0x40087602), self._inode, strict=True):
                with contextlib.suppress(PermissionError):
                    fcntl.ioctl(file, change, value)
        return now != self._inode

    def locked(self) -> bool:
        """Tell whether a shared file cannot be locked by the host."""
        with (self.project / "data.csv").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def leased(self) -> bool:
        """Tell whether a shared file cannot be opened for writing by the host."""
        try:
            os.close(os.open(self.project / "data.csv", os.O_WRONLY | os.O_NONBLOCK))
        except BlockingIOError:
            return True
        return False

    def lost(self, path: str) -> bool:
        """Tell whether a file is gone."""
        return not Path(path).exists()

    def remove_marks(self) -> bool:
        """Tell whether an attack left its mark somewhere on this machine, and remove it."""
        places = ["/tmp", "/var/tmp", "/dev/shm", "/run", "/etc", "/usr", "/", "/dev"]
        places += [self.facts()["site"], str(self.run)]
        found = [path for place in places for path in Path(place).glob(f"{MARK}-{self.root.name}*")]
        for path in found:
            _remove(path)
        return bool(found)

    def _touch(self) -> None:
        """Do in a folder what a user does, for who would watch."""
        while not self._ending.wait(0.1):
            path = self.root / "watched" / f"{self.secret}.txt"
            path.write_text("")
            path.unlink()

    # processes

    def _start_decoy(self) -> None:
        command = [sys.executable, "-S", "-c", DECOY, str(self.outside / "secret.txt"), self.secret]
        self.decoy = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=self.outside, start_new_session=True
        )
        assert self.decoy.stdout
        said = json.loads(self.decoy.stdout.readline())
        self.address, self.decoy_file, self.decoy_pipe = said
        self._state = self._decoy_state()

    def _decoy_state(self) -> object:
        try:
            return self._look_at_decoy()
        except OSError:
            return "ended"

    def _look_at_decoy(self) -> object:
        pid = self.decoy.pid
        memory = b""
        with Path(f"/proc/{pid}/mem").open("rb", 0) as file:
            file.seek(self.address)
            memory = file.read(64)
        status = Path(f"/proc/{pid}/status").read_text()
        stopped = re.search(r"State:\s+([tT])", status) is not None
        limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        order = Path(f"/proc/{pid}/oom_score_adj").read_text()
        priority = os.getpriority(os.PRIO_PROCESS, pid)
        return memory, stopped, limit, order, priority, os.sched_getaffinity(pid)

    def mend_decoy(self) -> bool:
        """Tell whether the decoy process was hit, and replace it if so."""
        deadline = time.monotonic() + 0.1
        while self._decoy_state() == self._state:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        self._end_decoy()
        self._start_decoy()
        return True

    def _end_decoy(self) -> None:
        self.decoy.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.decoy.wait(timeout=2)  # one that is traced is its tracer's to bury
        assert self.decoy.stdout
        self.decoy.stdout.close()

    def find_left_processes(self) -> bool:
        """Tell whether a process of an attack's lives on, and end it."""
        found = False
        for _ in range(20):  # one that is born again and again may be missed
            for folder in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if f"{MARK}-{self.root.name}".encode() in (folder / "cmdline").read_bytes():
                        found = True
                        os.kill(int(folder.name), signal.SIGKILL)
            time.sleep(0.05)
        return found

    def find_spinning(self) -> bool:
        """Tell whether a kernel still uses the processor."""
        kernels = set(_descendants(os.getpid())) - {self.decoy.pid}
        before = {pid: _cpu_ticks(pid) for pid in kernels}
        spinning: list[int] = []
        for _ in range(4):  # a busy machine gives it little time
            time.sleep(0.5)
            spinning = spinning or [pid for pid in kernels if _cpu_ticks(pid) - before[pid] > 10]
        for pid in spinning:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.3 * bool(spinning))  # until its mother has noticed
        return bool(spinning)

    # memory and terminals

    def _share_memory(self) -> None:
        """Put the secret into System V shared memory; make a POSIX message queue."""
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        libc.shmat.restype = ctypes.c_void_p
        self.segment = libc.shmget(0, 4096, 0o1600)
        address = libc.shmat(self.segment, None, 0)
        ctypes.memmove(address, self.secret.encode(), len(self.secret))
        libc.shmdt(ctypes.c_void_p(address))
        self.queue = f"/{self.root.name}"
        (Path("/dev/shm") / self.root.name).write_text(self.secret)
        self._sweep(libc)
        small = (ctypes.c_long * 8)(0, 1, 64)  # a user may have but 800 kB of queues
        self._queue = libc.mq_open(self.queue.encode(), os.O_RDWR | os.O_CREAT, 0o600, small)
        assert self.segment >= 0
        assert self._queue >= 0
        libc.mq_send(self._queue, self.secret.encode(), len(self.secret), 0)
        self._libc = libc

    def _sweep(self, libc: Any) -> None:
        """Remove what worlds have left that were killed."""
        for left in Path("/dev/shm").glob("attacks-*"):
            if not (self.root.parent / left.name).exists():
                libc.mq_unlink(f"/{left.name}".encode())
                with contextlib.suppress(OSError):  # another user's
                    left.unlink()

    def terminal_got(self) -> bool:
        """Tell whether somebody wrote on the user's terminal."""
        try:
            return bool(os.read(self._master, 4096))
        except BlockingIOError:
            return False

    def type_secret(self) -> dict[str, Any]:
        """Type something on the user's terminal."""
        os.write(self._master, self.secret.encode())
        return {}

    # sockets

    def _listen(self) -> None:
        selector = selectors.DefaultSelector()

        def add(name: str, family: int, kind: int, address: Any, protocol: int = 0) -> None:
            made = socket.socket(family, kind, protocol)
            made.bind(address)
            if kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
                made.listen()
            bound = made.getsockname()
            if isinstance(bound, tuple):
                at = 0 if family == socket.AF_NETLINK else 1
                self._ports[name] = bound[at]
            self._sockets.append(made)
            selector.register(made, selectors.EVENT_READ, name)

        stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
        add("tcp4", socket.AF_INET, stream, ("127.0.0.1", 0))
        add("udp4", socket.AF_INET, datagram, ("127.0.0.1", 0))
        add("tcp6", socket.AF_INET6, stream, ("::1", 0))
        add("udp6", socket.AF_INET6, datagram, ("::1", 0))
        add("unix", socket.AF_UNIX, stream, str(self.run / "docker.sock"))
        add("unix datagram", socket.AF_UNIX, datagram, str(self.run / "log.sock"))
        add("unix shared", socket.AF_UNIX, stream, str(self.project / "agent.sock"))
        add(
            "unix on the path",
            socket.AF_UNIX,
            stream,
            str(self.root / "code/package_of_mine/agent.sock"),
        )
        add("abstract", socket.AF_UNIX, stream, "\0" + self.root.name)
        add("abstract datagram", socket.AF_UNIX, datagram, "\0datagram-" + self.root.name)
        add("netlink", socket.AF_NETLINK, socket.SOCK_RAW, (0, 0), 2)
        self._tree = self._look()

        def serve() -> None:
            while not self._ending.is_set():
                for key, _ in selector.select(0.2):
                    made = key.fileobj
                    assert isinstance(made, socket.socket)
                    self._heard.add(key.data)
                    if made.type in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
                        made.accept()[0].close()
                    else:
                        made.recv(4096)

        self._start(serve)

    def heard(self, name: str) -> bool:
        """Tell whether a listener was reached."""
        deadline = time.monotonic() + 0.3
        while name not in self._heard and time.monotonic() < deadline:
            time.sleep(0.02)
        found = name in self._heard
        self._heard.discard(name)
        return found

    def reached(self, text: str) -> bool:
        """Tell whether a port that the guest opened can be reached from here."""
        port = re.search(r"PORT (\d+)", text)
        if not port:
            return False
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", int(port[1])), 1).close()
            return True
        return False

    def close(self) -> None:
        """Leave nothing."""
        if os.geteuid() == 0:
            self.system_file.unlink(missing_ok=True)
        self._ending.set()
        for thread in self._threads:
            thread.join()
        self._end_decoy()
        for made in self._sockets:
            made.close()
        self._libc.shmctl(self.segment, 0, None)
        self._libc.mq_close(self._queue)
        self._libc.mq_unlink(self.queue.encode())
        (Path("/dev/shm") / self.root.name).unlink(missing_ok=True)
        os.close(self._master)
        os.close(self._slave)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _descendants(pid: int) -> list[int]:
    children = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_bytes().rpartition(b")")[2].split()  # a name need be no text
            children[int(path.parent.name)] = int(fields[1])
    found, waiting = [], [pid]
    while waiting:
        mother = waiting.pop()
        born = [child for child, parent in children.items() if parent == mother]
        found += born
        waiting += born
    return found


def _cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def _calls() -> dict[str, int]:
    """Number the system calls, those that sandboxes may make and those that attacks need."""
    groups = [REFUSED, *seccomp.GROUPS.values()]
    tables = [seccomp.numbers(group, platform.machine()) for group in groups]
    return {name: number for table in tables for name, number in table.items()}


# -- the kernels


class Target(Protocol):
    """A kernel that is attacked from inside."""

    async def start(self) -> None: ...
    async def run(self, code: str, seconds: float) -> Ran: ...
    async def close(self) -> Ran: ...


class Plain:
    """An ordinary ipykernel with an ordinary client, as any notebook has it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.manager: AsyncKernelManager | None = None
        self.client: Any = None
        self._cut_off = False  # its last cell, which may run on

    async def start(self) -> None:
        if self.manager and await self.manager.is_alive() and await self._answers():
            return
        if self.manager:
            self.client.stop_channels()
            await self.manager.shutdown_kernel(now=True)
        self.manager = AsyncKernelManager(kernel_name="python3")
        await self.manager.start_kernel(cwd=str(self.world.project))
        self.client = self.manager.client()
        self.client.start_channels(hb=False)
        await self.client.wait_for_ready(timeout=60)
        self.world.connection_file = self.manager.connection_file
        self._cut_off = False

    async def _answers(self) -> bool:
        if self._cut_off:
            with contextlib.suppress(RuntimeError):
                await self.client.wait_for_ready(timeout=5)
                self._cut_off = False
        return not self._cut_off

    async def run(self, code: str, seconds: float) -> Ran:
        ran = Ran()
        try:
            async with asyncio.timeout(seconds):
                await self._run(code, ran)
        except TimeoutError:
            self._cut_off = True
            while await self.client.stdin_channel.msg_ready():
                asked = await self.client.get_stdin_msg(timeout=1)
                ran.outputs.append({"asked": asked["content"]["prompt"]})
            ran.ended = False
            assert self.manager
            await self.manager.interrupt_kernel()
            await asyncio.sleep(0.3)
        except Exception as error:  # what a notebook's client would raise
            ran.raised = f"{type(error).__name__}: {error}"[:200]
        return ran

    async def _run(self, code: str, ran: Ran) -> None:
        msg_id = self.client.execute(code, allow_stdin=True)
        while True:
            message = await self.client.get_iopub_msg(timeout=None)
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            if message["msg_type"] == "status":
                if message["content"]["execution_state"] == "idle":
                    break
            elif message["msg_type"] not in ("execute_input", "clear_output"):
                if message["msg_type"] == "update_display_data":
                    message["msg_type"] = message["header"]["msg_type"] = "display_data"
                if not message["msg_type"].startswith("comm"):
                    ran.outputs.append(output_from_msg(message))
        while True:
            reply = await self.client.get_shell_msg(timeout=None)
            if reply["parent_header"].get("msg_id") == msg_id:
                break
        if reply["content"].get("payload"):
            ran.outputs.append({"payload": reply["content"]["payload"]})

    async def close(self) -> Ran:
        started, ran = time.monotonic(), Ran()
        if self.manager is None:
            return ran
        self.client.stop_channels()
        await self.manager.shutdown_kernel()
        self.manager = None
        ran.seconds = time.monotonic() - started
        return ran


class Confined:
    """A sandbox of one tier."""

    def __init__(self, world: World, tier: str) -> None:
        options = {"isolation": tier, **LIMITS}
        config = Config({"SandboxProvisioner": options})
        self.world = world
        self.sandbox = Sandbox(world.project, config=config)
        self.sandbox.grace = 1.0
        self.sandbox.max_output_mib, self.sandbox.max_outputs = 4, 200

    async def start(self) -> None:
        if not self.sandbox.alive:
            await self.sandbox.start()
        kernel = self.sandbox._kernel
        assert kernel
        self.provisioner = kernel.manager.provisioner
        self.world.connection_file = kernel.manager.connection_file

    async def run(self, code: str, seconds: float) -> Ran:
        ran = Ran()
        try:
            async with asyncio.timeout(seconds):
                async with aclosing(self.sandbox.execute(code)) as found:
                    async for output in found:
                        ran.outputs.append(output)
        except TimeoutError:
            ran.ended = False
        except Exception as error:  # the proof that a hostile message got through
            ran.raised = f"{type(error).__name__}: {error}"[:200]
        return ran

    async def close(self) -> Ran:
        started, ran = time.monotonic(), Ran()
        assert isinstance(self.provisioner, SandboxProvisioner)
        folder, pid = self.provisioner.run_folder, self.provisioner.pid
        try:
            await self.sandbox.close()
        except Exception as error:
            ran.raised = f"{type(error).__name__}: {error}"[:200]
        ran.seconds = time.monotonic() - started
        ran.left = [str(folder)] if folder and folder.exists() else []
        ran.alive = Path(f"/proc/{pid}").exists()
        for path in ran.left:
            subprocess.run(["chmod", "-R", "u+rwx", path], check=False)
            subprocess.run(["rm", "-rf", path], check=False)
        return ran


# -- the driver


async def run_all(target: Target, world: World, chosen: str = "") -> dict[str, dict[str, Any]]:
    """Run the whole table against one kernel, which is started anew when an attack ends it."""
    from .attacks import ATTACKS

    plain = isinstance(target, Plain)
    found: dict[str, dict[str, Any]] = {}
    try:
        for attack in ATTACKS:
            if chosen and not re.search(chosen, attack.name):
                continue
            if plain and attack.plain:
                found[attack.name] = {"verdict": "not possible", "detail": attack.plain}
                continue
            print(attack.name, file=sys.stderr, flush=True)
            faulthandler.dump_traceback_later(attack.seconds + 60)  # where the host itself hangs
            started = time.monotonic()
            verdict, detail = await _run_one(attack, target, world)
            seconds = round(time.monotonic() - started, 2)
            if plain and verdict == STOPPED and MISSING in detail:
                verdict = "not possible"
            print("   ", seconds, verdict, detail[:150], file=sys.stderr, flush=True)
            found[attack.name] = {"verdict": verdict, "detail": detail, "seconds": seconds}
    finally:
        faulthandler.cancel_dump_traceback_later()
        await target.close()
    return found


async def _run_one(attack: Attack, target: Target, world: World) -> tuple[str, str]:
    await target.start()
    if attack.told:
        attack.told(world)
    before = _resident()
    Path("/proc/self/clear_refs").write_text("5")  # from now on the high-water mark is this run's
    ran = await target.run(guest_code(attack, world), attack.seconds)
    ran.grown = _resident() - before
    ran.peak = max_resident(os.getpid()) - before
    if not ran.ended:
        await asyncio.sleep(2)  # an interrupt, the sandbox's grace, a kill
    if attack.proof in (confuses, leaks_into_the_next_cell, swells):
        after = await target.run("print('innocent')", 10)
        ran.later, ran.raised = after.outputs, ran.raised or after.raised
        ran.ended &= after.ended
        if isinstance(target, Plain) and ran.raised:
            await target.close()  # its client may be left anywhere
    if attack.closing:
        await target.start()
        closed = await target.close()
        ran.left, ran.seconds, ran.alive = closed.left, closed.seconds, closed.alive
        ran.raised = ran.raised or closed.raised
    return _judge(attack, world, ran)


def _judge(attack: Attack, world: World, ran: Ran) -> tuple[str, str]:
    detail = (ran.raised or ran.text or ran.shown)[:300].strip()
    if attack.proof:
        try:
            return (WORKS if attack.proof(world, ran) else STOPPED), detail
        except AssertionError as error:
            return UNCLEAR, f"{error}; {detail}"
    if "ESCAPED" in ran.text:
        return WORKS, detail
    return (STOPPED if "STOPPED" in ran.text and not ran.raised else UNCLEAR), detail


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    """Run the table against one tier in a world that is there, and write down what happened."""
    tier, root = sys.argv[1], Path(sys.argv[2])
    os.umask(0o022)
    world = World(root, secret=(root / "secret").read_text())
    try:
        target = Plain(world) if tier == "plain" else Confined(world, tier)
        chosen = sys.argv[3] if len(sys.argv) > 3 else ""
        found = asyncio.run(run_all(target, world, chosen))
    finally:
        world.close()
    (root / f"{tier}.json").write_text(json.dumps(found, indent=1))
