"""Where folders are odd: what a sandbox starts with, and what is said where it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from traitlets.config import Config

from jupyter_agent import _sockets
from jupyter_agent._threads import cancel
from jupyter_agent.errors import SandboxError
from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.isolation import kernel_sockets
from jupyter_agent.sandbox.isolation.bubblewrap import MAX_BINDS
from jupyter_agent.sandbox.isolation.never_shared import too_wide

from .conftest import TIERS
from .run_code import text


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let TMPDIR be read anew, now and afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield monkeypatch
    monkeypatch.undo()
    tempfile.tempdir = None


@pytest.fixture
def place(temporary: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only folder in which a sandbox makes its own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        for variable in ("TMPDIR", "XDG_RUNTIME_DIR"):
            temporary.setenv(variable, name)
        tempfile.tempdir = None
        yield Path(name)


def long(tmp_path: Path) -> str:
    folder = tmp_path / ("a-folder-with-a-long-name" * 4)
    folder.mkdir()
    return str(folder)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("odd", ["missing", "long", "file", "empty", "relative"])
async def test_a_sandbox_starts_where_folders_for_temporary_files_are_odd(
    odd: str, tier: str, folder: Path, tmp_path: Path, temporary: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    path = {"missing": "/nonexistent/1000", "long": long(tmp_path), "empty": ""}
    path |= {"file": str(tmp_path / "file"), "relative": "run"}
    temporary.setenv("XDG_RUNTIME_DIR", path[odd])
    temporary.setenv("TMPDIR", path["long"])
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    async with Sandbox(folder, config=config) as sandbox:
        assert await text(sandbox, "import tempfile; tempfile.TemporaryFile().write(b'12')") == "2"


def test_a_folder_for_sockets_leaves_room_for_their_paths(
    tmp_path: Path, temporary: pytest.MonkeyPatch
) -> None:
    exact = Path(tempfile.mkdtemp(dir="/tmp", prefix="x" * (_sockets.MAX_ROOT - 13)))
    assert len(str(exact)) == _sockets.MAX_ROOT
    temporary.setenv("XDG_RUNTIME_DIR", str(exact))
    assert kernel_sockets._folder_for_sockets() == exact
    temporary.setenv("XDG_RUNTIME_DIR", f"{exact}/..")
    assert kernel_sockets._folder_for_sockets() == Path(tempfile.gettempdir())
    exact.rmdir()


def test_where_no_folder_can_hold_sockets_it_is_said_what_to_do(
    tmp_path: Path, temporary: pytest.MonkeyPatch
) -> None:
    temporary.setattr(_sockets, "MAX_ROOT", 0)
    with pytest.raises(SandboxError, match="set XDG_RUNTIME_DIR to a short path"):
        kernel_sockets._folder_for_sockets()


def test_an_empty_setting_makes_no_folder_a_temporary_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.chdir(folder)
    assert too_wide(folder) == ""


def descriptors_of_guests() -> list[str]:
    links = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself
            links.append(str(path.readlink()))
    return [link for link in links if link.startswith("/memfd:jupyter-agent")]


@pytest.mark.parametrize("tier", TIERS)
async def test_a_start_that_is_cancelled_before_the_launch_leaves_no_descriptor(
    tier: str, folder: Path
) -> None:
    sandbox = Sandbox(folder, config=Config({"SandboxProvisioner": {"isolation": tier}}))
    starting = asyncio.create_task(sandbox.start())
    while not descriptors_of_guests() and not starting.done():
        await asyncio.sleep(0)
    await cancel(starting)
    await sandbox.close()
    assert starting.cancelled()
    assert not descriptors_of_guests()


@pytest.mark.parametrize("turns", [1, 5])
@pytest.mark.parametrize("tier", TIERS)
async def test_a_start_that_is_cancelled_twice_leaves_nothing(
    tier: str,
    turns: int,
    folder: Path,
    place: Path,
    new_processes: Callable[[], list[int]],
) -> None:
    """A user interrupts a second time while the first interrupt ends the kernel."""
    sandbox = Sandbox(folder, config=Config({"SandboxProvisioner": {"isolation": tier}}))
    starting = asyncio.create_task(sandbox.start())
    while not descriptors_of_guests():  # until then bubblewrap is tried, by a process of its own
        await asyncio.sleep(0)
    while not new_processes():
        await asyncio.sleep(0)
    starting.cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait({starting})
    assert starting.cancelled()
    await sandbox.close()
    assert not new_processes()
    assert not [*place.iterdir()]


# -- when it cannot start


async def test_no_tier_means_no_start_and_the_remedies(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    config = Config({"SandboxProvisioner": {"isolation": "bubblewrap"}})
    sandbox = Sandbox(folder, config=config)
    with pytest.raises(SandboxError, match=r"not installed.*apt install bubblewrap") as caught:
        await sandbox.start()
    assert "\n" not in str(caught.value)
    assert not sandbox.alive


def test_where_no_tier_works_the_reasons_and_the_remedies_are_one_line(folder: Path) -> None:
    program = f"""
import asyncio, errno
from pathlib import Path
from jupyter_agent.sandbox.guest import lockdown
from jupyter_agent.sandbox.client import Sandbox

refused = [(0x20, 0, 0, 0)]  # as a kernel without Landlock and user namespaces answers
for number in (444, 272):
    refused += [(0x15, 0, 1, number), (6, 0, 0, 0x50000 | errno.ENOSYS)]
refused.append((6, 0, 0, 0x7FFF0000))
lockdown.install_filter(b"".join(lockdown.struct.pack("=HBBI", *step) for step in refused))
try:
    asyncio.run(Sandbox(Path({str(folder)!r})).start())
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = (
        "SandboxError no sandbox can start here (bubblewrap: not installed; landlock: this kernel"
    )
    assert done.stdout.startswith(said), done
    assert done.stdout.count("\n") == 1
    for remedy in ("apt install bubblewrap", "Docker", "isolation"):
        assert remedy in done.stdout


async def test_without_bubblewrap_landlock_takes_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    async with Sandbox(folder) as sandbox:
        assert sandbox.tier == "landlock"


async def test_no_isolation_is_only_for_who_types_it_and_is_named(folder: Path) -> None:
    config = Config({"SandboxProvisioner": {"isolation": "none"}})
    async with Sandbox(folder, config=config) as sandbox:
        assert sandbox.describe() == "NO SANDBOX: your files, keys and network"
        assert await text(sandbox, "1 + 1") == "2"


async def test_an_unknown_kernelspec_is_one_line(folder: Path) -> None:
    config = Config({"Sandbox": {"kernel_name": "no-such-kernel"}})
    with pytest.raises(SandboxError, match="no-such-kernel'; correct c.Sandbox.kernel_name"):
        await Sandbox(folder, config=config).start()


async def test_a_sandbox_starts_though_a_hidden_file_goes_away_meanwhile(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(MAX_BINDS + 1):  # so many that the folder is bound, and the secret covered
        (folder / f"{number}.txt").write_text("data")
    secret = folder / ".env"
    secret.write_text("secret")
    program = tmp_path / "bwrap"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --args ] && rm -f {secret}\nexec {shutil.which("bwrap")} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    config = Config({"SandboxProvisioner": {"isolation": "bubblewrap"}})
    async with Sandbox(folder, config=config) as sandbox:
        assert not secret.exists()
        assert await text(sandbox, "open('1.txt').read()") == "'data'"
