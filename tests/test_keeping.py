"""The names that kept cells lack, and ``%agent keep`` where no page does it."""

from __future__ import annotations

from pathlib import Path

import pytest

from jupyter_agent.frontends.keeping import lacking_names

from .servers import ChatServer, Reply
from .test_own_notebook import LOAD, run, said


@pytest.mark.parametrize(
    ("cells", "lacks"),
    [
        (["import pandas as pd\nx = df['a']\nfor i in range(3): print(i, x, pd)"], ["df"]),
        (["y = x", "x = 1"], ["x"]),
        (["def f(a): return a + later(a)", "def later(a): return a"], []),
        (["def f(): return [gone for _ in range(3)]"], ["gone"]),
        (["y += 1", "z: int = y"], ["y"]),
        (["with open('f') as file: rows = [r for r in file if limit]"], ["limit"]),
        (
            ["class A(Base):\n  k = 1\n  j = k + w\n  def m(self): return super().m()"],
            ["Base", "w"],
        ),
        (["%matplotlib inline\nawait fetched()"], ["get_ipython", "fetched"]),
        (["not Python at all", "ok = known"], []),
        (["x = " + "(" * 5000], []),
        (["lambda: " * 2400 + "deep"], ["deep"]),
        (['print(f"{wide % 2 != 0!r}?")\n' * 60], ["wide"]),  # no command of IPython's
        (["!x\n" * 600], []),
        ([",x y\n" * 600], []),
        (["!x\n" * 400 + "x\n" * 6000], []),
    ],
)
def test_names_that_cells_read_before_they_set_them(cells: list[str], lacks: list[str]) -> None:
    assert lacking_names(cells, {"known"}) == lacks


def step(code: str) -> Reply:
    return Reply(f"x\n\n```python\n{code}\n```")


@pytest.mark.parametrize("kernel", ["python3", "jupyter-agent"])
def test_without_a_page_the_code_is_offered_as_one_cell(
    folder: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    monkeypatch.setenv("JUPYTER_AGENT_MODEL", server.model)
    server.replies = [step("n = given"), step("given = 1"), step("n = given + 1"), Reply("2")]
    load = [LOAD] * (kernel == "python3")
    *_, cell = run(folder, *load, "mine = 1", "%%agent\nAdd.", "%agent keep", kernel=kernel)
    assert cell.metadata.offers == ["given = 1\n\nn = given + 1"]
    own = ": they run in your kernel, with your rights" if kernel == "python3" else ""
    assert said(cell).strip() == f"2 cells of code are yours now{own}; 1 that failed is left out"


def test_what_the_users_kernel_lacks_is_named(folder: Path, server: ChatServer) -> None:
    server.replies = [step("import math\ntotal = math.pi * mine * theirs"), Reply("ok")]
    ask = f"%%agent -m {server.model} -i mine,theirs\nMultiply."
    *_, cell = run(folder, LOAD, "mine = theirs = 1", ask, "del theirs", "%agent keep")
    assert said(cell).strip() == (
        "1 cell of code is yours now: it runs in your kernel, with your rights; "
        "missing there: theirs"
    )


def test_without_a_run_there_is_nothing_to_keep(folder: Path) -> None:
    *_, cell = run(folder, LOAD, "%agent keep")
    assert said(cell) == "there is no code to keep: the last run of this session has run none"
    assert cell.metadata.offers == []
