"""What the host does with folders that a guest has written in."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.isolation import cgroup, private_folders
from jupyter_agent.sandbox.isolation.private_folders import Folder, remove, sweep
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner

from .as_user import UID, as_user


def test_a_folder_is_removed_whatever_its_modes_and_however_deep(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.mkdir("-0", dir_fd=here)
    os.fchmod(here, 0)
    os.close(here)
    (top / "-0").mkdir()
    (top / "-1").write_text("x")
    (top / "link").symlink_to(tmp_path)
    remove(top)
    assert not top.exists()


REMOVE = """
import sys
from pathlib import Path
from jupyter_agent.sandbox.isolation.private_folders import remove
for path in map(Path, sys.argv[1:]):
    remove(path)
    assert not path.exists(), path
"""


@pytest.mark.root
def test_an_ordinary_user_removes_what_is_closed_to_its_owner() -> None:
    top = Path(f"/var/tmp/jupyter-agent-test-{os.getpid()}")
    for name in ("locked/inner", "locked/other"):
        (top / name).mkdir(parents=True)
        (top / name / "file").write_text("x")
    for path in (top, *top.rglob("*")):
        os.chown(path, UID, UID)
    for name, mode in (("locked/inner", 0), ("locked/other", 0o300), ("locked", 0)):
        (top / name).chmod(mode)
    holder = top.parent / f"{top.name}-holder"
    holder.mkdir()
    os.chown(holder, UID, UID)
    top.rename(holder / "top")
    command = as_user([sys.executable, "-c", REMOVE, str(holder / "top")])
    try:
        subprocess.run(command, check=True, cwd="/")
    finally:
        remove(holder)


SWAP = """
import os, sys
from pathlib import Path
from jupyter_agent.sandbox.isolation.private_folders import remove
top, outside, event = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def hook(happens, arguments):
    if happens == event and (top / "x").is_dir() and not (top / "x").is_symlink():
        (top / "x").rename(top / "y")
        (top / "x").symlink_to(outside)

sys.addaudithook(hook)
remove(top)
"""


@pytest.mark.parametrize("event", ["os.chmod", "open", "os.scandir", "os.remove", "os.rmdir"])
def test_no_link_that_takes_a_folders_place_is_followed(tmp_path: Path, event: str) -> None:
    """A process that lives on in the folder swaps it for a link, just before each kind of call."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    outside.chmod(0o500)
    (tmp_path / "top" / "x" / "inner").mkdir(parents=True)
    command = [sys.executable, "-c", SWAP, str(tmp_path / "top"), str(outside), event]
    subprocess.run(command, check=True)
    assert outside.stat().st_mode & 0o777 == 0o500
    assert (outside / "file").exists()


def test_a_folder_of_many_files_is_not_read_at_once(tmp_path: Path) -> None:
    files, length = 3000, 200
    (tmp_path / "top" / "inner").mkdir(parents=True)
    for number in range(files):
        os.mknod(tmp_path / "top" / "inner" / f"{number:0{length}}")
    tracemalloc.start()
    try:
        remove(tmp_path / "top")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not (tmp_path / "top").exists()
    assert peak < files * length / 2


@pytest.mark.parametrize("inner", ["", "inner"])
def test_what_is_not_removed_in_time_is_left_to_the_next_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str
) -> None:
    left = tmp_path / "jupyter-agent-left"
    (left / inner).mkdir(parents=True)
    for number in range(200):
        (left / inner / str(number)).touch()
    with monkeypatch.context() as patch:  # each look at the clock takes a second
        patch.setattr(time, "monotonic", itertools.count().__next__)
        remove(left)
    assert 0 < len(list((left / inner).iterdir())) < 200
    os.utime(left, (0, 0))
    sweep(tmp_path)
    assert not left.exists()


def when_the_loop_goes_on(does: Callable[..., None]) -> tuple[Callable[..., None], threading.Event]:
    """Have a function wait until the event loop has run; the event says that it has."""
    loop, gone_on = asyncio.get_running_loop(), threading.Event()

    def wait(*arguments: object) -> None:
        loop.call_soon_threadsafe(gone_on.set)
        assert gone_on.wait(10), "the loop stands still"
        does(*arguments)

    return wait, gone_on


async def test_the_loop_goes_on_while_what_others_left_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "jupyter-agent-left"
    (left / "inner").mkdir(parents=True)
    os.utime(left, (0, 0))
    slow, _ = when_the_loop_goes_on(private_folders._empty)
    monkeypatch.setattr(private_folders, "_empty", slow)
    folder = Folder(tmp_path)
    while left.exists():
        await asyncio.sleep(0.01)
    monkeypatch.undo()
    folder.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("slow", ["a folder", "a control group"])
async def test_the_loop_goes_on_while_a_kernel_is_cleaned_up(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    kernel = sandbox._kernel
    assert kernel
    provisioner = kernel.manager.provisioner
    assert isinstance(provisioner, SandboxProvisioner)
    provisioner._group = provisioner._group or cgroup.Group(())
    private = provisioner._private and provisioner._private.path
    made = [folder for folder in (provisioner.run_folder, private) if folder]
    owner, name = (private_folders, "_empty") if slow == "a folder" else (cgroup.Group, "end")
    waits, gone_on = when_the_loop_goes_on(getattr(owner, name))
    monkeypatch.setattr(owner, name, waits)
    await sandbox.close()
    assert gone_on.is_set()
    assert made
    assert not any(path.exists() for path in made)
