"""How fast the agent's cells come to the screen, from timings of a real page.

    python benchmarks/live_cells.py

Prints the time from a model's token to visible text and the page's share of a core meanwhile,
beside the same words written into a cell by JupyterLab's own document; then what many cells and
many tokens cost beside its own insertCell. The machine's load stands at each line. Needs chromium.
"""

from __future__ import annotations

import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from playwright.sync_api import expect

from tests.lab import PATIENCE, NotebookPage, browsing, opened_anew, serving
from tests.servers import ChatServer, Reply

LOAD = "%load_ext jupyter_agent"
TOKENS = 150
RATE = 60  # tokens a second
LINES = 600  # before the tokens that are timed in a long cell: 36 KB
CELLS = 200
UPDATES = 2000

# Publishes a run as fast as it can, through our own view and without a model.
FEED = """
import time
from jupyter_agent.transcript.notebook import Change, Transcript
from jupyter_agent.views.live import DisplayView
from jupyter_agent.views.publishers import KernelPublisher
from jupyter_agent.views.page_requests import KnownRuns
from nbformat.v4 import new_output

kernel = get_ipython().kernel
view = DisplayView(KernelPublisher(kernel), anchor=kernel.get_parent("shell")["metadata"]["cellId"])
runs = KnownRuns()
runs.add(view)
runs.listen(kernel)
transcript = Transcript()
task = transcript.add("task", "x", run=f"run-{time.time()}", model="feed", sandbox="none")
view(Change(task, done=True))

def cells(most):
    for number in range(most):
        if number % 4 == 0:
            prose = transcript.add("prose", f"### Step {number}\\nSome *text* here.", step=number)
            view(Change(prose, done=True))
            continue
        cell = transcript.add("code", f"print({number})", step=number)
        view(Change(cell))
        cell.metadata.jupyter_agent["running"] = True
        view(Change(cell))
        transcript.add_output(cell, new_output("stream", name="stdout", text=f"{number}\\n"))
        cell.execution_count = number
        transcript.finish(cell)
        view(Change(cell, done=True))

def tokens(most):
    cell = transcript.add("code", step=1)
    for number in range(most):
        cell.source += f"x{number} = {number}" + ("\\n" if number % 8 == 7 else "; ")
        view(Change(cell))
        time.sleep(0.002)
    view(Change(cell, done=True))
"""

# Notes when each numbered word has been painted, and the longest time between two frames.
WATCH = """() => {
    window.drawn = {}; window.gap = 0;
    let last = performance.now(), fresh = new Set();
    const painted = new MessageChannel();
    painted.port1.onmessage = () => {
        for (const number of fresh) window.drawn[number] ??= Date.now();
        fresh = new Set();
    };
    new MutationObserver(records => {
        for (const { target, addedNodes } of records)
            for (const node of [target, ...addedNodes])
                if (node.textContent.length < 5000)
                    for (const [, number] of node.textContent.matchAll(/w(\\d+)w/g))
                        if (!(number in window.drawn)) fresh.add(number);
    }).observe(document.querySelector('.jp-Notebook'), {
        subtree: true, childList: true, characterData: true
    });
    const look = now => {
        window.gap = Math.max(window.gap, now - last);
        last = now;
        painted.port2.postMessage(0);  // it comes when this frame has been painted
        requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
}"""
MODEL = "jupyterapp.shell.currentWidget.content.model"
# When the notebook holds so many cells, the last of them with an output, and they are drawn.
ALL_THERE = f"""async ([most, started]) => {{
    const cells = () => [...{MODEL}.cells];
    for (;;) {{
        await new Promise(requestAnimationFrame);
        const all = cells();
        if (all.length >= most && all.filter(cell => cell.executionCount).length >= most * 0.7)
            break;
    }}
    await new Promise(requestAnimationFrame);
    await new Promise(done => setTimeout(done, 0));
    return Date.now() - started;
}}"""
OWN = f"""async most => {{
    const shared = {MODEL}.sharedModel, started = Date.now();
    for (let i = 0; i < most; i++) {{
        const outputs = [{{output_type: 'stream', name: 'stdout', text: `${{i}}\\n`}}];
        const code = {{cell_type: 'code', source: `print(${{i}})`, execution_count: i, outputs}};
        const prose = {{cell_type: 'markdown', source: `### Step ${{i}}\\nSome *text* here.`}};
        shared.insertCell(shared.cells.length, i % 4 ? code : prose);
        await new Promise(requestAnimationFrame);
    }}
    await new Promise(done => setTimeout(done, 0));
    return Date.now() - started;
}}"""

# Writes pieces into the last cell by JupyterLab's own document, so many a second; tells when.
TYPE = f"""async ([before, pieces, rate]) => {{
    const cells = {MODEL}.sharedModel.cells, cell = cells[cells.length - 1];
    const source = cell.getSource();
    cell.updateSource(source.length, source.length, before);
    await new Promise(done => setTimeout(done, 500));
    const sent = [], began = performance.now();
    for (const [i, piece] of pieces.entries()) {{
        await new Promise(done => setTimeout(done, began + i * 1000 / rate - performance.now()));
        sent.push([Date.now() / 1000, piece]);
        const end = cell.getSource().length;
        cell.updateSource(end, end, piece);
    }}
    await new Promise(done => setTimeout(done, 500));
    return sent;
}}"""


