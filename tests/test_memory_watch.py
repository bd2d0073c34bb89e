"""How much memory a sandbox may hold, and how much it may merely reserve."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from traitlets.config import Config

from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.isolation import cgroup, memory_watch
from jupyter_agent.sandbox.isolation.memory_watch import MemoryWatch
from jupyter_agent.sandbox.isolation.processes import descendants
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner

from .conftest import TIERS
from .run_code import attempt, outputs, text

MANY = """\
import os, time
for _ in range(6):
    if os.fork() == 0:
        os.setsid()
        block = bytearray(os.urandom(1) * (150 << 20))
        time.sleep(60)
time.sleep(60)
"""
SHARED = """\
import mmap, time
block = mmap.mmap(-1, 600 << 20)
for place in range(0, len(block), 1 << 20):
    block[place : place + (1 << 20)] = bytes(1 << 20)
time.sleep(60)
"""


@pytest.fixture(params=TIERS)
async def watched(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Sandbox]:
    """A sandbox with 500 MiB that no control group bounds."""
    limits = {"isolation": request.param, "memory_mib": 500}
    async with Sandbox(folder, config=Config({"SandboxProvisioner": limits})) as sandbox:
        provisioner = sandbox._provisioner
        assert provisioner
        if provisioner._group:  # as it is for root
            process, bound = provisioner.process, provisioner._group
            assert process
            for folder_ in bound.folders:
                for pid in descendants(process.pid):
                    (folder_.parent / "cgroup.procs").write_text(str(pid))
            provisioner._group = None
            provisioner._watch = MemoryWatch(process.pid, 500 << 20, provisioner._end_at_once)
            yield sandbox
            bound.end()
        else:
            yield sandbox


async def test_linux_ends_the_sandbox_first_where_memory_runs_out(watched: Sandbox) -> None:
    assert watched._provisioner
    assert watched._provisioner.process
    *_, kernel = descendants(watched._provisioner.process.pid)
    assert Path(f"/proc/{kernel}/oom_score_adj").read_text() == "1000\n"
    took_back = await attempt(watched, "open('/proc/self/oom_score_adj', 'w').write('0')")
    assert took_back in ("PermissionError", "FileNotFoundError")


# processes end while they are looked for, and one has a name that looks like a size
EVADING = f"""\
import ctypes, os, threading
ctypes.CDLL(None).prctl(15, b"x kB")
def churn():
    while True:
        if not (pid := os.fork()):
            os._exit(0)
        os.waitpid(pid, 0)
if os.fork() == 0:
    churn()
{MANY}"""


# the first thread of each process has ended: what the others hold is not in /proc/PID/status
LEADERLESS = """\
import ctypes, os, threading, time
def hold():
    time.sleep(0.5)
    block = bytearray(os.urandom(1) * (150 << 20))
    time.sleep(60)
for _ in range(6):
    if os.fork() == 0:
        threading.Thread(target=hold).start()
        ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)
time.sleep(20)
"""


# a page table of 4 KiB for each 2 MiB that are read, of pages that take no memory themselves
TABLES = """\
import mmap, time
places = range(0, 300_000 << 21, 1 << 21)
block = mmap.mmap(-1, places.stop, flags=mmap.MAP_PRIVATE | 0x4020, prot=mmap.PROT_READ)
for place in places:
    block[place]
