"""``%%agent`` and ``%%sandbox`` in notebooks that nbclient runs, and in a terminal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nbformat
import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from .servers import ChatServer, Reply

F = "```"
LOAD = "%load_ext jupyter_agent"
SCRIPT = f"""\
I count.

{F}python
n = len(open('penguins.csv').readlines()) - 1
print(n)
{F}
<!-- next reply -->
**344**
"""


@pytest.fixture
def script(folder: Path) -> str:
    (folder / "s.md").write_text(SCRIPT)
    return "scripted:s.md"


def run(folder: Path, *cells: str, kernel: str = "python3") -> NotebookNode:
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
    client = NotebookClient(
        notebook,
        kernel_name=kernel,
        timeout=50,
        resources={"metadata": {"path": str(folder)}},
        allow_errors=False,
    )
    done: NotebookNode = client.execute()
    nbformat.validate(done)
    return done


def plain(cell: NotebookNode) -> list[str]:
    """What a console shows of a cell's outputs."""
    return [o.get("text") or o.get("data", {}).get("text/plain") for o in cell.outputs]


@asynccontextmanager
async def user_kernel(
    folder: Path,
) -> AsyncIterator[tuple[AsyncKernelManager, AsyncKernelClient]]:
    """An ordinary kernel with the magics, and what drives it as a front end does."""
    manager = AsyncKernelManager(kernel_name="python3")
    await manager.start_kernel(cwd=str(folder))
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=30)
        client.execute(LOAD)
        yield manager, client
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


def failure(folder: Path, *cells: str) -> CellExecutionError:
    with pytest.raises(CellExecutionError) as caught:
        run(folder, LOAD, *cells)
    return caught.value


def test_each_step_is_shown_in_order_and_reads_well_as_text(folder: Path, script: str) -> None:
    notebook = run(folder, LOAD, f"%%agent -m {script}\nHow many penguins?")
    head, *steps, end = plain(notebook.cells[1])
    assert head.startswith(f"agent: {script} · bubblewrap, reads project/")
    code = "n = len(open('penguins.csv').readlines()) - 1\nprint(n)"
    assert steps == ["I count.", code, "344\n", "**344**"]
    assert end.startswith("agent: done · step 2 · ~")
    markdown = [o.data["text/markdown"] for o in notebook.cells[1].outputs if "data" in o]
    assert f"<details open>\n<summary>step 1</summary>\n\n{F}python\n{code}\n{F}" in markdown[2]
    assert all("text/plain" in o.data for o in notebook.cells[1].outputs if "data" in o)


def test_the_body_reaches_the_model_exactly_as_typed(folder: Path, server: ChatServer) -> None:
    body = "Is {x} or $y or {{z}} or %d here? äöü \U0001f427\n\n  indented? `!ls` \\n 'q' \"q\"?"
    server.replies = [Reply("no")]
    run(folder, LOAD, "x = 1", f"%%agent -m {server.model}\n{body}")
    content = server.requests[0].messages[1]["content"]
    assert content.split("\n\nFiles you can read here:")[0] == body


def test_the_sandbox_is_the_agents_and_not_the_users(folder: Path, script: str) -> None:
    notebook = run(
        folder,
        LOAD,
        "secret = 'mine'",
        f"%%agent -m {script} -q\nHow many?",
        "'n' in globals()",
        "%%sandbox\nprint(n, 'secret' in globals())\nn + 1",
        "%agent status",
        "%agent reset",
        "%%sandbox\n'n' in globals()",
    )
    assert plain(notebook.cells[2]) == ["**344**"]
    assert plain(notebook.cells[3]) == ["False"]
    assert plain(notebook.cells[4]) == ["344 False\n", "345"]
    status = plain(notebook.cells[5])[0]
    assert "bubblewrap, reads project/" in status
    assert "1, 4 cells" in status
    assert plain(notebook.cells[7]) == ["False"]


def test_a_failed_run_raises_one_line_and_stops_the_notebook(folder: Path, script: str) -> None:
    error = failure(folder, f"%%agent -m {script} -n 1\nHow many?", "after = 1")
    assert error.ename == "LimitReached"
    assert error.traceback.rstrip().endswith(
        "raise -n (c.Agent.max_steps), or make the task smaller"
    )
    assert "site-packages" not in error.traceback


