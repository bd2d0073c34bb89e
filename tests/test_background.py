"""``%%agent --background`` and ``%agent wait``, in real kernels."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from .servers import ChatServer, Reply
from .test_own_notebook import LOAD, run, said

F = "```"
SLOW = f"I wait.\n\n{F}python\nimport time\ntime.sleep(30)\n{F}\n"
SET = f"I set it.\n\n{F}python\ntotal = 41 + 1\n{F}\n"


def test_the_users_cells_run_while_the_agent_works(
    folder: Path, server: ChatServer, tmp_path: Path
) -> None:
    gate = threading.Event()
    server.replies = [Reply(SET, gate=gate), Reply("It is set.")]
    go = tmp_path / "go"
    os.mkfifo(go)
    threading.Thread(target=lambda: gate.set() if not go.read_text() else None).start()
    begin, own, wait, result = run(
        folder,
        LOAD,
        f"%%agent -m {server.model} --background -o total\nSet total",
        f"open({str(go)!r}, 'w').close(); 'total' in globals()",
        "%agent wait",
        "total",
    )[1:]
    assert said(begin) == ""  # there is no page here
    assert said(own) == "False"
    assert "It is set." in said(wait)
    assert said(result) == "42"


def test_the_answer_is_shown_once(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply("Done.")]
    task = f"%%agent -m {server.model} --background\nGo"
    _, none, _, first, second = run(folder, LOAD, "%agent wait", task, "%agent wait", "%agent wait")
    assert (
        said(none).strip()
        == "UsageError: no run is in the background; begin one with %%agent --background"
    )
    assert "Done." in said(first)
    assert said(second) == ""


def test_a_run_in_the_background_can_be_stopped(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply(SLOW)]
    task = f"%%agent -m {server.model} --background\nGo"
    _, _, busy, stop, wait, again = run(
        folder, LOAD, task, f"%%agent -m {server.model}\nOther", "%agent stop", "%agent wait",
        "%agent stop",
    )  # fmt: skip
    assert said(busy).startswith("a run is going on in this session")
    assert said(stop) == "Stopped.\n"
    assert said(wait).startswith("the run was stopped")
    assert said(again) == "No run is going on.\n"


def test_an_interrupt_ends_the_wait_and_not_the_run(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply(SLOW)]
    task = f"%%agent -m {server.model} --background\nGo"
    stop = "import os, signal, threading\nto_come = threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT))"
    *_, wait, end = run(
        folder, LOAD, task, f"{stop}\nto_come.start()", "%agent wait", "%agent stop"
    )
    assert said(wait) == "the wait was stopped, and the run goes on; %agent stop stops it"
    assert said(end) == "Stopped.\n"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("-m nonsense:x --background", "nonsense"),
        ("-m {model} --background --ask always", "cannot ask before each cell"),
    ],
)
def test_what_is_wrong_is_said_at_once(
    folder: Path, server: ChatServer, line: str, why: str
) -> None:
    cells = run(folder, LOAD, f"%%agent {line.format(model=server.model)}\nGo", "1 + 1")
    assert why in said(cells[1])
    assert said(cells[2]) == "2"
    assert not server.requests


def test_a_failure_is_said_where_it_is_waited_for(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply(status=401)]
    task = f"%%agent -m {server.model} --background\nGo"
    cells = run(folder, LOAD, task, "%agent wait")
    assert said(cells[1]) == ""
    assert "401" in said(cells[2])
