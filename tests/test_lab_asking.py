"""Questions to the user on the cell in question, and where a page cannot show them there."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Locator, WebSocketRoute, expect

from .lab import PATIENCE, Lab, NotebookPage, opened
from .servers import ChatServer, Reply
from .test_live_cells import LOAD, bar, is_over, saved, step, task

pytestmark = pytest.mark.timeout(180)

BOX = ".jp-Stdin-input"


@pytest.fixture
def notebook(
    lab: Lab, browser: BrowserContext, chat: ChatServer, request: pytest.FixtureRequest
) -> Iterator[NotebookPage]:
    """A notebook whose ``%%agent`` cell asks before each cell; it leaves a screenshot."""
    chat.replies.clear()
    chat.requests.clear()
    name = re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")
    path = lab.write(f"{name}.ipynb", LOAD, task(chat, options=" --ask always"), "print('mine')")
    with opened(lab, browser, path) as notebook:
        notebook.run(0)
        yield notebook
        notebook.screenshot(f"asking-{name}")
    lab.shut_kernels_down(browser)


def question(notebook: NotebookPage) -> Locator:
    return notebook.page.get_by_role("group", name="The agent asks")


def press(notebook: NotebookPage, name: str) -> None:
    question(notebook).get_by_role("button", name=name, exact=True).click(timeout=PATIENCE)


def test_the_question_is_on_the_cell_and_its_answer_leaves_no_trace(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    lines = "\n\n".join(f"line {number}" for number in range(60))
    chat.replies = [
        Reply(step(lines, "print('seen')")),
        Reply(step("More.", "1/0")),
        Reply("Done."),
    ]
    notebook.start(1)
    asked = notebook.cells.filter(has=question(notebook))
    expect(asked.locator(".cm-content")).to_contain_text("print('seen')", timeout=PATIENCE)
    run = asked.get_by_role("button", name="Run", exact=True)
    expect(run).to_be_focused()
    expect(run).to_be_in_viewport()
    expect(asked.locator(".cm-content")).to_be_in_viewport()
    expect(notebook.page.locator(BOX)).to_be_hidden()
    notebook.screenshot("asking-code")
    notebook.page.keyboard.press("Escape")
    notebook.page.keyboard.press("Enter")
    expect(asked.locator(".cm-content")).to_contain_text("1/0", timeout=PATIENCE)
    press(notebook, "Refuse…")
    notebook.page.keyboard.type("too daring")
    notebook.screenshot("asking-refuse")
    notebook.page.keyboard.press("Enter")
    is_over(notebook)
    file = notebook.save()
    assert "seen" in json.dumps(file.cells[3].outputs)
    assert "the user did not let this cell run: too daring" in json.dumps(file.cells[5].outputs)
    assert len(file.cells[1].outputs) == 1  # the bar
    expect(question(notebook)).to_have_count(0)


def test_what_runs_is_what_stands_in_the_cell_and_the_rest_runs_unasked(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    code = ["x = 1\nprint('wrong')", "print(x, 'second')", "print('third')"]
    chat.replies = [*(Reply(step("A step.", each)) for each in code), Reply("Done.")]
    notebook.start(1)
    editor = notebook.cells.nth(3).locator(".cm-content")
    press(notebook, "Edit")
    expect(editor).to_be_focused()
    notebook.page.keyboard.press("Control+a")
    notebook.page.keyboard.insert_text("%%sandbox\nx = '\\N{EURO SIGN}\\\\n'\nprint(x)")
    notebook.screenshot("asking-edit")
    notebook.page.keyboard.press("Shift+Enter")
    expect(notebook.cells.nth(3)).to_contain_text("\u20ac\\n", timeout=PATIENCE)
    press(notebook, "Run all")
    is_over(notebook)
    file = saved(notebook)
    assert file.cells[3].source == "%%sandbox\nx = '\\N{EURO SIGN}\\\\n'\nprint(x)"
    assert [file.cells[index].outputs[0].text for index in (3, 5, 7)] == [
        "\u20ac\\n\n", "\u20ac\\n second\n", "third\n"
    ]  # fmt: skip


def test_a_question_takes_no_focus_from_who_types_and_the_bar_leads_to_it(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    lines = "\n\n".join(f"line {number}" for number in range(90))
    gate = threading.Event()
    chat.replies = [Reply(step(lines, "1"), gate=gate), Reply("Done.")]
    notebook.start(1)
    says = bar(notebook).get_by_role("status")
    expect(says).to_contain_text("Thinking", timeout=PATIENCE)
    is_at = notebook.cells.first.locator(".cm-content")
    is_at.click()
    notebook.page.keyboard.press("End")
    notebook.page.keyboard.type("  # I ")
    gate.set()
    expect(says).to_have_text("Waiting for you", timeout=PATIENCE)
    notebook.page.wait_for_timeout(1000)  # longer than the buttons rest
    notebook.page.keyboard.type("write")
    expect(is_at).to_contain_text("# I write")
    ask = question(notebook)
    expect(ask).not_to_be_in_viewport()
    says.click()
    run = ask.get_by_role("button", name="Run", exact=True)
    expect(run).to_be_focused()
    expect(run).to_be_in_viewport()
    notebook.page.keyboard.press("Space")
    is_over(notebook)


def test_all_of_what_is_asked_can_be_seen(notebook: NotebookPage, chat: ChatServer) -> None:
    turned = "pay('\u05d3\u05df', 7000)"
    wide = f"note = '{'wide ' * 15}'"  # as wide as other pages
    call = f"send({{'rows': {['row ' + str(n) for n in range(400)]}}})"
    chat.replies = [Reply(step("x", each)) for each in (turned, wide, call)] + [Reply("Done.")]
    define = "from jupyter_agent import tool\n@tool(ask=True)\ndef send(rows: dict) -> int:\n    return len(rows['rows'])"
    notebook.edit(2, define)
    notebook.run(2)
    notebook.page.set_viewport_size({"width": 420, "height": 1000})
    notebook.start(1)
    shown = question(notebook).locator("pre")
    for text in ("pay('\\u05d3\\u05df', 7000)", wide):
        expect(shown).to_contain_text(text, timeout=PATIENCE)
        notebook.screenshot(f"asking-seen-{len(text)}")
        edges = shown.evaluate(
            "pre => [pre.scrollWidth - pre.clientWidth, pre.getBoundingClientRect().right - innerWidth]"
        )
        assert edges[0] <= 0
        assert edges[1] <= 0
        press(notebook, "Refuse…")
        notebook.page.keyboard.press("Enter")
        expect(question(notebook)).not_to_contain_text(text)
    press(notebook, "Run all")
    expect(question(notebook)).to_contain_text("Run this tool?", timeout=PATIENCE)
    assert shown.text_content() == call.replace("{", "rows={", 1)
    expect(question(notebook)).to_be_focused()  # not Run: there is more than can be seen
    notebook.screenshot("asking-tool")
    press(notebook, "Run")
    is_over(notebook)


def test_a_reloaded_page_can_still_answer(notebook: NotebookPage, chat: ChatServer) -> None:
    steps = (Reply(step("x", f"print('{word}')")) for word in ("seen", "later"))
    chat.replies = [*steps, Reply("Done.")]
    notebook.start(1)
    expect(question(notebook)).to_have_count(1, timeout=PATIENCE)
    notebook.save()
    notebook.reload()
    press(notebook, "Run")
    expect(notebook.outputs(3)).to_have_text("seen")
    asked = notebook.cells.filter(has=question(notebook))
    expect(asked.locator(".cm-content")).to_contain_text("later", timeout=PATIENCE)
    press(notebook, "Run")
    is_over(notebook)
    expect(notebook.outputs(5)).to_have_text("later")


def test_a_question_that_was_lost_is_fetched(notebook: NotebookPage, chat: ChatServer) -> None:
    chat.replies = [Reply(step("x", "print('seen')")), Reply("Done.")]
    lost: list[str] = []

    def handle(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        def pass_on(message: str | bytes) -> None:
            text = message if isinstance(message, str) else message.decode(errors="replace")
            asks = re.search(r'"op": ?"ask"', text) and '"jupyter_agent_reply"' not in text
            if asks and '"kind"' in text:
                lost.append(text)
            else:
                route.send(message)

        server.on_message(pass_on)

    notebook.route_channels(handle)
    notebook.reload()
    notebook.start(1)
    press(notebook, "Run")
    is_over(notebook)
    assert len(lost) == 1
    expect(notebook.outputs(3)).to_have_text("seen")


def test_a_run_that_is_stopped_asks_nothing(notebook: NotebookPage, chat: ChatServer) -> None:
    chat.replies = [Reply(step("x", "print('seen')"))]
    notebook.start(1)
    expect(question(notebook)).to_have_count(1, timeout=PATIENCE)
    bar(notebook).get_by_role("button", name="Stop").click()
    is_over(notebook, "stopped")
    expect(question(notebook)).to_have_count(0)
    expect(notebook.page.locator(BOX)).to_have_count(0)


def test_the_input_box_is_there_where_the_cell_is_not(
    notebook: NotebookPage, chat: ChatServer
) -> None:
    chat.replies = [Reply(step("x", "print('seen')")), Reply("Done.")]
    notebook.start(1)
    expect(question(notebook)).to_have_count(1, timeout=PATIENCE)
    notebook.command(3, "d", "d")
    box = notebook.page.locator(BOX)
    expect(box).to_be_visible()
    expect(question(notebook)).to_have_count(0)
    box.fill("y")
    box.press("Enter")
    is_over(notebook)


def test_the_agent_kernel_asks_for_permissions_and_reads_answers_of_a_reloaded_page(
    lab: Lab, browser: BrowserContext, chat: ChatServer
) -> None:
    chat.replies = [Reply(step("x", "print('seen')")), Reply("Done.")]
    path = lab.write(
        "permission.ipynb", task(chat, options=" --ask always"), "1", kernel="jupyter-agent"
    )
    with opened(lab, browser, path) as notebook:
        notebook.start(0)
        asked = notebook.cells.nth(0).get_by_role("group", name="The agent asks: Allow this?")
        server = chat.url.removesuffix("/v1")
        expect(asked).to_contain_text(f"-m {server}", timeout=PATIENCE)
        expect(notebook.page.locator(BOX)).to_be_hidden()
        notebook.screenshot("asking-permission")
        press(notebook, "Refuse…")
        notebook.page.keyboard.press("Escape")
        press(notebook, "Allow")
        expect(question(notebook)).to_contain_text("Run this cell?", timeout=PATIENCE)
        notebook.save()
        notebook.reload()
        press(notebook, "Run")
        is_over(notebook, index=0)
        expect(notebook.outputs(2)).to_have_text("seen")
    lab.shut_kernels_down(browser)
