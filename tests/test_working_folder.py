"""The guest's working folder: real folders with copies of the user's files."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from traitlets.config import Config

from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.guest import working_folder
from jupyter_agent.sandbox.guest.working_folder import WorkingFolder
from jupyter_agent.sandbox.isolation.folder_search import Share
from jupyter_agent.sandbox.isolation.path_policy import Policy

from .conftest import TIERS

ROOM = 1 << 20


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder with subfolders and links."""
    root = tmp_path / "project"
    (root / "data" / "deep").mkdir(parents=True)
    (root / "images").mkdir()
    (root / "table.csv").write_text("a,b\n1,2\n")
    (root / "data" / "deep" / "x.csv").write_text("x\n")
    (root / "inside.csv").symlink_to("data/deep/x.csv")
    (root / "into").symlink_to("data")
    (tmp_path / "outside.csv").write_text("secret\n")
    (root / "nowhere.csv").symlink_to("gone.csv")
    return root


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The working folder, empty."""
    folder = tmp_path / "home" / "work"
    folder.mkdir(parents=True)
    return folder


def shown(folder: Path) -> dict[str, str]:
    """Tell what stands in a folder: the text of files, where links lead, empty for folders."""
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = path.read_text() if path.is_file() else ""
    return found


def test_a_folder_one_level_up_is_not_mixed_with_one_of_its_name(
    project: Path, work: Path, tmp_path: Path
) -> None:
    outer = tmp_path / "data"
    outer.mkdir()
    (outer / "same.csv").write_text("outer")
    (project / "data" / "same.csv").write_text("inner")
    shares = [("", str(project), True), ("data", str(outer), False)]
    WorkingFolder(str(work), shares, ROOM, links=[("../data", str(outer))]).update()
    assert (work / "data" / "same.csv").read_text() == "inner"
    assert (work.parent / "data" / "same.csv").read_text() == "outer"


def test_folders_are_folders_and_files_are_files(project: Path, work: Path) -> None:
    here = WorkingFolder(str(work), [("", str(project), True)], ROOM)
    here.update()
    assert shown(work) == {
        "data": "",
        "data/deep": "",
        "data/deep/x.csv": "x\n",
        "images": "",
        "inside.csv": "x\n",
        "into": "-> data",
        "table.csv": "a,b\n1,2\n",
    }
    assert here.outside == {"nowhere.csv"}
    assert here.is_copy("table.csv")


def test_copies_of_a_folder_that_is_shared_whole_are_known_as_such(
    project: Path, work: Path
) -> None:
    share = Share(project, "")
    here = WorkingFolder(str(work), Policy([share]).links(share), ROOM)
    here.update()
    assert here.is_copy("table.csv")


def test_pieces_of_a_folder_stand_under_their_names(project: Path, work: Path) -> None:
    shares = [("a/b.csv", str(project / "table.csv"), False), ("d", str(project / "data"), False)]
    WorkingFolder(str(work), shares, ROOM).update()
    assert shown(work) == {
        "a": "",
        "a/b.csv": "a,b\n1,2\n",
        "d": "",
        "d/deep": "",
        "d/deep/x.csv": "x\n",
    }


def test_the_users_changes_are_followed(project: Path, work: Path) -> None:
    here = WorkingFolder(str(work), [("", str(project), True)], ROOM)
    here.update()
    (project / "table.csv").write_text("other\n")
    (project / "data" / "new").mkdir()
    (project / "data" / "new" / "y.csv").write_text("y\n")
    (project / "data" / "deep" / "x.csv").unlink()
    (project / "data" / "deep").rmdir()
    here.update()
    assert shown(work) == {
        "data": "",
        "data/new": "",
        "data/new/y.csv": "y\n",
        "images": "",
        "into": "-> data",
        "table.csv": "other\n",
    }


def test_what_the_guest_has_made_or_changed_stays(project: Path, work: Path) -> None:
    here = WorkingFolder(str(work), [("", str(project), True)], ROOM)
    here.update()
    (work / "table.csv").write_text("the guest's\n")
    (work / "images" / "plot.png").write_text("the guest's\n")
    (work / "data" / "deep" / "x.csv").unlink()
    (project / "table.csv").write_text("the user's\n")
    (project / "images" / "plot.png").write_text("the user's\n")
    here.update()
    here.update()
    assert (work / "table.csv").read_text() == "the guest's\n"
    assert (work / "images" / "plot.png").read_text() == "the guest's\n"
    assert not (work / "data" / "deep" / "x.csv").exists()
    assert not here.is_copy("table.csv")
    (project / "data" / "deep" / "x.csv").write_text("anew\n")
    (project / "table.csv").unlink()
    here.update()
    assert (work / "data" / "deep" / "x.csv").read_text() == "anew\n"
    assert (work / "table.csv").read_text() == "the guest's\n"


def test_a_file_that_is_away_for_a_time_comes_back(project: Path, work: Path) -> None:
    here = WorkingFolder(str(work), [("", str(project), True)], ROOM)
    for text in ("one\n", "two\n"):
        (project / "table.csv").write_text(text)
        here.update()
        assert (work / "table.csv").read_text() == text
        (project / "table.csv").unlink()
        here.update()
        assert not (work / "table.csv").exists()


def test_a_file_that_is_too_large_is_a_link(project: Path, work: Path) -> None:
    (project / "data" / "large.bin").write_bytes(b"x" * 1000)
    here = WorkingFolder(str(work), [("", str(project), True)], 500)
    here.update()
    assert (work / "data" / "large.bin").readlink() == project / "data" / "large.bin"
    assert here.is_copy("data/large.bin")
    (project / "table.csv").write_bytes(b"x" * 600)  # grows out of the room there is
    (project / "data" / "large.bin").unlink()
    here.update()
    assert (work / "table.csv").readlink() == project / "table.csv"
    assert not (work / "data" / "large.bin").is_symlink()


def test_a_folder_of_too_many_files_is_a_link(
    project: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working_folder, "MAX_ENTRIES", 20)
    for number in range(30):
        (project / "images" / f"{number}.txt").touch()
    here = WorkingFolder(str(work), [("", str(project), True)], ROOM)
    here.update()
    here.update()
    assert (work / "images").readlink() == project / "images"
    assert (work / "data" / "deep" / "x.csv").is_file()


def test_what_is_no_file_stops_nothing(project: Path, work: Path) -> None:
    os.mkfifo(project / "pipe")
    (project / "circle").symlink_to("circle")
    (project / "data" / "up").symlink_to("..")
    (project / os.fsdecode(b"not-utf-8-\xff.csv")).write_text("1")
    WorkingFolder(str(work), [("", str(project), True)], ROOM).update()
    names = {os.fsencode(path.name) for path in work.iterdir()}
    assert b"not-utf-8-\xff.csv" in names
    assert not names & {b"pipe", b"circle"}
    assert (work / "data" / "up").readlink() == Path("..")


# -- in the sandbox

LOOK = """\
import os, shutil, sqlite3, subprocess, zipfile
from pathlib import Path
walked = sorted(os.path.join(top, name) for top, _, names in os.walk(".") for name in names)
found = sorted(map(str, Path(".").rglob("*.csv")))
shell = sorted(subprocess.run(["find", ".", "-type", "f"], capture_output=True, text=True).stdout.split())
grep = subprocess.run(["grep", "-r", "x", "data"], capture_output=True, text=True).stdout.strip()
zipped = sorted(zipfile.ZipFile(shutil.make_archive(
    os.environ["TMPDIR"] + "/a", "zip", ".")).namelist())