@pytest.mark.usefixtures("no_ollama")
def test_without_a_model_a_table_says_what_to_copy(folder: Path) -> None:
    task = "try:\n    get_ipython().run_cell_magic('agent', '', 'Count.')\nexcept Exception as error:\n    print(error)"
    notebook = run(folder, LOAD, task, "%agent models")
    for cell in notebook.cells[1:]:
        [shown] = [
            o.data
            for o in cell.outputs
            if o.output_type == "display_data" and "text/html" in o.data
        ]
        assert "<code>hf auth login</code> in a terminal" in shown["text/html"]
    assert "no model is named: use -m MODEL" in str(notebook.cells[1].outputs)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%%agent -m gpt\nx", "unknown model 'gpt'"),
        ("%%agent\nx", "no model is named"),
        ("%%agent -m scripted:s.md\n  ", "the task is empty"),
        ("%%agent -m scripted:s.md --data gone.csv\nx", "there is no"),
        ("%%agent -m scripted:s.md --save gone/run.ipynb\nx", "the folder does not exist"),
        ("%%agent -m scripted:s.md --data 'gone too.csv'\nx", "--data 'gone too.csv': there is no"),
        ('%%agent -m scripted:s.md --save ""\nx', "the name of the file to save to is empty"),
        ("%%agent What's the heaviest?\nx", "No closing quotation; write the task below"),
        ("%%agent count them all\nx", "unrecognized arguments: count them all"),
        ("%%agent --budgt 5\nx", "--budgt 5; write the task below this line; %%agent? lists"),
        (
            "%%agent -c x\nx",
            "'x' is not a whole number above 0, nor 0 or 'all'; %%agent? lists the",
        ),
        ("%%agent --budget 0\nx", "'0' is not a whole number above 0; %%agent? lists the options"),
        ("%agent use {print(1)}", "unknown model '{print(1)}'"),
        ("%%agent -m {print(1)}\nx", "unknown model '{print(1)}'"),
        ("%agent count", "a task is written below a line %%agent"),
        ("%%sandbox -x\n1", "takes no options"),
        ("%%sandbox\n1/0", "division by zero"),
    ],
)
def test_bad_input_fails_its_cell_in_one_line(
    folder: Path, script: str, cell: str, said: str
) -> None:
    error = failure(folder, cell)
    assert said in f"{error.evalue} {error.traceback}"
    assert "Traceback (most recent call last)" not in error.traceback or "1/0" in error.traceback


