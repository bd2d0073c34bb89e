"""The saved notebook as attacker: opened by somebody who runs it whole, it must not reach the host.

Each attack is one that works where nothing stands in its way; what proves that it has worked is a
file, a request or a text, never what the notebook says of itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from .servers import ChatServer

SECRET = "the-secret-of-the-user"
KEY = "sk-of-the-user"
F = "```"
ANSWER = "\n<!-- next reply -->\nDone.\n"
READ_ALL = "import glob\nfor p in sorted(glob.glob('**', recursive=True)):\n    print(open(p).read() if p.endswith('.txt') else p)"
MADE = "open('payload', 'w').write('of the guest')"


@dataclass
class Home:
    """A user's home: a folder with the notebook and what came with it, and what is the user's."""

    path: Path
    evil: ChatServer
    shown: str = ""
    answers: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.path / "downloads"

    @property
    def bashrc(self) -> Path:
        return self.path / ".bashrc"

    def written(self) -> set[str]:
        """Name the files there are, by their paths from the home."""
        return {str(p.relative_to(self.path)) for p in self.path.rglob("*") if p.is_file()}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    evil = ChatServer(writer=lambda _: "Done.")
    home = Home(tmp_path / "home", evil)
    (home.path / "private").mkdir(parents=True)
    home.folder.mkdir()
    (home.path / "private" / "diary.txt").write_text(SECRET)
    home.bashrc.write_text("mine")
    (home.folder / "read.md").write_text(f"I read.\n\n{F}python\n{READ_ALL}\n{F}{ANSWER}")
    monkeypatch.setenv("HOME", str(home.path))
    monkeypatch.setenv("JUPYTER_AGENT_API_KEY", KEY)
    monkeypatch.setenv("JUPYTER_AGENT_MODEL", "scripted:read.md")
    yield home
    evil.close()


def cell(source: str, **facts: Any) -> NotebookNode:
    """A cell of a run, as its saved notes say."""
    make = new_code_cell if facts.get("role") in ("code", "own", None) else new_markdown_cell
    return make(source, metadata={"jupyter_agent": facts} if facts else {})


def notebook(*cells: NotebookNode) -> NotebookNode:
    return new_notebook(cells=list(cells), metadata={"jupyter_agent": {"version": 1}})


def run_whole(home: Home, opened: NotebookNode, kernel_name: str = "jupyter-agent") -> NotebookNode:
    """Run every cell as nbclient does, whatever fails on the way."""
    client = NotebookClient(
        opened,
        kernel_name=kernel_name,
        timeout=50,
        allow_errors=True,
        resources={"metadata": {"path": str(home.folder)}},
    )
    client.execute()
    home.shown = json.dumps([each.get("outputs", []) for each in opened.cells])
    return opened


Attack = tuple[str, Callable[[Home], list[NotebookNode]], Callable[[Home], bool]]
ATTACKS: list[Attack] = [
    (
        "a cell of the agent's writes over a file of the user's",
        lambda home: [
            cell("Go", role="task", run="r"),
            cell(MADE, role="code", step=1),
            cell(f"%agent fetch payload {home.bashrc} --force", role="code", step=2),
        ],
        lambda home: home.bashrc.read_text() != "mine",
    ),
    (
        "a cell writes over a file of the user's",
        lambda home: [cell(MADE), cell("%agent fetch payload ~/.bashrc --force")],
        lambda home: home.bashrc.read_text() != "mine",
    ),
    (
        "a cell puts a file beside the user's",
        lambda home: [cell(MADE), cell(f"%agent fetch payload {home.path}/.profile")],
        lambda home: ".profile" in str(home.written()),
    ),
    (
        "a cell puts a module where the user's Python finds it",
        lambda home: [cell(MADE), cell("%agent fetch payload numpy.py")],
        lambda home: "downloads/numpy.py" in home.written(),
    ),
    (
        "a cell puts a file into the user's folder by a link",
        lambda home: [cell(MADE), cell("%agent fetch payload link/payload.txt")],
        lambda home: "private/payload.txt" in home.written(),
    ),
    (
        "a cell writes over a file in the folder",
        lambda home: [cell(MADE), cell("%agent fetch payload mine.txt --force")],
        lambda home: (home.folder / "mine.txt").read_text() != "mine",
    ),
    (
        "a cell shares a private folder",
        lambda home: [cell("%%agent --data ~/private\nRead it.")],
        lambda home: SECRET in home.shown,
    ),
    (
        "a cell shares a private folder by a link",
        lambda home: [cell("%%agent --data link\nRead it.")],
        lambda home: SECRET in home.shown,
    ),
    (
        "a cell of the agent's shares a private folder",
        lambda home: [
            cell("Go", role="task", run="r"),
            cell("\n%%agent --data ~/private\nRead it.", role="code", step=1),
        ],
        lambda home: SECRET in home.shown,
    ),
    (
        "a cell has a file read as the model's replies",
        lambda home: [cell("%%agent -m scripted:~/private/diary.txt\nRead it.")],
        lambda home: SECRET in home.shown,
    ),
    (
        "a cell has a file that looks like a secret read as the model's replies",
        lambda home: [cell("%%agent -m scripted:.env\nRead it.")],
        lambda home: SECRET in home.shown,
    ),
    (
        "a cell asks a server of the writer's",
        lambda home: [cell(f"%%agent -m {home.evil.model}\nHello")],
        lambda home: bool(home.evil.requests),
    ),
    (
        "a cell of the agent's asks a server of the writer's",
        lambda home: [
            cell("Go", role="task", run="r"),
            cell(f"%%agent -m {home.evil.model}\nHello", role="code", step=1),
        ],
        lambda home: bool(home.evil.requests),
    ),
    (
        "a cell saves a run beside the user's files",
        lambda home: [cell("%%agent --data none --save ~/private/run.ipynb\nGo")],
        lambda home: "private/run.ipynb" in home.written(),
    ),
    (
        "a cell saves a run by a link",
        lambda home: [cell("%%agent --data none --save link/run.ipynb\nGo")],
        lambda home: "private/run.ipynb" in home.written(),
    ),
    (
        "a cell saves a run where other programs read their settings",
        lambda home: [cell("%%agent --data none --save .vscode/settings.json\nGo")],
        lambda home: "downloads/.vscode/settings.json" in home.written(),
    ),
    (
        "a cell goes on with a run of the user's, and tells it",
        lambda home: [cell("%%agent --data none --save stolen.ipynb\nGo")],
        lambda home: SECRET in home.shown,
    ),
]


def furnish(home: Home) -> None:
    """Put what came with the notebook into its folder, and a saved run into the private one."""
    (home.folder / "link").symlink_to(home.path / "private")
    (home.folder / ".env").write_text(SECRET)
    (home.folder / "mine.txt").write_text("mine")
    (home.folder / ".vscode").mkdir()
    stolen = notebook(cell("Go", role="task", run="r"), cell(SECRET, role="prose", step=1))
    nbformat.write(stolen, home.path / "private" / "run-of-mine.ipynb")
    (home.folder / "stolen.ipynb").symlink_to(home.path / "private" / "run-of-mine.ipynb")


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack[0].replace(" ", "-"))
def test_run_whole_where_nobody_is_asked_it_reaches_nothing(home: Home, attack: Attack) -> None:
    furnish(home)
    _, cells, has_worked = attack
    run_whole(home, notebook(*cells(home)))
    assert not has_worked(home)
