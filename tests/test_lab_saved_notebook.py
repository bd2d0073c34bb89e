"""A notebook from a stranger, and outputs that no filter has seen, in a real JupyterLab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.sign import NotebookNotary
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import BrowserContext, Locator, WebSocketRoute, expect

from jupyter_agent.transcript.notebook import Transcript
from jupyter_agent.views.output_area import MIME
from jupyter_agent.views.page_requests import checksum, digest

from .lab import PATIENCE, Lab, NotebookPage, opened, serving
from .servers import ChatServer, Reply

pytestmark = pytest.mark.timeout(240)

TALL = 3000  # pixels: every cell is drawn
KERNELS = ["python3", "jupyter-agent"]
RUN, OTHER, GOING = "0badf00d", "0badcafe", "0badbabe"
LEAK = "http://127.0.0.1:1/"
BUTTON = "<button data-commandlinker-command='notebook:insert-cell-below'>press me</button>"
MARKDOWN = "<img src=x onerror=\"window.PWNED='markdown'\"><script>window.PWNED='md'</script>"
# one CR makes of this no fence for the renderer; JupyterLab's mathematics, none either
FENCES = [
    "```x\nabc\r```\r<img src=x onerror=\"window.PWNED='cr'\">\n```",
    "\\begin{x}\n\n```\n\\end{x}\n<img src=x onerror=\"window.PWNED='tex'\">\n```",
]
SVG = "<svg xmlns='http://www.w3.org/2000/svg' onload=\"window.PWNED='svg'\"><circle r='9'/></svg>"
ACTIVE: dict[str, dict[str, object]] = {
    "html": {"text/html": f"<b>bold</b>{MARKDOWN}{BUTTON}"},
    "markdown": {"text/markdown": f"*slanted* {MARKDOWN}"},
    "cr": {"text/markdown": FENCES[0]},
    "mathematics": {"text/markdown": FENCES[1]},
    "latex": {"text/latex": r"$\href{javascript:window.PWNED='latex'}{x}$"},
    "svg": {"image/svg+xml": SVG},
    "html in svg": {"text/html": SVG},
    "javascript": {"application/javascript": "window.PWNED = 'javascript'"},
    "widget": {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}},
}
ADMITTED = sorted({kind for data in ACTIVE.values() for kind in data})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def live(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab with our extension, and a host that admits whatever comes out of the sandbox."""
    home = tmp_path_factory.mktemp("home")
    profile = home / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_config.py").write_text(f"c.Sandbox.admit = {ADMITTED}\n")
    with serving(folder, home) as lab:
        yield lab