def test_the_help_explains_every_flag(folder: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", "-c", f"{LOAD}\n%agent?"],
        cwd=folder, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for flag in ("--model", "--max-steps", "--data", "--save", "--timeout", "--quiet"):
        assert flag in shown
    assert "anthropic:NAME" in shown


def test_in_a_terminal_a_run_is_plain_text(folder: Path, script: str) -> None:
    (folder / "t.py").write_text(
        f"ip = get_ipython()\nip.run_line_magic('load_ext', 'jupyter_agent')\n"
        f"ip.run_cell_magic('agent', '-m {script}', 'How many?')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "t.py"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.rstrip().endswith("344\n\n**344**")


async def test_the_stop_button_stops_the_run_within_moments(folder: Path) -> None:
    code = "print('going', flush=True)\nwhile True: pass"
    (folder / "s.md").write_text(f"x\n{F}python\n{code}\n{F}\n<!-- next reply -->\nok\n")
    async with user_kernel(folder) as (manager, client):
        wanted = client.execute("%%agent -m scripted:s.md --save run.ipynb\nGo")
        stopped = 0.0
        while True:
            message = await client.get_iopub_msg(timeout=40)
            if "going" in message["content"].get("text", ""):
                stopped = time.monotonic()
                await manager.interrupt_kernel()
            if message["parent_header"].get("msg_id") == wanted and message["content"].get("ename"):
                break
        print(f"stopped in {time.monotonic() - stopped:.2f} s")
        error = message["content"]
        while message["content"].get("execution_state") != "idle":  # until then a cell is dropped
            message = await client.get_iopub_msg(timeout=40)
        assert error["ename"] == "Interrupted"
        assert len(error["traceback"]) == 1
        cells = nbformat.read(folder / "run.ipynb", as_version=4).cells
        assert cells[-1].source == "*Stopped: interrupted.*"
        client.execute("%%sandbox\nprint('alive')")
        while "alive" not in message["content"].get("text", ""):
            message = await client.get_iopub_msg(timeout=40)


async def test_a_front_end_that_names_its_cells_sees_the_reply_grow(
    folder: Path, server: ChatServer
) -> None:
    reply = f"I will add two numbers now.\n\n{F}python\nprint(1 + 1)\n{F}\n"
    server.replies = [Reply(reply, delay=0.1), Reply("It is 2.")]
    async with user_kernel(folder) as (_, client):
        request = client.session.msg(
            "execute_request",
            {"code": f"%%agent -m {server.model}\nAdd", "silent": False, "allow_stdin": False},
            metadata={"cellId": "anchor"},
        )
        client.shell_channel.send(request)
        shown: dict[str, list[str]] = {}
        while True:
            message = await client.get_iopub_msg(timeout=40)
            if message["parent_header"].get("msg_id") != request["header"]["msg_id"]:
                continue
            if message["content"].get("execution_state") == "idle":
                break
            if message["msg_type"] in ("display_data", "update_display_data"):
                key = message["content"]["transient"]["display_id"]
                shown.setdefault(key, []).append(message["content"]["data"]["text/plain"])
    header, prose, code, answer = shown.values()
    assert header[0].startswith("agent: Starting the sandbox")
    assert any(text.startswith("agent: working · step 0") for text in header)
    assert header[-1].startswith("agent: done · step 2")
    assert len(prose) > 2
    assert all("I will add two numbers now.".startswith(text) for text in prose)
    assert code[-1] == "print(1 + 1)"
    assert answer[-1] == "It is 2."


def test_another_projects_package_beside_ours_is_named(folder: Path, tmp_path: Path) -> None:
    rival = tmp_path / "site" / "jupyter_agent-2025.7.105.dist-info"
    rival.mkdir(parents=True)
    (rival / "METADATA").write_text("Metadata-Version: 2.1\nName: jupyter-agent\nVersion: 2025.7\n")
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "-c", LOAD],
        env=os.environ | {"PYTHONPATH": str(rival.parent)},
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "pip uninstall jupyter-agent" in done.stdout


def test_in_a_console_a_run_reads_well(folder: Path, script: str) -> None:
    if not shutil.which("tmux"):
        pytest.fail("tmux is missing; .ci/run installs it")
    socket, session = f"ja-{os.getpid()}", "console"
    tmux = ["tmux", "-L", socket]
    jupyter = Path(sys.executable).with_name("jupyter")
    subprocess.run(
        [
            *(*tmux, "new-session", "-d", "-s", session, "-x", "100", "-y", "60"),
            *("-c", str(folder), f"{jupyter} console --kernel python3"),
        ],
        check=True,
    )

    def screen() -> str:
        shot = subprocess.run([*tmux, "capture-pane", "-p", "-t", session], capture_output=True, text=True, check=False)  # fmt: skip
        return shot.stdout

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + 40
        while text not in screen():
            assert time.monotonic() < deadline, screen()
            time.sleep(0.1)

    def type_in(*keys: str) -> None:
        subprocess.run([*tmux, "send-keys", "-t", session, *keys], check=True)

    try:
        wait_for("In [1]:")
        type_in(LOAD, "Enter")
        wait_for("In [2]:")
        type_in(f"%%agent -m {script}", "Enter")
        wait_for(script)
        type_in("How many penguins?", "Enter", "Enter")
        type_in("M-Enter")
        wait_for("agent: done · step 2")
        shown = screen()
        for text in ("I count.", "print(n)", "344", "**344**"):
            assert text in shown
        assert "<details" not in shown
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)


def test_saved_metadata_holds_no_key(
    folder: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_AGENT_API_KEY", "sk-decoy")
    monkeypatch.setenv("JUPYTER_AGENT_MODEL", server.model)
    server.replies = [Reply("ok")]
    notebook = run(folder, LOAD, f"%%agent -m {server.model} --save run.ipynb\nx", "%agent status")
    saved = (folder / "run.ipynb").read_text()
    assert "sk-decoy" not in saved + json.dumps(notebook)
    assert server.requests[0].headers["authorization"] == "Bearer sk-decoy"
