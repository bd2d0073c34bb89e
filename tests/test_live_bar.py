"""The bar of a run and its buttons, and what becomes of a run whose cell is gone, in a browser."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from .lab import PATIENCE, Lab, NotebookPage, opened, opened_anew, serving
from .servers import ChatServer, Reply
from .test_live_cells import LOAD, TALL, bar, is_idle, is_over, saved, sources, step, task

pytestmark = pytest.mark.timeout(180)

EXTENSION = Path(__file__).parent.parent / "jupyter_agent" / "labextension" / "static"
FOOT = ".jp-JupyterAgentBar.jp-mod-foot"
ENDLESS = "print('going', flush=True)\nwhile True: pass"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab with our extension, as on a hub."""
    folder, home = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("home")
    with serving(folder, home, prefix="/user/ann") as lab:
        yield lab


@pytest.fixture(autouse=True)
def no_kernel_is_left(lab: Lab, browser: BrowserContext, chat: ChatServer) -> Iterator[None]:
    chat.replies.clear()
    chat.requests.clear()
    yield
    lab.shut_kernels_down(browser)


@pytest.fixture
def notebook(
    lab: Lab, browser: BrowserContext, chat: ChatServer, request: pytest.FixtureRequest
) -> Iterator[NotebookPage]:
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")
    path = lab.write(f"{name}.ipynb", LOAD, task(chat), "print('mine')")
    with opened(lab, browser, path, height=TALL) as notebook:
        notebook.run(0)
        yield notebook
        notebook.screenshot(f"bar-{name}")


def test_a_page_asks_at_each_load_whether_the_extension_has_changed(
    lab: Lab, browser: BrowserContext
) -> None:
    """Its modules have fixed names: out of a browser's cache they would be those of before an upgrade."""
    files = {path.name for path in EXTENSION.iterdir()}
    assert "remoteEntry.js" in files
    with opened_anew(lab, browser, lab.write("loaded.ipynb", "1")) as notebook:
        urls = {url for url in notebook.requests if "/jupyter-agent-kernel/" in url}
        assert urls == {
            f"{lab.url}/lab/extensions/jupyter-agent-kernel/static/{name}" for name in files
        }
    for url in urls:
        headers = browser.request.get(url).headers
        assert headers["cache-control"] == "no-cache"
        kind = headers["content-type"].split(";")[0]
        assert kind in {"text/javascript", "application/javascript"}  # or it is not run


