"""What runs cost: summed, and said in a few words wherever a run is shown."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from nbformat import NotebookNode

from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Change, Transcript
from jupyter_agent.transcript.usage import TotalUsage
from jupyter_agent.views.live import DisplayView
from jupyter_agent.views.terminal import TerminalView

STEPS = [
    {"prompt": 1000, "completion": 20, "cached": 0, "cost": 0.0101},
    {"prompt": 1100, "completion": 25, "cached": 1000, "cost": 0.0022},
]
SUM = "2,100 tokens in (1,000 cached), 45 out, $0.0123"


class Screen:
    """A publisher that keeps the last text of each display."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def display(
        self,
        data: dict[str, Any],
        metadata: object,
        *,
        display_id: str,
        update: bool,
        tag: object = None,
    ) -> None:
        self.texts[display_id] = data["text/plain"]

    def stream(self, name: str, text: str, tag: object = None) -> None:
        pass

    def busy(self, tag: dict[str, Any] | None = None) -> None:
        pass


def usage_of(*steps: object) -> TotalUsage:
    usage = TotalUsage()
    for step in steps:
        usage.add({"usage": step})
    return usage


def changes() -> list[Change]:
    """What a run of two steps yields."""
    transcript = Transcript()
    cells = [transcript.add("task", "Do it", run="r", model="m", sandbox="s")]
    cells += [transcript.add("code", "x", step=1)]
    cells += [transcript.add("prose", "42", step=2, usage=STEPS[1], failed=STEPS[:1])]
    return [Change(cell, done) for cell in cells for done in (False, True)][1:]


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ((), "0 tokens in, 0 out"),
        (STEPS, SUM),
        ([STEPS[0], {"prompt": 5, "completion": 1}], "1,005 tokens in, 21 out, at least $0.0101"),
        ([{"prompt": 9, "completion": 1, "estimated": True}], "~9 tokens in, ~1 out"),
        ([{"prompt": 9, "completion": 1, "cost": 0.00001}], "9 tokens in, 1 out, < $0.0001"),
        ([{"prompt": 9, "completion": 1, "cost": 0}], "9 tokens in, 1 out, $0.0000"),
        ([{"prompt": 9, "completion": 1, "cost": 1234.5}], "9 tokens in, 1 out, $1,234.5000"),
        ([*STEPS, {"prompt": 0, "completion": 0}], SUM),  # what costs no token needs no price
        (["x", {"prompt": "5", "cost": [], "cached": float("nan")}], "0 tokens in, 0 out"),
    ],
)
def test_a_bill_says_what_is_known_and_no_more(steps: list[object], text: str) -> None:
    assert str(usage_of(*steps)) == text


def test_tries_that_failed_are_summed_with_the_step_they_were_for() -> None:
    usage = TotalUsage()
    usage.add({"usage": STEPS[1], "failed": [STEPS[0]]})
    assert str(usage) == SUM


def test_a_notebooks_bill_is_the_sum_of_its_steps() -> None:
    transcript = Transcript()
    for step in STEPS:
        transcript.add("prose", "x", usage=step)
    transcript.cells.append(NotebookNode(cell_type="markdown", source="mine", metadata={}))
    transcript.notebook = json.loads(json.dumps(transcript.notebook), object_hook=NotebookNode)
    assert str(transcript.total_usage) == SUM
    assert transcript.cells[0].metadata[KEY]["usage"] == STEPS[0]


@pytest.mark.parametrize("live", [True, False])
def test_the_header_of_a_run_says_what_it_cost(live: bool) -> None:
    screen = Screen()
    view = DisplayView(screen, anchor="cell" * live)
    for change in changes():
        view(change)
    view.finish("done")
    assert any(f"done · step 2 · {SUM} · " in text for text in screen.texts.values())


def test_the_terminal_ends_with_what_the_run_cost() -> None:
    notes = io.StringIO()
    view = TerminalView(io.StringIO(), notes)
    for change in changes():
        view(change)
    view.finish("done")
    assert notes.getvalue().splitlines()[-1].startswith(f"[agent] done after 2 steps, {SUM}, ")
