"""One run in two front ends: stdout, a table, a plot, an error that is mended, an answer."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from .servers import ChatServer, Reply

F = "```"
TASK = "What do the penguins weigh?"
LOOK = "import pandas as pd\ndf = pd.read_csv('penguins.csv')\nprint(len(df), 'rows')\ndf.head(2)"
DRAW = "import matplotlib.pyplot as plt\nplt.hist(df['body_mass_g'].dropna())\nplt.show()"
REPLIES = [
    f"I look.\n\n{F}python\n{LOOK}\n{F}\n",
    f"I draw.\n\n{F}python\n{DRAW}\n{F}\n",
    f"{F}python\ndf['mass'].mean()\n{F}\n",
    f"It is called body_mass_g.\n\n{F}python\nround(df['body_mass_g'].mean())\n{F}\n",
    "They weigh **4202 g** on average.",
]


def by_magic(folder: Path, model: str) -> NotebookNode:
    cell = f"%%agent -m {model} --data penguins.csv --save run.ipynb\n{TASK}"
    notebook = new_notebook(cells=[new_code_cell("%load_ext jupyter_agent"), new_code_cell(cell)])
    NotebookClient(
        notebook, kernel_name="python3", timeout=50, resources={"metadata": {"path": str(folder)}}
    ).execute()
    nbformat.validate(notebook)
    return read(folder / "run.ipynb")


def by_command(folder: Path, model: str) -> NotebookNode:
    command = [str(Path(sys.executable).with_name("jupyter")), "agent", "run", TASK, "-m", model]
    command += ["--data", "penguins.csv", "-o", "run.ipynb"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=50)
    return read(folder / "run.ipynb")


def read(path: Path) -> NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def timeless(notebook: NotebookNode) -> list[Any]:
    """The cells without what is drawn by chance: their ids and the run's."""
    cells = json.loads(json.dumps(notebook.cells))
    for cell in cells:
        del cell["id"]
        facts = cell["metadata"]["jupyter_agent"]
        facts.pop("run", None)
        if "sandbox" in facts:  # how much of the modules was looked at in time is no part of it
            facts["sandbox"] = facts["sandbox"].partition(", and modules of")[0]
    return list(cells)


def test_a_run_is_the_same_notebook_by_magic_and_by_command(
    folder: Path, server: ChatServer
) -> None:
    server.replies = [Reply(text) for text in REPLIES]
    by_hand = by_magic(folder, server.model)
    first = list(server.requests)
    server.requests.clear()
    (folder / "run.ipynb").unlink()
    server.replies = [Reply(text) for text in REPLIES]
    in_ci = by_command(folder, server.model)
    assert timeless(by_hand) == timeless(in_ci)
    assert [request.raw for request in first] == [request.raw for request in server.requests]

    # every output in its cell
    kinds = [cell.cell_type for cell in in_ci.cells]
    assert kinds == [
        "markdown",
        "code",  # the first rows
        *["markdown", "code"] * 2,
        "code",
        *["markdown", "code"],
        "markdown",
    ]
    given, look, draw, fail, mend = (cell for cell in in_ci.cells if cell.cell_type == "code")
    assert given.outputs[0].text.startswith("penguins.csv begins:\n")
    assert look.outputs[0].text == "344 rows\n"
    assert "<table" in look.outputs[1].data["text/html"]
    assert "image/png" in draw.outputs[-1].data
    assert fail.outputs[-1].ename == "KeyError"
    assert mend.outputs[-1].data["text/plain"] == "4202"
    assert [cell.execution_count for cell in (look, draw, fail, mend)] == [1, 2, 3, 4]
    assert in_ci.cells[-1].source == REPLIES[-1]

    # the later requests extend the earlier ones byte for byte, and the plot went as an image
    raws = [request.raw for request in server.requests]
    for before, after in pairwise(raws):
        assert after.startswith(before[: before.rindex(b"]")])
    assert sum(part["type"] == "image_url" for part in _parts(server)) == 1
    [picture] = [part for part in _parts(server) if part["type"] == "image_url"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,iVBOR")


def _parts(server: ChatServer) -> list[Any]:
    messages = server.requests[-1].messages
    contents = [message["content"] for message in messages]
    return [part for content in contents if isinstance(content, list) for part in content]
