"""What is told of a transcript is the same, whether it was told before or not."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from nbformat.v4 import new_markdown_cell, new_output

from jupyter_agent.agent import summary
from jupyter_agent.models.protocol import Form
from jupyter_agent.transcript.incremental import IncrementalList
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Transcript


def test_only_what_has_changed_is_made_anew() -> None:
    added: list[int] = []

    def add(made: list[str], items: Sequence[int], index: int) -> None:
        added.append(items[index])
        if made and items[index] < 0:
            made[-1] += str(items[index])
        else:
            made.append(str(items[index]))

    incremental = IncrementalList(add)
    assert incremental.of([1, -2], [1, -2]) == ["1-2"]
    assert incremental.of([1, -2, -3, 4], [1, -2, -3, 4]) == ["1-2-3", "4"]
    assert added == [1, -2, -3, 4]
    assert incremental.of([1, -2, 5], [1, -2, 5]) == ["1-2", "5"]
    assert added == [1, -2, -3, 4, 5]
    assert incremental.of([], []) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_transcript_that_changes_at_random_is_told_as_a_new_one_would_be(seed: int) -> None:
    chance = random.Random(seed)
    transcript, sizes, step = Transcript(), summary.RequestSizes(), 0
    for _ in range(60):
        cells = transcript.cells
        cell = chance.choice(cells) if cells else None
        facts = cell.metadata.get(KEY, {}) if cell else {}
        match chance.randrange(12):
            case 0:
                transcript.add("task", f"Task {step}", note=chance.choice(["", "A note"]))
            case 1 | 2 | 3:
                step += 1
                if chance.random() < 0.7:
                    counted = {"prompt": step, "completion": 3}
                    usage = {"usage": counted} if chance.random() < 0.3 else {}
                    transcript.add("prose", f"Prose {step}", step=step, **usage)
                for number in range(chance.randrange(3)):
                    code = transcript.add("code", f"code {step}.{number}", step=step)
                    transcript.add_output(code, new_output("stream", text=f"out {step}"))
                    transcript.finish(code)
            case 4 if cell and facts:
                cell.source = f"edited {chance.random()}"
                facts["edited"] = True
            case 5 if facts:
                facts["deleted"] = True
            case 6 if facts:
                facts.pop("deleted", None)
            case 7 if facts:
                facts["replaced"] = True
            case 8:
                transcript.insert(len(cells) // 2, "summary", "So far", cells=1, last="x")
            case 9 if cell and cell.cell_type == "code":
                transcript.add_output(cell, new_output("stream", text="again"))
                transcript.finish(cell)
            case 10 if cell and chance.random() < 0.3:
                transcript.drop(cell)
            case 11:
                cells.append(new_markdown_cell("Of the user's"))
        forms: list[Form] = ["text", "tool"]
        for form in forms:
            for seeing in (True, False):
                told = transcript.messages(form, with_pictures=seeing)
                anew = Transcript(notebook=transcript.notebook).messages(form, with_pictures=seeing)
                assert told == anew
        reach = transcript.cells_in_context()
        assert sizes.of(reach, 40) == summary.size(reach, 40)
