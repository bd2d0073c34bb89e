"""A notebook is saved in parts and beside the loop, and is the file that nbformat would write."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_output

from jupyter_agent._nbformat import new_cell
from jupyter_agent.agent.loop import Agent
from jupyter_agent.errors import TranscriptError, Unsaved
from jupyter_agent.transcript.metadata import KEY, as_saved
from jupyter_agent.transcript.notebook import Change, Transcript
from jupyter_agent.transcript.saving import NotebookText

from .test_agent import STEP, agent_with

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="


def display(text: str, *, update: bool = False) -> nbformat.NotebookNode:
    kind = "update_display_data" if update else "display_data"
    data = {"text/plain": text, "image/png": f"{PNG}\n"}
    output = nbformat.NotebookNode(output_type=kind, data=data, metadata={})
    output.transient = {"display_id": "d"}
    return output


def test_what_is_composed_is_what_nbformat_writes() -> None:
    text, transcript = NotebookText(), Transcript()
    transcript._notebook_text = text
    notebook = transcript.notebook
    notebook.metadata["odd"] = '"cells": [],\n ],'

    def same() -> None:
        saved = nbformat.NotebookNode(notebook, cells=[as_saved(cell) for cell in notebook.cells])
        assert b"".join(text.compose(notebook)).decode() == nbformat.writes(saved) + "\n"
        nbformat.validate(notebook)

    same()
    task = transcript.add("task", 'Say\n"cells": []\r\nso', note="")
    same()
    code = transcript.add("code", "print(1)\n", step=1)
    later = transcript.add("code", "", step=2)
    same()
    transcript.add_output(code, new_output("stream", name="stdout", text="a\nb"))
    transcript.add_output(code, new_output("stream", name="stdout", text="c\x1b"))
    same()
    transcript.add_output(code, display("one\ntwo"))
    code.metadata["trusted"] = True
    transcript.finish(code)
    same()
    transcript.add_output(later, display("three", update=True))
    same()
    transcript.add_output(later, new_output("error", ename="E", evalue="é", traceback=["x\ny"]))
    transcript.finish(later)
    same()
    later.source = "edited"
    later.metadata[KEY]["edited"] = True
    transcript.insert(1, "summary", "So far", cells=1)
    task.metadata[KEY]["deleted"] = True
    same()
    transcript.drop(code)
    same()
    own = nbformat.v4.new_markdown_cell("![x](attachment:x)")
    own.attachments = {"x": {"image/png": "AAAA\nBBBB"}}
    transcript.cells.append(own)
    same()
    same()


@pytest.mark.parametrize("kind", ["code", "markdown"])
def test_a_new_cell_is_as_nbformat_makes_it(kind: str) -> None:
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}[kind]
    cell = new_cell(kind, "x", id="abc")
    assert cell == make("x", id="abc")
    nbformat.validate(cell, ref=f"{kind}_cell", version=4, version_minor=5)


# -- runs whose saving fails


async def changes_of(agent: Agent, at: int, then: object) -> list[Change]:
    """Carry a run out, and do something once a step has begun."""
    seen: list[Change] = []
    async with aclosing(agent.run("Go")) as changes:
        async for change in changes:
            facts, begun = change.cell.metadata[KEY], change.cell in [one.cell for one in seen]
            seen.append(change)
            if change.done and facts["role"] == "code" and facts["step"] == at and begun:
                await agent._saver.end()
                then()  # type: ignore[operator]
    return seen


async def test_a_save_that_fails_stops_no_run_and_is_said_at_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    agent = agent_with(STEP.format(1), STEP.format(2), "Done", path=folder / "run.ipynb")
    with pytest.raises(Unsaved, match=r"cannot save .*No such file.*nothing is saved"):
        await changes_of(agent, 1, lambda: shutil.rmtree(folder))
    assert agent.transcript.answer == "Done"


async def test_a_disk_that_has_room_again_has_the_whole_run(tmp_path: Path) -> None:
    folder, aside = tmp_path / "there", tmp_path / "aside"
    folder.mkdir()
    agent = agent_with(STEP.format(1), STEP.format(2), "Done", path=folder / "run.ipynb")
    seen = []
    async with aclosing(agent.run("Go")) as changes:
        async for change in changes:
            seen.append(change)
            if change.cell.metadata[KEY].get("running"):
                await agent._saver.end()
                folder.rename(aside) if folder.exists() else aside.rename(folder)
    assert len(Transcript.open(folder / "run.ipynb").cells) == 6
    assert seen[-1].cell.source == "Done"


async def test_a_run_that_cannot_be_saved_at_all_asks_no_model(tmp_path: Path) -> None:
    agent = agent_with("Done", path=tmp_path / "gone" / "run.ipynb")
    with pytest.raises(TranscriptError, match="nothing is saved"):
        await changes_of(agent, 1, None)
    assert agent.model.requests == []  # type: ignore[attr-defined]


async def test_a_file_that_changes_during_a_run_is_left_and_the_run_saved_beside(
    tmp_path: Path,
) -> None:
    path = tmp_path / "run.ipynb"
    (tmp_path / "run-2.ipynb").touch()
    agent = agent_with(STEP.format(1), STEP.format(2), "Done", path=path)
    with pytest.raises(Unsaved, match=r"run.ipynb' was changed .* is saved as .*run-3.ipynb"):
        await changes_of(agent, 1, lambda: path.write_text("theirs"))
    assert path.read_text() == "theirs"
    assert len(Transcript.open(tmp_path / "run-3.ipynb").cells) == 6
    assert agent.transcript.path == tmp_path / "run-3.ipynb"


@pytest.mark.root  # to mount a small disk
def test_the_command_prints_the_answer_though_the_disk_is_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    code = "print('x' * 200_000)"
    (tmp_path / "s.md").write_text(f"{STEP.format(code)}<!-- next reply -->\n**344**\n")
    agent = f"{sys.executable} -m jupyter_agent.frontends.cli run Go -q -m scripted:s.md -o {disk}/run.ipynb"
    mount = f"mount -t tmpfs -o size=40k tmpfs {disk} && {agent}; echo $?; wc -c < {disk}/run.ipynb"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout.split()[:2] == ["**344**", "1"], done.stdout + done.stderr
    assert 100 < int(done.stdout.split()[2]) < 40_000
    assert done.stderr.count("\n") == 1, done.stderr
    assert "No space left on device; the file holds what was saved before" in done.stderr