def main() -> None:
    """Measure, and print."""
    chat = ChatServer()
    with tempfile.TemporaryDirectory() as scratch:
        folder, home = Path(scratch, "served"), Path(scratch, "home")
        folder.mkdir()
        home.mkdir()
        with serving(folder, home) as lab, browsing() as browser:

            def page(name: str, *sources: str) -> Any:
                return opened_anew(lab, browser, lab.write(f"{name}.ipynb", *sources), height=1000)

            for name in ("prose", "code", "36 KB of code"):
                task = f"%%agent -m {chat.model} --data none\nx"
                with page(name.replace(" ", "-"), LOAD, task) as notebook:
                    tokens_to_text(notebook, chat, name)
            with page("own", "1") as notebook:
                own = notebook.page.evaluate(OWN, CELLS)
                print(f"{CELLS} cells by JupyterLab's own insertCell: {own / 1000:.1f} s")
            with page("streamed", FEED, f"cells({CELLS})") as notebook:
                took = feed(notebook)
                print(f"{CELLS} cells streamed: {took / 1000:.1f} s, {took / own:.2f} of that")
            with page("at-once", FEED, "import time; time.sleep(3); cells(200)") as notebook:
                at_once(notebook)
            with page("tokens", FEED, f"tokens({UPDATES})") as notebook:
                many_tokens(notebook)
    chat.close()


def tokens_to_text(notebook: NotebookPage, chat: ChatServer, name: str) -> None:
    """Measure from the moment a server sends a token to the frame that shows it."""
    words = [f"w{number}w" for number in range(TOKENS)]
    lines = [" ".join(words[start : start + 10]) for start in range(0, TOKENS, 10)]
    before, text = "", "\n".join(lines)
    if name != "prose":
        many = LINES if "36 KB" in name else 0
        before = "".join(f"v{number:03}='{'x' * 52}'\n" for number in range(many))
        text = "\n".join(f'"{line}"' for line in lines)
    reply = Reply(text if name == "prose" else f"```python\n{before}{text}\n```", delay=1 / RATE)
    chat.replies = [reply, Reply("ok")]
    notebook.run(0)
    notebook.page.evaluate(WATCH)

    def agent() -> list[tuple[float, str]]:
        notebook.run(1)
        return reply.sent

    def own() -> list[tuple[float, str]]:
        pieces = re.findall(r"\S+\s*", re.sub(r"w(\d+)w", r"w9\1w", text))  # other words
        sent: list[tuple[float, str]] = notebook.page.evaluate(TYPE, [before, pieces, RATE])
        return sent

    agents, share = measured(notebook, agent)
    owns, own_share = measured(notebook, own)
    for what, of, own_of in (("median", agents[0], owns[0]), ("p95", agents[1], owns[1])):
        print(
            f"a token of {name} to visible text: {what} {of:.0f} ms,"
            f" {of / own_of:.1f} times what the document itself takes ({own_of:.0f} ms)"
        )
    ratio, load = share / own_share, os.getloadavg()[0]
    print(f"  the page's share of a core: {share:.0%}, {ratio:.1f} times its own; load {load:.1f}")


def measured(
    notebook: NotebookPage, write: Callable[[], Iterable[tuple[float, str]]]
) -> tuple[tuple[float, float], float]:
    """Return median and p95 of the milliseconds to paint, and the page's share of a core."""
    page = notebook.page
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def busy() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return sum(each["value"] for each in metrics if each["name"] == "TaskDuration")

    page.evaluate("window.drawn = {}")
    before, sent = busy(), {}
    pieces = list(write())
    for moment, piece in pieces:
        for number in re.findall(r"w(\d+)w", piece):
            sent[number] = moment
    share = (busy() - before) / (pieces[-1][0] - pieces[0][0])
    drawn = page.evaluate("window.drawn")
    took = sorted(drawn[number] - sent[number] * 1000 for number in sent if number in drawn)
    return (statistics.median(took), took[int(len(took) * 0.95)]), share


def feed(notebook: NotebookPage) -> int:
    """Stream cells; return the milliseconds until they are drawn."""
    notebook.run(0)
    notebook.start(1)
    took: int = notebook.page.evaluate(ALL_THERE, [CELLS, time.time() * 1000])
    return took


def at_once(notebook: NotebookPage) -> None:
    """Miss a whole run, and get it when the page comes back."""
    notebook.run(0)
    notebook.start(1)
    notebook.page.wait_for_timeout(1500)
    notebook.leave()
    time.sleep(6)
    heard: list[float] = []

    def route(socket: Any) -> None:
        server = socket.connect_to_server()

        def note(message: Any) -> None:
            text = message if isinstance(message, str) else message.decode("utf-8", "replace")
            if "jupyter_agent_reply" in text:
                heard.append(time.time() * 1000)
            socket.send(message)

        server.on_message(note)

    notebook.route_channels(route)
    notebook.reload()
    while not heard:
        notebook.page.wait_for_timeout(10)
    took = notebook.page.evaluate(ALL_THERE, [CELLS, heard[0]])
    print(f"{CELLS} cells at once, as a page comes back: {took / 1000:.2f} s")


def many_tokens(notebook: NotebookPage) -> None:
    """Grow one cell token by token."""
    notebook.run(0)
    notebook.page.evaluate(WATCH)
    started = time.time()
    notebook.start(1)
    prompt = notebook.cells.last.locator(".jp-InputPrompt")  # the agent's cell stands above
    expect(prompt).to_have_text(re.compile(r"\[\d+\]"), timeout=PATIENCE)
    gap = notebook.page.evaluate("window.gap")
    took = time.time() - started
    print(f"{UPDATES:,} tokens into one cell: {took:.1f} s, longest pause of the page {gap:.0f} ms")


if __name__ == "__main__":
    main()
