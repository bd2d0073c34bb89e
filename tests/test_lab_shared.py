"""One notebook, two users: a document that jupyter-collaboration shares, in two browsers."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from .lab import PATIENCE, FrontEnd, Lab, NotebookPage, opened, serving
from .servers import ChatServer, Reply
from .test_live_cells import LOAD, TALL, bar, is_over, seen, step, task

PYTHON = os.environ.get("JUPYTER_AGENT_SHARED")  # an environment with jupyter-collaboration
pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not PYTHON, reason="make front-ends has jupyter-collaboration"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab with our extension and jupyter-collaboration."""
    folder, home = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("home")
    with serving(folder, home, FrontEnd("shared", f"{PYTHON}/bin/python")) as lab:
        yield lab


@pytest.fixture
def chat(lab: Lab, browser: BrowserContext) -> Iterator[ChatServer]:
    server = ChatServer()
    yield server
    server.close()
    lab.shut_kernels_down(browser)


class Users:
    """Opens a notebook for one user after another."""

    def __init__(self, lab: Lab, browser: BrowserContext, name: str, *sources: str) -> None:
        self._lab = lab
        self._browser = browser
        self._path = lab.write(f"{re.sub('[^a-z]+', '-', name)}.ipynb", *sources)
        self.opened = ExitStack()

    def open(self) -> NotebookPage:
        other = self._browser.browser
        assert other
        context = other.new_context()
        self.opened.callback(context.close)
        context.on("page", _wait)
        page = opened(self._lab, context, self._path, height=TALL)
        return self.opened.enter_context(page)


def _wait(page: Page) -> None:
    """Have a page go on waiting, which asks about that when the document is slow to come."""
    button = page.locator(".jp-Dialog").get_by_role("button", name="Continue waiting")
    page.add_locator_handler(button, lambda button: button.click())


@pytest.fixture
def users(
    lab: Lab, browser: BrowserContext, chat: ChatServer, request: pytest.FixtureRequest
) -> Iterator[Users]:
    users = Users(lab, browser, request.node.name, LOAD, task(chat), "print('mine')")
    with users.opened:
        yield users


def begin(notebook: NotebookPage, chat: ChatServer) -> threading.Event:
    """Start a run whose second step waits before its first word."""
    gate = threading.Event()
    chat.replies = [
        Reply(step("First.", "print('one')")),
        Reply(step("Second.", "print('two')"), gate=gate),
        Reply("The end."),
    ]
    notebook.run(0)
    notebook.start(1)
    expect(notebook.cells.nth(3)).to_contain_text("one", timeout=PATIENCE)
    return gate


def is_going(notebook: NotebookPage) -> None:
    expect(bar(notebook)).to_have_attribute("data-state", "working", timeout=PATIENCE)
    expect(bar(notebook).get_by_role("button", name="Stop")).to_be_visible()
    expect(bar(notebook).get_by_role("button", name="Run again")).to_be_hidden()


def is_whole(notebook: NotebookPage) -> None:
    """The run is over, and each of its cells is there once."""
    is_over(notebook)
    expect(notebook.cells).to_have_count(8, timeout=PATIENCE)
    for index, text in ((2, "First."), (3, "one"), (4, "Second."), (5, "two"), (6, "The end.")):
        expect(notebook.cells.nth(index)).to_contain_text(text)
    code = [row for row in seen(notebook) if row[0] == "code" and row[2].startswith("%%sandbox")]
    assert [(prompt, outputs) for _, prompt, _, outputs in code] == [("[1]:", 1), ("[2]:", 1)]


@pytest.mark.parametrize("early", [True, False], ids=["before", "during"])
def test_another_user_watches_a_run(users: Users, chat: ChatServer, early: bool) -> None:
    first = users.open()
    second = users.open() if early else None
    gate = begin(first, chat)
    second = second or users.open()
    for notebook in (first, second):
        expect(notebook.cells.nth(3)).to_contain_text("one", timeout=PATIENCE)
        is_going(notebook)
    second.screenshot(f"shared-{early}")
    gate.set()
    for notebook in (first, second):
        is_whole(notebook)
    assert len(chat.requests) == 3
    # over, it is anybody's: a new run takes its place, in both
    chat.replies = [Reply("Another end.")]
    bar(second).get_by_role("button", name="Run again").click()
    for notebook in (first, second):
        expect(notebook.cells.nth(2)).to_contain_text("Another end.", timeout=PATIENCE)
        is_over(notebook)
        expect(notebook.cells).to_have_count(4)


def test_a_page_that_is_reloaded_goes_on_with_its_run(users: Users, chat: ChatServer) -> None:
    first, second = users.open(), users.open()
    gate = begin(first, chat)
    first.reload()
    for notebook in (first, second):
        is_going(notebook)
    gate.set()
    for notebook in (first, second):
        is_whole(notebook)


def test_a_run_goes_on_when_the_page_that_asked_for_it_is_closed(
    users: Users, chat: ChatServer
) -> None:
    first, second = users.open(), users.open()
    gate = begin(first, chat)
    first.page.close()
    gate.set()
    is_whole(second)
    assert len(chat.requests) == 3
    # what the run left is the notebook's, for whoever comes
    is_whole(users.open())
