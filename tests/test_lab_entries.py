"""The entries of the toolbar, the palette and the context menu, which write a %%agent cell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, expect

from .lab import PATIENCE, Lab, NotebookPage, opened
from .test_live_cells import sources

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(autouse=True)
def no_kernel_is_left(lab: Lab, browser: BrowserContext) -> Iterator[None]:
    (lab.folder / "s.md").write_text("The answer.")
    yield
    lab.shut_kernels_down(browser)


def ask(notebook: NotebookPage) -> None:
    notebook.page.get_by_role("button", name="Ask the agent").click(timeout=PATIENCE)


def choose(notebook: NotebookPage, entry: str) -> None:
    """Choose an entry of the palette."""
    notebook.page.keyboard.press("Control+Shift+c")
    box = notebook.page.locator(".lm-CommandPalette-input:visible")
    box.fill(entry)
    notebook.page.locator(".lm-CommandPalette-itemLabel", has_text=entry).first.click()


def is_offered(notebook: NotebookPage, entry: str) -> bool:
    """Tell whether an entry is in the context menu of the active cell."""
    notebook.page.locator(".jp-mod-active .jp-InputPrompt").click(button="right")
    menu = notebook.page.locator(".lm-Menu")
    expect(menu.first).to_be_visible()
    there = menu.get_by_text(entry, exact=True).is_visible()
    notebook.page.keyboard.press("Escape")
    return there


def test_the_button_writes_a_cell_to_type_the_task_in(lab: Lab, browser: BrowserContext) -> None:
    path = lab.write("button.ipynb", "x = 1", "print('mine')")
    with opened(lab, browser, path) as notebook:
        notebook.command(0)
        ask(notebook)
        expect(notebook.cells).to_have_count(4, timeout=PATIENCE)
        assert sources(notebook) == [
            "x = 1",
            "%load_ext jupyter_agent",
            "%%agent\n",
            "print('mine')",
        ]
        notebook.screenshot(f"entries-button-{lab.front_end.name}")
        notebook.page.keyboard.type("Go on.")
        expect(notebook.cells.nth(2).locator(".cm-line").last).to_have_text("Go on.")
        notebook.edit(2, "%%agent -m scripted:s.md\nGo on.")
        notebook.page.keyboard.press("Control+Enter")  # the magics are loaded
        expect(notebook.cells.nth(3)).to_contain_text("The answer.", timeout=PATIENCE)
        ask(notebook)
        expect(notebook.cells).to_have_count(6)  # below the run, and nothing is loaded again
        assert sources(notebook)[2:] == [
            "%%agent -m scripted:s.md\nGo on.", "", "%%agent\n", "print('mine')"
        ]  # fmt: skip


def test_a_cell_is_asked_about_and_an_error_fixed(lab: Lab, browser: BrowserContext) -> None:
    path = lab.write("about.ipynb", "%load_ext jupyter_agent", "x = 1", "1/0", "y = 2")
    with opened(lab, browser, path) as notebook:
        for index in (0, 1, 2):
            notebook.run(index)
        notebook.command(1)
        assert not is_offered(notebook, "Fix This Error With the Agent")
        choose(notebook, "Ask the Agent About This Cell")
        expect(notebook.cells).to_have_count(5)
        assert sources(notebook)[2] == "%%agent\n\n\n```python\nx = 1\n```"
        notebook.command(3)
        assert is_offered(notebook, "Fix This Error With the Agent")
        choose(notebook, "Ask the Agent About This Cell")
        expect(notebook.cells).to_have_count(6)
        assert sources(notebook)[4] == "%%agent -c 1\n"
        notebook.command(3)
        choose(notebook, "Fix This Error With the Agent")
        expect(notebook.cells).to_have_count(7)
        assert sources(notebook)[4] == "%agent fix"
        notebook.edit(3, "1/1 + 0/0")
        notebook.command(3)
        choose(notebook, "Fix This Error With the Agent")
        expect(notebook.cells).to_have_count(8)
        assert sources(notebook)[4].startswith("%%agent -c\nExplain this error")
        assert "1/1 + 0/0" in sources(notebook)[4]
        notebook.screenshot(f"entries-fix-{lab.front_end.name}")
        notebook.command(4)
        assert not is_offered(notebook, "Ask the Agent About This Cell")  # it is a task


def test_the_agent_kernel_needs_no_magics(lab: Lab, browser: BrowserContext) -> None:
    path = lab.write("plain.ipynb", "x = 1", "", kernel="jupyter-agent")
    with opened(lab, browser, path) as notebook:
        notebook.run(0)
        notebook.command(1)
        ask(notebook)
        expect(notebook.cells.nth(1).locator(".cm-line")).to_have_count(2)
        notebook.command(0)
        choose(notebook, "Ask the Agent About This Cell")
        expect(notebook.cells).to_have_count(3)
        assert sources(notebook) == ["x = 1", "%%agent\n\n\n```python\nx = 1\n```", "%%agent\n"]
