"""What ``-c`` tells of the user's own notebook, and ``%agent fix``, in real kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from .servers import ChatServer, Reply

LOAD = "%load_ext jupyter_agent"
F = "```"
MENDED = f"There is no column `mass`.\n\n{F}text\nframe['kg'].mean()\n{F}\n"


def run(folder: Path, *cells: str, kernel: str = "python3") -> list[NotebookNode]:
    """Run cells, also after one that fails; return them with the replies' payloads as metadata."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
    payloads: dict[int, Any] = {}

    def note(cell_index: int, execute_reply: dict[str, Any], **_: Any) -> None:
        payloads[cell_index] = execute_reply["content"].get("payload", [])

    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, kernel_name=kernel, timeout=50, resources=resources, allow_errors=True,
        on_cell_executed=note,
    )  # fmt: skip
    client.execute()
    for index, found in payloads.items():
        notebook.cells[index].metadata["offers"] = [each["text"] for each in found]
    done: list[NotebookNode] = notebook.cells
    return done


def said(cell: NotebookNode) -> str:
    """What a cell puts out, as text."""
    return "\n".join(
        output.get("evalue") or output.get("text") or output.get("data", {}).get("text/plain", "")
        for output in cell.outputs
    )


def told(server: ChatServer, request: int = 0) -> str:
    """What the model reads of the user with its first request."""
    content = server.requests[request].messages[-1]["content"]
    assert isinstance(content, str)
    return content


def test_the_model_reads_the_users_last_cells_and_names_but_no_values(
    folder: Path, server: ChatServer
) -> None:
    server.replies = [Reply("ok")]
    cells = run(
        folder,
        "import pandas as pd\nfirst = 'not among the last two'",
        LOAD,
        "secret = 'x'.join('ab')\nframe = pd.DataFrame({' kg': [1.5, 2.5]})\nprint('it', 'came')",
        "class Lazy:\n    @property\n    def shape(self): raise SystemExit\n    __repr__ = shape\n"
        "lazy = Lazy()\nf'a fence: {\"`\" * 3}'",
        f"%%agent -m {server.model} -c 2\nWhat next?",
    )
    text = told(server)
    assert "print('it', 'came')" in text
    assert "it came" in text
    assert "a fence: ```" in text
    assert "````" in text  # around that
    assert "not among" not in text
    assert "load_ext" not in text
    assert "- `frame`: DataFrame, 2 rows x 1 columns" in text
    assert "- `lazy`: Lazy" in text
    assert "- `secret`: str" in text
    assert "axb" not in text
    assert "`pd`" not in text
    assert text.index("What next?") < text.index("In [4]") < text.index("- `lazy`")
    assert "told: 2 cells, 5 names" in said(cells[-1])


def test_nothing_of_the_notebook_is_told_unasked(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply("ok")]
    cells = run(folder, LOAD, "mine = 1", f"%%agent -m {server.model}\nWhat next?")
    assert "mine" not in told(server)
    assert "told" not in said(cells[-1])


def test_a_setting_tells_it_with_each_task_and_once(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply("one"), Reply("two")]
    run(
        folder,
        LOAD,
        "get_ipython().config.AgentMagics.context = 'all'",
        "mine = 1",
        f"%%agent -m {server.model}\nFirst",
        "later = 2",
        f"%%agent -m {server.model} -c 0\nSecond",
    )
    first, second = (request.messages for request in server.requests)
    assert "mine = 1" in told(server)
    assert second[: len(first)] == first  # as it was
    assert "later" not in str(second)


def test_the_agent_kernel_says_what_is_for_the_users_own_kernel(folder: Path) -> None:
    flags = ["-c 3", "--background", "-i df"]
    tasks = [f"%%agent {each} -m scripted:s.md\nx" for each in flags]
    *cells, last = run(folder, *tasks, "%agent wait", kernel="jupyter-agent")
    for cell, name in zip(cells, ["-c/--context", "--background", "-i/--input"], strict=True):
        assert said(cell) == (
            f"%%agent: argument {name}: it is for your own kernel, and here the agent shares the "
            "kernel of your cells; leave it out; %%agent? lists the options"
        )
    assert said(last) == "no run is in the background: here a run keeps its cell busy"


def test_a_cell_that_was_told_is_not_told_again(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply("one"), Reply("two")]
    ask = f"%%agent -m {server.model} -c"
    server.replies += [Reply("three")]
    cells = ["mine = 1", f"{ask}\nFirst", "later = 2", f"{ask}\nSecond", f"{ask}\nThird"]
    *_, last = run(folder, LOAD, *cells)
    assert "told: no new cell, 2 names" in said(last)
    assert "mine = 1" not in told(server, 1)
    assert "later = 2" in told(server, 1)
    assert "`mine`" in told(server, 1)  # names are: they change


FAILING = "frame = pd.DataFrame({'kg': [1.5]})\nframe['mass'].mean()"


@pytest.mark.parametrize("kernel", ["python3", "jupyter-agent"])
def test_the_last_error_is_explained_and_a_mended_cell_offered(
    folder: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    monkeypatch.setenv("JUPYTER_AGENT_MODEL", server.model)
    server.replies = [Reply(MENDED)]
    *_, cell = run(
        folder,
        *[LOAD] * (kernel == "python3"),
        "import pandas as pd",
        FAILING,
        "after = 'it'",
        "%agent fix don't drop rows",
        kernel=kernel,
    )
    text = told(server)
    assert FAILING in text
    assert "KeyError: 'mass'" in text
    assert "site-packages" not in text
    assert "don't drop rows" in text
    assert cell.metadata.offers == ["frame['kg'].mean()"]
    assert "There is no column" in said(cell)


def test_the_error_is_mended_by_the_model_of_the_last_run(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply("Done."), Reply(MENDED)]
    *_, cell = run(folder, LOAD, f"%%agent -m {server.model}\nGo", "1/0", "%agent fix")
    assert "ZeroDivisionError" in told(server, 1)
    assert cell.metadata.offers == ["frame['kg'].mean()"]


def test_an_error_from_before_the_magics_is_found(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply("No block.")]
    *_, cell = run(folder, "1 +", LOAD, f"%agent fix -m {server.model}")
    assert "SyntaxError" in told(server)
    assert "that of In [1]" in told(server)
    assert "none is offered" in said(cell)
    assert cell.metadata.offers == []


@pytest.mark.parametrize("kernel", ["python3", "jupyter-agent"])
def test_without_an_error_nothing_is_asked(folder: Path, server: ChatServer, kernel: str) -> None:
    cells = [LOAD, "%%agent -m nobody\nfails, but is no cell of the user's"]
    *_, cell = run(folder, *cells[kernel != "python3" :], f"%agent fix -m {server.model}", kernel=kernel)  # fmt: skip
    assert "there is no error of yours" in said(cell)
    assert server.requests == []
