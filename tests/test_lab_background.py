"""A run in the background, in a real JupyterLab: its cells arrive while the user's own run."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, expect

from .lab import PATIENCE, Lab, NotebookPage, opened
from .servers import ChatServer, Reply

pytestmark = pytest.mark.timeout(180)

LOAD = "%load_ext jupyter_agent"
STEP = "I count.\n\n```python\ncount = 41 + 1\ncount\n```"


@pytest.fixture
def notebook(lab: Lab, browser: BrowserContext, server: ChatServer) -> Iterator[NotebookPage]:
    """A notebook whose kernel has the magics."""
    task = f"%%agent -m {server.model} --data none --background\nCount."
    path = lab.write("background.ipynb", LOAD, task, "mine = 1\nmine", "%agent wait")
    with opened(lab, browser, path, height=1600) as notebook:
        notebook.run(0)
        yield notebook
        notebook.screenshot("background")
    lab.shut_kernels_down(browser)


def state(notebook: NotebookPage, wanted: str) -> None:
    bar = notebook.cells.nth(1).locator(".jp-JupyterAgentBar")
    expect(bar).to_have_attribute("data-state", wanted, timeout=PATIENCE)


def test_cells_arrive_while_the_users_own_run(notebook: NotebookPage, server: ChatServer) -> None:
    gate = threading.Event()
    server.replies = [Reply(STEP), Reply("It is **42**.", gate=gate)]
    notebook.run(1)  # its reply has come, and the run goes on
    state(notebook, "working")
    expect(notebook.cells.nth(3)).to_contain_text("count = 41 + 1", timeout=PATIENCE)
    notebook.run(4)
    assert notebook.text(4).strip() == "1"
    notebook.start(5)
    state(notebook, "working")
    gate.set()
    notebook.done(5)
    state(notebook, "done")
    expect(notebook.cells.nth(4)).to_contain_text("It is 42.", timeout=PATIENCE)
    idle = notebook.page.locator(".jp-Notebook-ExecutionIndicator")
    expect(idle.first).to_have_attribute("data-status", "idle", timeout=PATIENCE)
    file = notebook.save()
    assert file.cells[3].source == "%%sandbox\ncount = 41 + 1\ncount"
    assert file.cells[3].outputs[0].data["text/plain"] == "42"


def test_stop_stops_the_run_and_not_the_users_cell(
    notebook: NotebookPage, server: ChatServer
) -> None:
    server.replies = [Reply("Never read", gate=threading.Event())]
    notebook.edit(2, "import time; time.sleep(2); print('whole')")
    notebook.run(1)
    state(notebook, "working")
    notebook.start(2)
    notebook.cells.nth(1).get_by_role("button", name="Stop").click()
    state(notebook, "stopped")
    notebook.done(2)
    assert notebook.text(2).strip() == "whole"
