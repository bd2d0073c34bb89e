"""Errors say what is not in the sandbox on purpose, and what to type."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from traitlets.config import Config

from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.guest.hints import (
    FINAL_ANSWER,
    LINKED,
    NETWORK,
    OF_THE_SYSTEM,
    READ_ONLY,
    Facts,
    Hints,
)
from jupyter_agent.sandbox.guest.working_folder import WorkingFolder

from .conftest import TIERS

LETS = "if it is there, a task can read it with: "
FACTS: Facts = {"data": ["."], "whole": True, "left_out": "", "magics": True}


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, as the guest sees it; the test stands in it."""
    work = tmp_path / "home" / "work"
    (work / "data").mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(work.parent))
    return work


def hint(work: Path, error: BaseException, **facts: object) -> str:
    """Return the notes that an error gets."""
    folder = WorkingFolder(str(work), [], 0, links=[("out.csv", "")])
    folder.update()
    hints = Hints(folder, {**FACTS, **facts})  # type: ignore[typeddict-item]
    hints.add_to(error)
    hints.add_to(error)
    return "\n".join(getattr(error, "__notes__", []))


def missing(path: str, number: int = errno.ENOENT) -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize(
    ("below", "typed", "named"),
    [
        ("", "../data/x.csv", "../data/x.csv"),
        ("", "../../../../../../../../x", "../../../../../../../../x"),
        ("data", "../../x.csv", "../x.csv"),
        ("", "data/../../my data.csv", "'../my data.csv'"),
        ("", "/srv/sales/x.csv", "/srv/sales/x.csv"),
    ],
)
def test_a_path_elsewhere_is_named_relative_to_the_notebook(
    work: Path, monkeypatch: pytest.MonkeyPatch, number: int, below: str, typed: str, named: str
) -> None:
    monkeypatch.chdir(work / below)
    said = hint(work, missing(typed, number))
    assert said.endswith(f" is not shared with the sandbox; {LETS}--data . {named}")


def test_a_path_in_a_home_is_named_as_the_user_would(work: Path) -> None:
    said = hint(work, missing(str(work.parent / "docs" / "x.csv")))
    assert said.endswith("--data . '~/docs/x.csv'")
    assert hint(work, missing(str(work.parent / "tmp" / "x.csv"))) == ""


def test_what_is_shared_already_stays_in_what_is_to_be_typed(work: Path) -> None:
    said = hint(work, missing("../x"), data=["a.csv", "b c.csv"], whole=False)
    assert said.endswith("--data a.csv 'b c.csv' ../x")
    said = hint(work, missing("d.csv"), data=["a.csv"], whole=False)
    assert said.endswith("--data a.csv d.csv")
    said = hint(work, missing("../x"), data=[], whole=False)
    assert said.endswith("--data ../x")


def test_where_no_magic_is_the_setting_is_named(work: Path) -> None:
    said = hint(work, missing("../x.csv"), magics=False)
    assert said.endswith("c.SandboxProvisioner.data = ['.', '../x.csv']")


def test_a_link_that_leads_elsewhere_is_said_to(work: Path) -> None:
    said = hint(work, missing("out.csv"))
    assert said == f"out.csv is a link that leads elsewhere; {LETS}--data . out.csv"


def test_what_is_left_out_is_said_where_a_file_is_missed(work: Path) -> None:
    assert hint(work, missing("gone.csv")) == ""
    for error in (missing("gone.csv"), FileNotFoundError("gone.csv is not there")):
        said = hint(work, error, left_out="1 path left out as secret")
        assert said.endswith("are in the sandbox: 1 path left out as secret")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_what_cannot_be_written_is_said_to(work: Path, number: int) -> None:
    for path in ("data/new.bin", f"{sys.prefix}/lib/x"):
        assert hint(work, missing(path, number)) == READ_ONLY


