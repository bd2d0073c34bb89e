"""What a model is told before anything is asked of it, to the letter."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from importlib import resources
from itertools import pairwise
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_output

from jupyter_agent.agent.loop import Agent
from jupyter_agent.models import load_model
from jupyter_agent.models.examples import EXAMPLES
from jupyter_agent.transcript.shown_outputs import MAX_CHARACTERS, MAX_PICTURES

from .servers import ChatServer, Reply

PINNED = Path(__file__).with_name("first_request.json")
STEP = "I count.\n\n```python\nprint(1)\n```\n"


class One:
    """A kernel whose every cell puts out 1."""

    def __init__(self) -> None:
        self.execution_count: int | None = 1

    async def execute(self, code: str) -> AsyncGenerator[NotebookNode, None]:
        yield new_output("stream", name="stdout", text="1\n")


async def bodies(server: ChatServer, replies: list[str], *, examples: bool = False) -> list[str]:
    server.replies = [Reply(reply) for reply in replies]
    agent = Agent(load_model(server.model), One(), examples=examples)
    async for _ in agent.run("How many rows?", note="Files you can read here: a.csv"):
        pass
    return [
        json.dumps(json.loads(request.raw), indent=1, ensure_ascii=False) + "\n"
        for request in server.requests
    ]


async def test_the_first_request_is_the_pinned_one(server: ChatServer) -> None:
    """To change what is sent, write the new body to the file and read the diff."""
    [body] = await bodies(server, ["7"])
    assert body == PINNED.read_text(encoding="utf-8")


async def test_examples_are_told_as_runs_between_the_rules_and_the_task(
    server: ChatServer,
) -> None:
    await bodies(server, [STEP, STEP, "7"], examples=True)
    first, *_ = talks = [request.messages for request in server.requests]
    assert [message["role"] for message in first] == ["system", *["user", "assistant"] * 10, "user"]
    for example, at in zip(EXAMPLES, range(1, 21, 4), strict=True):
        assert [message["content"] for message in first[at : at + 4]] == [
            example.task,
            f"{example.prose}\n\n```python\n{example.code}\n```",
            f"Output:\n{example.output}",
            example.answer,
        ]
    plain = json.loads(PINNED.read_text(encoding="utf-8"))["messages"]
    assert [first[0], first[-1]] == plain
    for before, after in pairwise(talks):
        assert json.dumps(after).startswith(json.dumps(before)[:-1])


def test_the_rules_are_short_and_their_numbers_true() -> None:
    rules = resources.files("jupyter_agent.agent").joinpath("system.md").read_text(encoding="utf-8")
    assert 25 <= len(rules.splitlines()) <= 40
    assert f"{MAX_CHARACTERS:,} characters" in rules
    assert MAX_PICTURES == 4
    assert "the first four of a cell" in rules
    for fact in ("live on", "no network", "`input()` does not work", "tools", "cannot be changed"):
        assert fact in rules


async def test_a_model_that_calls_is_told_how_to_call_and_nothing_of_blocks(
    server: ChatServer,
) -> None:
    server.replies = [Reply("7")] * 2
    rules = []
    for form in ("text", "tool"):
        agent = Agent(load_model(server.model, form=form), One())
        async for _ in agent.run("How many rows?"):
            pass
        rules.append(server.requests[-1].messages[0]["content"])
    text, tool = rules
    assert "a call of the tool `python`" in tool
    assert "code block" in text
    assert "code block" not in tool
    assert "reply -->" not in text + tool
    assert text.partition("How the cells run:")[2] == tool.partition("How the cells run:")[2] != ""