related = str(Path("data/deep/x.csv").resolve().relative_to(Path.cwd()))
Path("images/plot.png").write_text("a plot")
Path("table.csv").open("a").write("3,4\\n")
sqlite3.connect("data/base.db").execute("create table t (a)").connection.close()
before = os.getcwd()
os.chdir("data"); os.chdir("..")
print(walked, found, shell, grep, zipped, related, os.getcwd() == before, sep="\\n")
"""


@pytest.fixture(params=TIERS)
async def place(request: pytest.FixtureRequest, project: Path) -> AsyncIterator[Sandbox]:
    """A sandbox of each tier in turn, with something hidden in the folder."""
    (project / ".git").mkdir()
    (project / "data" / "server.key").write_text("key")
    (project / "link-out.csv").symlink_to("../outside.csv")
    config = Config({"SandboxProvisioner": {"isolation": request.param}})
    async with Sandbox(project, config=config) as sandbox:
        yield sandbox


async def printed(sandbox: Sandbox, code: str) -> list[str]:
    """Run code; return the lines that it printed, or its error."""
    async with aclosing(sandbox.execute(code)) as outputs:
        text = "".join([str(output.get("text") or output) async for output in outputs])
    return text.splitlines()


async def test_the_working_folder_is_like_the_users_folder(place: Sandbox, project: Path) -> None:
    before = shown(project)
    assert await printed(place, LOOK) == [
        "['./data/deep/x.csv', './inside.csv', './table.csv']",
        "['data/deep/x.csv', 'inside.csv', 'table.csv']",
        "['./data/deep/x.csv', './inside.csv', './table.csv']",
        "data/deep/x.csv:x",
        "['data/', 'data/deep/', 'data/deep/x.csv', 'images/', 'inside.csv', 'table.csv']",
        "data/deep/x.csv",
        "True",
    ]
    assert shown(project) == before
    (project / "data" / "deep" / "late.csv").write_text("late")
    (project / "table.csv").write_text("the user's")
    code = "print(open('data/deep/late.csv').read(), open('table.csv').read().split())"
    assert await printed(place, code) == ["late ['a,b', '1,2', '3,4']"]
