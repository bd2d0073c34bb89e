"""Keep the agent's cells, and mend an error, in a real JupyterLab."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from nbformat import NotebookNode
from playwright.sync_api import BrowserContext, Locator, expect

from .lab import PATIENCE, Lab, NotebookPage, opened
from .servers import ChatServer, Reply

pytestmark = pytest.mark.timeout(180)

LOAD = "%load_ext jupyter_agent"
STEPS = [
    "I add.\n\n```python\ntotal = mine + theirs\n```",
    "I print.\n\n```python\nprint(total, 'of the agent')\n```",
    "It is **3**.",
]


@pytest.fixture
def notebook(
    lab: Lab, browser: BrowserContext, server: ChatServer, request: pytest.FixtureRequest
) -> Iterator[NotebookPage]:
    """A notebook in which a run has ended; it leaves a screenshot."""
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")
    ask = f"%%agent -m {server.model} --data none -i mine,theirs\nAdd."
    cells = [
        LOAD,
        "mine, theirs = 1, 2",
        ask,
        "del theirs",
        "%agent keep",
        "mine / 0",
        "%agent fix",
    ]
    path = lab.write(f"{name}.ipynb", *cells)
    server.replies = [Reply(text) for text in STEPS]
    with opened(lab, browser, path, height=1600) as notebook:
        for index in range(3):
            notebook.run(index)
        is_over(notebook)
        yield notebook
        notebook.screenshot(f"keep-{name}")
    lab.shut_kernels_down(browser)


def bar(notebook: NotebookPage, index: int = 2) -> Locator:
    return notebook.cells.nth(index).locator(".jp-JupyterAgentBar")


def is_over(notebook: NotebookPage) -> None:
    expect(bar(notebook)).to_have_attribute("data-state", "done", timeout=PATIENCE)


def button(notebook: NotebookPage, name: str = "Keep as mine", *, index: int = 2) -> Locator:
    return bar(notebook, index).get_by_role("button", name=name)


def code(file: NotebookNode) -> list[str]:
    """The agent's code cells: those between the %%agent cell and the user's next."""
    return [cell.source for cell in file.cells[3:-4] if cell.cell_type == "code"]


AGENTS = ["%%sandbox\ntotal = mine + theirs", "%%sandbox\nprint(total, 'of the agent')"]
OWN = ["total = mine + theirs", "print(total, 'of the agent')"]


def test_kept_cells_are_the_users_and_one_undo_makes_them_the_agents_again(
    notebook: NotebookPage, server: ChatServer
) -> None:
    before = notebook.save()
    assert code(before) == AGENTS
    notebook.run(8)  # theirs is deleted
    button(notebook).click()
    says = bar(notebook).locator("[role=status]")
    expect(says).to_have_text(
        "2 cells of code are yours now: they run in your kernel, with your rights; "
        "missing there: theirs"
    )
    assert notebook.page.locator(".jp-mod-agents, .jp-mod-sandboxed").count() == 0
    expect(button(notebook)).to_be_hidden()
    kept = notebook.save()
    assert code(kept) == OWN
    assert all(not cell.metadata for cell in kept.cells[3:8])
    notebook.command(3, "z")
    expect(button(notebook)).to_be_visible()
    expect(says).to_have_text("Done")
    after = notebook.save()
    assert [(cell.source, cell.metadata) for cell in after.cells[2:8]] == [
        (cell.source, cell.metadata) for cell in before.cells[2:8]
    ]
    button(notebook).click()
    expect(button(notebook)).to_be_hidden()
    notebook.edit(4, "total = mine + 10")
    notebook.run(4)
    notebook.edit(8, "theirs = 2")
    notebook.run(8)
    notebook.run(6)
    assert notebook.text(6).strip() == "11 of the agent"  # in the user's own kernel
    # a reload, the next task and another run leave them as they are
    notebook.page.wait_for_timeout(1000)  # an edit of the agent's cells would be told in 0.25 s
    notebook.save()
    notebook.reload()
    server.replies = [Reply("Again: 3.")]
    expect(button(notebook, "Run again")).to_be_visible(timeout=PATIENCE)
    expect(button(notebook)).to_be_hidden()
    button(notebook, "Run again").click()
    expect(notebook.cells.nth(3)).to_contain_text("Again: 3.", timeout=PATIENCE)
    is_over(notebook)
    assert code(notebook.save()) == ["total = mine + 10", OWN[1]]
    assert "mine + 10" not in server.requests[-1].raw.decode()  # they are none of the agent's


def test_the_command_keeps_the_cells_of_the_page(notebook: NotebookPage) -> None:
    notebook.run(9)
    expect(notebook.outputs(9)).to_have_text(
        "2 cells of code are yours now: they run in your kernel, with your rights\n"
    )
    file = notebook.save()
    assert code(file) == OWN
    assert len(file.cells) == 12  # and no other cell is offered
    assert not file.cells[9].metadata.get("jupyter_agent")


def test_the_mended_cell_comes_below_the_explanation(
    notebook: NotebookPage, server: ChatServer
) -> None:
    server.replies = [Reply("By zero.\n\n```text\nmine / 1\n```")]
    notebook.run(10)
    notebook.edit(11, f"%agent fix -m {server.model}")
    notebook.run(11)
    expect(notebook.cells).to_have_count(14, timeout=PATIENCE)
    expect(notebook.cells.nth(12)).to_contain_text("By zero.")
    file = notebook.save()
    assert file.cells[13].source == "mine / 1"
    assert file.cells[13].outputs == []
    assert "ZeroDivisionError" in server.requests[-1].raw.decode()
    notebook.run(11)  # is shown as recorded, and nothing more is offered
    assert len(notebook.save().cells) == 14
    assert len(server.requests) == 4


def test_in_the_agent_kernel_cells_lose_only_their_marks(lab: Lab, browser: BrowserContext) -> None:
    (lab.folder / "script.md").write_text("\n<!-- next reply -->\n".join(STEPS))
    ask = "%%agent -m scripted:script.md\nAdd."
    cells = ["mine, theirs = 1, 2", ask, "%agent keep", "print('again', total)"]
    path = lab.write("agent.ipynb", *cells, kernel="jupyter-agent")
    with opened(lab, browser, path, height=1600) as notebook:
        notebook.run(0)
        notebook.run(1)
        expect(button(notebook, index=1)).to_be_visible(timeout=PATIENCE)
        before = notebook.save()
        notebook.run(7)
        expect(notebook.outputs(7)).to_have_text("2 cells of code are yours now\n")
        file = notebook.save()
        assert [cell.source for cell in file.cells] == [cell.source for cell in before.cells]
        assert all(not cell.metadata for cell in file.cells[2:])
        notebook.run(8)
        assert notebook.text(8).strip() == "again 3"
    lab.shut_kernels_down(browser)
