"""What the host does with folders that a guest has written in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_agent.sandbox.folders import remove

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
from jupyter_agent.sandbox.folders import remove
for path in map(Path, sys.argv[1:]):
    remove(path)
    assert not path.exists(), path
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
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
from jupyter_agent.sandbox.folders import remove
top, outside, event = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def hook(happens, arguments):
    if happens == event and (top / "x").is_dir() and not (top / "x").is_symlink():
        (top / "x").rename(top / "y")
        (top / "x").symlink_to(outside)

sys.addaudithook(hook)
remove(top)
"""


@pytest.mark.parametrize("event", ["os.chmod", "open", "os.listdir", "os.remove", "os.rmdir"])
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
