"""The agent's cells, live in real front ends: what a user sees, does, saves and is spared."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from playwright.sync_api import BrowserContext, Locator, expect

from .conftest import ROOT
from .lab import (
    PATIENCE,
    SCREENSHOTS,
    Lab,
    NotebookPage,
    opened,
)
from .servers import ChatServer, Reply

pytestmark = pytest.mark.timeout(180)

LOAD = "%load_ext jupyter_agent"
TALL = 2000  # pixels: JupyterLab draws only the cells that are on the screen

# keeps what the bar says
LISTEN = """() => {
    window.said = [];
    new MutationObserver(() => {
        const text = document.querySelector('.jp-JupyterAgentBar [role=status]')?.textContent;
        if (text && text !== window.said.at(-1)) window.said.push(text);
    }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""
# what stands on the screen: of each cell its type, its prompt, its source, how many outputs
SEEN = """cells => cells.map(cell => {
    const code = cell.classList.contains('jp-CodeCell');
    const lines = [...cell.querySelectorAll('.cm-line')].map(line => line.textContent);
    return [
        code ? 'code' : cell.classList.contains('jp-MarkdownCell') ? 'markdown' : 'raw',
        code ? cell.querySelector('.jp-InputPrompt').textContent.trim() : '',
        code ? lines.join('\\n') : '',
        cell.querySelectorAll('.jp-OutputArea-output').length,
    ];
})"""


@pytest.fixture(autouse=True)
def no_kernel_is_left(lab: Lab, browser: BrowserContext) -> Iterator[None]:
    yield
    lab.shut_kernels_down(browser)


@pytest.fixture
def notebook(
    lab: Lab, browser: BrowserContext, chat: ChatServer, request: pytest.FixtureRequest
) -> Iterator[NotebookPage]:
    """A notebook with a ``%%agent`` cell, the magics loaded; it leaves a screenshot."""
    chat.replies.clear()
    chat.requests.clear()
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")
    path = lab.write(f"{name}.ipynb", LOAD, task(chat), "print('mine')")
    with opened(lab, browser, path, height=TALL) as notebook:
        notebook.run(0)
        yield notebook
        notebook.screenshot(f"live-{name}")


def task(chat: ChatServer, text: str = "Go on.", options: str = "") -> str:
    return f"%%agent -m {chat.model} --data none{options}\n{text}"


def step(prose: str, code: str) -> str:
    return f"{prose}\n\n```python\n{code}\n```"


def bar(notebook: NotebookPage, index: int = 1) -> Locator:
    return notebook.cells.nth(index).locator(".jp-JupyterAgentBar")


def is_over(notebook: NotebookPage, state: str = "done", index: int = 1) -> None:
    expect(bar(notebook, index)).to_have_attribute("data-state", state, timeout=PATIENCE)


def is_idle(notebook: NotebookPage) -> None:
    """Wait until the kernel has nothing to do; what was sent before would be aborted."""
    circle = notebook.page.locator(".jp-Notebook-ExecutionIndicator").first
    expect(circle).to_have_attribute("data-status", "idle", timeout=PATIENCE)


def sources(notebook: NotebookPage) -> list[str]:
    return [source for _, _, source, _ in seen(notebook)]


def seen(notebook: NotebookPage) -> list[tuple[str, str, str, int]]:
    found: list[list[object]] = notebook.cells.evaluate_all(SEEN)
    return [(str(a), str(b), str(c), int(str(d))) for a, b, c, d in found]


def saved(notebook: NotebookPage) -> NotebookNode:
    """Save; the file is valid and holds what is on the screen, and nothing spins."""
    file = notebook.save()
    nbformat.validate(file)
    shown = seen(notebook)
    assert [cell.cell_type for cell in file.cells] == [kind for kind, *_ in shown]
    for cell, (kind, prompt, source, outputs) in zip(file.cells, shown, strict=True):
        if kind == "code":
            assert cell.source == source
            assert prompt == f"[{cell.execution_count or ' '}]:"
            assert len(cell.outputs) == outputs
    assert len({cell.id for cell in file.cells}) == len(file.cells)
    return file


# -- a run


def test_a_run_becomes_cells(notebook: NotebookPage, chat: ChatServer) -> None:
    code = "import pandas as pd\nprint('hello')\npd.DataFrame({'a': [1, 2]})"
    chat.replies = [
        Reply(step("**First** a table.", code), delay=0.02),
        Reply(step("Now an error.", "{}['wrong']")),
        Reply("The answer is **42**."),
    ]
    notebook.run(1)
    is_over(notebook)
    file = saved(notebook)
    kinds = [cell.cell_type for cell in file.cells]
    assert kinds == ["code", "code", "markdown", "code", "markdown", "code", "markdown", "code"]
    assert file.cells[3].source == f"%%sandbox\n{code}"
    assert [output.output_type for output in file.cells[3].outputs] == ["stream", "execute_result"]
    assert [output.output_type for output in file.cells[5].outputs] == ["error"]
    assert file.cells[5].outputs[0].ename == "KeyError"
    assert [cell.execution_count for cell in file.cells[1::2]] == [2, 1, 2, None]
    expect(notebook.cells.nth(2).locator("strong")).to_have_text("First")
    expect(notebook.cells.nth(6).locator("strong")).to_have_text("42")
    expect(notebook.cells.nth(3).locator("table.dataframe")).to_be_visible()
    assert len(file.cells[1].outputs) == 1  # the header, which says what confined it
    assert "bubblewrap" in file.cells[1].outputs[0].data["text/plain"]
    assert "%%sandbox" not in chat.requests[1].raw.decode()
    assert all("trusted" not in cell.metadata for cell in file.cells)
    tags = [cell.metadata.get("tags") for cell in file.cells[1::2]]
    assert tags == [None, None, ["raises-exception"], None]
    notebook.run_all()  # goes on after the error
    assert notebook.text(7).strip() == "mine"


def test_prose_and_code_stream(notebook: NotebookPage, chat: ChatServer) -> None:
    held, wait = threading.Event(), threading.Event()
    chat.replies = [
        Reply(step("I will **count** to", "a = 1\nb = 2\nc = 3 # end"), hold=held),
        Reply("Done.", gate=wait),
    ]
    notebook.page.evaluate(LISTEN)
    notebook.start(1)
    expect(notebook.cells.nth(2).locator("strong")).to_have_text("count", timeout=PATIENCE)
    assert notebook.page.evaluate("window.said")[0] == "Starting the sandbox…"
    expect(notebook.cells.nth(3)).to_contain_text("b = 2")
    expect(bar(notebook)).to_contain_text("Writing")
    held.set()
    expect(bar(notebook)).to_contain_text("Thinking")
    wait.set()
    is_over(notebook)
    saved(notebook)


# the page is idle right after each change, before it draws a frame
IDLE_AT_ONCE = """() => {
    window.idle_of = window.requestIdleCallback;
    window.requestIdleCallback = async call => {
        for (let i = 0; i < 9; i++) await null;  // JupyterLab has asked for its frame
        call({didTimeout: false, timeRemaining: () => 50});
    };
}"""


def test_a_new_cell_stays_drawn_when_the_page_is_idle(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    """Nothing else changes in the notebook that would have JupyterLab draw it later."""
    gate = threading.Event()
    chat.replies = [Reply("```python\nprint('step one')\n```"), Reply("ok", gate=gate)]
    notebook.page.evaluate(IDLE_AT_ONCE)
    notebook.start(1)
    expect(notebook.cells.nth(2)).to_contain_text("step one", timeout=PATIENCE)
    expect(notebook.cells.nth(2).locator(".jp-InputPrompt")).to_have_text("[1]:")
    notebook.page.evaluate("() => { window.requestIdleCallback = window.idle_of; }")
    gate.set()
    is_over(notebook)


# a run published as fast as can be: a cell comes with the first of its output
GROWS = """
import time
from jupyter_agent.transcript.notebook import Change, Transcript
from jupyter_agent.views.live import DisplayView
from jupyter_agent.views.publishers import KernelPublisher
from nbformat.v4 import new_output

kernel, transcript = get_ipython().kernel, Transcript()
view = DisplayView(KernelPublisher(kernel), anchor=kernel.get_parent("shell")["metadata"]["cellId"])
task = transcript.add("task", "x", run="grows", model="feed", sandbox="none")
view(Change(task, done=True))
view(Change(transcript.add("prose", "First.", step=1), done=True))
cell = transcript.add("code", "loop()", step=1)
for text in "0123456789":
    cell.metadata.jupyter_agent["running"] = True
    transcript.add_output(cell, new_output("stream", name="stdout", text=f"{text}\\n"))
    view(Change(cell))
    time.sleep(0.1)
view(Change(cell, done=True))
view.finish("done")
"""


def test_an_output_that_grows_is_painted_as_it_grows(notebook: NotebookPage) -> None:
    notebook.edit(1, GROWS)
    notebook.page.keyboard.press("Control+Enter")
    output = notebook.cells.nth(3).locator(".jp-OutputArea-output pre")
    expect(output).to_have_text("".join(f"{i}\n" for i in range(10)), timeout=PATIENCE)
    # an output of a cell that the user runs again
    loop = "%%sandbox\nimport IPython.display as d, time\nfor i in range(15):\n    print(i, flush=True)\n"
    notebook.edit(3, f"{loop}    if i == 3: d.display(d.HTML('<b>x</b>'))\n    time.sleep(0.05)")
    notebook.page.keyboard.press("Control+Enter")
    rest = "".join(f"{i}\n" for i in range(4, 15))
    expect(output.last).to_have_text(rest, timeout=PATIENCE)


def test_the_agent_kernel_has_plain_cells(
    lab: Lab, browser: BrowserContext, chat: ChatServer
) -> None:
    chat.replies = [Reply(step("x", "total = 6 * 7\ntotal")), Reply("ok")]
    path = lab.write("plain.ipynb", task(chat), "total", kernel="jupyter-agent")
    with opened(lab, browser, path, height=TALL) as notebook:
        notebook.start(0)
        asked = notebook.page.get_by_role("group", name="The agent asks")
        expect(asked).to_contain_text(f"-m {chat.url.removesuffix('/v1')}", timeout=PATIENCE)
        asked.get_by_role("button", name="Allow", exact=True).click()
        is_over(notebook, index=0)
        notebook.run(4)
        file = saved(notebook)
        notebook.screenshot(f"live-plain-{lab.front_end.name}")
    assert file.cells[2].source == "total = 6 * 7\ntotal"
    assert file.cells[4].outputs[0].data["text/plain"] == "42"


def test_the_first_notebook_looks_as_in_the_readme(lab: Lab, browser: BrowserContext) -> None:
    """Leave the README's picture; ``make picture`` puts it there."""
    for name in ("01-first-run.ipynb", "scripts", "data"):
        target = lab.folder / name
        if not target.exists():
            copy = shutil.copytree if name != "01-first-run.ipynb" else shutil.copy
            copy(ROOT / "notebooks" / name, target)
    with opened(lab, browser, lab.folder / "01-first-run.ipynb", height=2600) as notebook:
        notebook.run(1)
        notebook.run(2)
        is_over(notebook, index=2)
        expect(notebook.cells.nth(10).locator("img")).to_be_visible()
        expect(notebook.cells.nth(2).get_by_role("button", name="Run again")).to_be_visible()
        notebook.command(0)
        first, last = notebook.cells.nth(2).bounding_box(), notebook.cells.nth(11).bounding_box()
        assert first
        assert last
        height = last["y"] + last["height"] - first["y"]
        path = SCREENSHOTS / f"picture-{lab.front_end.name}.png"
        clip = {"x": first["x"], "y": first["y"], "width": first["width"], "height": height}
        notebook.page.screenshot(path=path, clip=clip)  # type: ignore[arg-type]  # a TypedDict
        saved(notebook)


# -- where the user looks

CONTENTS_PATH = {"jupyterlab": "lab/tree", "notebook": "notebooks"}
SCROLLED = "document.querySelector('.jp-WindowedPanel-outer').scrollTop"
ENDS_IN_SIGHT = """index => {
    const pane = document.querySelector('.jp-WindowedPanel-outer').getBoundingClientRect();
    const cell = [...document.querySelectorAll('.jp-Notebook .jp-Cell')].find(
        cell => cell.textContent.includes('line 79')
    );
    const bottom = cell?.getBoundingClientRect().bottom ?? Infinity;
    return bottom <= pane.bottom + 5 && bottom > pane.top;
}"""


def test_the_view_follows_who_looks_on_and_lets_others_read(
    lab: Lab, browser: BrowserContext, chat: ChatServer
) -> None:
    lines = "\n\n".join(f"line {number}" for number in range(80))
    held = threading.Event()
    rows = lines.replace("line", "row")
    chat.replies = [Reply(lines, delay=0.005), Reply(rows, delay=0.005, hold=held)]
    path = lab.write("follow.ipynb", LOAD, task(chat), "print('mine')")
    with opened(lab, browser, path, height=600) as notebook:
        notebook.run(0)
        notebook.run(1)
        is_over(notebook)
        notebook.page.wait_for_function(ENDS_IN_SIGHT)
        notebook.screenshot(f"live-follow-{lab.front_end.name}")
        notebook.page.evaluate(f"{SCROLLED} = 0")
        bar(notebook).get_by_role("button", name="Run again").click()
        wait_for_text(notebook, "row 30")
        box = notebook.page.locator(".jp-WindowedPanel-outer").first.bounding_box()
        assert box
        notebook.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        notebook.page.mouse.wheel(0, -250)
        notebook.page.wait_for_timeout(300)
        read = notebook.page.evaluate(SCROLLED)
        held.set()
        wait_for_text(notebook, "row 79")
        notebook.page.wait_for_timeout(500)
        assert abs(notebook.page.evaluate(SCROLLED) - read) < 5


def test_a_jump_by_the_table_of_contents_is_not_scrolled_back(
    lab: Lab, browser: BrowserContext, chat: ChatServer
) -> None:
    if lab.front_end.name == "lab42":
        pytest.skip("JupyterLab 4.2 jumps to no heading in a cell that is in sight")
    lines = "\n\n".join(f"line {number}" for number in range(60))
    held = threading.Event()
    chat.replies = [Reply(f"# Begin\n\n{lines}", delay=0.1, hold=held)]
    path = lab.write("contents.ipynb", LOAD, task(chat), "print('mine')")
    with opened(lab, browser, path, height=600) as notebook:
        notebook.page.goto(f"{lab.url}/{CONTENTS_PATH[lab.front_end.module]}/{path.name}?reset")
        notebook._settle()
        notebook.run(0)
        notebook.choose("View", "Table of Contents")
        entry = notebook.page.locator(".jp-tocItem-content", has_text="Begin")
        notebook.start(1)
        wait_for_text(notebook, "line 20")
        notebook.page.wait_for_function(f"{SCROLLED} > 250")  # it follows
        entry.first.click(timeout=PATIENCE)
        notebook.page.wait_for_function(f"{SCROLLED} < 250")
        read = notebook.page.evaluate(SCROLLED)
        wait_for_text(notebook, "line 58")
        assert abs(notebook.page.evaluate(SCROLLED) - read) < 5
        held.set()
        is_over(notebook)


def wait_for_text(notebook: NotebookPage, text: str) -> None:
    notebook.page.wait_for_function(
        "text => document.querySelector('.jp-Notebook').textContent.includes(text)",
        arg=text,
        timeout=PATIENCE,
    )


# -- what the user does meanwhile


def begin(notebook: NotebookPage, chat: ChatServer, *replies: str) -> threading.Event:
    """Start a run of one step, which then waits before the next reply ends."""
    gate = threading.Event()
    held, *rest = replies or ("ok",)
    chat.replies = [
        Reply(step("First.", "print('step one')")),
        Reply(held, gate=gate),
        *map(Reply, rest),
    ]
    notebook.start(1)
    expect(notebook.cells.nth(3)).to_contain_text("step one", timeout=PATIENCE)
    expect(notebook.cells.nth(3).locator(".jp-InputPrompt")).to_have_text("[1]:")
    return gate


def test_what_the_user_edits_stays_and_is_read(notebook: NotebookPage, chat: ChatServer) -> None:
    gate = begin(notebook, chat, step("Second.", "print('step two')"), "The end.")
    notebook.edit(3, "%%sandbox\nprint('my own')")
    notebook.page.wait_for_timeout(600)  # a pause tells the kernel
    gate.set()
    is_over(notebook)
    assert sources(notebook)[3] == "%%sandbox\nprint('my own')"
    asked = [message["content"] for message in chat.requests[2].messages]
    assert "```python\nprint('my own')\n```" in asked[2]
    chat.replies = [Reply("Again.")]
    bar(notebook).get_by_role("button", name="Run again").click()
    expect(notebook.cells.nth(2)).to_contain_text("Again.", timeout=PATIENCE)
    is_over(notebook)
    file = saved(notebook)
    assert [cell.source for cell in file.cells[2:]] == [
        "Again.", "%%sandbox\nprint('my own')", "print('mine')"
    ]  # fmt: skip
    last = chat.requests[-1].raw.decode()  # what the notebook holds, and nothing else
    assert "print('my own')" in last
    assert "step two" not in last


def test_what_the_user_edits_while_it_is_written_is_what_runs(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    held = threading.Event()
    chat.replies = [Reply(step("x", "a = 1\nb = 2\nprint('agent') # end"), hold=held), Reply("ok")]
    notebook.start(1)
    expect(notebook.cells.nth(3)).to_contain_text("b = 2", timeout=PATIENCE)
    notebook.edit(3, "%%sandbox\nprint('user')")
    notebook.page.wait_for_timeout(600)  # a pause tells the kernel
    held.set()
    is_over(notebook)
    file = saved(notebook)
    assert file.cells[3].source == "%%sandbox\nprint('user')"
    assert file.cells[3].outputs[0].text == "user\n"
    asked = chat.requests[1].raw.decode()
    assert "print('user')" in asked
    assert "print('agent')" not in asked


def test_an_edit_too_late_to_be_run_stays_all_the_same(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    held = threading.Event()
    chat.replies = [Reply(step("x", "a = 1\nb = 2\nprint('agent') # end"), hold=held), Reply("ok")]
    notebook.start(1)
    expect(notebook.cells.nth(3)).to_contain_text("b = 2", timeout=PATIENCE)
    notebook.edit(3, "%%sandbox\nprint('user')")
    held.set()  # before the kernel is told
    is_over(notebook)
    assert saved(notebook).cells[3].source == "%%sandbox\nprint('user')"


def test_a_cell_that_the_user_deletes_the_agent_forgets(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    gate = begin(notebook, chat, step("Second.", "print('step two')"), "The end.")
    notebook.command(3, "d", "d")
    notebook.page.wait_for_timeout(600)  # a pause tells the kernel
    gate.set()
    is_over(notebook)
    asked = chat.requests[2].raw.decode()
    assert "step one" not in asked
    assert "I deleted a cell of yours" in asked
    assert [cell.source for cell in saved(notebook).cells[2:]] == [
        "First.", "Second.", "%%sandbox\nprint('step two')", "The end.", "print('mine')"
    ]  # fmt: skip


def test_what_the_user_runs_again_is_what_the_agent_reads_next(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    chat.replies = [Reply(step("x", "print('by the agent')")), Reply("ok"), Reply("I see.")]
    notebook.run(1)
    is_over(notebook)
    notebook.edit(3, "%%sandbox\nprint('by', 'me')")
    notebook.page.keyboard.press("Control+Enter")
    expect(notebook.outputs(3)).to_have_text("by me", timeout=PATIENCE)
    notebook.edit(5, task(chat, "And now?"))
    notebook.page.keyboard.press("Control+Enter")
    is_over(notebook, index=5)
    asked = chat.requests[2].raw.decode()
    assert "by me" in asked
    assert "by the agent" not in asked
    saved(notebook)


def test_undo_takes_back_what_the_user_did_and_nothing_else(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    gate = begin(notebook, chat, step("Second.", "print('step two')"), "The end.")
    notebook.edit(4, "print('typed')")
    gate.set()
    is_over(notebook)
    before = sources(notebook)
    notebook.cells.nth(7).locator(".cm-content").click()
    notebook.page.keyboard.press("Control+z")
    expect(notebook.cells.nth(7)).to_contain_text("print('mine')")
    assert sources(notebook)[:7] == before[:7]
    for _ in range(3):
        notebook.command(7, "z")
    assert sources(notebook)[2:7] == before[2:7]
    saved(notebook)


def test_a_deleted_cell_that_a_reload_brings_back_is_read_again(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    """As a reload undoes the deletion of any cell that was not saved."""
    gate = begin(notebook, chat, step("Second.", "print('step two')"), "The end.")
    notebook.save()
    notebook.command(3, "d", "d")
    expect(notebook.page.get_by_text("step one", exact=True)).to_have_count(0)
    notebook.page.wait_for_timeout(600)  # a pause tells the kernel
    notebook.reload()
    expect(notebook.cells.nth(3)).to_contain_text("step one")
    expect(bar(notebook)).to_contain_text(re.compile("Thinking|Writing"), timeout=PATIENCE)
    notebook.page.wait_for_timeout(600)
    gate.set()
    is_over(notebook)
    asked = chat.requests[2].raw.decode()
    assert "step one" in asked
    assert "I deleted a cell of yours" not in asked


def test_moved_and_deleted_steps_stay_so(notebook: NotebookPage, chat: ChatServer) -> None:
    gate = begin(notebook, chat, step("Second.", "print('step two')"), "The end.")
    notebook.command(2, "d", "d")
    notebook.command(2, "Control+Shift+ArrowDown")  # below the user's own cell
    expect(notebook.cells.nth(3)).to_contain_text("step one")
    notebook.cells.nth(2).locator(".cm-content").click()
    notebook.page.keyboard.press("End")
    notebook.page.keyboard.type(" # I ")
    gate.set()
    notebook.page.keyboard.type("write", delay=60)
    is_over(notebook)
    notebook.page.keyboard.type(" on")
    file = saved(notebook)
    assert [cell.source for cell in file.cells[2:]] == [
        "print('mine') # I write on",
        "%%sandbox\nprint('step one')",
        "Second.",
        "%%sandbox\nprint('step two')",
        "The end.",
    ]
    before = sources(notebook)
    notebook.command(2, "z")  # undoes no cell of the agent's
    for mine in ("step one", "step two"):  # a cell that comes back is drawn a little later
        expect(notebook.page.locator(".cm-content").filter(has_text=mine)).to_have_count(1)
    assert sources(notebook) != before


def test_a_run_whose_cell_is_deleted_ends_in_calm(notebook: NotebookPage, chat: ChatServer) -> None:
    gate = begin(notebook, chat, step("Second.", "print('step two')"), "The end.")
    notebook.command(1, "d", "d")
    is_idle(notebook)
    gate.set()
    notebook.start(3)
    expect(notebook.cells.nth(3)).to_contain_text("[3]:", timeout=PATIENCE)
    assert len(chat.requests) == 2
    file = saved(notebook)
    assert [cell.source for cell in file.cells[1:]] == [
        "First.", "%%sandbox\nprint('step one')", "print('mine')"
    ]  # fmt: skip


def test_running_again_replaces_and_one_undo_restores(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    gate = threading.Event()
    new = Reply("New end.", gate=gate)
    chat.replies = [Reply(step("Old.", "print('old')")), Reply("Old end."), new]
    notebook.run(1)
    is_over(notebook)
    bar(notebook).get_by_role("button", name="Run again").click()
    # what keeps the place of the new run's cells is not shown
    expect(notebook.cells.filter(visible=True)).to_have_count(3, timeout=PATIENCE)
    # the new run's cell and its end are done together
    notebook.page.evaluate(
        "() => { window.timers_held = []; window.timer_of = window.setTimeout;"
        " window.setTimeout = (call, ms, ...rest) => ms === 8"
        " ? (window.timers_held.push(call), -1) : window.timer_of(call, ms, ...rest); }"
    )
    gate.set()
    prompt = notebook.cells.nth(1).locator(".jp-InputPrompt")
    expect(prompt).to_have_text(re.compile(r"\[\d+\]"), timeout=PATIENCE)
    assert notebook.page.evaluate(
        "() => { window.setTimeout = window.timer_of;"
        " window.timers_held.forEach(call => call()); return window.timers_held.length; }"
    )
    expect(notebook.cells.nth(2)).to_contain_text("New end.", timeout=PATIENCE)
    is_over(notebook)
    assert len(saved(notebook).cells) == 4
    assert "print('old')" not in chat.requests[-1].raw.decode()
    notebook.command(1, "z")
    expect(notebook.cells).to_have_count(7)
    file = saved(notebook)
    old = ["Old.", "%%sandbox\nprint('old')", "Old end."]
    assert [cell.source for cell in file.cells[2:6]] == [*old, "New end."]
    notebook.run(3)
    expect(notebook.page.locator(".jp-Notebook")).to_contain_text("was replaced")


def test_run_all_asks_no_model_twice(notebook: NotebookPage, chat: ChatServer) -> None:
    chat.replies = [Reply(step("x", "print('from the run', 1)")), Reply("ok")]
    notebook.run(1)
    is_over(notebook)
    notebook.run_all()
    is_over(notebook, "recorded")
    file = saved(notebook)
    assert len(chat.requests) == 2
    assert [cell.execution_count for cell in file.cells if cell.cell_type == "code"] == [3, 4, 5, 6]
    assert file.cells[3].outputs[0].text == "from the run 1\n"
    # an edited task is a new one; the cells that Run All had sent are of the run it replaces
    chat.replies = [Reply(step("y", "print('anew')")), Reply("new")]
    notebook.edit(1, task(chat, "Go on, now."))
    notebook.choose("Run", "Run All Cells")
    expect(notebook.cells.nth(5).locator(".jp-InputPrompt")).to_have_text("[10]:", timeout=PATIENCE)
    file = saved(notebook)
    assert [cell.source for cell in file.cells[2:]] == [
        "y",
        "%%sandbox\nprint('anew')",
        "new",
        "print('mine')",
    ]
    assert len(chat.requests) == 4
    assert file.cells[3].outputs[0].text == "anew\n"


def test_text_of_the_agents_keeps_the_line_of_the_sandbox(
    notebook: NotebookPage, chat: ChatServer, tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    attempt = f"with contextlib.suppress(OSError): open({str(proof)!r}, 'w').write('ran')"
    whole = f"import contextlib\n{attempt}\nprint('tried')"
    chat.replies = [Reply(step("x", whole)), Reply("ok")]
    notebook.run(1)
    is_over(notebook)

    def line(index: int, text: str) -> None:
        notebook.cells.nth(index).locator(".cm-line", has_text=text).first.click()
        notebook.page.keyboard.press("Home")

    def runs_confined(index: int, count: int) -> None:
        """Run it at once: no pause gives the page time."""
        notebook.page.keyboard.press("Control+Enter")
        expect(notebook.cells.nth(index).locator(".jp-InputPrompt")).to_have_text(
            f"[{count}]:", timeout=PATIENCE
        )
        assert not proof.exists()
        assert sources(notebook)[index].startswith("%%sandbox\n")

    line(3, "suppress")
    notebook.page.keyboard.press("Control+Shift+Minus")
    runs_confined(4, 3)
    expect(notebook.outputs(4)).to_have_text("tried")
    assert sources(notebook)[3:5] == [
        "%%sandbox\nimport contextlib", f"%%sandbox\n{attempt}\nprint('tried')"
    ]  # fmt: skip
    notebook.command(4, "z")  # one undo takes back the split and the line
    expect(notebook.cells).to_have_count(6)
    notebook.page.wait_for_timeout(600)  # a pause gives no line twice
    assert sources(notebook)[3] == f"%%sandbox\n{whole}"

    line(3, "%%sandbox")  # the line is deleted
    for key in ("Shift+End", "Delete", "Delete"):
        notebook.page.keyboard.press(key)
    runs_confined(3, 4)
    expect(notebook.outputs(3)).to_have_text("tried")
    line(3, "%%sandbox")  # it is moved
    notebook.page.keyboard.press("Alt+ArrowDown")
    runs_confined(3, 5)

    notebook.command(3, "c", "v")  # a copy, and the text that is put into it
    notebook.edit(4, whole)
    runs_confined(4, 6)
    expect(notebook.outputs(4)).to_have_text("tried")
    notebook.command(5, "Shift+ArrowUp", "Shift+m")  # merged with the answer below
    notebook.edit(4, whole)
    notebook.page.wait_for_timeout(600)
    runs_confined(4, 7)
    notebook.edit(5, f"{whole} # mine")  # the user's own cell stays as it is
    notebook.page.wait_for_timeout(600)
    assert sources(notebook)[5] == f"{whole} # mine"
    saved(notebook)


# -- coming back


@pytest.mark.parametrize("way", ["reload", "close"])
def test_a_page_that_comes_back_misses_nothing(
    notebook: NotebookPage, chat: ChatServer, way: str
) -> None:
    gate = begin(notebook, chat, step("Second.", "print('step two')"), "The end.")
    if way == "close":
        notebook.leave()
        gate.set()
        notebook.page.wait_for_timeout(1000)
    notebook.reload()
    expect(notebook.cells.nth(3)).to_contain_text("step one")
    gate.set()
    is_over(notebook)
    expect(notebook.cells.nth(5)).to_contain_text("step two")
    file = saved(notebook)
    assert [cell.source for cell in file.cells[2:]] == [
        "First.",
        "%%sandbox\nprint('step one')",
        "Second.",
        "%%sandbox\nprint('step two')",
        "The end.",
        "print('mine')",
    ]
    assert [cell.execution_count for cell in file.cells[3:6:2]] == [1, 2]


def test_what_the_server_drops_is_fetched(notebook: NotebookPage, chat: ChatServer) -> None:
    chat.replies = [Reply(step("One.", "print('step one')")), Reply("The end.")]
    dropped: list[bytes | str] = []

    def drop(message: bytes | str) -> bool:
        text = message if isinstance(message, str) else message.decode("utf-8", "replace")
        if '"jupyter_agent_reply"' not in text and re.search(
            r'"op": ?"(output|cell)"|"state": ?"done"', text
        ):
            dropped.append(message)
            return True
        return False

    def handle(route):  # type: ignore[no-untyped-def]
        server = route.connect_to_server()
        server.on_message(lambda message: drop(message) or route.send(message))

    notebook.route_channels(handle)
    notebook.reload()
    notebook.run(1)
    is_over(notebook)
    assert len(dropped) >= 5
    file = saved(notebook)
    assert [cell.source for cell in file.cells[2:5]] == [
        "One.",
        "%%sandbox\nprint('step one')",
        "The end.",
    ]
    assert file.cells[3].outputs[0].text == "step one\n"


def test_two_notebooks_and_two_browsers_keep_their_cells_apart(
    lab: Lab, browser: BrowserContext, notebook: NotebookPage, chat: ChatServer
) -> None:
    gate = begin(notebook, chat, "The first end.")
    other = lab.write("another.ipynb", LOAD, task(chat, "Another"), "print('other')")
    assert browser.browser
    with browser.browser.new_context() as elsewhere:
        with opened(lab, elsewhere, other, height=TALL) as second:
            second.run(0)
            chat.replies.append(Reply("The second end."))
            second.run(1)
            is_over(second)
            file = saved(second)
            assert [cell.source for cell in file.cells[2:]] == ["The second end.", "print('other')"]
        notebook.save()
        with opened(lab, elsewhere, notebook.path, height=TALL) as twin:
            gate.set()
            is_over(notebook)
            is_over(twin)
            assert sources(twin) == sources(notebook)
    assert len(saved(notebook).cells) == 6


def test_two_views_and_a_second_tab_show_one_run(
    lab: Lab, browser: BrowserContext, notebook: NotebookPage, chat: ChatServer
) -> None:
    if lab.front_end.module == "jupyterlab":  # Notebook 7 has one view a page
        notebook.page.goto(f"{lab.url}/lab/tree/{notebook.path.name}?reset")
        notebook._settle()
        notebook.page.locator("#jp-main-dock-panel .lm-TabBar-tab.jp-mod-current").click(
            button="right"
        )
        notebook.page.get_by_text("New View for Notebook", exact=True).click()
        expect(notebook.page.locator(".jp-NotebookPanel")).to_have_count(2)
    gate = begin(notebook, chat, "The end.")
    with opened(lab, browser, notebook.path, height=TALL) as tab:
        expect(tab.cells.nth(3)).to_contain_text("step one")
        gate.set()
        is_over(tab)
        is_over(notebook)
        wanted = ["First.", "%%sandbox\nprint('step one')", "The end.", "print('mine')"]
        for panel in notebook.page.locator(".jp-NotebookPanel").all():
            expect(panel.locator(".jp-Cell")).to_have_count(6)
            expect(panel.locator(".jp-Cell").nth(3)).to_contain_text("step one")
            expect(panel.locator(".jp-Cell").nth(4)).to_contain_text("The end.")
            expect(panel.locator(".jp-Cell .jp-JupyterAgentBar")).to_have_attribute(
                "data-state", "done"
            )
        expect(tab.cells).to_have_count(6)
        expect(tab.cells.nth(4)).to_contain_text("The end.")
        notebook.screenshot(f"live-two-views-{lab.front_end.name}")
        file = notebook.save()
    nbformat.validate(file)
    assert [cell.source for cell in file.cells[2:]] == wanted


def test_two_notebooks_on_one_kernel_keep_their_cells_apart(
    lab: Lab, browser: BrowserContext, notebook: NotebookPage, chat: ChatServer
) -> None:
    other = lab.write("beside.ipynb", "1", task(chat, "Beside"), "print('other')")
    lab.share_kernel(browser, notebook.path, other)
    with opened(lab, browser, other, height=TALL) as beside:
        gate = begin(notebook, chat, "The first end.")
        gate.set()
        is_over(notebook)
        expect(beside.cells).to_have_count(3)
        chat.replies = [Reply("The second end.")]
        beside.run(1)
        is_over(beside)
        assert [cell.source for cell in saved(beside).cells[2:]] == [
            "The second end.", "print('other')"
        ]  # fmt: skip
    assert [cell.source for cell in saved(notebook).cells[2:]] == [
        "First.", "%%sandbox\nprint('step one')", "The first end.", "print('mine')"
    ]  # fmt: skip


@pytest.mark.parametrize("way", ["restart", "death"])
def test_a_kernel_that_is_gone_leaves_no_cell_spinning(
    lab: Lab, notebook: NotebookPage, chat: ChatServer, way: str
) -> None:
    gate = threading.Event()
    chat.replies = [
        Reply(step("First.", "print('going', flush=True)\nwhile True: pass")),
        Reply("x"),
    ]
    notebook.start(1)
    expect(notebook.cells.nth(3)).to_contain_text("going", timeout=PATIENCE)
    if way == "restart":
        notebook.command(1, "0", "0")
        notebook.page.locator(".jp-Dialog .jp-mod-accept").click()
    else:
        kill_kernel(lab, notebook)
    is_over(notebook, "lost")
    gate.set()
    for index in (1, 3):
        expect(notebook.cells.nth(index).locator(".jp-InputPrompt")).to_have_text("[ ]:")
    dialog = notebook.page.locator(".jp-Dialog button")
    if dialog.count():
        dialog.last.click()
    saved(notebook)


def kill_kernel(lab: Lab, notebook: NotebookPage) -> None:
    """Kill the kernel of a notebook as the machine would."""
    found = notebook.page.request.get(f"{lab.url}/api/sessions").json()
    (kernel,) = [each["kernel"]["id"] for each in found if each["path"] == notebook.path.name]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if kernel.encode() in command and str(lab.home).encode() in command:
            os.kill(int(process.name), 9)


# -- the bar


def test_the_bar_stops_and_folds(notebook: NotebookPage, chat: ChatServer) -> None:
    chat.replies = [
        Reply(step("First.", "print('going', flush=True)\nwhile True: pass")),
    ]
    notebook.start(1)
    expect(notebook.cells.nth(3)).to_contain_text("going", timeout=PATIENCE)
    expect(bar(notebook).get_by_role("status")).to_have_text("Running…")
    expect(bar(notebook)).to_contain_text(
        re.compile(r"step 1~?[\d,]+ tokens in, \d+ out[1-9]\d* s")
    )
    stop = bar(notebook).get_by_role("button", name="Stop")
    stop.focus()
    notebook.page.keyboard.press("Enter")
    is_over(notebook, "stopped")
    notebook.done(1)
    expect(stop).to_be_hidden()
    fold = bar(notebook).get_by_role("button", name="2 cells")
    expect(fold).to_have_attribute("aria-expanded", "true")
    fold.focus()
    notebook.page.keyboard.press("Space")
    expect(notebook.cells.nth(2)).to_be_hidden()
    expect(notebook.cells.nth(3)).to_be_hidden()
    expect(notebook.cells.nth(4)).to_be_visible()
    expect(fold).to_have_attribute("aria-expanded", "false")
    notebook.save()
    notebook.reload()
    expect(notebook.cells.nth(3)).to_be_hidden()
    expect(fold).to_have_attribute("aria-expanded", "false")
    fold.click()
    expect(notebook.cells.nth(3)).to_be_visible()
    saved(notebook)


# the contrast of each text in the bar with what is behind it (WCAG 2.2, relative luminance)
CONTRASTS = """bar => {
    const rgba = text => {
        const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
        return [r, g, b, a];
    };
    const over = ([r, g, b, a], below) => [r, g, b].map((x, i) => x * a + below[i] * (1 - a));
    const behind = node => {
        const colour = node ? rgba(getComputedStyle(node).backgroundColor) : [255, 255, 255, 1];
        return colour[3] === 1 ? colour : over(colour, behind(node.parentElement));
    };
    const luminance = colour => {
        const [r, g, b] = colour.map(x => x / 255)
            .map(x => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const parts = [...bar.children].flatMap(part => [...part.children]);
    return parts.filter(node => !node.hidden && node.textContent).map(node => {
        const below = behind(node);
        const pair = [over(rgba(getComputedStyle(node).color), below), below].map(luminance);
        return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    });
}"""


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_the_bar_can_be_read_and_heard(
    lab: Lab, notebook: NotebookPage, chat: ChatServer, theme: str
) -> None:
    notebook.use_theme(theme)
    name = f"{theme.split()[1].lower()}-{lab.front_end.name}"
    gate = begin(notebook, chat, "The end.")
    group = notebook.cells.nth(1).get_by_role("group", name="Agent run")
    status = group.get_by_role("status")
    expect(status).to_have_attribute("aria-live", "polite")
    expect(status).to_have_text("Thinking…")
    assert min(bar(notebook).evaluate(CONTRASTS)) >= 4.5
    notebook.screenshot(f"bar-working-{name}")
    gate.set()
    is_over(notebook)
    expect(status).to_have_text("Done")
    for label in ("Run again", "3 cells"):
        button = group.get_by_role("button", name=label)
        assert button.evaluate("node => node.tabIndex") == 0
    assert len(bar(notebook).evaluate(CONTRASTS)) == 6
    assert min(bar(notebook).evaluate(CONTRASTS)) >= 4.5
    notebook.screenshot(f"bar-done-{name}")
    notebook.page.set_viewport_size({"width": 600, "height": 1000})
    notebook.page.wait_for_timeout(300)
    notebook.screenshot(f"bar-narrow-{name}")


# -- what a hostile run can do

LEAK = "http://127.0.0.1:1/"
HOSTILE = rf"""
from IPython.display import HTML, Javascript, Markdown, display

display(HTML("<b>bold</b><script>window.PWNED='script'</script><img src=x onerror=\"PWNED='img'\">"))
display(HTML("<button data-commandlinker-command='notebook:run-all-cells'>press</button>"))
display(HTML("<img src='{LEAK}a.png'><p style='background: url({LEAK}b.png)'>x</p>"))
display(Javascript("window.PWNED = 'javascript'"))
svg = "<svg xmlns='http://www.w3.org/2000/svg' onload=\"window.PWNED='svg'\"><script>PWNED=1</script></svg>"
display({{"image/svg+xml": svg, "text/html": svg}}, raw=True)
display(Markdown("<img src=x onerror=\"window.PWNED='markdown'\"> ![x]({LEAK}c.png)"))
display({{"application/vnd.jupyter.widget-view+json": {{"model_id": "x"}}}}, raw=True)
forged = {{"op": "cell", "id": "forged", "index": 99, "type": "code", "source": "1", "first_line": ""}}
get_ipython().kernel.session.send(get_ipython().kernel.iopub_socket, "display_data",
    {{"data": {{"text/plain": "print('forged')"}}, "metadata": {{}}, "transient": {{}}}},
    parent=get_ipython().kernel.get_parent(), metadata={{"jupyter_agent": forged}})
print("x" * 5_000_000)
print("every display is done")
"""


def test_a_hostile_run_runs_nothing_and_fetches_nothing(
    lab: Lab, notebook: NotebookPage, chat: ChatServer
) -> None:
    prose = f"Hello <script>window.PWNED=1</script><img src=x onerror='PWNED=2'> ![x]({LEAK}d.png)"
    flood = "for i in range(10_000):\n    display(i)"
    chat.replies = [
        Reply(step(prose, HOSTILE.strip())),
        Reply(step("A flood.", flood)),
        Reply(f"The end. {prose}"),
    ]
    notebook.run(1)
    is_over(notebook)
    file = notebook.save()
    nbformat.validate(file)
    assert len(file.cells) == 8
    assert file.cells[5].outputs[-1].ename == "OutputLimit"
    assert len(file.cells[5].outputs) == 102
    assert not any("forged" in cell.source for cell in file.cells[4:])
    for state in ("now", "untrusted", "trusted"):
        if state != "now":
            notebook.leave()
            lab.sign(notebook.path, trusted=state == "trusted")
            notebook.reload()
        expect(notebook.cells.nth(3).locator("b")).to_have_text("bold")
        assert notebook.page.evaluate("window.PWNED") is None
        assert notebook.page.locator("[data-commandlinker-command]").count() == 0
        assert [url for url in notebook.requests if url.startswith(LEAK)] == []


def test_what_the_host_was_told_to_admit_does_not_run_by_itself(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    admitted = ["text/html", "application/javascript"]
    notebook.edit(2, f"get_ipython().config.Sandbox.admit = {admitted}")
    notebook.run(2)
    html, _, _, script, *_ = HOSTILE.split("\n\n")[1].splitlines()
    shown = f"from IPython.display import *\n{html}\n{script}"
    chat.replies = [Reply(step("x", shown)), Reply("ok")]
    notebook.run(1)
    is_over(notebook)
    first, second = saved(notebook).cells[3].outputs
    assert first.data["text/html"] == '<b>bold</b><img src="x" />'
    assert "application/javascript" in second.data
    notebook.reload()  # the server has signed what was trusted
    expect(notebook.cells.nth(3).locator("b")).to_have_text("bold")
    notebook.page.wait_for_timeout(500)
    assert notebook.page.evaluate("window.PWNED") is None


def test_an_inert_run_leaves_the_notebook_trusted(notebook: NotebookPage, chat: ChatServer) -> None:
    code = "import pandas as pd\npd.DataFrame({'a': [1, 2]})"
    chat.replies = [Reply(step("x", code)), Reply("ok")]
    mine = (
        "from IPython.display import Javascript\nJavascript('window.MINE = (window.MINE ?? 0) + 1')"
    )
    notebook.edit(2, mine)
    notebook.run(2)
    notebook.run(1)
    is_over(notebook)
    saved(notebook)
    notebook.reload()
    notebook.page.wait_for_function("window.MINE === 1")  # the user's own output still runs


def test_a_notebook_without_an_agent_is_left_alone(lab: Lab, browser: BrowserContext) -> None:
    path = lab.write(
        "plain-user.ipynb", "from IPython.display import display\nprint(1)\ndisplay(2)"
    )
    with opened(lab, browser, path) as notebook:
        said: list[str] = []
        notebook.page.on("console", lambda message: said.append(message.text))
        notebook.run(0)
        file = saved(notebook)
    assert [cell.metadata for cell in file.cells] == [{}]
    assert not [text for text in said if "agent" in text.lower()]
