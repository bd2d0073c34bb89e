"""The loop, with scripted replies and a kernel of a few lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_output

from jupyter_agent.agent import Agent
from jupyter_agent.errors import LimitReached, ModelError
from jupyter_agent.models.scripted import ScriptedModel
from jupyter_agent.protocol import Delta, Message, Usage
from jupyter_agent.transcript import KEY, Transcript

STEP = "I compute.\n\n```python\n{}\n```\n"


class Echo:
    """A kernel whose output is its code; ``forever`` never ends."""

    def __init__(self) -> None:
        self.execution_count: int | None = None
        self.ran: list[str] = []
        self.interrupted = False

    async def execute(self, code: str) -> AsyncGenerator[NotebookNode, None]:
        self.ran.append(code)
        self.execution_count = len(self.ran)
        try:
            yield new_output("stream", name="stdout", text=f"{code}\n")
            while code == "forever":
                await asyncio.sleep(0.01)
        finally:
            self.interrupted = code == "forever"


class Recorder(ScriptedModel):
    """A scripted model that keeps what it was sent."""

    def __init__(self, replies: list[str]) -> None:
        super().__init__(replies)
        self.requests: list[str] = []

    async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        self.requests.append(json.dumps(messages))
        async with aclosing(super().stream(messages)) as deltas:
            async for delta in deltas:
                yield delta


def agent_with(*replies: str, path: Path | None = None, **limits: float) -> Agent:
    return Agent(Recorder(list(replies)), Echo(), Transcript(path), **limits)


async def run(agent: Agent, task: str = "Do it") -> None:
    async with aclosing(agent.run(task)) as changes:
        async for _ in changes:
            pass


def roles(agent: Agent) -> list[str]:
    return [cell.metadata[KEY]["role"] for cell in agent.transcript.cells]


async def test_a_run_is_carried_to_its_answer() -> None:
    agent = agent_with(STEP.format("x"), STEP.format("y"), "**42**")
    await run(agent)
    assert roles(agent) == ["task", "prose", "code", "prose", "code", "prose"]
    assert agent.transcript.answer == "**42**"
    assert [c.execution_count for c in agent.transcript.cells if c.cell_type == "code"] == [1, 2]


async def test_each_request_extends_the_one_before() -> None:
    agent = agent_with(*[STEP.format(f"x{i}") for i in range(5)], "done", "again")
    await run(agent)
    await run(agent, "More")
    requests = agent.model.requests  # type: ignore[attr-defined]
    assert len(requests) == 7
    for before, after in pairwise(requests):
        assert after.startswith(before[:-1])


async def test_a_run_gone_on_with_sends_what_it_sent_before(tmp_path: Path) -> None:
    agent = agent_with(STEP.format("x"), "done", path=tmp_path / "run.ipynb")
    await run(agent)
    saved = Transcript.open(tmp_path / "run.ipynb")
    assert json.dumps(saved.messages()) == json.dumps(agent.transcript.messages())


async def test_prose_and_code_stream_into_cells_of_their_own() -> None:
    agent = agent_with(STEP.format("a = 1\nb = 2"), "ok")
    seen = []
    async for change in agent.run("Do it"):
        seen.append((change.cell.cell_type, change.cell.source, change.done))
    prose = [source for kind, source, _ in seen if kind == "markdown"]
    assert not any("`" in source for source in prose)
    code = [source for kind, source, _ in seen if kind == "code"]
    assert code[0] == ""
    assert "a = 1\nb =" in " ".join(code)
    assert [done for _, source, done in seen if source == "I compute."][-1]


async def test_a_view_may_edit_the_code_before_it_runs() -> None:
    agent = agent_with(STEP.format("x"), "ok")
    async for change in agent.run("Do it"):
        if change.cell.metadata[KEY].get("running") and not change.cell.outputs:
            change.cell.source = "edited"
    assert agent.sandbox.ran == ["edited"]  # type: ignore[attr-defined]


async def test_a_run_without_an_answer_says_so_and_is_saved(tmp_path: Path) -> None:
    agent = agent_with(STEP.format("x"), STEP.format("y"), path=tmp_path / "r.ipynb", max_steps=2)
    with pytest.raises(LimitReached, match="no answer after 2 steps"):
        await run(agent)
    notebook = nbformat.read(tmp_path / "r.ipynb", as_version=4)
    assert "no answer after 2 steps" in notebook.cells[-1].source
    assert roles(agent)[-2:] == ["code", "end"]


async def test_the_clock_stops_a_cell() -> None:
    agent = agent_with(STEP.format("forever"), max_seconds=0.1)
    with pytest.raises(LimitReached, match=r"no answer after 0.1 s"):
        await run(agent)
    assert agent.sandbox.interrupted  # type: ignore[attr-defined]
    assert agent.transcript.cells[2].outputs[-1].ename == "TimeLimit"


async def test_the_token_budget_stops_an_endless_reply() -> None:
    agent = agent_with("word " * 10_000, token_budget=3_000)
    with pytest.raises(LimitReached, match="of 3,000 tokens are used"):
        await run(agent)
    assert roles(agent) == ["task", "end"]


async def test_a_cancelled_run_leaves_a_whole_saved_notebook(tmp_path: Path) -> None:
    agent = agent_with(STEP.format("x"), STEP.format("forever"), path=tmp_path / "r.ipynb")
    task = asyncio.create_task(run(agent))
    while "forever" not in agent.sandbox.ran:  # type: ignore[attr-defined]
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert agent.sandbox.interrupted  # type: ignore[attr-defined]
    notebook = nbformat.read(tmp_path / "r.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[-2].outputs[-1].ename == "KeyboardInterrupt"
    assert notebook.cells[-1].source == "*Stopped: interrupted.*"
    assert "running" not in notebook.cells[-2].metadata[KEY]


async def test_cancelling_hands_out_the_last_changes() -> None:
    agent = agent_with(STEP.format("forever"))
    changes = agent.run("Do it")
    async for change in changes:
        if change.cell.get("outputs"):
            break
    step = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0.02)
    step.cancel()
    assert (await step).cell.cell_type == "code"
    assert (await anext(changes)).cell.metadata[KEY]["role"] == "end"
    with pytest.raises(asyncio.CancelledError):
        await anext(changes)


async def test_half_a_reply_is_taken_back() -> None:
    class Broken(ScriptedModel):
        async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
            yield Delta("I will\n\n```python\nrm =")
            raise ModelError("it broke off")

    agent = Agent(Broken([]), Echo())
    taken_back = []
    with pytest.raises(ModelError):
        async for change in agent.run("Do it"):
            if change.done and not change.cell.source:
                taken_back.append(change.cell.cell_type)
    assert taken_back == ["markdown", "code"]
    assert roles(agent) == ["task", "end"]
    assert agent.sandbox.ran == []  # type: ignore[attr-defined]


async def test_a_consumer_that_leaves_ends_the_run_well() -> None:
    agent = agent_with(STEP.format("forever"))
    async with aclosing(agent.run("Do it")) as changes:
        async for change in changes:
            if change.cell.get("outputs"):
                break
    assert agent.sandbox.interrupted  # type: ignore[attr-defined]
    assert roles(agent)[-1] == "end"


async def test_an_empty_reply_is_an_error_not_an_answer() -> None:
    agent = agent_with("")
    with pytest.raises(ModelError, match="empty reply"):
        await run(agent)


async def test_what_servers_count_is_recorded_with_the_step() -> None:
    class Counted(ScriptedModel):
        async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
            yield Delta("ok")
            yield Delta(usage=Usage(11, 5, 8))

    agent = Agent(Counted([]), Echo())
    await run(agent)
    usage = agent.transcript.cells[-1].metadata[KEY]["usage"]
    assert usage == {"prompt": 11, "completion": 5, "cached": 8}
    assert agent.transcript.usage == Usage(11, 5, 8)


async def test_the_models_markdown_makes_no_browser_fetch() -> None:
    agent = agent_with("See ![x](http://evil/?d=1) <img src=//evil> and `<b>` ok")
    await run(agent)
    assert (
        agent.transcript.answer
        == "See !\u2060[x](http://evil/?d=1) <\u2060img src=//evil> and `<\u2060b>` ok"
    )


async def test_prose_that_a_view_has_changed_stays_so() -> None:
    agent = agent_with(STEP.format("1\n2\n3"), "Done.")
    async for change in agent.run("x"):
        if change.done and change.cell.source == "I compute.":
            change.cell.source = "Somebody else does."
    assert agent.transcript.cells[1].source == "Somebody else does."
