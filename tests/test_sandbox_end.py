"""The end of a sandbox: nothing is left, however its host ends."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.manager import AsyncKernelManager
from traitlets.config import Config

from jupyter_agent.errors import SandboxError
from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.isolation import private_folders, processes
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner

from .conftest import TIERS
from .run_code import text
from .servers import descendants

PR_SET_CHILD_SUBREAPER = 36


async def test_nothing_is_left_when_a_sandbox_ends(folder: Path) -> None:
    for tier in ("bubblewrap", "landlock"):
        config = Config({"SandboxProvisioner": {"isolation": tier}})
        async with Sandbox(folder, config=config) as sandbox:
            provisioner = sandbox._kernel and sandbox._kernel.manager.provisioner
            assert isinstance(provisioner, SandboxProvisioner)
            left = [provisioner.run_folder, Path(str(sandbox._kernel.manager.connection_file))]  # type: ignore[union-attr]
            pid = provisioner.pid
            await text(sandbox, "import os")
        assert pid is not None
        assert not any(path and path.exists() for path in left)
        assert not Path(f"/proc/{pid}").exists()


HOST = """
import asyncio, sys
from pathlib import Path
from traitlets.config import Config
from jupyter_agent.sandbox.client import Sandbox

async def main():
    config = Config({"SandboxProvisioner": {"isolation": sys.argv[1]}})
    async with Sandbox(Path(sys.argv[2]), config=config) as sandbox:
        async for output in sandbox.execute("print('started', flush=True)\\nwhile True: pass"):
            print(output.text, end="", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
def test_the_sandbox_dies_with_a_host_that_is_killed(folder: Path, tier: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:  # where root's guests can go too
        Path(temporary).chmod(0o711)
        host = subprocess.Popen(
            [sys.executable, "-c", HOST, tier, str(folder)],
            env={**os.environ, "TMPDIR": temporary},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert host.stdout
        assert host.stdout.readline() == "started\n"
        guests = descendants(host.pid)
        assert guests
        host.kill()
        host.wait()
        host.stdout.close()
        deadline = time.monotonic() + 20
        while alive := [pid for pid in guests if Path(f"/proc/{pid}").exists()]:
            assert time.monotonic() < deadline, alive
        # the next sandbox sweeps such folders
        left = [path.name for path in Path(temporary).iterdir()]
        assert not [name for name in left if not name.startswith("jupyter-agent-")]


@pytest.fixture
def orphans_are_ours() -> Iterator[None]:
    """Make processes whose parents have ended children of this one (prctl(2))."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    assert prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


async def all_have_ended(new_processes: Callable[[], list[int]]) -> None:
    async with asyncio.timeout(10):
        while left := new_processes():
            for pid in left:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
            await asyncio.sleep(0.05)


@pytest.mark.usefixtures("orphans_are_ours")
@pytest.mark.parametrize("tier", TIERS)
async def test_a_sandbox_that_is_ended_while_it_is_set_up_leaves_nothing(
    tier: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_processes: Callable[[], list[int]],
) -> None:
    """Bubblewrap is killed before what it has begun to set up is bound to end with it."""
    launch, cleanup = SandboxProvisioner.launch_kernel, SandboxProvisioner.cleanup

    async def launch_and_end(
        self: SandboxProvisioner, cmd: list[str], **kwargs: Any
    ) -> KernelConnectionInfo:
        facts = await launch(self, cmd, **kwargs)
        await self.send_signal(signal.SIGKILL)
        return facts

    async def clean_up_late(self: SandboxProvisioner, restart: bool = False) -> None:
        await asyncio.sleep(1)  # as on a busy machine
        await cleanup(self, restart)

    monkeypatch.setattr(SandboxProvisioner, "launch_kernel", launch_and_end)
    monkeypatch.setattr(SandboxProvisioner, "cleanup", clean_up_late)
    sandbox = Sandbox(folder, config=Config({"SandboxProvisioner": {"isolation": tier}}))
    for _ in range(3):
        with pytest.raises(SandboxError):
            await sandbox.start()
    await sandbox.close()
    await all_have_ended(new_processes)


def in_bubblewrap(process: subprocess.Popen[bytes]) -> SandboxProvisioner:
    provisioner = SandboxProvisioner()
    provisioner.tier, provisioner.process = "bubblewrap", process
    return provisioner


@pytest.mark.usefixtures("orphans_are_ours")
async def test_what_is_started_while_the_end_comes_is_ended_too(
    monkeypatch: pytest.MonkeyPatch, new_processes: Callable[[], list[int]]
) -> None:
    look = processes.children

    def look_slowly(pid: int) -> list[int]:
        found = look(pid)
        time.sleep(0.2)  # as on a busy machine
        return found

    monkeypatch.setattr(processes, "children", look_slowly)
    many = ["sh", "-c", "while sleep 0.01; do sleep 100 & done"]
    with subprocess.Popen(many) as process:
        while len(new_processes()) < 5:
            await asyncio.sleep(0.01)
        await in_bubblewrap(process).send_signal(signal.SIGKILL)
    await all_have_ended(new_processes)


async def test_the_number_of_a_process_that_has_ended_may_be_anothers() -> None:
    """Jupyter asks now and then whether a kernel is alive, and kills it much later."""
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    ended.pid = os.getpid()
    with subprocess.Popen(["sleep", "100"]) as bystander:
        await in_bubblewrap(ended).send_signal(signal.SIGKILL)
        await asyncio.sleep(0.1)
        assert bystander.poll() is None
        bystander.kill()


def test_folders_are_removed_though_all_tasks_are_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``asyncio.run`` does at its end, after which no thread of the host's goes on."""
    remove = private_folders.remove

    def remove_slowly(folder: Path) -> None:
        time.sleep(0.3)
        remove(folder)

    async def end_while_it_is_cleaned_up() -> None:
        cleaning = asyncio.create_task(provisioner.cleanup())
        await asyncio.sleep(0.1)
        assert not cleaning.done()

    monkeypatch.setattr(private_folders, "remove", remove_slowly)
    provisioner = SandboxProvisioner()
    provisioner._private = private_folders.Folder(tmp_path)
    asyncio.run(end_while_it_is_cleaned_up())
    assert not [*tmp_path.iterdir()]


def test_a_launcher_whose_host_has_ended_starts_nothing(tmp_path: Path) -> None:
    lifeline, held = os.pipe()
    plan: dict[str, object] = {
        "connection": {},
        "folder": str(tmp_path),
        "landlock": None,
        "lifeline": lifeline,
        "limits": {},
        "namespaces": True,
        "shares": [],
        "sockets": {},
        "uid": 0,
    }
    read, write = os.pipe()
    os.write(write, json.dumps(plan).encode())
    os.close(write)
    os.close(held)  # as when the host ends
    done = subprocess.run(
        [sys.executable, "-P", "-m", "jupyter_agent.sandbox", str(read)],
        pass_fds=(read, lifeline),
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(read)
    os.close(lifeline)
    assert done.stderr == "jupyter_agent.sandbox: the host has ended\n"
    assert done.returncode == 1


async def test_what_a_killed_host_left_is_swept_and_what_lives_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as short:  # where sockets have room
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        await sweeps(folder, Path(short))


async def sweeps(folder: Path, place: Path) -> None:
    left = place / "jupyter-agent-left"
    left.mkdir()
    (left / "s-1").write_text("")
    os.utime(left, (0, 0))
    async with Sandbox(folder) as first:
        held = [*place.glob("jupyter-agent-*")]  # an ordinary user has two
        assert held
        assert left not in held
        for each in held:
            os.utime(each, (0, 0))
        async with Sandbox(folder):
            assert all(each.exists() for each in held)
            assert await text(first, "1") == "1"
    assert not list(place.glob("jupyter-agent-*"))


@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
async def test_a_sandbox_outlives_the_thread_that_asked_for_it(folder: Path, tier: str) -> None:
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    manager = AsyncKernelManager(kernel_name="python3-sandboxed", config=config)

    async def start() -> None:
        await manager.start_kernel(cwd=str(folder))

    thread = threading.Thread(target=lambda: asyncio.run(start()))
    thread.start()
    thread.join()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=30)
        await asyncio.sleep(0.2)  # the signal of a thread's end would have come by now
        assert await manager.is_alive()
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
