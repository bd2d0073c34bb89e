"""The end of a sandbox: nothing is left, however its host ends."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from jupyter_client.manager import AsyncKernelManager
from traitlets.config import Config

from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner

from .run_code import text
from .servers import descendants


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
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, tier, str(folder)], stdout=subprocess.PIPE, text=True
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
