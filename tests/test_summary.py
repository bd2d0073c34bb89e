"""Runs longer than the model can read: one summary, and a prefix that is stable again."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_output

from jupyter_agent.agent import summary
from jupyter_agent.agent.loop import Agent
from jupyter_agent.agent.request import ModelFacts
from jupyter_agent.errors import LimitReached, ModelError
from jupyter_agent.models.protocol import Call, Delta, Form, Message, Usage
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Change, Transcript
from jupyter_agent.views.live import DisplayView
from jupyter_agent.views.terminal import TerminalView

from .test_usage import Screen

STEP = "I look at part {0}.\n\n```python\nlook({0})\n```\n"
SUMMARY = "Parts were looked at; `x` holds them."
WINDOW = 5_000


def steps(count: int, first: int = 0) -> list[str]:
    return [*(STEP.format(first + i) for i in range(count)), "**42**"]


class Talker:
    """A kernel that puts out 400 characters for every cell."""

    def __init__(self) -> None:
        self.execution_count: int | None = 0

    async def execute(self, code: str) -> AsyncGenerator[NotebookNode, None]:
        yield new_output("stream", name="stdout", text=f"{code} " * 40 + f"\nend of {code}\n")


class Reader:
    """Replies from a list, counts as a server does, and refuses what is longer than it reads."""

    def __init__(
        self,
        replies: list[str],
        *,
        window: int | None = None,
        refuses: int = 0,
        tells: int | None = None,
        sums_up: str | None = SUMMARY,
        breaks_off: bool = False,
        counts: bool = True,
    ) -> None:
        self.name = "reader"
        self.form: Form = "text"
        self.window = window
        self.requests: list[list[Message]] = []
        self.asked_to_sum_up: list[list[Message]] = []
        self._replies = replies
        self._refuses, self._tells = refuses, tells
        self._sums_up, self._counts = sums_up, counts
        self._breaks_off = breaks_off  # in the middle of a summary

    async def check(self) -> None:
        pass

    async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        tokens = len(json.dumps(messages)) // 4
        if self._refuses and tokens > self._refuses:
            raise ModelError("reader: too long", kind="context", window=self._tells)
        if str(messages[-1]["content"]).endswith(summary.INSTRUCTION):
            self.asked_to_sum_up.append(messages)
            if self._sums_up is None:
                raise ModelError("reader: the server failed", kind="server")
            reply = self._sums_up
            if self._breaks_off:
                yield Delta(reply)
                raise ModelError("reader: broke off", kind="truncated")
        else:
            self.requests.append(messages)
            reply = self._replies.pop(0)
        yield Delta(reply)
        if self._counts:
            yield Delta(usage=Usage(tokens, len(reply) // 4, cost=0.001))


async def run(
    model: Reader, transcript: Transcript, *, task: str = "Look at `all` parts", **options: Any
) -> list[Change]:
    agent = Agent(model, Talker(), transcript, max_steps=100, **options)
    async with aclosing(agent.run(task, note="Files you can read here: a.csv")) as changes:
        return [change async for change in changes]


def roles(transcript: Transcript) -> list[str]:
    return [cell.metadata[KEY]["role"] for cell in transcript.cells]


def summaries(transcript: Transcript) -> list[NotebookNode]:
    return [c for c in transcript.cells if c.metadata[KEY]["role"] == "summary"]


def resets(requests: list[list[Message]]) -> int:
    """Count the requests that do not extend the one before, byte for byte."""
    bodies = [json.dumps(messages) for messages in requests]
    return sum(not after.startswith(before[:-1]) for before, after in pairwise(bodies))


# -- what it costs


async def test_a_summary_that_failed_counts_in_the_budget_and_on_the_bill() -> None:
    model = Reader(steps(30), window=WINDOW, sums_up="So far: " * 20, breaks_off=True)
    transcript = Transcript()
    agent = Agent(model, Talker(), transcript, max_steps=100)
    async with aclosing(agent.run("Look")) as changes:
        async for _ in changes:
            pass
    [cell] = summaries(transcript)
    [failed] = cell.metadata[KEY]["failed"]
    assert failed["completion"] == 40
    assert failed["prompt"] > WINDOW // 4
    assert transcript.total_usage.tokens == agent.budget.used.tokens


async def test_a_summary_without_end_is_given_up() -> None:
    class Endless(Reader):
        async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
            if not str(messages[-1]["content"]).endswith(summary.INSTRUCTION):
                async for delta in super().stream(messages):
                    yield delta
                return
            self.asked_to_sum_up.append(messages)
            if len(self.asked_to_sum_up) == 1:
                await asyncio.Event().wait()
            while True:
                yield Delta(call=Call(0, "c", "and "))

    model, transcript = Endless(steps(60), window=WINDOW), Transcript()
    await run(model, transcript, reply_timeout=0.5, reply_length=5_000)
    assert len(model.asked_to_sum_up) == len(summaries(transcript)) > 1
    assert all("[made by rule: " in cell.source for cell in summaries(transcript))


# -- the prefix rule


@pytest.mark.parametrize(("counts", "window"), [(True, WINDOW), (False, 3_600)])
async def test_thirty_steps_extend_each_other_but_for_one_summary(
    tmp_path: Path, counts: bool, window: int
) -> None:
    path = tmp_path / "run.ipynb"
    model = Reader(steps(30), window=window, counts=counts)
    transcript = Transcript(path)
    await run(model, transcript)
    assert (len(model.requests), resets(model.requests)) == (31, 1)
    assert len(model.asked_to_sum_up) == len(summaries(transcript)) == 1
    sizes = [len(json.dumps(messages)) // 4 for messages in model.requests]
    assert window / 2 < max(sizes) < window

    saved = nbformat.read(path, 4)
    nbformat.validate(saved)
    own = [cell.source for cell in saved.cells if cell.metadata[KEY].role != "summary"]
    assert own[1::2][:30] == [f"I look at part {i}." for i in range(30)]  # every cell is there
    assert own[2::2][:30] == [f"look({i})" for i in range(30)]

    again = Reader(["**43**"], window=window, counts=counts)
    await run(again, Transcript.open(path), task="And now?")
    assert resets([*model.requests, *again.requests]) == 1


async def test_a_run_within_the_window_or_with_none_known_is_never_summed_up() -> None:
    for window in (None, 60_000):
        model, transcript = Reader(steps(30), window=window), Transcript()
        await run(model, transcript)
        assert resets(model.requests) == 0
        assert not summaries(transcript)


async def test_the_request_for_a_summary_extends_what_was_sent() -> None:
    model = Reader(steps(30), window=WINDOW)
    await run(model, Transcript())
    [asked] = model.asked_to_sum_up
    assert any(json.dumps(sent).startswith(json.dumps(asked[:-1])[:-1]) for sent in model.requests)
    reached = next(sent for sent in model.requests if len(sent) >= len(asked))
    assert str(asked[-1]["content"]).startswith(str(reached[len(asked) - 1]["content"]))


async def test_a_longer_run_is_summed_up_again_and_the_task_stays_as_typed() -> None:
    task = "Look at `all` parts\n```\nand more\n```"
    model, transcript = Reader(steps(80), window=WINDOW), Transcript()
    await run(model, transcript, task=task)
    made = summaries(transcript)
    assert len(made) == resets(model.requests) > 1
    for cell in made:
        assert f"````text\n{task}\n````\n\nFiles you can read here: a.csv\n\n" in cell.source
    for messages in model.requests:
        text = json.dumps(messages)
        assert text.count("and more") == 1
        assert text.count("Summary of the cells above") <= 1


async def test_between_two_summaries_lie_many_steps() -> None:
    model, transcript = Reader(steps(80), window=WINDOW), Transcript()
    await run(model, transcript)
    at = [i for i, role in enumerate(roles(transcript)) if role == "summary"]
    assert all(after - before > 20 for before, after in pairwise(at))


# -- the cell


async def test_the_summary_stands_before_the_newest_steps_and_folds() -> None:
    model, transcript = Reader(steps(30), window=WINDOW), Transcript()
    await run(model, transcript)
    at = roles(transcript).index("summary")
    assert roles(transcript)[at + 1 : at + 5] == ["prose", "code", "prose", "code"]
    cell = transcript.cells[at]
    assert cell.source.startswith("<details open>\n<summary>Summary of the cells above.")
    assert cell.source.endswith(f"What was done:\n\n{SUMMARY}\n\n</details>")
    system, first, second = transcript.messages()[0], *model.requests[-1][1:3]
    assert system["content"] == first["content"] == cell.source
    assert second["content"] == f"{transcript.cells[at + 1].source}\n\n" + (
        f"```python\n{transcript.cells[at + 2].source}\n```"
    )


async def test_an_edited_summary_is_what_the_model_reads_next(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "run.ipynb")
    await run(Reader(steps(30), window=WINDOW), transcript)
    [cell] = summaries(transcript)
    cell.source = "All is well."
    transcript.save()
    model = Reader(["ok"])
    await run(model, Transcript.open(tmp_path / "run.ipynb"), task="Go on")
    assert model.requests[0][1]["content"] == "All is well."


async def test_without_the_summary_the_cells_are_read_again() -> None:
    transcript = Transcript()
    await run(Reader(steps(30), window=WINDOW), transcript)
    transcript.drop(summaries(transcript)[0])
    whole = json.dumps(transcript.messages())
    assert all(f"look({i})" in whole for i in range(30))


async def test_a_new_task_stands_alone_beside_the_summary_of_the_runs_before() -> None:
    transcript = Transcript()
    await run(Reader(steps(20)), transcript, task="First")
    model = Reader(["ok"], window=3_000)
    await run(model, transcript, task="Second")
    [messages] = model.requests
    assert SUMMARY in str(messages[1]["content"])
    assert "First" not in json.dumps(messages)
    assert json.dumps(messages).count("Second") == 1


@pytest.mark.parametrize(
    "text", ["</details><img src=x onerror=x>", "![x](http://evil)", "```python\nunclosed"]
)
async def test_a_summary_is_as_harmless_as_any_prose(text: str) -> None:
    model, transcript = Reader(steps(30), window=WINDOW, sums_up=text), Transcript()
    await run(model, transcript)
    source = summaries(transcript)[0].source
    assert source.count("</details>") == 1
    assert "<img" not in source
    assert "![" not in source
    assert source.count("```") % 2 == 0


async def test_an_endless_summary_is_cut() -> None:
    model, transcript = Reader(steps(30), window=WINDOW, sums_up="word " * 50_000), Transcript()
    await run(model, transcript)
    assert len(summaries(transcript)[0].source) < WINDOW
    assert resets(model.requests) == 1


# -- without the model's summary


@pytest.mark.parametrize("reply", [None, "", "  \n"])
async def test_where_the_model_sums_nothing_up_heads_and_tails_of_cells_do(
    reply: str | None,
) -> None:
    model, transcript = Reader(steps(80), window=WINDOW, sums_up=reply), Transcript()
    await run(model, transcript)
    made = summaries(transcript)
    assert len(made) == resets(model.requests) > 1
    for cell in made:
        assert "[made by rule:" in cell.source
        assert "```text\nlook(3)\n# → end of look(3)\n```" in made[0].source
        assert len(cell.source) < WINDOW
        assert cell.source.count("Summary of the cells above") == 1
        assert cell.source.count("```") % 2 == 0


def test_a_digest_keeps_the_newest_and_half_of_the_digest_before() -> None:
    transcript = Transcript()
    transcript.add("summary", summary.write(transcript.add("task", "Do it"), "Old facts. " * 100))
    for i in range(50):
        transcript.add("prose", f"I look at part {i}.")
    text = summary.digest(transcript.cells_in_context(), 1_000)
    assert len(text) < 1_200
    assert text.startswith("Old facts. Old facts.")
    assert text.endswith("I look at part 49.")
    assert "Do it" not in text
    assert text.index("[made by rule") < text.index("[earlier cells are left out]")


# -- windows that are set or learnt


def test_what_a_server_counted_before_the_summary_is_not_counted_on() -> None:
    transcript = Transcript()
    for number in range(1, 5):
        usage = {"prompt": 1_000 * number, "completion": 10, "cached": 0}
        transcript.add("prose", "x" * 40, step=number, usage=usage)
    assert summary.size(transcript.cells_in_context(), 80) == 4_010
    transcript.insert(2, "summary", "y" * 40, last=transcript.cells[-1].id)
    assert summary.size(transcript.cells_in_context(), 80) == 20 + 10 + 2 * 10
    transcript.add("prose", "z", usage={"prompt": 70, "completion": 5})
    assert summary.size(transcript.cells_in_context(), 80) == 75


async def test_the_user_may_set_the_window() -> None:
    transcript = Transcript()
    await run(Reader(steps(30), window=60_000), transcript, context_window=WINDOW)
    assert [cell.metadata[KEY]["window"] for cell in summaries(transcript)] == [WINDOW]


@pytest.mark.parametrize("tells", [4_000, None])
async def test_a_window_is_learnt_from_a_refusal_and_the_run_goes_on(tells: int | None) -> None:
    model = Reader(steps(30), refuses=4_000, tells=tells)
    transcript, model_facts = Transcript(), ModelFacts()
    await run(model, transcript, model_facts=model_facts)
    assert transcript.answer == "**42**"
    assert resets(model.requests) == len(summaries(transcript)) >= 1
    assert 3_500 < model_facts.windows["reader"] <= 4_200
    again = Reader(steps(30, 100), refuses=4_000, tells=tells)
    await run(again, transcript, model_facts=model_facts)
    assert len(again.requests) == 31


async def test_a_refusal_by_a_server_that_does_not_count_is_mended_too() -> None:
    model = Reader(steps(30), refuses=2_500, tells=8_000, counts=False)  # its tokens are larger
    transcript = Transcript()
    await run(model, transcript)
    assert transcript.answer == "**42**"
    assert len(summaries(transcript)) > 0


async def test_a_task_longer_than_the_window_ends_the_run_at_once() -> None:
    model, transcript = Reader(steps(3), refuses=2_000), Transcript()
    with pytest.raises(ModelError, match="too long"):
        await run(model, transcript, task="word " * 4_000)
    assert roles(transcript) == ["task", "end"]
    assert model.asked_to_sum_up == []


@pytest.mark.parametrize("refuses", range(500, 1_100, 100))
async def test_a_window_however_small_ends_the_run_well(refuses: int) -> None:
    model, transcript = Reader(steps(3), refuses=refuses, window=10), Transcript()
    with contextlib.suppress(ModelError):
        await run(model, transcript)
    assert roles(transcript)[-1] in ("end", "prose")
    assert transcript.answer in ("", "**42**")


# -- what it costs, and how it shows


async def test_a_summary_is_on_the_bill_and_within_the_budget() -> None:
    model, transcript = Reader(steps(30), window=WINDOW), Transcript()
    await run(model, transcript)
    [cell] = summaries(transcript)
    assert cell.metadata[KEY]["usage"]["cost"] == 0.001
    assert transcript.total_usage.cost == pytest.approx(0.032)
    before = sum(
        c.metadata[KEY].get("usage", {}).get("prompt", 0)
        + c.metadata[KEY].get("usage", {}).get("completion", 0)
        for c in transcript.cells[: transcript.cells.index(cell)]
    )
    model, transcript = Reader(steps(30), window=WINDOW), Transcript()
    with pytest.raises(LimitReached, match="tokens are used"):
        await run(model, transcript, token_budget=before)
    assert roles(transcript)[-1] == "end"
    assert transcript.total_usage.tokens <= before


async def test_views_show_a_summary() -> None:
    changes = await run(Reader(steps(30), window=WINDOW), transcript := Transcript())
    changes[0].cell.metadata[KEY].update(model="m", sandbox="s")
    screens, notes, out = [Screen(), Screen()], io.StringIO(), io.StringIO()
    views: list[DisplayView | TerminalView] = [TerminalView(out, notes)]
    views += [DisplayView(screens[0], anchor="cell"), DisplayView(screens[1])]
    for view in views:
        for change in changes:
            view(change)
        view.finish("done")
    [cell] = summaries(transcript)
    count = cell.metadata[KEY]["cells"]
    for screen in screens:
        assert screen.texts[cell.id] == cell.source
        assert any(str(transcript.total_usage) in text for text in screen.texts.values())
    line = f"[agent] summed up {count} cells: the model's window of 5,000 tokens is nearly full\n"
    assert notes.getvalue().count(line) == 1
    assert str(transcript.total_usage) in notes.getvalue()
    assert SUMMARY not in out.getvalue()
    assert out.getvalue().endswith("**42**\n")
