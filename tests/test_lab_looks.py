"""What cells look like on the page: tasks, the agent's cells, the sandbox's counts, money, thoughts."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Locator, expect

from .lab import PATIENCE, Lab, NotebookPage, opened
from .servers import ChatServer, Reply
from .test_live_cells import LOAD, TALL, bar, is_over, saved, step, task

pytestmark = pytest.mark.timeout(180)

LONG = "Don't stop: is it this or that, and " + "then one more of the words " * 20
USAGE = {"prompt_tokens": 1800, "completion_tokens": 100, "cost": 0.0034}
# keeps what the page would notify its user of; as a page that is not looked at
NOTED = """() => {
    window.noted = [];
    Object.defineProperty(document, 'hidden', {get: () => window.away === true, configurable: true});
    const Real = window.Notification;
    window.Notification = class extends Real {
        constructor(title, options) { super(title, options); window.noted.push(title); }
    };
}"""


@pytest.fixture(scope="module")
def browser(browser: BrowserContext) -> BrowserContext:
    browser.grant_permissions(["notifications"])
    return browser


@pytest.fixture(autouse=True)
def no_kernel_is_left(lab: Lab, browser: BrowserContext, chat: ChatServer) -> Iterator[None]:
    chat.replies.clear()
    yield
    lab.shut_kernels_down(browser)


@pytest.fixture
def notebook(
    lab: Lab, browser: BrowserContext, chat: ChatServer, request: pytest.FixtureRequest
) -> Iterator[NotebookPage]:
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")
    path = lab.write(f"{name}.ipynb", LOAD, task(chat, LONG), "x = 'mine'\nprint(x)")
    with opened(lab, browser, path, height=TALL) as notebook:
        notebook.run(0)
        yield notebook
        notebook.screenshot(f"looks-{name}")


def editor(notebook: NotebookPage, index: int) -> Locator:
    return notebook.cells.nth(index).locator(".cm-content")


def is_plain(notebook: NotebookPage, index: int) -> None:
    expect(editor(notebook, index)).not_to_have_attribute("data-language", re.compile("."))
    expect(editor(notebook, index).locator(".cm-line span")).to_have_count(0)
    expect(editor(notebook, index)).to_have_css("white-space", "break-spaces")


def is_python(notebook: NotebookPage, index: int) -> None:
    expect(editor(notebook, index)).to_have_attribute("data-language", re.compile("python"))
    expect(editor(notebook, index)).to_have_css("white-space", "pre")


def test_a_task_is_no_python(notebook: NotebookPage) -> None:
    is_plain(notebook, 1)
    expect(editor(notebook, 1)).to_contain_text("Don't stop")
    fits = editor(notebook, 1).evaluate("node => node.scrollWidth <= node.parentNode.clientWidth")
    assert fits
    is_python(notebook, 2)
    notebook.edit(2, "%%agent\nIs it this and not that?")
    is_plain(notebook, 2)
    notebook.edit(2, "if x is not None and x: pass")
    is_python(notebook, 2)
    notebook.reload()
    is_plain(notebook, 1)
    is_python(notebook, 2)


def test_cells_of_the_agents_can_be_told_from_the_users(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    chat.replies = [Reply(step("I look.", "6 * 7")), Reply("42.")]
    notebook.start(1)
    is_over(notebook)
    code = notebook.cells.nth(3)
    prompts = code.locator(".jp-InputPrompt, .jp-OutputPrompt")

    def looks_like_the_sandboxes() -> None:
        expect(code.locator(".jp-JupyterAgentEdge")).to_have_attribute(
            "title", "The agent's: step 1 · test"
        )
        expect(code.locator(".cm-line").first).to_have_text("%%sandbox")
        expect(code.locator(".cm-line").first).to_have_css("border-radius", "8px")
        for index in range(2):
            expect(prompts.nth(index)).to_have_text(re.compile(r"\[1\]:"))
            expect(prompts.nth(index)).to_have_css("font-style", "italic")
        expect(notebook.cells.nth(0).locator(".jp-JupyterAgentEdge")).to_have_count(0)
        expect(notebook.cells.nth(0).locator(".jp-InputPrompt")).to_have_css("font-style", "normal")

    looks_like_the_sandboxes()
    saved(notebook)
    notebook.reload()
    looks_like_the_sandboxes()
    notebook.run(0)  # loads the magics again
    notebook.start(3)
    notebook.done(3)
    expect(prompts.first).to_have_css("font-style", "normal")  # the count of the user's own kernel
    notebook.edit(3, "%%sandbox\n6 * 8")
    edge = code.locator(".jp-JupyterAgentEdge")
    expect(edge).to_have_attribute("title", "The agent's: step 1 · test, edited")


def test_an_address_in_an_error_is_no_link(notebook: NotebookPage, lab: Lab) -> None:
    notebook.edit(1, "%%agent -m http://127.0.0.1:9/v1#gone\nGo on.")
    notebook.start(1)
    error = notebook.outputs(1).last
    expect(error).to_contain_text("http://127.0.0.1:9", timeout=PATIENCE)
    expect(error.locator("a")).to_have_count(0)
    notebook.edit(2, "import sys; print('http://127.0.0.1:9', file=sys.stderr)")
    notebook.run(2)
    links = 0 if lab.front_end.name == "lab42" else 1  # it makes none of its own there
    expect(notebook.outputs(2).locator("a")).to_have_count(links)  # the user's own
    saved(notebook)
    notebook.reload()
    expect(notebook.outputs(1).last).to_contain_text("http://127.0.0.1:9")
    expect(notebook.outputs(1).locator("a")).to_have_count(0)


def test_what_a_run_costs_is_told_before_the_reply(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    gate = threading.Event()
    chat.replies = [Reply("Never <b>mind</b>.", gate=gate, usage=USAGE)]
    notebook.edit(1, task(chat, options=" --budget 10000"))
    notebook.start(1)
    facts = bar(notebook).locator(".jp-JupyterAgentBar-facts")
    expect(facts).to_contain_text(re.compile(r"~\d[\d,]+ tokens in, 0 out"), timeout=PATIENCE)
    meter = bar(notebook).get_by_role("meter", name="Budget")
    expect(meter).to_have_attribute(
        "aria-valuetext", re.compile(r"^\d[\d,]+ of 10,000 tokens of the budget$")
    )
    gate.set()
    is_over(notebook)
    expect(facts).to_contain_text("1,800 tokens in, 100 out$0.0034")
    expect(meter).to_have_attribute("aria-valuenow", "19")


def test_a_thought_is_folded_and_only_text(notebook: NotebookPage, chat: ChatServer) -> None:
    thought = "They want <img src=x onerror='window.PWNED=1'> me\u202e to count."
    chat.replies = [Reply(step("I look.", "6 * 7"), thought=thought), Reply("42.")]
    notebook.start(1)
    is_over(notebook)
    prose = notebook.cells.nth(2)
    for _ in ("now", "after a reload"):
        details = prose.locator("details")
        expect(details.locator("div")).to_be_hidden()
        details.locator("summary").click()
        expect(details.locator("div")).to_have_text(
            "They want <img src=x onerror='window.PWNED=1'> me\\u202e to count."
        )
        notebook.page.keyboard.press("Escape")
        file = saved(notebook)
        assert file.cells[2].source == "I look."
        notebook.reload()
    assert notebook.page.evaluate("window.PWNED") is None


def test_who_has_asked_for_it_is_notified_while_away(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    notebook.page.evaluate(NOTED)
    notebook.edit(1, task(chat, options=" --ask always"))
    asked = notebook.page.get_by_role("group", name=re.compile("The agent asks"))
    noted: list[list[str]] = []
    for away in (False, True):
        chat.replies = [Reply(step("I look.", "1")), Reply("Done.")]
        notebook.page.evaluate("away => { window.away = away; }", away)
        notebook.start(1)
        button = bar(notebook).get_by_role("button", name="Notify me")
        if not away:
            expect(button).to_have_attribute("aria-pressed", "false", timeout=PATIENCE)
            button.click()
        expect(button).to_have_attribute("aria-pressed", "true", timeout=PATIENCE)
        expect(asked).to_be_visible(timeout=PATIENCE)
        noted.append(notebook.page.evaluate("window.noted"))
        asked.get_by_role("button", name="Run", exact=True).click()
        is_over(notebook)
        notebook.edit(1, task(chat, "Once more.", options=" --ask always"))
    notebook.page.evaluate("localStorage.clear()")
    assert noted == [[], ["The agent waits for you"]]


@pytest.mark.parametrize("name", ["jupyter-agent", "python3-sandboxed"])
def test_a_kernel_has_a_logo_in_the_launcher(lab: Lab, browser: BrowserContext, name: str) -> None:
    kinds = {"logo-svg.svg": "image/svg+xml", "logo-32x32.png": "image/png"}
    for file, kind in {**kinds, "logo-64x64.png": "image/png"}.items():
        reply = browser.request.get(f"{lab.url}/kernelspecs/{name}/{file}")
        assert (reply.status, reply.headers["content-type"]) == (200, kind)
