"""How fast the agent's cells come to the screen, from timings of a real page.

    python benchmarks/live_cells.py

Prints the time from a model's token to visible text, and what many cells and many tokens cost
beside JupyterLab's own insertCell. Needs chromium.
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from playwright.sync_api import expect

from tests.lab import PATIENCE, NotebookPage, browsing, opened, serving
from tests.servers import ChatServer, Reply

LOAD = "%load_ext jupyter_agent"
TOKENS = 150
CELLS = 200
UPDATES = 2000

# Publishes a run as fast as it can, through our own view and without a model.
FEED = """
import time
from jupyter_agent.transcript import Change, Transcript
from jupyter_agent.views.display import DisplayView, KernelOutlet
from jupyter_agent.views.runs import Runs
from nbformat.v4 import new_output

kernel = get_ipython().kernel
view = DisplayView(KernelOutlet(kernel), anchor=kernel.get_parent("shell")["metadata"]["cellId"])
runs = Runs()
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

# Notes when each numbered word is first drawn, and the longest time between two frames.
WATCH = """() => {
    window.drawn = {}; window.gap = 0; window.counts = [];
    let last = performance.now();
    const look = now => {
        window.gap = Math.max(window.gap, now - last);
        last = now;
        const text = document.querySelector('.jp-Notebook').textContent;
        for (const [, number] of text.matchAll(/w(\\d+)w/g)) window.drawn[number] ??= Date.now();
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


def main() -> None:
    """Measure, and print."""
    chat = ChatServer()
    with tempfile.TemporaryDirectory() as scratch:
        folder, home = Path(scratch, "served"), Path(scratch, "home")
        folder.mkdir()
        home.mkdir()
        options = ["--expose-app-in-browser"]
        with serving(folder, home, options=options) as lab, browsing() as browser:

            def page(name: str, *sources: str) -> Any:
                return opened(lab, browser, lab.write(f"{name}.ipynb", *sources), height=1000)

            for name in ("prose", "code"):
                task = f"%%agent -m {chat.model} --data none\nx"
                with page(name, LOAD, task) as notebook:
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
    text = "\n".join(lines)
    if name == "code":
        text = "```python\n" + "\n".join(f'"{line}"' for line in lines) + "\n```"
    reply = Reply(text, delay=0.03)
    chat.replies = [reply, Reply("ok")]
    notebook.run(0)
    notebook.page.evaluate(WATCH)
    notebook.run(1)
    drawn = notebook.page.evaluate("window.drawn")
    sent = {}
    for moment, piece in reply.sent:
        for number in re.findall(r"w(\d+)w", piece):
            sent[number] = moment
    took = sorted(drawn[number] - sent[number] * 1000 for number in sent if number in drawn)
    p95 = took[int(len(took) * 0.95)]
    median = statistics.median(took)
    print(f"a token of {name} to visible text: median {median:.0f} ms, p95 {p95:.0f} ms")


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

    notebook.page.route_web_socket(re.compile("/channels"), route)
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
