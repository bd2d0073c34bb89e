"""Runs in a JupyterLab without our extension: what a user sees, saves and is spared."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import BrowserContext, Locator, expect

from .conftest import ROOT
from .lab import Lab, NotebookPage, opened, serving
from .servers import ChatServer, Reply

pytestmark = pytest.mark.timeout(180)

TALL = 2600  # pixels: the whole notebook is on the screen, and so in the screenshot
FIRST_RUN = 2  # the %%agent cell of 01-first-run.ipynb

# how well an element's text can be read (WCAG 2.2, 1.4.3): 1 is not at all, 4.5 is enough
CONTRAST = """element => {
    const rgba = colour => {
        const [red, green, blue, alpha = 1] = colour.match(/[\\d.]+/g).map(Number);
        return [red, green, blue, alpha];
    };
    const over = (front, back) =>
        [0, 1, 2].map(i => front[i] * front[3] + back[i] * (1 - front[3])).concat(1);
    const layers = [];
    for (let each = element; each; each = each.parentElement)
        layers.unshift(rgba(getComputedStyle(each).backgroundColor));
    const back = layers.reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
    const text = over(rgba(getComputedStyle(element).color), back);
    const light = ([red, green, blue]) => {
        const [r, g, b] = [red, green, blue].map(value => value / 255).map(
            value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const [low, high] = [light(text), light(back)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
}"""

# what reaches beyond the notebook's panel; an output may scroll inside itself
TOO_WIDE = """elements => {
    const panel = document.querySelector('.jp-WindowedPanel-outer');
    const edge = panel.getBoundingClientRect().left + panel.clientWidth + 1;
    const wide = elements.filter(element => element.getBoundingClientRect().right > edge);
    if (panel.scrollWidth > panel.clientWidth + 1) wide.push(panel);
    return wide.map(element => element.className + ': ' + element.textContent.slice(0, 60));
}"""

CODE = r"""
from IPython.display import HTML, Javascript, Markdown, display

leak = "http://127.0.0.1:1/"
display(HTML(f"<b>bold is shown</b><script>window.PWNED='script'; fetch('{leak}script')</script>"))
display(HTML("<img src=x onerror=\"window.PWNED='onerror'\">"))
display(HTML(f"<img src='{leak}picture.png'><iframe src='{leak}frame'></iframe>"))
display(HTML(f"<p style='background: url({leak}style.png)'>styled</p>"))
display(HTML(f"<link rel=stylesheet href='{leak}sheet.css'><style>@import '{leak}in.css';</style>"))
display(Javascript(f"window.PWNED = 'javascript'; fetch('{leak}javascript')"))
svg = f"<script>window.PWNED='svg'</script><image href='{leak}svg.png' width='9' height='9'/>"
svg = f"<svg xmlns='http://www.w3.org/2000/svg' onload=\"window.PWNED='onload'\">{svg}</svg>"
display({"image/svg+xml": svg}, raw=True)
display({"text/html": svg}, raw=True)
display(Markdown(f"![x]({leak}markdown.png) <img src='{leak}tag.png'> ![x][1]\n\n[1]: {leak}1.png"))
display({"text/latex": rf"$\style{{background: url({leak}tex.png)}}{{x}}$"}, raw=True)
display({"application/vnd.jupyter.widget-view+json": {"model_id": "x"}}, raw=True)
print("every display is done")
"""
FIGURES = r"""
import plotly.graph_objects as go
from IPython.display import display

leak = "http://127.0.0.1:1/"
figure = go.Figure(go.Bar(x=["a", "b"], y=[1, 2], text=f"<a href='{leak}'>a</a>"))
figure.update_layout(
    title=f"<span style='fill: url({leak}title.svg#x)'>bars</span>",
    images=[{"source": f"{leak}layout.png", "x": 0, "y": 1, "sizex": 1, "sizey": 1}],
)
figure.show()
figure = go.Figure(go.Bar(x=["c"], y=[1], textposition="inside"))
figure.update_traces(text="<%{meta[0]}", texttemplate="<%{meta[0]}go</%{meta[1]}>")
figure.update_layout(meta=[f"a href='{leak}template'>", "a"], width=300, height=200)
figure.show()
rows = [{"a": 1, "b": 2}]
encoding = {"x": {"field": "a"}, "y": {"field": "b"}}
vega = "application/vnd.vegalite.v5+json"
chart = {"mark": {"type": "bar", "cursor": f"url({leak}cursor.png)"}, "encoding": encoding}
display({vega: chart | {"data": {"values": rows}}}, raw=True)
go.Figure(go.Scattergeo(lon=[1], lat=[2])).show()
print("every figure is done")
"""
PROSE = (
    "Hello ![x](http://127.0.0.1:1/prose.png) <img src='http://127.0.0.1:1/tag.png'>"
    "<script>window.PWNED='prose'</script><img src=x onerror=\"window.PWNED='prose'\">"
)
# Markdown in which a picture only seems to stand in code
DISGUISES = {
    "closed by a longer run": "` {} ``",
    "escaped backticks": r"\` {} \`",
    "two paragraphs": "a `\n\n{}\n\n` b",
    "a backtick in the info string": "``` a`b\n\n{}\n\n```",
    "a fence that its list item ends": "- item\n\n  ```\n{}\n```",
    "a diagram": '```mermaid\nflowchart TD\n  A@{{ img: "{url}", label: "x", w: 60, h: 60 }}\n```',
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab without our extension, serving a copy of the notebooks."""
    folder = tmp_path_factory.mktemp("served") / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder)
    with serving(folder, tmp_path_factory.mktemp("home"), live=False) as lab:
        yield lab


@pytest.fixture(scope="module")
def first_run(lab: Lab, browser: BrowserContext) -> Iterator[NotebookPage]:
    """The first notebook, all of it run, saved."""
    with opened(lab, browser, lab.folder / "01-first-run.ipynb", height=TALL) as notebook:
        notebook.run_all()
        notebook.save()
        notebook.screenshot("first-run-light-wide")
        yield notebook


def written(path: Path, *replies: str) -> str:
    """Write a script; return how ``%%agent`` is asked to play it."""
    path.write_text("\n<!-- next reply -->\n".join(replies))
    return f"%%agent -m scripted:{path.name} --data none\nGo on."


def fence(code: str) -> str:
    return f"```python\n{code}\n```"


def looks(outputs: Locator) -> list[tuple[str, str, str]]:
    """Of each output its kind, its text and its picture."""
    found: list[list[str]] = outputs.evaluate_all(
        "outputs => outputs.map(output => [output.dataset.mimeType, output.textContent,"
        " output.querySelector('img')?.src ?? ''])"
    )
    return [(kind, text, picture) for kind, text, picture in found]


# -- the first notebook


def test_a_run_shows_its_steps_in_order(first_run: NotebookPage) -> None:
    outputs = first_run.outputs(FIRST_RUN)
    shown = [(kind.rsplit(".")[-1], text) for kind, text, _ in looks(outputs)]
    expected = [
        ("text/markdown", "agent: done · step 5 · "),
        ("text/markdown", "I look at the file first"),
        ("text/markdown", "step 1 · "),
        ("stdout", "344 rows, missing values:"),
        ("text/html", "species"),
        ("text/markdown", "Two rows have no measurements"),
        ("text/markdown", "step 2 · "),
        ("stderr", "------"),
        ("text/markdown", "The column is called body_mass_g"),
        ("text/markdown", "step 3 · "),
        ("text/html", "mean"),
        ("text/markdown", "Gentoo stand out."),
        ("text/markdown", "step 4 · "),
        ("image/png", ""),
        ("text/markdown", "Gentoo penguins are the heaviest"),
    ]
    assert [kind for kind, _ in shown] == [kind for kind, _ in expected]
    for (_, text), (_, start) in zip(shown, expected, strict=True):
        assert text.strip().startswith(start)
    assert "KeyError: 'Column not found: weight_g'" in shown[7][1]
    expect(outputs.nth(4).locator("table.dataframe tbody tr")).to_have_count(5)
    assert outputs.nth(13).locator("img").evaluate("img => img.naturalWidth") > 300
    expect(outputs.nth(14).locator("strong")).to_have_text("Gentoo penguins are the heaviest")


def test_code_is_highlighted_and_can_be_folded_away(first_run: NotebookPage) -> None:
    step = first_run.outputs(FIRST_RUN).nth(2)
    code = step.locator("details pre code")
    expect(code).to_be_visible()
    colours = code.locator("span").evaluate_all(
        "spans => [...new Set(spans.map(span => getComputedStyle(span).color))]"
    )
    assert len(colours) >= 3
    step.locator("summary").click()
    expect(code).to_be_hidden()
    step.locator("summary").click()
    expect(code).to_be_visible()


def test_an_error_trace_stands_on_the_colour_of_errors(first_run: NotebookPage) -> None:
    background = "output => getComputedStyle(output).backgroundColor"
    trace = first_run.outputs(FIRST_RUN).nth(7).evaluate(background)
    assert trace not in (
        "rgba(0, 0, 0, 0)",
        first_run.outputs(FIRST_RUN).nth(3).evaluate(background),
    )


def test_the_cells_after_a_run_reach_its_sandbox(first_run: NotebookPage) -> None:
    assert "5076.0" in first_run.text(4)
    assert "bubblewrap, reads data/penguins.csv" in first_run.text(5)


def test_a_saved_run_is_valid_and_readable_as_plain_text(first_run: NotebookPage) -> None:
    saved = nbformat.read(first_run.path, as_version=4)
    nbformat.validate(saved)
    displays = [output for output in saved.cells[FIRST_RUN].outputs if "data" in output]
    assert len(displays) == 13
    assert all(output.data["text/plain"] for output in displays)


def test_a_saved_run_looks_the_same_after_a_reload(first_run: NotebookPage) -> None:
    before = looks(first_run.outputs(FIRST_RUN))
    first_run.reload()
    expect(first_run.outputs(FIRST_RUN)).to_have_count(len(before))
    assert looks(first_run.outputs(FIRST_RUN)) == before


@pytest.mark.parametrize("theme", ["dark", "light"])  # the last one stays
def test_a_run_fits_and_reads_well(first_run: NotebookPage, theme: str) -> None:
    first_run.use_theme(f"JupyterLab {theme.title()}")
    outputs = first_run.outputs(FIRST_RUN)
    for width, name in ((1280, "wide"), (700, "narrow")):
        first_run.page.set_viewport_size({"width": width, "height": TALL})
        expect(outputs.last).to_be_visible()
        assert outputs.evaluate_all(TOO_WIDE) == []
        first_run.screenshot(f"first-run-{theme}-{name}")
    for part in ("em", "p", "summary", "code", "td", "th", "pre", "strong"):
        assert outputs.locator(part).first.evaluate(CONTRAST) > 4.5, part
    assert outputs.nth(7).locator("pre").evaluate(CONTRAST) > 4.5


def test_the_page_asks_no_server_but_its_own(first_run: NotebookPage, lab: Lab) -> None:
    assert abroad(first_run, lab) == []


def abroad(notebook: NotebookPage, lab: Lab) -> list[str]:
    """What a page asked of others than JupyterLab."""
    own = (f"{lab.url}/", "data:", "blob:")
    return [url for url in notebook.requests if not url.startswith(own)]


# -- while a run goes on


def test_prose_streams_and_never_shows_a_fence(
    lab: Lab, browser: BrowserContext, server: ChatServer
) -> None:
    prose = "First I count from one to ten, slowly, to see that the words arrive one by one."
    code = "total = sum(range(1, 11))\nprint('the total is', total)"
    server.replies = [
        Reply(f"{prose}\n\n{fence(code)}", delay=0.1),
        Reply("The total is **55**.", delay=0.1),
    ]
    path = lab.write(
        "streaming.ipynb",
        "%load_ext jupyter_agent",
        f"%%agent -m {server.model} --data none\nAdd up the numbers from 1 to 10.",
    )
    with opened(lab, browser, path) as notebook:
        notebook.run(0)
        notebook.watch(1)
        notebook.start(1)
        expect(notebook.cells.nth(1)).to_contain_text("First I count", timeout=60_000)
        notebook.screenshot("streaming")
        notebook.done(1)
        expect(notebook.outputs(1).last).to_have_text("The total is 55.")
        shown = notebook.shown()
    growing = [text for text in shown if "First I count" in text and "one by one." not in text]
    assert len(set(growing)) >= 3
    assert not [text for text in shown if "```" in text]
    labels = list(dict.fromkeys(re.findall(r"step 1 · ([a-z]+)", "\n".join(shown))))
    assert labels[:1] == ["writing"]  # a cell this fast may be done before it is shown running
    states = dict.fromkeys(re.findall(r"agent: (\w+)", "\n".join(shown)))
    assert list(states)[-2:] == ["working", "done"]  # before, the sandbox may be starting


def test_the_stop_button_stops_a_run(lab: Lab, browser: BrowserContext) -> None:
    path = lab.folder / "endless.ipynb"
    task = written(lab.folder / "endless.md", f"For ever.\n\n{fence('while True: pass')}", "Done.")
    lab.write(path.name, "%load_ext jupyter_agent", task, "%agent status")
    with opened(lab, browser, path) as notebook:
        notebook.run(0)
        notebook.start(1)
        expect(notebook.cells.nth(1)).to_contain_text("step 1 · running", timeout=60_000)
        pressed = time.monotonic()
        notebook.interrupt()
        notebook.done(1, timeout=15_000)
        assert time.monotonic() - pressed < 15
        notebook.screenshot("stopped")
        expect(notebook.outputs(1).first).to_contain_text("agent: stopped")
        notebook.run(2)
        assert "bubblewrap" in notebook.text(2)
        saved = notebook.save()
    assert saved.cells[1].outputs[-1].ename == "Interrupted"


# -- asking


def test_an_input_box_asks_before_each_cell(lab: Lab, browser: BrowserContext) -> None:
    cells = [fence(f"print('cell', {n} * {n})") for n in (11, 12)]
    task = written(lab.folder / "asked.md", *cells, "The answer.")
    task = task.replace("--data", "--ask always --data")
    path = lab.write("asked.ipynb", "%load_ext jupyter_agent", task)
    with opened(lab, browser, path) as notebook:
        notebook.run(0)
        notebook.start(1)
        box = notebook.cells.nth(1).locator("input.jp-Stdin-input").last
        for answer, follows in (("y", "cell 121"), ("n too early", "The answer.")):
            expect(box).to_be_visible(timeout=40_000)
            expect(box).to_have_value("")  # the next box, and not the one before it
            assert "[e]dit" in notebook.text(1)
            box.fill(answer)
            box.press("Enter")
            expect(notebook.cells.nth(1)).to_contain_text(follows, timeout=40_000)
        notebook.done(1)
        shown = notebook.text(1)
        assert "cell 121" in shown
        assert "Refused: the user did not let this cell run: too early" in shown
        assert "cell 144" not in shown
        assert "The answer." in shown


def test_a_question_brings_code_onto_the_page(lab: Lab, browser: BrowserContext) -> None:
    hidden = [
        "a = 1;" + "\t" * 39 + "print('hidden')",
        "a = '" + "\u2e3b" * 90 + "'; print('hidden')",  # the widest of dashes
        '"""a\n' + "\u3000\n" * 200 + '"""\nprint(\'hidden\')',
    ]
    task = written(lab.folder / "seen.md", *map(fence, hidden), "The answer.")
    task = task.replace("--data", "--ask always --data")
    path = lab.write("seen.ipynb", "%load_ext jupyter_agent", task)
    with opened(lab, browser, path) as notebook:
        notebook.run(0)
        notebook.start(1)
        prompt = notebook.cells.nth(1).locator(".jp-Stdin-prompt").last
        box = notebook.cells.nth(1).locator("input.jp-Stdin-input").last
        # each has its own text: the question before may still be there for a moment
        for own, last in (("a = 1;", "     1 | "), ("\u2e3b", "       | "), ("", "   203 | ")):
            expect(prompt).to_contain_text(own, timeout=40_000)
            expect(prompt).to_contain_text(last)
            expect(prompt).to_contain_text("print('hidden')")
            edge = prompt.evaluate("e => e.getBoundingClientRect().right - innerWidth")
            assert edge < 0
            assert len(prompt.inner_text().splitlines()) < 45
            box.fill("n")
            box.press("Enter")
        notebook.done(1)


# -- what a hostile run can do


def test_hostile_outputs_run_nothing_and_fetch_nothing(lab: Lab, browser: BrowserContext) -> None:
    task = written(lab.folder / "hostile.md", f"{PROSE}\n\n{fence(CODE)}", f"The answer. {PROSE}")
    control = "from IPython.display import HTML\n" + (
        'HTML(\'<img src="http://127.0.0.1:1/control.png" onerror="window.PWNED=1">\')'
    )
    path = lab.write("hostile.ipynb", "%load_ext jupyter_agent", task, control)
    with opened(lab, browser, path, height=1800) as notebook:
        notebook.run(0)
        notebook.run(1)
        assert "every display is done" in notebook.text(1)
        assert "bold is shown" in notebook.text(1)
        expect(notebook.outputs(1).last).to_contain_text("The answer.")
        notebook.screenshot("hostile")
        assert_unharmed(notebook, lab)
        notebook.save()
        notebook.reload()
        assert_unharmed(notebook, lab)
        notebook.run(2)  # the user's own cell may do all this, so the test would have noticed
        notebook.page.wait_for_function("window.PWNED === 1")
        assert set(abroad(notebook, lab)) == {"http://127.0.0.1:1/control.png"}


def test_figures_are_drawn_and_fetch_nothing(lab: Lab, browser: BrowserContext) -> None:
    task = written(lab.folder / "figures.md", fence(FIGURES), "Drawn.")
    path = lab.write("figures.ipynb", "%load_ext jupyter_agent", task)
    with opened(lab, browser, path, height=2400) as notebook:
        notebook.run(0)
        notebook.run(1)
        cell = notebook.cells.nth(1)
        expect(cell.locator(".js-plotly-plot .bars .point")).to_have_count(3)
        expect(cell.locator(".js-plotly-plot .main-svg a")).to_have_count(0)
        expect(cell.locator(".vega-embed")).to_have_count(0)
        notebook.screenshot("figures")
        assert "alt.renderers.enable('png')" in notebook.text(1)
        assert "plotly's scattergeo fetches its map" in notebook.text(1)
        assert_unharmed(notebook, lab)


@pytest.fixture(scope="module")
def disguised(lab: Lab, browser: BrowserContext) -> Iterator[NotebookPage]:
    """A notebook of runs whose answers disguise pictures."""
    tasks: list[str] = []
    for name, markdown in DISGUISES.items():
        url = f"http://127.0.0.1:1/{name.replace(' ', '-')}.png"
        script = lab.folder / f"disguise-{len(tasks)}.md"
        tasks.append(written(script, markdown.format(f"![x]({url})", url=url)))
    path = lab.write("disguised.ipynb", "%load_ext jupyter_agent", *tasks)
    with opened(lab, browser, path, height=1800) as notebook:
        notebook.run_all()
        notebook.screenshot("disguised")
        yield notebook


@pytest.mark.parametrize("name", DISGUISES)
def test_a_picture_disguised_as_code_is_not_fetched(disguised: NotebookPage, name: str) -> None:
    assert [url for url in disguised.requests if name.replace(" ", "-") in url] == []


def assert_unharmed(notebook: NotebookPage, lab: Lab) -> None:
    assert notebook.page.evaluate("window.PWNED") is None
    assert abroad(notebook, lab) == []
