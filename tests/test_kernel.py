"""The agent kernel: every cell, the user's and the agent's, in one sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

F = "```"


@pytest.fixture
async def client(folder: Path) -> AsyncIterator[AsyncKernelClient]:
    manager = AsyncKernelManager(kernel_name="jupyter-agent")
    await manager.start_kernel(cwd=str(folder))
    client = manager.client()
    client.start_channels()
    client.parent = manager
    try:
        await client.wait_for_ready(timeout=30)
        yield client
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


def run(folder: Path, *cells: str) -> NotebookNode:
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
    NotebookClient(
        notebook,
        kernel_name="jupyter-agent",
        timeout=50,
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    nbformat.validate(notebook)
    return notebook


def plain(cell: NotebookNode) -> list[str]:
    return [o.get("text") or o.get("data", {}).get("text/plain") for o in cell.outputs]


def test_the_users_cells_and_the_agents_share_one_sandbox(folder: Path) -> None:
    code = "total = price * 2\nprint(total)"
    (folder / "s.md").write_text(f"x\n{F}python\n{code}\n{F}\n<!-- next reply -->\n**84**\n")
    notebook = run(
        folder,
        "price = 42",
        "%%agent -m scripted:s.md\nDouble {price}?",
        "total",
        "import os; os.getenv('HOME'), os.path.exists('/root/.ssh')",
        "%agent status",
    )
    assert plain(notebook.cells[1])[1:5] == ["x", code, "84\n", "**84**"]
    assert plain(notebook.cells[2]) == ["84"]
    assert plain(notebook.cells[3]) == ["('/home/agent', False)"]
    assert "bubblewrap, reads project/" in plain(notebook.cells[4])[0]
    assert [cell.execution_count for cell in notebook.cells] == [1, 2, 3, 4, 5]
    assert notebook.cells[2].outputs[0].execution_count == 4  # the agent.s own cell is 3


def test_a_saved_run_runs_again_without_a_model(folder: Path) -> None:
    code = "print(len(open('penguins.csv').readlines()) - 1)"
    (folder / "s.md").write_text(f"x\n{F}python\n{code}\n{F}\n<!-- next reply -->\n**344**\n")
    run(folder, "%%agent -m scripted:s.md --save run.ipynb\nHow many?")
    (folder / "s.md").unlink()
    notebook = nbformat.read(folder / "run.ipynb", as_version=4)
    assert notebook.metadata.kernelspec.name == "jupyter-agent"
    for cell in notebook.cells:
        cell.pop("outputs", None) if cell.cell_type == "markdown" else cell.update(outputs=[])
    NotebookClient(notebook, timeout=50, resources={"metadata": {"path": str(folder)}}).execute()
    assert plain(notebook.cells[2]) == ["344\n"]


async def test_errors_and_bad_input_are_error_replies(client: AsyncKernelClient) -> None:
    for code, name, said in (
        ("1/0", "ZeroDivisionError", "division by zero"),
        ("%%agent -m gpt\nx", "UsageError", "unknown model 'gpt'"),
        ("%%agent --what\nx", "UsageError", "write the task below this line"),
        (
            "%%agent --budget 0\nx",
            "UsageError",
            "a whole number above 0; %%agent? lists the options",
        ),
        ("%agent what", "UsageError", "its commands are fix, keep, models, use, status"),
    ):
        reply = await client.execute_interactive(code, output_hook=lambda _: None, timeout=40)
        assert reply["content"]["status"] == "error"
        assert reply["content"]["ename"] == name
        assert said in reply["content"]["evalue"]


async def test_completion_and_inspection_come_from_the_sandbox(client: AsyncKernelClient) -> None:
    await client.execute_interactive("a_long_name = {'k': 1}", timeout=40)
    completed = await client.complete("a_lo", reply=True, timeout=40)
    assert "a_long_name" in completed["content"]["matches"]
    inspected = await client.inspect("a_long_name", reply=True, timeout=40)
    assert "dict" in inspected["content"]["data"]["text/plain"]
    incomplete = await client.is_complete("for x in y:", reply=True, timeout=40)
    assert incomplete["content"]["status"] == "incomplete"


async def test_one_interrupt_stops_the_code_and_keeps_the_variables(
    client: AsyncKernelClient,
) -> None:
    seen = asyncio.Event()

    def hook(message: dict[str, object]) -> None:
        if message["msg_type"] == "stream":
            seen.set()

    work = asyncio.create_task(
        client.execute_interactive(
            "kept = 1\nprint('going', flush=True)\nwhile True: pass",
            output_hook=hook,
            timeout=40,
        )
    )
    await seen.wait()
    assert isinstance(client.parent, AsyncKernelManager)
    await client.parent.interrupt_kernel()
    assert (await work)["content"]["ename"] == "KeyboardInterrupt"
    reply = await client.execute_interactive("kept", output_hook=lambda _: None, timeout=40)
    assert reply["content"]["status"] == "ok"
