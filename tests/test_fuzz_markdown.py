"""Hostile Markdown in JupyterLab, Notebook 7 and nbconvert's pages: nothing runs, nothing fetches."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import BrowserContext

from .fuzz_markdown import (
    EVIL,
    JUDGE,
    KNOWN,
    PAYLOADS,
    Drawer,
    documents,
    drawing,
    drawings,
)
from .lab import PATIENCE, FrontEnd, Lab, NotebookPage, opened, serving

pytestmark = pytest.mark.timeout(400)

BATCHES = 8  # of 50 documents, drawn in bulk; `make fuzz` draws for ten minutes
SEED = 12
WHOLE = 60  # documents in a notebook


@pytest.fixture(scope="module", params=["lab", "notebook"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A front end without our extension that draws all cells of a notebook at once."""
    folder, home = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("home")
    settings = (
        home / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    )
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"windowingMode": "none"}))
    with serving(folder, home, FrontEnd(request.param), live=False) as lab:
        yield lab


@pytest.fixture(scope="module")
def drawer(lab: Lab, browser: BrowserContext) -> Iterator[Drawer]:
    with drawing(lab, browser) as drawer:
        yield drawer


def test_the_fuzz_sees_what_runs_and_what_fetches(drawer: Drawer) -> None:
    for payload in [*PAYLOADS[:3], *PAYLOADS[6:7], *PAYLOADS[10:14]]:
        assert drawer.hits([payload], str), payload
    for tex in (r"$\href{http://a}{x}$", rf"$\unicode[x;background:url({EVIL}/t)]{{64}}$"):
        kinds = {hit.drawn[0] for hit in drawer.hits([tex], str)}
        assert {"text/markdown", "nbconvert"} <= kinds, tex
    ways = [KNOWN[0], KNOWN[2], KNOWN[4]]
    for way in ways:
        text = way.replace("{{", "{").replace("}}", "}").replace("{}", PAYLOADS[0])
        assert drawer.hits([text], str), way
        drawer.page.wait_for_timeout(300)  # the picture of that one has not come
        drawer.page.evaluate("window.PWNED = undefined")
        drawer.requests.clear()
        assert not drawer.hits([text]), way


def test_hostile_markdown_drawn_in_bulk_does_no_harm(drawer: Drawer) -> None:
    source = documents(SEED)
    for _ in range(BATCHES):
        hits = drawer.hits([*itertools.islice(source, 50)])
        assert not hits, drawer.smallest(hits[0].text)


def hostile(path: Path) -> None:
    """Write documents into a notebook, as cells and as outputs."""
    cells = []
    for text in itertools.islice(documents(SEED + 1), WHOLE):
        (_, markdown), _, (_, latex) = drawings(text)
        data = ({"text/markdown": markdown}, {"text/latex": latex})
        outputs = [new_output("display_data", data=each) for each in data]
        cells += [new_markdown_cell(markdown or "empty"), new_code_cell("", outputs=outputs)]
    cells += [new_markdown_cell("the end")]
    nbformat.write(
        new_notebook(
            cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "x"}}
        ),
        path,
    )


def test_a_trusted_notebook_of_hostile_markdown_does_no_harm(
    lab: Lab, browser: BrowserContext
) -> None:
    path = lab.folder / "hostile.ipynb"
    hostile(path)
    lab.sign(path, trusted=True)
    with opened(lab, browser, path) as notebook:
        assert_unharmed(notebook)
        notebook.save()
        notebook.reload()
        assert_unharmed(notebook)


def assert_unharmed(notebook: NotebookPage) -> None:
    page = notebook.page
    page.evaluate(JUDGE)
    page.locator("p", has_text="the end").last.wait_for(timeout=PATIENCE)
    page.wait_for_function("document.querySelectorAll('.jp-RenderedMarkdown').length > 100")
    page.wait_for_timeout(1000)  # MathJax
    found = page.evaluate(
        "[...document.querySelectorAll('.jp-RenderedMarkdown, .jp-RenderedLatex')].map(judge)"
    )
    assert [why for why in found if why] == []
    assert len(found) > 2 * WHOLE
    assert page.evaluate("window.PWNED") is None
    assert [url for url in notebook.requests if "evil" in url] == []


def test_nbconverts_page_of_hostile_markdown_does_no_harm(
    tmp_path: Path, browser: BrowserContext
) -> None:
    path = tmp_path / "hostile.ipynb"
    hostile(path)
    html, _ = HTMLExporter().from_filename(str(path))
    (tmp_path / "hostile.html").write_text(html)
    page = browser.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "hostile.html").as_uri())
    page.evaluate(JUDGE)
    judged = "[...document.querySelectorAll('.jp-RenderedMarkdown, .jp-RenderedLatex')].map(judge)"
    found = page.evaluate(judged)
    assert [why for why in found if why] == []
    assert len(found) > 2 * WHOLE
    assert page.evaluate("window.PWNED") is None
    assert [url for url in requests if "evil" in url] == []
