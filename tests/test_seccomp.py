"""The filter of system calls: its tables, and what it does with nothing else behind it."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_agent.sandbox.guest.seccomp import ARCHITECTURES, GROUPS, numbers, seccomp_available

from .system_call_numbers import REFUSED

pytestmark = pytest.mark.skipif(not seccomp_available(), reason="no filter for this processor")
HEADERS = {"x86_64": "asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}
ALL = ",".join(GROUPS.values())
OF_NAMESPACES = ",".join((GROUPS["named sockets"], GROUPS["System V"]))


def header_numbers(machine: str) -> dict[str, int]:
    """Read the installed headers of the kernel; nothing where there are none."""
    folders = [Path("/usr/include"), *Path("/usr/include").glob("*-linux-gnu")]
    for path in (folder / HEADERS[machine] for folder in folders):
        if path.exists():
            found = re.findall(r"#define\s+__NR(?:3264)?_(\w+)\s+(\d+)\s", path.read_text())
            return {"newfstatat" if name == "fstatat" else name: int(no) for name, no in found}
    return {}


def library_number(machine: str, name: str) -> int | None:
    """Ask libseccomp; None where it knows no such call, or is not there."""
    path = ctypes.util.find_library("seccomp")
    if path is None:
        return None
    resolve = ctypes.CDLL(path).seccomp_syscall_resolve_name_arch
    number: int = resolve(ctypes.c_uint32(ARCHITECTURES[machine]), name.encode())
    return number if number >= 0 else None


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_numbers_are_those_of_the_kernel(machine: str) -> None:
    ours = numbers(f"{ALL},{REFUSED}", machine)
    header = header_numbers(machine)
    known = {name: header.get(name, library_number(machine, name)) for name in ours}
    if not any(known.values()):
        pytest.skip("there are neither headers nor libseccomp")
    wrong = {name: no for name, no in known.items() if no is not None and no != ours[name]}
    assert not wrong
    newer = [ours[name] for name, no in known.items() if no is None]
    assert all(number > 440 for number in newer), newer


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_a_call_that_a_processor_is_said_to_lack_is_lacking(machine: str) -> None:
    names = {call.split()[0] for call in f"{ALL},{REFUSED}".split(",")}
    lacking = names - numbers(f"{ALL},{REFUSED}", machine).keys()
    assert not lacking & header_numbers(machine).keys()


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_no_call_is_listed_twice(machine: str) -> None:
    calls = [call.split()[0] for call in f"{ALL},{REFUSED}".split(",")]
    assert len(calls) == len(set(calls))
    listed = numbers(f"{ALL},{REFUSED}", machine)
    assert len(listed) == len(set(listed.values()))


# -- the filter alone, with no namespace and no Landlock behind it

PROGRAM = """
import ctypes, errno, fcntl, json, os, signal, socket, struct, sys
from jupyter_agent.sandbox.guest import lockdown, seccomp
libc = ctypes.CDLL(None, use_errno=True)
calls = seccomp.numbers(','.join(seccomp.GROUPS.values()), os.uname().machine)
"""


def run(code: str, **options: bool) -> str:
    """Run code under the filter; without options, under none."""
    install = f"lockdown.install_filter(seccomp.seccomp_filter(**{options!r}))\n"
    program = PROGRAM + (install if options else "") + code
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.mark.parametrize("own_namespaces", [True, False])
@pytest.mark.parametrize("signals_scoped", [True, False])
def test_a_call_that_is_not_listed_does_not_exist(
    own_namespaces: bool, signals_scoped: bool
) -> None:
    listed = set(numbers(ALL, platform.machine()).values())
    if platform.machine() == "x86_64":
        listed |= {335, 336}  # uretprobe, uprobe: newer kernels kill who is no probe, unfiltered
    if not own_namespaces:
        listed -= set(numbers(OF_NAMESPACES, platform.machine()).values())
    code = f"""
