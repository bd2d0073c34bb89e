"""The notebooks we ship run offline, from top to bottom."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from .conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_offline_without_a_key(path: Path, tmp_path: Path) -> None:
    work = tmp_path / "notebooks"
    shutil.copytree(path.parent, work)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=50, resources={"metadata": {"path": str(work)}}).execute()
    nbformat.validate(notebook)


def test_the_first_run_shows_table_error_plot_and_answer(tmp_path: Path) -> None:
    work = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", work)
    notebook = nbformat.read(work / "01-first-run.ipynb", as_version=4)
    NotebookClient(notebook, timeout=50, resources={"metadata": {"path": str(work)}}).execute()
    outputs = notebook.cells[2].outputs
    mimes = [mime for output in outputs for mime in output.get("data", {})]
    assert "text/html" in mimes
    assert mimes.count("image/png") == 1
    assert any("KeyError" in output.get("text", "") for output in outputs)
    assert any("Gentoo penguins are the heaviest" in str(output) for output in outputs)
    assert "summary" in notebook.cells[4].source
    assert "5076.0" in notebook.cells[4].outputs[0].data["text/plain"]


def test_your_data_come_and_go_and_the_key_stays(tmp_path: Path) -> None:
    work = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", work)
    (work / "summary.csv").write_text("from the run before")
    notebook = nbformat.read(work / "02-your-data.ipynb", as_version=4)
    NotebookClient(notebook, timeout=50, resources={"metadata": {"path": str(work)}}).execute()
    outputs = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    assert "4716.0    167         -3.5" in outputs["summary"][0].data["text/plain"]
    assert "image/png" in outputs["figure"][0].data
    looked = next(str(found) for source, found in outputs.items() if "gc.get_objects" in source)
    assert "'celsius': -2.8" in looked
    assert " 0 with the key; False" in looked
    assert "sk-station" not in str(outputs.values())
    assert (work / "summary.csv").read_text().startswith("island,mean,count,temperature\n")


def test_shipped_notebooks_hold_no_outputs() -> None:
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs"), path


def test_an_error_is_mended_and_the_agents_cells_become_yours(tmp_path: Path) -> None:
    work = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", work)
    notebook = nbformat.read(work / "03-your-notebook.ipynb", as_version=4)
    offered = {}

    def note(cell: NotebookNode, execute_reply: dict[str, Any], **_: Any) -> None:
        payload = execute_reply["content"].get("payload", [])
        offered[cell.source] = [each["text"] for each in payload]

    resources = {"metadata": {"path": str(work)}}
    NotebookClient(notebook, timeout=50, resources=resources, on_cell_executed=note).execute()
    outputs = {cell.source: str(cell.outputs) for cell in notebook.cells if "outputs" in cell}
    fix = next(source for source in outputs if source.startswith("%agent fix"))
    assert "KeyError" in next(
        found for source, found in outputs.items() if 'body_mass_g"]' in source
    )
    assert "You renamed the column" in outputs[fix]
    [mended] = offered[fix]
    assert 'penguins.groupby("species")["mass"]' in mended
    asked = next(found for source, found in outputs.items() if source.startswith("%%agent"))
    assert "told: 1 cell, 1 name" in asked
    for difference in ("20.0", "11.7", "17.2"):  # as the answer says
        assert asked.count(difference) > 1
    [kept] = offered["%agent keep"]
    assert kept.startswith("by_sex = penguins.pivot_table")
    assert "they run in your kernel, with your rights" in outputs["%agent keep"]
