"""A notebook on the agent kernel in a real JupyterLab, from the launcher to run all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

import nbformat
import pytest
from playwright.sync_api import BrowserContext, expect

from .conftest import PENGUINS
from .lab import PATIENCE, Lab, NotebookPage, launched, opened, serving

pytestmark = pytest.mark.timeout(240)

F = "```"
SCRIPT = f"I look.\n\n{F}python\nprint(price * 2)\n{F}\n<!-- next reply -->\nIt is **84**.\n"
PLOT = "import matplotlib.pyplot as plt\nprice = 42\nplt.plot([1, 4, 9]);"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("served") / "work"
    folder.mkdir()
    shutil.copy(PENGUINS, folder)
    home = tmp_path_factory.mktemp("home")
    profile = home / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_config.py").write_text("c.AgentKernel.widgets = True\n")
    with serving(folder, home) as lab:
        yield lab


@pytest.fixture(autouse=True)
def no_kernel_is_left(lab: Lab, browser: BrowserContext) -> Iterator[None]:
    yield
    lab.shut_kernels_down(browser)


def write(notebook: NotebookPage, code: str) -> int:
    """Write code into the last cell; return its number."""
    cell = notebook.cells.last
    cell.locator(".cm-content").click()
    notebook.page.keyboard.insert_text(code)
    return notebook.cells.count() - 1


def run(notebook: NotebookPage, code: str) -> int:
    """Write code into the last cell and run it, which makes a new one."""
    index = write(notebook, code)
    notebook.page.keyboard.press("Shift+Enter")
    expect(notebook.cells).to_have_count(index + 2)
    return index


def complete(notebook: NotebookPage, index: int, text: str) -> None:
    """Press Tab until it has worked: JupyterLab gives a kernel one second to complete."""
    written = notebook.cells.nth(index).locator(".cm-content")
    for _ in range(12):
        notebook.page.keyboard.press("Tab")
        with contextlib.suppress(AssertionError):
            expect(written).to_have_text(text, timeout=5000)
            return
    raise AssertionError(written.inner_text())


def test_a_notebook_lives_in_the_sandbox(lab: Lab, browser: BrowserContext) -> None:
    (lab.folder / "s.md").write_text(SCRIPT)
    with launched(lab, browser, "Python 3 (agent)") as notebook:
        page = notebook.page
        plot = run(notebook, PLOT)
        notebook.done(plot)
        expect(notebook.cells.nth(plot).locator("img")).to_be_visible()

        price = write(notebook, "pric")
        complete(notebook, price, "price")
        page.keyboard.press("Shift+Enter")
        notebook.done(price)
        assert notebook.text(price) == "42"

        asked = run(notebook, "name = input('who? ')\nprint('hello', name)")
        box = page.locator(".jp-Stdin-input")
        box.fill("Ada", timeout=PATIENCE)
        box.press("Enter")
        notebook.done(asked)
        assert "hello Ada" in notebook.text(asked)
        expect(box).to_have_count(0)

        agent = write(notebook, "%%agent -m scripted:s.md\nTwice the price?")
        page.keyboard.press("Shift+Enter")
        bar = notebook.cells.nth(agent).locator(".jp-JupyterAgentBar")
        expect(bar).to_have_attribute("data-state", "done", timeout=PATIENCE)
        expect(notebook.cells).to_have_count(agent + 5)  # prose, code, answer; and an empty one
        code, answer = agent + 2, agent + 3
        expect(notebook.outputs(code)).to_have_text("84")
        expect(notebook.cells.nth(answer).locator("strong")).to_have_text("84")
        expect(notebook.cells.nth(code).locator(".jp-InputPrompt").first).to_have_text("[5]:")

        loop = run(notebook, "print('going', flush=True)\nwhile True: pass")
        expect(notebook.outputs(loop).first).to_have_text("going", timeout=PATIENCE)
        notebook.interrupt()
        notebook.done(loop)
        assert "KeyboardInterrupt" in notebook.text(loop)
        after = run(notebook, "price + 1")
        notebook.done(after)
        assert notebook.text(after) == "43"
        notebook.screenshot("agent-kernel")

        page.locator('[data-command="notebook:restart-kernel"]').first.click()
        page.get_by_role("button", name="Confirm Kernel Restart").or_(page.locator(".jp-mod-accept")).first.click()  # fmt: skip
        gone = run(notebook, "'price' in globals()")
        notebook.done(gone)
        assert notebook.text(gone) == "False"
        expect(notebook.cells.nth(gone).locator(".jp-InputPrompt").first).to_have_text("[1]:")
        saved = notebook.save()
        assert saved.metadata.kernelspec.name == "jupyter-agent"
        nbformat.validate(saved)

        # without what waits for the user
        saved.cells = [
            cell for n, cell in enumerate(saved.cells[:-1]) if n not in (asked, loop, gone)
        ]
        nbformat.write(saved, notebook.path)
        (lab.folder / "s.md").unlink()  # nobody is asked again
        page.goto(f"{notebook.url}?reset")
        notebook._settle()
        notebook.run_all()
        expect(notebook.cells.nth(0).locator("img")).to_be_visible()
        bar = notebook.cells.nth(2).locator(".jp-JupyterAgentBar")
        # the kernel was restarted since, so it cannot say that the run is one of its own
        expect(bar).to_have_attribute("data-state", "claimed", timeout=PATIENCE)
        expect(notebook.outputs(4)).to_have_text("84")
        expect(notebook.cells.nth(5).locator("strong")).to_have_text("84")
        assert notebook.text(6) == "43"
        notebook.screenshot("agent-kernel-run-all")


def test_widgets_of_the_users_own_cells_work(lab: Lab, browser: BrowserContext) -> None:
    code = (
        "import ipywidgets\nslider = ipywidgets.IntSlider(3)\nout = ipywidgets.Output()\n"
        "def moved(change):\n    with out: print('moved to', change.new)\n"
        "slider.observe(moved, 'value')\n"
        "ipywidgets.VBox([ipywidgets.HTML('<b>bold</b><img src=x onerror=owned()>'), slider, out])"
    )
    path = lab.write("widgets.ipynb", code, "slider.value", kernel="jupyter-agent")
    with opened(lab, browser, path) as notebook:
        errors: list[str] = []
        notebook.page.on("pageerror", lambda error: errors.append(str(error)))
        notebook.run(0)
        cell = notebook.cells.nth(0)
        handle = cell.locator(".noUi-handle")
        expect(handle).to_have_attribute("aria-valuenow", "3.0", timeout=PATIENCE)
        expect(cell.locator(".widget-html-content b")).to_have_text("bold")
        expect(cell.locator(".widget-html-content img")).to_have_count(0)
        for value in (4, 5):
            handle.press("ArrowRight")
            expect(cell.locator(".jp-OutputArea-child .jp-OutputArea-child").last).to_contain_text(
                f"moved to {value}", timeout=PATIENCE
            )
        notebook.run(1)
        assert notebook.text(1) == "5"
        notebook.screenshot("agent-kernel-widgets")
        notebook.save()
        notebook.reload()
        expect(handle).to_have_attribute("aria-valuenow", "5.0", timeout=PATIENCE)
        assert errors == []