found = []
for number in sorted({{*range(1024), 0x40000000, 0x40000027, 0x7fffffff}} - set({sorted(listed)})):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0, 0)
    if result != -1 or ctypes.get_errno() != errno.ENOSYS:
        found.append(number)
print(json.dumps(found))
"""
    options = {"own_namespaces": own_namespaces, "signals_scoped": signals_scoped}
    assert json.loads(run(code, **options)) == []


SIGNALS = {
    "kill": "os.kill(pid, 9)",
    "a negative number": "os.kill(-pid, 9)",
    "tkill": "libc.syscall(calls['tkill'], pid, 9)",
    "tgkill": "libc.syscall(calls['tgkill'], pid, pid, 9)",
    "a process descriptor": "signal.pidfd_send_signal(os.pidfd_open(pid), 9)",
    "a queued signal": "libc.syscall(calls['rt_sigqueueinfo'], pid, 9, struct.pack('iiii112x', 9, 0, -1, 0))",
    "a signal queued for a thread": "libc.syscall(calls['rt_tgsigqueueinfo'], pid, pid, 9, struct.pack('iiii112x', 9, 0, -1, 0))",
    "the owner of a pipe": "fcntl.fcntl(read, 8, pid)\nring(9)",
    "a group that owns a pipe": "fcntl.fcntl(read, 8, -pid)\nring(9)",
    "the owner of a pipe by F_SETOWN_EX": "fcntl.fcntl(read, 15, struct.pack('ii', 1, pid))\nring(9)",
    "a thread that owns a pipe": "fcntl.fcntl(read, 15, struct.pack('ii', 0, pid))\nring(9)",
    "the owner of a socket (SIOCSPGRP)": "fcntl.ioctl(a, 0x8902, struct.pack('i', pid))\nknock()",
    "the owner of a socket (FIOSETOWN)": "fcntl.ioctl(a, 0x8901, struct.pack('i', pid))\nknock()",
}
REACH = """
read, write = os.pipe()
a, b = socket.socketpair()
def ring(number):
    fcntl.fcntl(read, 10, number)
    fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC)
    os.write(write, b'x')
def knock():
    fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC)
    b.send(b'x')
try:
    exec(CODE)
except OSError:
    pass
"""


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("way", SIGNALS)
def test_no_signal_leaves_where_landlock_does_not_hold_it(way: str, filtered: bool) -> None:
    options = {"own_namespaces": False, "signals_scoped": False} if filtered else {}
    decoy = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        run(f"pid, CODE = {decoy.pid}, {SIGNALS[way]!r}\n{REACH}", **options)
        decoy.terminate()  # after whatever was sent before
        assert (decoy.wait(10) == -signal.SIGTERM) == filtered
    finally:
        decoy.kill()
        decoy.wait()


def test_an_interrupt_reaches_its_own_process_group_where_no_other_signal_is_sent() -> None:
    code = """
os.setpgid(0, 0)
signal.signal(signal.SIGINT, lambda *_: print('interrupted'))
os.kill(0, signal.SIGINT)
for one in (os.getpid(), -os.getpid(), os.getppid()):
    try:
        os.kill(one, signal.SIGINT)
        print('sent to', one)
    except PermissionError:
        pass
"""
    assert run(code, own_namespaces=False, signals_scoped=False) == "interrupted"


@pytest.mark.parametrize("own_namespaces", [True, False])
def test_a_terminal_of_its_own_can_be_asked_and_not_typed_into(own_namespaces: bool) -> None:
    code = """
import pty, termios
master, slave = pty.openpty()
termios.tcsetattr(slave, termios.TCSANOW, termios.tcgetattr(slave))
size = os.get_terminal_size(slave)
for request in (0x5412, 0x541c, 0x5423, 0x540e | 1 << 16):
    try:
        fcntl.ioctl(slave, request, bytes(8))
        print('done', request)
    except OSError as error:
        print(error.errno == errno.ENOTTY)
"""
    assert run(code, own_namespaces=own_namespaces, signals_scoped=True).split() == ["True"] * 4