@pytest.mark.parametrize("tier", TIERS)
async def test_a_shared_file_that_is_written_by_its_own_path_can_only_be_read(
    folder: Path, tier: str
) -> None:
    config = Config({"SandboxProvisioner": {"isolation": tier}})
    code = f"open('{folder}/penguins.csv', 'a')"
    async with (
        Sandbox(folder, config=config) as sandbox,
        aclosing(sandbox.execute(code)) as outputs,
    ):
        said = str([output async for output in outputs])
    assert READ_ONLY in said
    assert "not shared" not in said


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("path", ["/usr/share/x", "/etc/x", "/proc/1/environ"])
def test_of_the_system_the_same_is_said_whatever_a_tier_makes_of_a_path(
    work: Path, number: int, path: str
) -> None:
    assert hint(work, missing(path, number)) == OF_THE_SYSTEM


@pytest.mark.parametrize("path", ["/tmp/x.csv", "/var/tmp/x.csv", "/dev/shm/x.csv"])
def test_of_a_temporary_file_it_is_said_where_others_go(work: Path, path: str) -> None:
    shared = f"{path} is not shared with the sandbox; {LETS}--data . {path}"
    assert hint(work, missing(path)) == shared
    assert hint(work, missing(path, errno.EACCES)) == f"{READ_ONLY}; {shared}"


def test_what_is_the_users_own_is_said_to_be(work: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "f.csv").write_text("a")
    (work / "big").symlink_to(own)
    for path in ("big/new.txt", "big/f.csv", "big"):
        for number in (errno.EACCES, errno.EROFS):
            assert hint(work, missing(path, number)) == LINKED


@pytest.mark.parametrize("name", [".env", "data/.env", ".config/x.csv"])
def test_names_with_a_dot_are_said_to_be_left_out(work: Path, name: str) -> None:
    assert hint(work, missing(name)) == (
        f"{name} is not shared with the sandbox, as names with a dot may be those of secrets; "
        f"{LETS}c.SandboxProvisioner.exposed = ['{name}'], and --data . {name}"
    )


def test_no_network_is_said_whoever_wraps_the_error(work: Path) -> None:
    for cause in (
        socket.gaierror(-3, "Temporary failure in name resolution"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol"),
    ):
        wrapped = ValueError("Max retries exceeded")
        wrapped.__cause__ = RuntimeError("wrapped again")
        wrapped.__cause__.__context__ = cause
        assert hint(work, wrapped) == NETWORK


def test_other_errors_get_no_hint(work: Path) -> None:
    error = KeyError("a")
    error.__context__ = error
    assert hint(work, error) == ""
    assert hint(work, NameError("x", name="x")) == ""
    assert hint(work, NameError("f", name="submit")) == FINAL_ANSWER.format("submit")


# -- in the sandbox


@pytest.fixture(params=TIERS)
async def place(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Sandbox]:
    """A sandbox of each tier in turn, with files beside what is shared."""
    (folder.parent / "data").mkdir()
    (folder.parent / "data" / "x.csv").write_text("x")
    (folder / "sales.csv").symlink_to("../data/x.csv")
    config = Config({"SandboxProvisioner": {"isolation": request.param}})
    async with Sandbox(folder, config=config) as sandbox:
        yield sandbox


async def test_errors_end_with_the_same_hints_in_both_tiers(place: Sandbox, folder: Path) -> None:
    x = folder.parent / "data" / "x.csv"
    for code, said in {
        "open('../data/x.csv')": f"{LETS}--data . ../data/x.csv",
        "%cd -q deep\nopen('../../data/x.csv')": f"{LETS}--data . ../data/x.csv",
        "%cd -q ..\nopen('sales.csv')": f"{LETS}--data . sales.csv",
        "open('server.pem')": "in the sandbox: project: 1 path left out as secret",
        f"open({str(x)!r})": f"{LETS}--data . {x}",
        "open('.env')": "exposed = ['.env'], and --data . .env",
        "open('/usr/lib/x', 'w')": OF_THE_SYSTEM,
        "open('/etc/hosts')": OF_THE_SYSTEM,
        "open(__import__('traitlets').__file__, 'w')": READ_ONLY,
        "import urllib.request as r; r.urlopen('http://example.org')": NETWORK,
        "import socket; socket.create_connection(('192.0.2.1', 80))": NETWORK,
        "final_answer(1)": FINAL_ANSWER.format("final_answer"),
    }.items():
        async with aclosing(place.execute(code)) as outputs:
            *_, error = [output async for output in outputs if output.output_type == "error"]
        assert error.traceback[-1].endswith(said), (code, error.traceback[-1])