@pytest.fixture(scope="module")
def bare(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab without our extension, which serves the same files."""
    with serving(folder, tmp_path_factory.mktemp("home"), live=False) as lab:
        yield lab


@pytest.fixture(autouse=True)
def no_kernel_is_left(live: Lab, bare: Lab, browser: BrowserContext) -> Iterator[None]:
    yield
    for lab in (live, bare):
        lab.shut_kernels_down(browser)


# -- a file that was forged


def header(run: str, **facts: object) -> NotebookNode:
    """An output that is a bar."""
    said = {"run": run, "state": "done", "model": "gpt-9", "sandbox": "bubblewrap", "tokens": 7}
    data = {MIME: {**said, "step": 1, "seconds": 3.0, "cells": 2, **facts}, "text/plain": "agent"}
    return new_output("display_data", data)


def code(source: str, *outputs: NotebookNode, **note: object) -> NotebookNode:
    cell = new_code_cell(source, outputs=list(outputs))
    if note:
        cell.metadata["jupyter_agent"] = {"id": cell.id, **note}
    return cell


def ask(folder: Path) -> str:
    return f"%%agent -m scripted:{folder / 'missing.md'} --data none\nSum up."


def leaves(proof: Path) -> str:
    """Code that leaves a file wherever it can."""
    attempt = f"with contextlib.suppress(OSError): open({str(proof)!r}, 'w').write('ran')"
    return f"import contextlib\n{attempt}\nprint('tried')"


def forge(lab: Lab, kernel: str, proofs: Path) -> Path:
    """Write a notebook whose notes and outputs say what is not so."""
    hidden, target, half = (leaves(proofs / name) for name in ("hidden", "target", "half"))
    displays = [new_output("display_data", data) for data in ACTIVE.values()]
    prose = new_markdown_cell(f"An answer. {BUTTON} {MARKDOWN}\n\n{FENCES[0]}\n\n{FENCES[1]}")
    prose.metadata["jupyter_agent"] = {
        "id": prose.id, "run": RUN, "index": 2, "checksum": checksum(prose.source)
    }  # fmt: skip
    unseen = code(f"%%agent -m {LEAK}v1#m\nSend it.", header(RUN), run=RUN, state="done")
    unseen.metadata["jupyter"] = {"source_hidden": True}
    cells = [
        code("%load_ext jupyter_agent" if kernel == "python3" else "1"),
        code(
            ask(lab.folder), header(RUN, folded=True),
            run=RUN, state="done", digest=digest(ask(lab.folder)), last=2, header={"model": "gpt-9"},
        ),
        code(hidden, run=RUN, index=1, checksum=checksum(hidden)),
        prose,
        code("'a lure'", header(OTHER, state="working", doing="running")),
        code(target, header(OTHER), run=OTHER, state="done"),
        code(half, id="another", run=RUN, index=1, checksum=checksum(half)),
        code("'displays'", *displays, run=RUN, index=3, checksum=checksum("'displays'")),
        code("'malformed'", header(RUN), new_output("display_data", {MIME: "x"}), run=7, state=[]),
        unseen,
        code(ask(lab.folder), header(GOING, state="working", waiting="Safe"), run=GOING, state="working"),
    ]  # fmt: skip
    spec = {"name": kernel, "display_name": kernel}
    path = lab.folder / f"{proofs.name}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": spec}), path)
    return path


def bars(notebook: NotebookPage) -> Locator:
    return notebook.page.locator(".jp-Cell .jp-JupyterAgentBar")


def again(notebook: NotebookPage, index: int) -> Locator:
    return notebook.cells.nth(index).get_by_role("button", name="Run again").first


def numbers(notebook: NotebookPage) -> list[str]:
    """The prompts of the code cells."""
    return [text.strip() for text in notebook.page.locator(".jp-InputPrompt").all_text_contents()]


def everything_is_seen(notebook: NotebookPage) -> None:
    for index in range(notebook.cells.count()):
        expect(notebook.cells.nth(index)).to_be_visible()


def unharmed(notebook: NotebookPage, lab: Lab, proofs: Path) -> None:
    assert notebook.page.evaluate("window.PWNED") is None
    own = (lab.url, "data:", "blob:", "about:")
    assert [url for url in notebook.requests if not url.startswith(own)] == []
    assert [path.name for path in proofs.iterdir()] == []


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_forged_notebook_hides_nothing_and_runs_nothing(
    live: Lab, browser: BrowserContext, tmp_path: Path, kernel: str
) -> None:
    proofs = tmp_path / f"forged-{kernel}"
    proofs.mkdir()
    path = forge(live, kernel, proofs)
    with opened(live, browser, path, height=TALL) as notebook:
        notebook.page.wait_for_timeout(1500)  # the kernel has been asked
        everything_is_seen(notebook)
        for bar in bars(notebook).all():
            expect(bar).to_have_attribute("data-state", "file")
            expect(bar.get_by_role("status")).to_have_text("From the file, not of this kernel:")
            expect(bar.get_by_role("button", name="Stop")).to_be_hidden()
            expect(bar.get_by_role("button", name="cells")).to_be_hidden()
        notebook.screenshot(f"forged-{kernel}")
        for index in (4, 5, 8):
            again(notebook, index).click()
        source = notebook.cells.nth(9).locator(".jp-InputArea")
        expect(source).to_be_hidden()
        again(notebook, 9).click()
        expect(source).to_be_visible()
        notebook.cells.nth(3).get_by_role("button", name="press me").click()
        notebook.page.wait_for_timeout(500)
        assert notebook.cells.count() == 11
        assert not "".join(numbers(notebook)).strip("[ ]:")  # nothing has run, or is to
        unharmed(notebook, live, proofs)
        again(notebook, 1).click()  # it runs the cell that holds it, and no other
        expect(notebook.cells.nth(1)).to_contain_text("Error", timeout=PATIENCE)
        notebook.done(1)
        assert "".join(numbers(notebook)).strip("[ ]:*") == "1"


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_forged_notebook_that_is_run_whole_stays_in_the_sandbox(
    live: Lab, browser: BrowserContext, tmp_path: Path, kernel: str
) -> None:
    proofs = tmp_path / f"whole-{kernel}"
    proofs.mkdir()
    path = forge(live, kernel, proofs)
    file = nbformat.read(path, as_version=4)
    # what is no text of the agent's is any stranger's code, and the user's to judge
    file.cells = [cell for cell in file.cells if "target" not in cell.source]
    nbformat.write(file, path)
    with opened(live, browser, path, height=TALL) as notebook:
        if kernel == "python3":
            expect(notebook.cells.nth(2)).to_contain_text("%%sandbox")
        notebook.cells.nth(2).locator(".cm-line", has_text="suppress").click()
        notebook.page.keyboard.press("Home")
        notebook.page.keyboard.press("Control+Shift+Minus")
        expect(notebook.cells).to_have_count(11)
        notebook.choose("Run", "Run All Cells")
        status = bars(notebook).first.get_by_role("status")
        expect(status).to_contain_text("not done here: no model was asked", timeout=PATIENCE)
        notebook.done(8)
        everything_is_seen(notebook)
        for index in (3, 6):
            expect(notebook.outputs(index)).to_have_text("tried")
        unharmed(notebook, live, proofs)
        notebook.screenshot(f"forged-whole-{kernel}")


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_forged_notebook_is_only_a_notebook_without_the_extension(
    bare: Lab, browser: BrowserContext, tmp_path: Path, kernel: str
) -> None:
    proofs = tmp_path / f"bare-{kernel}"
    proofs.mkdir()
    path = forge(bare, kernel, proofs)
    with opened(bare, browser, path, height=TALL) as notebook:
        everything_is_seen(notebook)
        assert bars(notebook).count() == 0
        unharmed(notebook, bare, proofs)
        if kernel == "jupyter-agent":  # else it is any stranger's code in the user's own kernel
            notebook.choose("Run", "Run All Cells")
            expect(notebook.cells.nth(1)).to_contain_text(
                "this kernel did not run it", timeout=PATIENCE
            )
            notebook.done(8)
            everything_is_seen(notebook)
            unharmed(notebook, bare, proofs)


def test_a_strangers_recorded_run_is_only_text(
    bare: Lab, browser: BrowserContext, tmp_path: Path
) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    says = {"role": "prose", "step": 1}
    prose = f"An *answer*. {MARKDOWN} ![x]({LEAK})\n\n{FENCES[0]}\n\n{FENCES[1]}"
    cells = [
        new_markdown_cell("Go", metadata={"jupyter_agent": {"role": "task", "model": prose}}),
        new_markdown_cell(prose, metadata={"jupyter_agent": says | {"role": "summary"}}),
        new_markdown_cell(prose, metadata={"jupyter_agent": says}),
    ]
    metadata = {"jupyter_agent": {"version": 1}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), bare.folder / "strangers.ipynb")
    ask = "--save strangers.ipynb\nGo"
    path = bare.write("asks.ipynb", f"%%agent {ask}", f"%%agent -q {ask}", kernel="jupyter-agent")
    with opened(bare, browser, path, height=TALL) as notebook:
        notebook.run_all()
        for index in (0, 1):
            shown = notebook.cells.nth(index).locator(".jp-RenderedMarkdown em", has_text="answer")
            expect(shown.first).to_be_visible(timeout=PATIENCE)
        notebook.page.wait_for_timeout(1000)
        unharmed(notebook, bare, nothing)


# -- a run that was saved, in the kernel of the user's


def saved_run(lab: Lab, kernel: str, proofs: Path) -> Path:
    """Save a run with a cell of the model's and one of the user's in the sandbox."""
    path = lab.folder / f"{proofs.name}.ipynb"
    path.unlink(missing_ok=True)
    transcript = Transcript.open(path)
    transcript.add("task", "Go", run="0badf00d")
    transcript.add("prose", f"I write. {BUTTON}", step=1)
    transcript.add("code", leaves(proofs / "model"), step=1)
    transcript.add("own", leaves(proofs / "own"))
    transcript.notebook.metadata.kernelspec = {"name": kernel, "display_name": kernel}
    transcript.save()
    return path


def first_lines(notebook: NotebookPage) -> list[str]:
    """How the code cells begin."""
    lines = notebook.page.locator(".jp-CodeCell .cm-line:first-child")
    return [line.strip() for line in lines.all_inner_texts()]


def test_a_saved_run_stays_in_the_sandbox_in_the_users_own_kernel(
    live: Lab, browser: BrowserContext, tmp_path: Path
) -> None:
    proofs = tmp_path / "saved-python3"
    proofs.mkdir()
    with opened(live, browser, saved_run(live, "python3", proofs)) as notebook:
        notebook.choose("Run", "Run All Cells")
        notebook.done(2)
        assert list(proofs.iterdir()) == []
        expect(notebook.outputs(2)).to_contain_text("%%sandbox")  # no such magic is loaded
        notebook.run(3)
        assert first_lines(notebook) == ["%%sandbox", "%%sandbox"]
        notebook.cells.nth(1).get_by_role("button", name="press me").click()
        notebook.page.wait_for_timeout(500)
        assert notebook.cells.count() == 4
        unharmed(notebook, live, proofs)


def test_a_saved_run_stays_plain_in_the_agent_kernel(
    live: Lab, browser: BrowserContext, tmp_path: Path
) -> None:
    proofs = tmp_path / "saved-agent"
    proofs.mkdir()
    with opened(live, browser, saved_run(live, "jupyter-agent", proofs)) as notebook:
        notebook.choose("Run", "Run All Cells")
        notebook.done(3)
        for index in (2, 3):
            expect(notebook.outputs(index)).to_have_text("tried")
        assert first_lines(notebook) == ["import contextlib", "import contextlib"]
        unharmed(notebook, live, proofs)


def test_a_saved_run_is_confined_before_the_kernel_has_said_what_it_is(
    live: Lab, browser: BrowserContext, tmp_path: Path
) -> None:
    proofs = tmp_path / "saved-early"
    proofs.mkdir()
    path = saved_run(live, "python3", proofs)
    page = browser.new_page()
    held: list[tuple[WebSocketRoute, str | bytes]] = []
    waits = True

    def hold(page_end: WebSocketRoute) -> None:
        server_end = page_end.connect_to_server()
        page_end.on_message(server_end.send)

        def hear(message: str | bytes) -> None:
            if waits:
                held.append((page_end, message))
            else:
                page_end.send(message)

        server_end.on_message(hear)

    try:
        page.route_web_socket("**/channels*", hold)
        notebook = NotebookPage(page, path, f"{live.url}/doc/tree/{path.name}")
        page.goto(f"{notebook.url}?reset")
        expect(notebook.cells.nth(3)).to_be_visible(timeout=PATIENCE)
        while not held:
            page.wait_for_timeout(100)  # the kernel has been asked
        assert "%%sandbox" not in first_lines(notebook)
        notebook.choose("Run", "Run All Cells")
        expect(notebook.cells.nth(2)).to_contain_text("%%sandbox", timeout=PATIENCE)
        waits = False
        for end, message in held:
            end.send(message)
        notebook.done(2)
        unharmed(notebook, live, proofs)
    finally:
        page.close()


# -- what a missing filter would let through

FORGE = f"""
kernel = get_ipython().kernel
parent = kernel.get_parent()
anchor, count = parent["metadata"]["cellId"], 0

def send(op, data, **facts):
    global count
    count += 1
    tag = {{"op": op, "run": "f0f0f0f0", "anchor": anchor, "sent": count, **facts}}
    kernel.session.send(kernel.iopub_socket, "display_data",
        {{"data": data, "metadata": {{}}, "transient": {{}}}}, parent=parent,
        metadata={{"jupyter_agent": tag}})

def header(state):
    facts = {{"run": "f0f0f0f0", "state": state, "cells": 2}}
    shown = {MARKDOWN!r}
    send("run", {{{MIME!r}: facts, "text/markdown": shown, "text/plain": "agent"}}, state=state, digest="")

header("working")
for index, (kind, source) in enumerate(CELLS, 1):
    send("cell", {{"text/plain": source}}, id=f"{{anchor[:8]}}-{{index}}", index=index, type=kind,
         state="done", first_line="", count=None)
    if kind == "code":
        for n, data in enumerate(ACTIVE):
            send("output", data, id=f"{{anchor[:8]}}-{{index}}", index=n)
header("done")
"""


def trusts(lab: Lab, path: Path) -> bool:
    """Whether a server has signed a notebook."""
    notary = NotebookNotary(data_dir=str(lab.home / "data"))
    signed: bool = notary.check_signature(nbformat.read(path, as_version=4))
    notary.store.close()
    return signed


def stays_calm(notebook: NotebookPage) -> None:
    notebook.page.wait_for_timeout(1000)
    assert notebook.page.evaluate("window.PWNED") is None


def opens_calmly(lab: Lab, bare: Lab, browser: BrowserContext, path: Path) -> None:
    """Open it again, trusted as the server has it, and without the extension too."""
    signed = trusts(lab, path)
    for each in (lab, bare):
        each.sign(path, trusted=signed)
        with opened(each, browser, path, height=TALL) as notebook:
            stays_calm(notebook)


def test_a_run_that_no_filter_has_seen_is_drawn_untrusted(
    live: Lab, bare: Lab, browser: BrowserContext
) -> None:
    cells = [
        ("markdown", f"prose {MARKDOWN}"),
        *(("markdown", each) for each in FENCES),
        ("code", "1"),
    ]
    source = f"CELLS = {cells!r}\nACTIVE = {list(ACTIVE.values())!r}\n{FORGE}"
    path = live.write("unseen.ipynb", source)
    with opened(live, browser, path, height=TALL) as notebook:
        notebook.run(0)
        expect(notebook.cells).to_have_count(5)
        expect(notebook.cells.nth(4).locator("b")).to_have_text("bold")
        expect(notebook.cells.nth(4).locator("em")).to_have_text("slanted")
        stays_calm(notebook)
        notebook.cells.nth(4).get_by_role("button", name="press me").click()
        stays_calm(notebook)
        expect(notebook.cells).to_have_count(5)
        notebook.save()
        assert not trusts(live, path)
    opens_calmly(live, bare, browser, path)


def test_html_keeps_a_notebook_trusted_only_in_its_clean_form(
    live: Lab, bare: Lab, browser: BrowserContext
) -> None:
    html = f"<table><tr><td style='color: red'>1</td></tr></table>{MARKDOWN}"
    outputs = [{"text/html": html, "text/plain": "x"}, {"image/png": "AAAA", "text/plain": "y"}]
    cells = [("markdown", f"prose {BUTTON}"), ("code", "1")]
    path = live.write("clean.ipynb", f"CELLS = {cells!r}\nACTIVE = {outputs!r}\n{FORGE}")
    with opened(live, browser, path, height=TALL) as notebook:
        notebook.run(0)
        expect(notebook.cells.nth(2).locator("td")).to_have_text("1")
        saved = notebook.save()
        stays_calm(notebook)
    assert "onerror" not in saved.cells[2].outputs[0].data["text/html"]
    assert trusts(live, path)
    with opened(live, browser, path, height=TALL) as notebook:  # trusted, and still it does nothing
        notebook.cells.nth(1).get_by_role("button", name="press me").click()
        stays_calm(notebook)
        expect(notebook.cells).to_have_count(3)
    opens_calmly(live, bare, browser, path)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_cell_that_is_run_again_is_drawn_untrusted(
    live: Lab, bare: Lab, browser: BrowserContext, server: ChatServer, kernel: str
) -> None:
    shown = (
        f"for data in {list(ACTIVE.values())!r}:\n    display(data, raw=True)\nprint('all shown')"
    )
    server.replies = [Reply(f"x\n\n```python\n{shown}\n```"), Reply("ok")]
    task = f"%%agent -m {server.model} --data none\nGo on."
    path = live.write(f"again-{kernel}.ipynb", "%load_ext jupyter_agent", task, kernel=kernel)
    with opened(live, browser, path, height=TALL) as notebook:
        if kernel == "python3":
            notebook.run(0)
            notebook.run(1)
        else:  # which asks before it goes to a server that is not configured
            notebook.start(1)
            allow = notebook.page.get_by_role("button", name="Allow", exact=True)
            allow.click(timeout=PATIENCE)
            notebook.done(1)
        expect(bars(notebook)).to_have_attribute("data-state", "done", timeout=PATIENCE)
        for _ in range(2):
            expect(notebook.cells.nth(3)).to_contain_text("all shown", timeout=PATIENCE)
            stays_calm(notebook)
            notebook.command(3, "Control+Enter")
            notebook.done(3)
        expect(notebook.cells.nth(3).locator("b")).to_have_text("bold")
        notebook.cells.nth(3).get_by_role("button", name="press me").click()
        stays_calm(notebook)
        expect(notebook.cells).to_have_count(5)
        notebook.save()
        assert not trusts(live, path)
    opens_calmly(live, bare, browser, path)
