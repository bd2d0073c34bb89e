"""Saved runs that somebody has forged or damaged: they are read for what they are worth."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_output

from jupyter_agent.errors import UsageError
from jupyter_agent.protocol import Form
from jupyter_agent.transcript import KEY, Transcript

from .servers import ChatServer, Reply
from .test_models_faults import agent_for, run

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
NASTY: list[Any] = [
    None, "", 0, -1, 1e308, float("nan"), float("inf"), True, [], {}, ["x"], [None], [[]], [{}], 10**400,
    "own", "code", "task", "summary", {"a": {"b": []}}, {"text": 5, "pictures": 3},
    [{"output": -9, "mime": "image/png"}], [{"output": 0, "mime": 7, "size": "ab"}],
    [{"output": 0, "mime": "image/png", "data": 5}], {"by": "hf:x", "items": [5, None]},
    {"by": "hf:x", "items": [{"type": []}]}, {"by": [], "items": {}},
]  # fmt: skip


def saved_run(path: Path, name: str) -> dict[str, Any]:
    """Save what has a cell of every role, with every fact that a cell may have."""
    usage = {"prompt": 10, "completion": 5, "cached": 0, "cost": 0.1}
    items = [{"type": "reasoning", "id": "x"}, {"type": "thinking"}, {"reasoning_content": "r"}]
    kept = {"by": name, "items": items}
    transcript = Transcript(path)
    for number in range(2):
        transcript.add("task", "Do it", run="abcd", note="files", model=name, sandbox="b")
        transcript.add("prose", "I will.", step=1, kept=kept)
        for role in ("code", "own"):
            cell = transcript.add(role, "1", step=1, call="call_1", usage=usage, kept=kept)
            drawn = {"image/png": PNG, "text/plain": "x"}
            transcript.add_output(cell, new_output("display_data", data=drawn))
            transcript.finish(cell)
        transcript.add("correction", "c")
        transcript.add("reminder", "r")
        if not number:
            last = transcript.cells[-1].id
            transcript.add("summary", "s", cells=2, window=100, last=last, failed=[usage])
        transcript.add("prose", "Done.", step=2, usage=usage)
    transcript.save()
    notebook: dict[str, Any] = json.loads(path.read_text())
    return notebook


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield before
    below = enumerate(value) if isinstance(value, list) else ()
    for key, each in value.items() if isinstance(value, dict) else below:
        yield from places(each, (*before, key))


def forged(notebook: dict[str, Any], how_many: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Put something nasty in one place at a time."""
    chance = random.Random(7)
    for _ in range(how_many):
        copied = copy.deepcopy(notebook)
        about = chance.choice(copied["cells"])["metadata"]
        *way, last = (KEY, *chance.choice(list(places(about[KEY]))))
        for step in way:
            about = about[step]
        nasty = chance.choice(NASTY)
        about[last] = nasty
        yield f"{way} {last} = {nasty!r:.40}", copied


async def test_whatever_stands_in_a_saved_run_it_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    for case, notebook in forged(saved_run(path, "hf:x"), 150):
        path.write_text(json.dumps(notebook))
        try:
            transcript = Transcript.open(path)
            assert str(transcript.bill)
            transcript.recorded("Do it")
            for form in Form.__args__:  # type: ignore[attr-defined]
                assert json.dumps(transcript.messages(form, seeing=False))
                assert json.dumps(transcript.messages(form), allow_nan=False)
        except Exception as error:
            error.add_note(case)
            raise


@pytest.mark.parametrize("name", ["openai:x", "anthropic:x", "hf:x"])
async def test_a_forged_run_can_be_gone_on_with(
    everywhere: ChatServer, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.ipynb"
    for case, notebook in forged(saved_run(path, name), 4):
        path.write_text(json.dumps(notebook))
        everywhere.replies = [Reply("Summed up."), Reply("Done.")]
        agent = agent_for(name, everywhere, context_window=60)
        agent.transcript = Transcript.open(path)
        await run(agent, "Go on")
        assert agent.transcript.answer in ("Done.", "Summed up."), case
        assert Transcript.open(path).cells, case


@pytest.mark.parametrize("about", [{"version": 2}, {"version": "x"}, [], None, "x"])
def test_a_run_of_another_version_is_left_as_it_is(tmp_path: Path, about: object) -> None:
    path = tmp_path / "run.ipynb"
    notebook = saved_run(path, "hf:x")
    notebook["metadata"][KEY] = about
    path.write_text(json.dumps(notebook))
    with pytest.raises(UsageError, match="it is left as it is"):
        Transcript.open(path)


async def test_what_is_in_order_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    saved_run(path, "hf:x")
    before = path.read_bytes()
    Transcript.open(path).save()
    assert path.read_bytes() == before
