"""``jupyter agent setup``, and kernels that start after it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from jupyter_agent.errors import UsageError
from jupyter_agent.frontends import startup_file

from .test_completion import reply_of

COMMAND = [str(Path(sys.executable).parent / "jupyter"), "agent", "setup"]


@pytest.fixture
def path() -> Path:
    return Path(os.environ["IPYTHONDIR"], "profile_default", "startup", "50-jupyter-agent.py")


def outputs(folder: Path, *cells: str) -> str:
    """Run cells in a kernel that starts now; return all that they show."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
    NotebookClient(
        notebook, timeout=60, allow_errors=True, resources={"metadata": {"path": str(folder)}}
    ).execute()
    return str([cell.outputs for cell in notebook.cells])


def test_setup_makes_the_magics_known_and_undo_takes_just_that_away(
    folder: Path, path: Path
) -> None:
    (folder / "s.md").write_text("Done, as told.\n")
    task = "%%agent -q -m scripted:s.md\nGo."
    for _ in range(2):
        done = subprocess.run(COMMAND, check=True, capture_output=True, text=True)
        assert done.stdout.startswith(f"Wrote {path}.\n")
    before = "import sys; print('jupyter_agent' in sys.modules, [n for n in dir() if 'agent' in n])"
    shown = outputs(folder, before, task, "%%sandbox\n6 * 7", "%agent status")
    assert "False []" in shown
    assert "Done, as told." in shown
    assert "'text/plain': '42'" in shown
    assert "1, 2 cells" in shown
    mine = path.with_name("10-mine.py")
    mine.touch()
    subprocess.run([*COMMAND, "--undo"], check=True, capture_output=True)
    assert (mine.exists(), path.exists()) == (True, False)
    assert "`%%agent` not found" in outputs(folder, task)
    assert startup_file.remove().startswith("Nothing to undo")


def test_lines_are_completed_before_the_first_use(folder: Path) -> None:
    startup_file.write()
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(folder))
    try:
        assert "isinstance" in reply_of(client, "isinst|")[1]
        replaced, flags = reply_of(client, "%%agent --|\nGo.")
        assert (replaced, flags[0]) == ("--", "--model")
        assert reply_of(client, "%%agent -n |") == ("", [])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_file_of_somebody_elses_stays(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("x = 1\n")
    for change in (startup_file.write, startup_file.remove):
        with pytest.raises(UsageError, match="was not written by this command"):
            change()
    assert path.read_text() == "x = 1\n"


def test_a_kernel_without_the_package_starts_and_says_what_is_missing(
    folder: Path, path: Path
) -> None:
    startup_file.write()
    path.with_name("00-without.py").write_text(
        "import sys\nsys.modules['jupyter_agent'] = None\ndel sys\n"
    )
    shown = outputs(folder, "1 + 1", "%%agent\nGo.")
    assert "'text/plain': '2'" in shown
    assert "(jupyter_agent)" in shown