time.sleep(20)
"""


@pytest.mark.parametrize(
    "code",
    [MANY, SHARED, EVADING, LEADERLESS, TABLES],
    ids=["processes", "shared", "evading", "leaderless", "tables"],
)
async def test_what_is_held_in_all_is_watched_and_the_cause_is_said(
    watched: Sandbox, code: str
) -> None:
    assert "memory 0.5 GiB in all, watched" in watched.describe_limits()
    found = await outputs(watched, code)
    assert found[-1].ename == "SandboxDied"
    assert (
        "GiB of memory, and may hold 0.5 GiB: c.SandboxProvisioner.memory_mib" in found[-1].evalue
    )
    assert await text(watched, "1 + 1") == "2"


async def test_a_name_that_is_no_text_ends_nothing(watched: Sandbox) -> None:
    code = "import ctypes, time\nctypes.CDLL(None).prctl(15, 'nach-prüfungé'.encode())\n"
    code += "ctypes.CDLL(None).prctl(15, b'\\xff\\rVmSwap: 9 kB')\ntime.sleep(2)\nprint('through')"
    assert await text(watched, code) == "through"


async def test_what_children_share_with_their_parent_counts_once(watched: Sandbox) -> None:
    code = (
        "import os\nblock = os.urandom(200 << 20)\n"
        "children = [os.fork() for _ in range(1)]\n"
        "if 0 in children:\n    import time; time.sleep(1.5); os._exit(0)\n"
        "children += [pid for pid in [os.fork()] if pid] or os._exit(__import__('time').sleep(1.5) or 0)\n"
        "for pid in children: os.waitpid(pid, 0)\nprint('through')"
    )
    assert await text(watched, code) == "through"


@pytest.mark.parametrize(
    "how", ["prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE | 0x20", "flags=mmap.MAP_SHARED | 0x4020"]
)  # anonymous; and one that reserves nothing
async def test_address_space_is_not_memory(watched: Sandbox, how: str) -> None:
    assert (
        await text(watched, f"import mmap\nx = mmap.mmap(-1, 40 << 30, {how})\nlen(x) >> 30")
        == "40"
    )


async def test_a_file_larger_than_the_limit_can_be_mapped(watched: Sandbox) -> None:
    code = (
        "import mmap\nwith open('large', 'wb') as file: file.truncate(3 << 30)\n"
        "file = open('large', 'r+b')\nwhole = mmap.mmap(file.fileno(), 0)\nlen(whole) >> 30"
    )
    assert await text(watched, code) == "3"


async def test_one_process_that_asks_for_too_much_gets_an_error(watched: Sandbox) -> None:
    await text(watched, "kept = 7")
    assert await text(watched, "x = bytearray(600 << 20)") == "MemoryError"
    assert await text(watched, "kept") == "7"


@pytest.mark.root  # who alone may make a group, if anybody may
async def test_a_group_that_was_used_up_is_named(folder: Path) -> None:
    group = cgroup.make(memory=1 << 30, processes=50)
    if group is None:
        pytest.skip("no control group can be made here")
    group.end()
    limits = {"memory_mib": 500}
    async with Sandbox(folder, config=Config({"SandboxProvisioner": limits})) as sandbox:
        assert "memory 0.5 GiB in all," in sandbox.describe_limits()
        found = await outputs(sandbox, SHARED)
        assert found[-1].ename == "SandboxDied"
        assert "it reached c.SandboxProvisioner.memory_mib, 0.5 GiB" in found[-1].evalue


def test_a_watch_that_was_stopped_ends_nothing() -> None:
    ended = threading.Event()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        watch = MemoryWatch(process.pid, 1, ended.set)
        assert ended.wait(20)
        ended.clear()
        watch = MemoryWatch(process.pid, 1 << 40, ended.set)
        watch.stop()
        watch._limit = 1
        process.send_signal(signal.SIGKILL)
    assert not ended.is_set()


def test_a_look_that_takes_long_keeps_nobody_from_seeing_that_the_machine_runs_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = {"MemAvailable": 8 << 30, "MemTotal": 8 << 30}
    monkeypatch.setattr(memory_watch, "_machine", sizes.__getitem__)
    ended, done = threading.Event(), threading.Event()
    monkeypatch.setattr(memory_watch, "_held", lambda *_: int(done.wait(60)))
    watch = MemoryWatch(0, 1 << 30, ended.set)
    sizes["MemAvailable"] = 1 << 20
    assert ended.wait(20)
    assert watch.cause == "the machine was about to run out of memory"
    done.set()
    watch.stop()


def test_a_sandbox_is_ended_too_where_little_was_free_at_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = {"MemAvailable": 2 << 30, "MemTotal": 8 << 30}
    monkeypatch.setattr(memory_watch, "_machine", sizes.__getitem__)
    ended = threading.Event()
    watch = MemoryWatch(0, 6 << 30, ended.set)
    sizes["MemAvailable"] = 1 << 20
    assert ended.wait(20)
    assert watch.cause == "the machine was about to run out of memory"
    watch.stop()


def test_by_default_a_part_of_what_a_container_has_may_be_held() -> None:
    for limit in cgroup.memory_limits():
        assert SandboxProvisioner().memory_bytes <= max(limit * 3 // 4, 1 << 30)