def test_where_stop_was_nothing_else_answers_at_first(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    chat.replies = [Reply(step("First.", ENDLESS)), Reply("Never.")]
    notebook.start(1)
    expect(notebook.cells.nth(3)).to_contain_text("going", timeout=PATIENCE)
    stop = bar(notebook).get_by_role("button", name="Stop")
    place = stop.bounding_box()
    # what answers at that place, at each change of the bar, and how long that took
    notebook.page.evaluate(
        """([x, y]) => {
            window.there = []; window.ended = 0;
            const bar = document.querySelector('.jp-JupyterAgentBar');
            const end = () => {
                if (bar.dataset.state !== 'working') window.ended ||= Date.now();
            };
            new MutationObserver(end).observe(bar, {attributeFilter: ['data-state']});
            const look = () => {
                const button = document.elementFromPoint(x, y)?.closest('button');
                if (window.ended && button)
                    window.there.push([Date.now() - window.ended, button.textContent]);
                requestAnimationFrame(look);
            };
            look();
        }""",
        [place["x"] + place["width"] / 2, place["y"] + place["height"] / 2] if place else [],
    )
    stop.dblclick()
    is_over(notebook, "stopped")
    expect(bar(notebook).get_by_role("button", name="Run again")).to_be_visible()
    there = notebook.page.evaluate("window.there")
    assert {text for since, text in there if since < 900} == {"■Stop"}
    expect(notebook.cells.nth(3)).to_be_visible()
    assert len(chat.requests) == 1
    saved(notebook)


def test_half_a_reply_stays_when_the_run_is_stopped(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    held = threading.Event()
    chat.replies = [Reply(step("I will count.", "a = 1\nb = 2\nc = 3 # end"), hold=held)]
    notebook.start(1)
    expect(notebook.cells.nth(3)).to_contain_text("b = 2", timeout=PATIENCE)
    bar(notebook).get_by_role("button", name="Stop").click()
    is_over(notebook, "stopped")
    held.set()
    left = notebook.cells.nth(2)
    expect(left).to_contain_text("nothing of it was run")
    expect(left).to_contain_text("I will count.")
    expect(left).not_to_contain_text("Stopped:")  # the bar and the error say so
    expect(left.locator("pre code")).to_contain_text("b = 2")
    file = saved(notebook)
    assert [cell.cell_type for cell in file.cells] == ["code", "code", "markdown", "code"]


@pytest.mark.parametrize("presses", [1, 2])
def test_half_a_reply_stays_while_it_still_comes(
    notebook: NotebookPage, chat: ChatServer, presses: int
) -> None:
    chat.replies = [Reply("begin " + "word " * 1000, delay=1 / 200)]  # without an end in sight
    notebook.start(1)
    expect(notebook.cells.nth(2)).to_contain_text("begin word", timeout=PATIENCE)
    bar(notebook).get_by_role("button", name="Stop").click(click_count=presses)
    is_over(notebook, "stopped")
    left = notebook.cells.nth(2)
    expect(left).to_contain_text("nothing of it was run")
    expect(left).to_contain_text("begin word")
    file = saved(notebook)
    assert [cell.cell_type for cell in file.cells] == ["code", "code", "markdown", "code"]


def test_a_failure_says_why_in_full_once(notebook: NotebookPage, chat: ChatServer) -> None:
    said = "the key is void: " + "make another one " * 12
    chat.replies = [Reply(said, status=401)]
    notebook.start(1)
    is_over(notebook, "failed")
    says = bar(notebook).get_by_role("status")
    expect(says).to_contain_text("Failed: the key was refused")
    expect(notebook.outputs(1).last).to_contain_text("make another one")
    lines = says.evaluate("node => node.getBoundingClientRect().height / 18.2")
    assert lines < 1.5  # it is cut at the end of its line


def test_nothing_is_said_to_stand_where_nothing_does(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    held = threading.Event()
    chat.replies = [Reply("Never.", gate=held)]
    notebook.start(1)
    expect(bar(notebook).get_by_role("status")).to_have_text("Thinking…", timeout=PATIENCE)
    bar(notebook).get_by_role("button", name="Stop").click()
    is_over(notebook, "stopped")
    held.set()
    expect(notebook.outputs(1).last).to_contain_text("the run was stopped")
    expect(notebook.cells.nth(1)).not_to_contain_text("stand")


def test_a_narrow_bar_is_one_line(notebook: NotebookPage, chat: ChatServer) -> None:
    chat.replies = [Reply(step("I look.", "print('seen')")), Reply("Done.")]
    notebook.start(1)
    is_over(notebook)
    expect(bar(notebook).get_by_role("button", name="Run again")).to_be_visible()
    for width in (1280, 640, 500, 420, 350):
        notebook.page.set_viewport_size({"width": width, "height": TALL})
        fits = "bar => bar.scrollWidth <= bar.clientWidth && bar.clientWidth < innerWidth"
        notebook.page.wait_for_function(f"({fits})(document.querySelector('.jp-JupyterAgentBar'))")
        assert bar(notebook).evaluate("bar => bar.getBoundingClientRect().height") <= 32, width
        for name in (
            "Run again",
            "Keep as mine",
            "3 cells",
        ):  # whatever of the words there is room for
            box = bar(notebook).get_by_role("button", name=name, exact=True).bounding_box()
            assert box, width
            assert min(box["width"], box["height"]) >= 24, width
        expect(bar(notebook).get_by_role("status")).to_have_text("Done")
        expect(bar(notebook)).to_have_attribute("title", re.compile("tokens in"))
        notebook.screenshot(f"bar-narrow-{width}")


def test_the_countdown_to_the_next_try_moves(notebook: NotebookPage, chat: ChatServer) -> None:
    chat.replies = [Reply("busy", status=429, headers={"retry-after": "9"}), Reply("ok")]
    notebook.start(1)
    left = bar(notebook).locator(".jp-JupyterAgentBar-left")
    expect(left).to_have_text("in 7 s", timeout=PATIENCE)
    expect(left).to_have_text("in 5 s", timeout=PATIENCE)
    expect(bar(notebook).get_by_role("status")).to_contain_text("Asking again: ")
    bar(notebook).get_by_role("button", name="Stop").click()
    is_over(notebook, "stopped")


def test_a_question_is_what_the_run_waits_for(notebook: NotebookPage, chat: ChatServer) -> None:
    chat.replies = [Reply(step("I look.", "print('seen')")), Reply("Done.")]
    notebook.edit(1, task(chat, options=" --ask always"))
    notebook.start(1)
    says = bar(notebook).get_by_role("status")
    expect(says).to_have_text("Waiting for you", timeout=PATIENCE)
    notebook.page.get_by_role("button", name="Run", exact=True).click()
    is_over(notebook)
    expect(says).to_have_text("Done")


def test_status_and_stop_are_in_sight_where_the_run_writes(
    lab: Lab, browser: BrowserContext, chat: ChatServer
) -> None:
    """As after Shift+Enter in the last cell, which puts the cursor into a new empty one."""
    lines = "\n\n".join(f"line {number}" for number in range(80))
    held = threading.Event()
    chat.replies = [Reply(lines, delay=0.005, hold=held)]
    path = lab.write("foot.ipynb", LOAD, task(chat))
    with opened(lab, browser, path, height=600) as notebook:
        notebook.run(0)
        notebook.cells.nth(1).locator(".cm-content").click()
        notebook.page.keyboard.press("Shift+Enter")
        foot = notebook.page.locator(FOOT)
        # the page follows to where the run writes, and the bar with it
        notebook.page.wait_for_function(
            """() => {
                const pane = document.querySelector('.jp-WindowedPanel-outer');
                const cells = [...document.querySelectorAll('.jp-MarkdownCell')];
                const end = cells.find(cell => cell.textContent.includes('line 78'));
                const bottom = end?.getBoundingClientRect().bottom ?? Infinity;
                return bottom <= pane.getBoundingClientRect().bottom + 5;
            }""",
            timeout=PATIENCE,
        )
        expect(foot.get_by_role("button", name="Stop")).to_be_visible()
        expect(foot).to_contain_text("Writing")
        notebook.screenshot("bar-foot")
        foot.get_by_role("button", name="Stop").click()
        expect(foot).to_be_hidden(timeout=PATIENCE)
        held.set()
        saved(notebook)


def test_run_again_asks_again_for_once(notebook: NotebookPage, chat: ChatServer) -> None:
    chat.replies = [Reply("The first."), Reply("The second."), Reply("The third.")]
    notebook.edit(1, task(chat, options=" --save kept.ipynb"))
    notebook.run(1)
    is_over(notebook)
    bar(notebook).get_by_role("button", name="Run again").click()
    expect(notebook.cells.nth(2)).to_contain_text("The second.", timeout=PATIENCE)
    is_over(notebook)
    notebook.command(1, "Control+Enter")
    is_over(notebook, "recorded")
    assert len(chat.requests) == 2
    # what was said of the run stays
    expect(bar(notebook)).to_contain_text(re.compile(r"shown as recorded.*tokens.*bubblewrap"))
    # a copy of the cell runs the copy, and the kernel may be new
    notebook.command(1, "c")
    notebook.command(3, "v")
    expect(notebook.cells).to_have_count(5)
    notebook.command(1, "0", "0")
    notebook.page.locator(".jp-Dialog .jp-mod-accept").click()
    notebook._settle()
    bar(notebook, 4).get_by_role("button", name="Run again").click()
    expect(notebook.cells.nth(5)).to_contain_text("The third.", timeout=PATIENCE)
    is_over(notebook, index=4)
    assert len(chat.requests) == 3
    expect(notebook.cells.nth(2)).to_contain_text("The second.")


def test_a_run_whose_cell_is_deleted_is_stopped(notebook: NotebookPage, chat: ChatServer) -> None:
    chat.replies = [Reply(step("First.", ENDLESS)), Reply("Never.")]
    notebook.start(1)
    expect(notebook.cells.nth(3)).to_contain_text("going", timeout=PATIENCE)
    notebook.command(1, "d", "d")
    is_idle(notebook)
    assert len(chat.requests) == 1
    notebook.command(1, "z")  # and the cell comes back as things stand
    is_over(notebook, "stopped")
    expect(bar(notebook).get_by_role("button", name="2 cells")).to_be_visible()
    notebook.command(2, "d", "d")
    expect(bar(notebook).get_by_role("button", name="1 cell", exact=False)).to_be_visible()


def test_a_folded_run_shows_its_answer_and_stays_so(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    chat.replies = [Reply(step("First.", "print('one')")), Reply("The end.")]
    notebook.run(1)
    is_over(notebook)
    bar(notebook).get_by_role("button", name="3 cells").click()
    for _ in range(2):
        for index, visible in ((2, False), (3, False), (4, True)):
            expect(notebook.cells.nth(index)).to_be_visible(visible=visible)
        notebook.choose("Run", "Run All Cells")
        is_over(notebook, "recorded")
        notebook.done(5)


def test_merged_cells_of_the_agents_are_one_that_runs(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    chat.replies = [
        Reply(f"```python\n{first}\n```") for first in ("print('one')", "print('two')")
    ] + [Reply("ok")]
    notebook.run(1)
    is_over(notebook)
    notebook.command(2, "Shift+ArrowDown", "Shift+m")
    expect(notebook.cells).to_have_count(5)
    assert sources(notebook)[2] == "%%sandbox\nprint('one')\n\nprint('two')"
    notebook.command(2, "Control+Enter")
    expect(notebook.outputs(2)).to_have_text("one\ntwo\n", timeout=PATIENCE)


def test_a_closed_notebook_leaves_no_error(
    lab: Lab, browser: BrowserContext, chat: ChatServer
) -> None:
    for name in ("plain", "agent"):
        path = lab.write(f"closed-{name}.ipynb", LOAD, task(chat))
        chat.replies = [Reply("ok")]
        with opened(lab, browser, path) as notebook:
            notebook.page.goto(f"{lab.url}/lab/tree/{path.name}?reset")
            notebook._settle()
            notebook.run(0)
            if name == "agent":
                notebook.run(1)
                is_over(notebook)
            tab = notebook.page.locator("#jp-main-dock-panel .lm-TabBar-tab.jp-mod-current")
            tab.locator(".lm-TabBar-tabCloseIcon").click()
            discard = notebook.page.locator(".jp-Dialog button", has_text="Discard")
            expect(discard.or_(notebook.page.locator(".jp-Launcher")).first).to_be_visible()
            if discard.count():
                discard.click()
            expect(notebook.page.locator(".jp-Launcher")).to_be_visible()
            notebook.page.wait_for_timeout(500)  # what was still to be done then
