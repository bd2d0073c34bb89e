"""Wrong arguments of the public names are refused at once, in one line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jupyter_agent import Agent, Sandbox, Session, Transcript, tool
from jupyter_agent.errors import UsageError
from jupyter_agent.exchange.run_options import RunOptions
from jupyter_agent.models import load_model

AGENT: Any = Agent
SANDBOX: Any = Sandbox
SESSION: Any = Session
TRANSCRIPT: Any = Transcript
TOOL: Any = tool


class Runner:
    """Something that could run cells."""

    execution_count = None

    def execute(self, code: str) -> None:
        """Run nothing."""


CASES: list[tuple[Callable[[], object], str]] = [
    (lambda: AGENT("ollama:q", Runner()), "model must be a model, as load_model() returns it"),
    (lambda: AGENT(load_model("ollama:q"), 3), "sandbox must be a Sandbox, not 3 (int)"),
    (
        lambda: AGENT(load_model("ollama:q"), Runner(), "run.ipynb"),
        "transcript must be a Transcript, not 'run.ipynb' (str)",
    ),
    (
        lambda: AGENT(load_model("ollama:q"), Runner(), asker=3),
        "Agent has no argument 'asker'; it has config, context_window,",
    ),
    (lambda: SESSION(3), "folder must be a path, not 3 (int)"),
    (lambda: SESSION(asker=3), "Session has no argument 'asker'; is it 'ask'?"),
    (
        lambda: SESSION(tools="math:sqrt"),
        "tools must be a list of functions or of their names, not 'math:sqrt' (str)",
    ),
    (lambda: SESSION(tools=[3]), "tools must be a list of functions"),
    (lambda: SESSION().execute(3), "code must be a text, not 3 (int)"),
    (lambda: asyncio.run(SESSION().fetch(3)), "name must be a path, not 3 (int)"),
    (lambda: SANDBOX(3), "folder must be a path, not 3 (int)"),
    (lambda: SANDBOX(data="none"), "data must be a list of paths, not 'none' (str)"),
    (lambda: SANDBOX(foldr="."), "Sandbox has no argument 'foldr'; "),
    (lambda: TRANSCRIPT(3), "path must be a path, not 3 (int)"),
    (lambda: TRANSCRIPT.open(3), "path must be a path, not 3 (int)"),
    (lambda: TRANSCRIPT.open("~no-such-user/x"), "path '~no-such-user/x' is not a valid path: "),
    (lambda: TRANSCRIPT("a\0b"), r"path 'a\x00b' is not a valid path: "),
    (lambda: SESSION("~no-such-user"), "folder '~no-such-user' is not a valid path: "),
    (lambda: SANDBOX("~no-such-user"), "folder '~no-such-user' is not a valid path: "),
    (lambda: TOOL(3), "function must be a function, not 3 (int)"),
    (lambda: SESSION(10**5000), "folder must be a path, not a value that is too long (int)"),
    (
        lambda: SESSION(type("\x1b[2J\n", (), {"__repr__": lambda _: "\x1b]"})()),
        r"folder must be a path, not \x1b] (\x1b[2J )",
    ),
    (lambda: RunOptions.of(None, {"budget": Fraction(10**400)}), "budget must be a number"),
    (lambda: TOOL(ask="yes"), "ask must be True or False, not 'yes' (str)"),
]


@pytest.mark.parametrize(("call", "line"), CASES, ids=[str(number) for number in range(len(CASES))])
def test_a_wrong_argument_is_refused_in_one_line(call: Callable[[], object], line: str) -> None:
    with pytest.raises(UsageError) as refused:
        call()
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def test_a_folder_or_a_file_may_be_given_as_text(tmp_path: Path) -> None:
    assert Session(str(tmp_path)).folder == tmp_path
    assert Transcript(str(tmp_path / "run.ipynb")).path == tmp_path / "run.ipynb"


def test_what_is_as_good_as_a_list_a_number_or_nothing_is_taken() -> None:
    options = {
        "model": None,
        "max_steps": np.int64(3),
        "data": [Path("a.csv"), "b"],
        "timeout": np.int32(30),
        "budget": 1e6,
        "outputs": np.array(["total"]),
    }
    chosen = RunOptions.of(None, options)
    assert (chosen.model, chosen.max_steps, chosen.data) == ("", 3, ["a.csv", "b"])
    assert (chosen.timeout, chosen.budget, chosen.outputs) == (30, 1_000_000, ["total"])
    assert RunOptions.of(None, {"outputs": {"total": 1}.keys()}).outputs == ["total"]


@pytest.mark.parametrize("budget", [1.5, np.nan, np.inf, True])
def test_a_budget_that_is_no_whole_number_is_refused(budget: object) -> None:
    with pytest.raises(UsageError, match="budget must be a number of tokens"):
        RunOptions.of(None, {"budget": budget})


def test_tools_may_stand_in_a_set() -> None:
    assert Session(tools={repr})._functions == [repr]


@pytest.mark.usefixtures("folder")
async def test_a_file_is_fetched_to_a_path(tmp_path: Path) -> None:
    session = Session(tmp_path)
    async with aclosing(session.execute("open('x.csv', 'w').write('1')")) as outputs:
        assert [output async for output in outputs]
    assert await session.fetch(Path("x.csv"), Path("y.csv")) == tmp_path / "y.csv"
    await session.close()
