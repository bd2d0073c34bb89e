"""The loop, with scripted replies and a kernel of a few lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_output

from jupyter_agent.agent.loop import Agent
from jupyter_agent.agent.reply import Reply
from jupyter_agent.errors import LimitReached, ModelError
from jupyter_agent.models.protocol import Call, Delta, Form, Message, Usage
from jupyter_agent.models.scripted import ScriptedModel
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Change, Transcript

from .conftest import counted_turns

FENCE = "```"
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
            if code == "fail":
                yield new_output("error", ename="E", evalue="", traceback=["E"])
            while code == "forever":
                await asyncio.sleep(0.01)
        finally:
            self.interrupted = code == "forever"


class Talker:
    """A model whose replies are written as the pieces they arrive in."""

    name = "talker"
    window: int | None = None

    def __init__(self, *replies: list[Delta], form: Form = "tool") -> None:
        self.form: Form = form
        self.replies = list(replies)
        self.requests: list[str] = []

    async def check(self) -> None:
        pass

    async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        self.requests.append(json.dumps(messages))
        for delta in self.replies.pop(0):
            yield delta
            await asyncio.sleep(0)


def calls(*codes: str, text: str = "", kept: dict[str, str] | None = None) -> list[Delta]:
    """A reply that makes native calls, in small pieces."""
    deltas = [Delta(kept=kept)] if kept else []
    deltas += [Delta(text)] if text else []
    for index, code in enumerate(codes):
        deltas.append(Delta(call=Call(index, f"id-{index}")))
        arguments = code if code.startswith("{") else json.dumps({"code": code})
        pieces = [arguments[i : i + 3] for i in range(0, len(arguments), 3)]
        deltas += [Delta(call=Call(index, arguments=piece)) for piece in pieces]
    return deltas


def said(text: str) -> list[Delta]:
    return [Delta(text)]


def talk(*replies: list[Delta], form: Form = "tool", path: Path | None = None) -> Agent:
    return Agent(Talker(*replies, form=form), Echo(), Transcript(path))


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


def agent_with(*replies: str, path: Path | None = None, **limits: Any) -> Agent:
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
    assert "a = 1\nb =" in " ".join(code)
    assert [source for kind, source, done in seen if done and kind == "markdown"] == [
        "Do it", "I compute.", "ok",
    ]  # fmt: skip


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


async def test_the_token_budget_stops_before_a_call_it_does_not_cover(tmp_path: Path) -> None:
    first = agent_with("**42**")
    await run(first)
    budget = first.transcript.total_usage.tokens * 3 // 2
    path = tmp_path / "r.ipynb"
    agent = agent_with(STEP.format("x"), STEP.format("y"), path=path, token_budget=budget)
    with pytest.raises(LimitReached, match=rf"of {budget:,} tokens are used .* --budget"):
        await run(agent)
    assert len(agent.model.requests) == 1  # type: ignore[attr-defined]
    assert 0 < agent.transcript.total_usage.tokens <= budget
    assert [c.metadata[KEY]["role"] for c in nbformat.read(path, 4).cells] == roles(agent)
    assert roles(agent) == ["task", "prose", "code", "end"]


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


async def test_a_run_cancelled_twice_keeps_the_cost_of_a_stream_that_is_still_closing() -> None:
    class Slow(ScriptedModel):
        def __init__(self) -> None:
            super().__init__([])
            self.closing, self.may_close = asyncio.Event(), asyncio.Event()

        async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
            try:
                yield Delta("I look and look. ")
                await asyncio.Event().wait()
            finally:
                self.closing.set()
                await self.may_close.wait()

    model, said = Slow(), asyncio.Event()
    agent = Agent(model, Echo())

    async def run() -> None:
        async for change in agent.run("Look"):
            if change.cell.metadata[KEY]["role"] == "prose":
                said.set()

    running = asyncio.create_task(run())
    await said.wait()
    running.cancel()
    await model.closing.wait()
    running.cancel()
    await asyncio.wait({running})
    [failed] = agent.transcript.cells[-1].metadata[KEY]["failed"]
    assert failed["estimated"]
    model.may_close.set()


async def cancelled(agent: Agent) -> tuple[AsyncGenerator[Change, None], Awaitable[Change]]:
    """Cancel a step amid a cell that is running, and give the run and that step."""
    changes = agent.run("Do it")
    async for change in changes:
        if change.cell.get("outputs"):
            break
    step = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0.02)
    step.cancel()
    return changes, step


async def test_cancelling_hands_out_the_last_changes() -> None:
    agent = agent_with(STEP.format("forever"))
    changes, step = await cancelled(agent)
    assert (await step).cell.cell_type == "code"
    assert (await anext(changes)).cell.metadata[KEY]["role"] == "end"
    with pytest.raises(asyncio.CancelledError):
        await anext(changes)


async def test_a_run_that_is_closed_amid_its_last_changes_is_whole(tmp_path: Path) -> None:
    agent = agent_with(STEP.format("forever"), path=tmp_path / "r.ipynb")
    changes, step = await cancelled(agent)
    await step  # the first of them: a front end that is interrupted here reads no more
    await changes.aclose()
    cells = nbformat.read(tmp_path / "r.ipynb", as_version=4).cells
    assert cells[-1].source == "*Stopped: interrupted.*"


async def test_the_last_words_of_a_burst_are_written_before_the_next_come() -> None:
    written = asyncio.Event()

    class Bursting(ScriptedModel):
        async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
            yield Delta("*word* " * 1_000)  # writing this takes long, and a rest follows
            yield Delta("and the last.")
            await written.wait()
            yield Delta(end="stop")

    agent = Agent(Bursting([]), Echo(), Transcript())
    async for change in agent.run("x"):
        if change.cell.source.endswith("last."):
            written.set()
    assert written.is_set()


async def test_half_a_reply_is_kept_as_text_and_never_run() -> None:
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
    end = agent.transcript.cells[-1]
    assert end.cell_type == "markdown"
    said = "*The reply was not finished, and nothing of it was run:*\n\nI will\n\n```python\nrm ="
    assert end.source.startswith(f"*Stopped: it broke off.*\n\n{said}")


@pytest.mark.parametrize(("why", "said"), [("it broke", "it broke."), ("why?", "why?")])
async def test_why_a_run_ended_is_a_sentence(why: str, said: str) -> None:
    class Failing(ScriptedModel):
        async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
            yield Delta("")
            raise ModelError(why)

    agent = Agent(Failing([]), Echo())
    with pytest.raises(ModelError):
        [change async for change in agent.run("Do it")]
    assert agent.transcript.cells[-1].source == f"*Stopped: {said}*"


async def test_a_consumer_that_leaves_ends_the_run_well() -> None:
    agent = agent_with(STEP.format("forever"))
    async with aclosing(agent.run("Do it")) as changes:
        async for change in changes:
            if change.cell.get("outputs"):
                break
    assert agent.sandbox.interrupted  # type: ignore[attr-defined]
    assert roles(agent)[-1] == "end"


async def test_a_model_that_thinks_aloud_only_later_runs_no_thought() -> None:
    thought = f"Perhaps so.\n\n{STEP.format('bad()')}Or not.\n</think>\n\n{STEP.format('y')}"
    agent = agent_with(STEP.format("x"), thought, "done")
    await run(agent)
    assert agent.sandbox.ran == ["x", "y"]  # type: ignore[attr-defined]
    assert roles(agent) == ["task", "prose", "code", "prose", "code", "prose"]


@pytest.mark.parametrize("cut", ["length", "max_tokens", "nothing"])
async def test_what_cuts_off_only_what_is_invented_is_no_fault(cut: str) -> None:
    plain = [Delta(STEP.format("x")), Delta(end="stop")]
    more = [Delta(STEP.format("y") + "Output: 3"), Delta(end=cut)]
    agent = talk(plain, more, said("done"), form="text")
    await run(agent)
    assert agent.sandbox.ran == ["x", "y"]  # type: ignore[attr-defined]


async def test_of_a_model_nobody_knows_yet_a_limit_may_have_cut_off_a_thought() -> None:
    agent = talk([Delta(STEP.format("x") + "Or not"), Delta(end="length")], form="text")
    with pytest.raises(ModelError, match="length limit"):
        await run(agent)
    assert agent.sandbox.ran == []  # type: ignore[attr-defined]


async def test_what_a_model_invents_after_its_block_is_left_out() -> None:
    more = f"Output: 3\n\n{STEP.format('bad()')}\n" * 3
    endless = [STEP.format("y"), *["and so on\n" * 100] * 99]
    agent = talk(
        said(STEP.format("x") + more), [Delta(t) for t in endless], said("done"), form="text"
    )
    await run(agent)
    assert agent.sandbox.ran == ["x", "y"]  # type: ignore[attr-defined]
    assert agent.transcript.answer == "done"
    assert agent.transcript.total_usage.completion < 99 * 1000 / 4


@pytest.mark.parametrize("form", ["text", "tool"])
async def test_an_empty_reply_is_no_answer_and_is_told_twice(form: Form) -> None:
    agent = talk(*[[Delta(end="stop")]] * 5, form=form)
    with pytest.raises(ModelError, match=r"3 replies in a row .* \(the reply was empty\)"):
        await run(agent)
    assert roles(agent) == ["task", "correction", "correction", "end"]
    asked = agent.model.requests  # type: ignore[attr-defined]
    assert len(asked) == 3
    assert "The reply was empty, and nothing was run." in asked[1]
    usage = agent.transcript.total_usage
    assert usage.prompt > sum(map(len, asked)) / 5
    assert usage.estimated


async def test_what_an_empty_reply_costs_is_told_as_it_was_counted() -> None:
    nothing = [Delta(end="stop"), Delta(usage=Usage(11, 0))]
    agent = talk(nothing, [Delta("42"), Delta(usage=Usage(20, 1))])
    await run(agent)
    assert agent.transcript.answer == "42"
    usage = agent.transcript.total_usage
    assert (usage.prompt, usage.completion, usage.estimated) == (31, 1, False)


async def test_what_servers_count_is_recorded_with_the_step() -> None:
    class Counted(ScriptedModel):
        async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
            yield Delta("ok")
            yield Delta(usage=Usage(11, 5, 8))

    agent = Agent(Counted([]), Echo())
    await run(agent)
    usage = agent.transcript.cells[-1].metadata[KEY]["usage"]
    assert usage == {"prompt": 11, "completion": 5, "cached": 8}
    assert str(agent.transcript.total_usage) == "11 tokens in (8 cached), 5 out"


async def test_the_models_markdown_makes_no_browser_fetch() -> None:
    agent = agent_with("See ![x](http://evil/?d=1) <img src=//evil> and `<b>` ok")
    await run(agent)
    assert agent.transcript.answer == "See [image not shown: x] &lt;img src=//evil> and `<b>` ok"


# -- native calls


async def test_calls_and_blocks_become_the_same_cells() -> None:
    text = f"I set x.\n\n{FENCE}python\nx = 1\n{FENCE}"
    for agent in (
        talk(calls("x = 1", text="I set x."), said("Done."), form="text"),
        talk(calls("x = 1", text="I set x."), said("Done."), form="tool"),
        talk(said(text), said("Done."), form="text"),
    ):
        await run(agent)
        cells = [(cell.cell_type, cell.source) for cell in agent.transcript.cells]
        assert cells == [
            ("markdown", "Do it"),
            ("markdown", "I set x."),
            ("code", "x = 1"),
            ("markdown", "Done."),
        ]


async def test_where_calls_are_native_a_block_is_prose() -> None:
    text = f"Do so:\n\n{FENCE}python\nx = 1\n{FENCE}\n\nThat is all."
    agent = talk(said(text))
    await run(agent)
    assert agent.sandbox.ran == []  # type: ignore[attr-defined]
    assert agent.transcript.answer == text


async def test_code_of_a_call_streams_into_its_cell() -> None:
    shown = asyncio.Event()

    class Watched(Talker):
        async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
            async with aclosing(super().stream(messages)) as deltas:
                async for delta in deltas:
                    yield delta
                    if delta.call:
                        await shown.wait()
                        shown.clear()

    pieces = ['{"code": "first', " = 1\\", "nsecond ", '= 2"}']
    reply = [Delta(call=Call(0, "id-0" if not i else "", piece)) for i, piece in enumerate(pieces)]
    agent = Agent(Watched(reply, said("Done."), form="tool"), Echo())
    seen = []
    async for change in agent.run("Do it"):
        if change.cell.cell_type == "code":
            seen.append(change.cell.source)
            shown.set()
    assert list(dict.fromkeys(seen)) == [
        "first", "first = 1", "first = 1\nsecond", "first = 1\nsecond = 2",
    ]  # fmt: skip


async def test_calls_run_in_order_up_to_the_first_error_and_each_gets_a_result() -> None:
    agent = talk(calls("a", "fail", "c", "d"), said("Done."))
    await run(agent)
    assert agent.sandbox.ran == ["a", "fail"]  # type: ignore[attr-defined]
    assert roles(agent) == ["task", "code", "code", "code", "code", "prose"]
    for cell in agent.transcript.cells[3:5]:
        assert cell.outputs[0].text.startswith("Not run: an earlier cell")
        assert cell.execution_count is None
    _, _, reply, *results = json.loads(agent.model.requests[-1])  # type: ignore[attr-defined]
    ids = [call["id"] for call in reply["tool_calls"]]
    assert ids == ["id-0", "id-1", "id-2", "id-3"]
    assert [result["tool_call_id"] for result in results] == ids
    assert results[0]["content"] == "Output:\na"
    assert results[3]["content"].startswith("Output:\nNot run")


async def test_a_call_cut_off_by_the_user_leaves_the_rest_not_run() -> None:
    agent = talk(calls("forever", "b"))
    async with aclosing(agent.run("Do it")) as changes:
        async for change in changes:
            if change.cell.get("outputs"):
                break
    assert roles(agent) == ["task", "code", "code", "end"]
    assert agent.transcript.cells[1].outputs[-1].ename == "KeyboardInterrupt"
    assert agent.transcript.cells[2].outputs[0].text.startswith("Not run")


async def test_a_block_before_a_call_only_shows_what_the_call_does() -> None:
    text = f"I set x.\n\n{FENCE}python\nx = 1\n{FENCE}\n"
    agent = talk(calls("x = 1", text=text), said("Done."))
    await run(agent)
    assert agent.sandbox.ran == ["x = 1"]  # type: ignore[attr-defined]
    assert [cell.source for cell in agent.transcript.cells] == [
        "Do it",
        "I set x.",
        "x = 1",
        "Done.",
    ]


UNREADABLE = '{"cmd": ["ls"]}'


async def test_a_call_of_which_nothing_comes_is_no_fault_of_ours() -> None:
    agent = talk([Delta(call=Call(0, "a", "", "python")), Delta(end="tool_calls")], said("Done."))
    await run(agent)
    assert roles(agent) == ["task", "prose", "correction", "prose"]


@pytest.mark.parametrize("form", ["text", "tool"])
async def test_three_calls_without_code_in_a_row_fail_the_run(form: Form) -> None:
    agent = talk(*[calls(UNREADABLE, text="I look.")] * 3, form=form)
    with pytest.raises(ModelError, match="3 replies in a row that cannot be used"):
        await run(agent)
    assert agent.sandbox.ran == []  # type: ignore[attr-defined]
    assert roles(agent) == ["task", "prose", "correction", "prose", "correction", "prose", "end"]
    assert agent.transcript.answer == ""
    requests = agent.model.requests  # type: ignore[attr-defined]
    for before, after in pairwise(requests):
        assert after.startswith(before[:-1])
    assert json.loads(requests[-1])[-1]["content"].startswith("The call holds no Python code")


async def test_a_call_of_another_tool_does_not_run() -> None:
    other = [Delta(call=Call(0, "a", name="javascript")), *calls("console.log(1)")]
    ours = [Delta(call=Call(0, "b", name="execute_python")), *calls("x")]
    agent = talk(other, ours, said("Done."))
    seen = [change.cell async for change in agent.run("Do it")]
    assert agent.sandbox.ran == ["x"]  # type: ignore[attr-defined]
    assert not any("console" in c.source for c in seen if c.cell_type == "code")
    correction = agent.transcript.cells[2].source
    assert correction.startswith("There is no tool 'javascript' to call, and nothing was run.")


async def test_a_correction_beside_code_that_ran_says_so() -> None:
    other = [Delta(call=Call(1, "a", name="sql")), Delta(call=Call(1, arguments='{"code": "1"}'))]
    agent = talk([*calls("x")[:-1], *other, Delta(end="tool_calls")], said("Done."))
    await run(agent)
    assert agent.sandbox.ran == ["x"]  # type: ignore[attr-defined]
    [correction] = [c.source for c in agent.transcript.cells if "no tool" in c.source]
    assert correction.startswith("There is no tool 'sql' to call; the other code was run.")


@pytest.mark.parametrize("prose", ["<think>Now.", f"As here:\n\n{FENCE}bash\nls\n{FENCE}"])
async def test_where_a_native_call_runs_its_prose_is_not_corrected(prose: str) -> None:
    agent = talk(calls("x", text=prose), said("Done."))
    await run(agent)
    assert agent.sandbox.ran == ["x"]  # type: ignore[attr-defined]
    assert "correction" not in roles(agent)


LEAKED = '<tool_call>{{"name": "{}", "arguments": {}}}</tool_call>'


@pytest.mark.parametrize(
    "replies",
    [
        [f"{FENCE}python\n{FENCE}"] * 3,
        [
            f"Do:\n{FENCE}bash\nls\n{FENCE}",
            "import os\nprint(os)",
            f"So:\n{FENCE}\nprint(1)\n{FENCE}",
            LEAKED.format("no", "{}"),
        ],
    ],
)
async def test_nothing_is_never_the_answer(replies: list[str]) -> None:
    agent = agent_with(*replies)
    with pytest.raises(ModelError, match="3 replies in a row"):
        await run(agent)
    assert agent.transcript.answer == ""


async def test_a_call_written_as_text_runs() -> None:
    leaked = LEAKED.format("python", json.dumps({"code": "x = 1"}))
    agent = agent_with(f"I set x.\n{leaked}", "Done.")
    await run(agent)
    assert agent.sandbox.ran == ["x = 1"]  # type: ignore[attr-defined]
    assert [cell.source for cell in agent.transcript.cells][1:3] == ["I set x.", "x = 1"]


async def test_a_raw_call_is_never_the_answer() -> None:
    agent = agent_with(*[LEAKED.format("search", "{}")] * 3)
    with pytest.raises(ModelError, match="no tool 'search'"):
        await run(agent)
    assert agent.transcript.answer == ""


@pytest.mark.parametrize(
    "answer",
    [
        "Qwen marks calls by <tool_call>\nand an end.",
        f'A call is JSON:\n\n{FENCE}json\n{{"name": "sum", "arguments": {{}}}}\n{FENCE}',
        f"Install it:\n\n{FENCE}bash\npip install x\n{FENCE}",
    ],
)
async def test_what_seems_to_be_more_than_an_answer_is_one_when_it_comes_again(answer: str) -> None:
    agent = agent_with(answer, answer)
    await run(agent)
    assert roles(agent) == ["task", "prose", "correction", "prose"]
    assert agent.transcript.cells[2].source.endswith("If that was your answer, repeat it.")
    once = agent_with(answer, max_steps=1)
    await run(once)
    assert once.transcript.answer


async def test_thoughts_neither_run_nor_answer_and_are_paid_for() -> None:
    thought = f"Perhaps so:\n{FENCE}python\nbad\n{FENCE}\nor not.\n</think>\n"
    first = agent_with(f"<think>\n{thought}{STEP.format('good')}", f"<think>\n{thought}Done.")
    lone = agent_with(thought + STEP.format("good"), f"{thought}{'so ' * 2000}</think>Done.")
    for agent in (first, lone):
        await run(agent)
        assert agent.sandbox.ran == ["good"]  # type: ignore[attr-defined]
        assert agent.transcript.answer == "Done."
    plain = agent_with(STEP.format("good"), "Done.")
    await run(plain)
    assert first.transcript.total_usage.completion > plain.transcript.total_usage.completion


async def test_a_corrected_model_goes_on() -> None:
    agent = talk(calls("a", UNREADABLE), calls(UNREADABLE), calls("b"), said("Done."))
    await run(agent)
    assert agent.sandbox.ran == ["a", "b"]  # type: ignore[attr-defined]
    assert agent.transcript.answer == "Done."


@pytest.mark.parametrize("form", ["text", "tool"])
async def test_thirty_steps_and_a_resume_extend_what_was_sent_before(
    form: Form, tmp_path: Path
) -> None:
    thought = {"type": "thinking", "signature": "é=="}
    replies = [calls(f"x{i}", f"y{i}", text=f"Step {i}.", kept=thought) for i in range(29)]
    agent = talk(*replies, said("Done."), form=form, path=tmp_path / "run.ipynb")
    agent.max_steps = 30
    await run(agent)
    again = Agent(
        Talker(calls("z"), said("Done."), form=form),
        Echo(),
        Transcript.open(tmp_path / "run.ipynb"),
    )
    await run(again, "More")
    requests = agent.model.requests + again.model.requests  # type: ignore[attr-defined]
    assert len(requests) == 32
    for before, after in pairwise(requests):
        assert after.startswith(before[:-1])
    assert requests[-1].count("signature") == (29 if form == "tool" else 0)


async def test_what_a_model_wants_back_is_kept_with_the_cell_that_follows() -> None:
    signed = {"type": "thinking", "signature": "abc"}
    agent = talk(calls("x", kept=signed), said("Done."))
    await run(agent)
    assert agent.transcript.cells[1].metadata[KEY]["kept"] == {"by": "talker", "items": [signed]}
    [reply] = [m for m in agent.transcript.messages("tool") if "tool_calls" in m]
    assert reply["tool_calls"][0]["kept"]["items"] == [signed]
    assert "signature" not in str(agent.transcript.messages("text"))


async def test_surrogates_reach_no_file(tmp_path: Path) -> None:
    agent = talk(calls('{"code": "a = \\"\\ud800\\""}'), said("b\ud800"), path=tmp_path / "r.ipynb")
    await run(agent)
    assert nbformat.read(tmp_path / "r.ipynb", as_version=4).cells[1].source == 'a = "?"'


async def test_prose_that_a_view_has_changed_stays_so() -> None:
    agent = agent_with(STEP.format("1\n2\n3"), "Done.")
    async for change in agent.run("x"):
        if change.done and change.cell.source == "I compute.":
            change.cell.source = "Somebody else does."
    assert agent.transcript.cells[1].source == "Somebody else does."


async def test_a_long_reply_in_one_piece_does_not_hold_up_the_loop() -> None:
    agent = talk([Delta("So it is. " * 20_000), Delta(end="stop")], form="text")
    with counted_turns() as turns:
        await run(agent)
    assert turns() > 20
    assert agent.transcript.answer.count("So") == 20_000


# -- ends


OPEN = f"I clean up.\n\n{FENCE}python\nrm ="


@pytest.mark.parametrize(
    "end", ["content_filter", "error", "model_length", "refusal", "pause_turn", "odd", ""]
)
async def test_half_a_block_never_runs(end: str) -> None:
    agent = talk([Delta(OPEN), Delta(end=end)], form="text")
    agent.retries = 0
    with pytest.raises(ModelError):
        await run(agent)
    assert agent.sandbox.ran == []  # type: ignore[attr-defined]
    assert roles(agent) == ["task", "end"]


async def test_a_block_left_open_is_whole_if_the_end_says_so() -> None:
    agent = talk([Delta(OPEN + " 1"), Delta(end="stop")], said("Done."), form="text")
    await run(agent)
    assert agent.sandbox.ran == ["rm = 1"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("form", ["text", "tool"])
async def test_a_refusal_is_said_once_and_paid_for(form: Form) -> None:
    refusal = [Delta(refusal="I can't "), Delta(refusal="do that."), Delta(end="stop")]
    agent = talk([*refusal, Delta(usage=Usage(11, 5))], form=form)
    with pytest.raises(ModelError, match=r"talker refused to reply: I can't do that;"):
        await run(agent)
    assert len(agent.model.requests) == 1  # type: ignore[attr-defined]
    assert agent.transcript.total_usage.tokens == 16


def test_a_reply_that_is_read_on_while_it_is_shown_is_shown_as_it_was() -> None:
    reply = Reply(Transcript(), 1, "m", "text")
    reply.read(Delta("I"))
    changes = reply.write()
    assert next(changes).cell.source == "I"
    reply.read(Delta(" look.\n\n```python\nx\n```\n"))  # by the task beside a slow view
    assert [*changes] == []
    shown = [(change.cell.source, change.done) for change in reply.write()]
    assert shown == [("I look.", False), ("I look.", True), ("x", False)]
