"""Saved runs that somebody has forged or damaged: they are read for what they are worth."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_output

from jupyter_agent.errors import UsageError
from jupyter_agent.models.protocol import Form
from jupyter_agent.resume import finished_run
from jupyter_agent.sandbox.filter.markdown import Clean, clean_markdown, folded
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Change, Transcript
from jupyter_agent.views.live import DisplayView
from jupyter_agent.views.output_area import AnswerView

from .servers import ChatServer, Reply
from .test_agent_kernel import kernel
from .test_markdown import acts
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
            assert str(transcript.total_usage)
            finished_run(transcript, "Do it")
            for form in Form.__args__:  # type: ignore[attr-defined]
                assert json.dumps(transcript.messages(form, with_pictures=False))
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
    with pytest.raises(UsageError, match="it is not overwritten"):
        Transcript.open(path)


async def test_what_is_in_order_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    saved_run(path, "hf:x")
    before = path.read_bytes()
    Transcript.open(path).save()
    assert path.read_bytes() == before


# -- prose that somebody has put into a file

PAYLOAD = (
    '<img src=x onerror="window.PWNED=1"> ![x](http://evil.test/p) $\\href{javascript:1}{x}$\n\n'
    '```x\nabc\r```\r<img src=x onerror="window.PWNED=2">\n```'
)
SAID = ["prose", "summary", "correction", "reminder", "end"]
FOLD = "<details open>\n<summary>{}</summary>\n\n{}\n\n</details>"


class Publisher:
    """Keeps what would be published."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def display(self, data: dict[str, Any], metadata: dict[str, Any], **_: Any) -> None:
        assert not metadata
        self.sent.append(data)

    def stream(self, name: str, text: str, tag: object = None) -> None:
        self.sent.append({"text/plain": text})

    def busy(self, tag: dict[str, Any] | None = None) -> None:
        pass


def recorded(path: Path, role: str, text: str) -> None:
    """Save a finished run of the task ``Go`` in which such a cell says this."""
    transcript = Transcript(path)
    transcript.add("task", "Go", run="abcd", model=f"m\x1b]0;x\x07 {text}", sandbox="s")
    transcript.add(role, step=1).source = text  # type: ignore[arg-type]
    transcript.add("prose", step=2).source = text
    transcript.save()


def inside(markdown: str) -> str:
    """Take off the one tag that we write."""
    found = FOLDED.fullmatch(markdown)
    return found[1] if found else markdown


FOLDED = re.compile("<details open>\n<summary>[^<>]*</summary>\n\n(.*)\n\n</details>", re.DOTALL)


@pytest.mark.parametrize("anchor", ["", "cell"])
@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("role", SAID)
def test_what_a_file_says_is_cleaned_before_it_is_shown(
    tmp_path: Path, role: str, quiet: bool, anchor: str
) -> None:
    recorded(tmp_path / "run.ipynb", role, PAYLOAD)
    publisher = Publisher()
    view = AnswerView(publisher) if quiet else DisplayView(publisher, anchor=anchor)
    transcript = Transcript.open(tmp_path / "run.ipynb")
    for cell in transcript.cells:
        assert cell.metadata[KEY]["role"] == "task" or acts(cell.source) == []
    for cell in finished_run(transcript, "Go"):
        view(Change(cell, done=True))
    view.finish("done")
    assert any("image not shown" in data.get("text/markdown", "") for data in publisher.sent)
    for data in publisher.sent:
        assert acts(inside(data.get("text/markdown", ""))) == []
        assert "\x1b" not in data["text/plain"]
        assert "<img" not in data["text/plain"] or data["text/plain"].startswith("agent: ")


@pytest.mark.parametrize("role", SAID)
def test_what_a_cell_holds_is_cleaned_where_it_is_shown(role: str) -> None:
    for view in (AnswerView(publisher := Publisher()), DisplayView(publisher)):
        cell = Transcript().add(role, step=1)  # type: ignore[arg-type]
        cell.source = PAYLOAD  # by whatever way
        view(Change(cell, done=True))
        view.finish("done")
    assert [acts(data["text/markdown"]) for data in publisher.sent] == [[]] * len(publisher.sent)
    assert len(publisher.sent) == {"prose": 2, "summary": 1}.get(role, 0)


@pytest.mark.parametrize(
    "title", ["Words", "<img src=x onerror=1>", "$\\href{x}{y}$", "a\n\n<img src=x>"]
)
def test_a_summary_is_taken_out_of_its_fold_and_put_back(tmp_path: Path, title: str) -> None:
    recorded(tmp_path / "run.ipynb", "summary", FOLD.format(title, PAYLOAD))
    shown = Transcript.open(tmp_path / "run.ipynb").cells[1].source
    assert acts(inside(shown)) == []
    assert shown.startswith("<details open>") == (title == "Words")
    recorded(tmp_path / "run.ipynb", "summary", shown)
    assert Transcript.open(tmp_path / "run.ipynb").cells[1].source == shown
    assert folded("Words", clean_markdown("*a*")) == FOLD.format("Words", "*a*")


def test_clean_markdown_that_is_changed_is_no_longer_clean() -> None:
    clean = clean_markdown("*a*")
    assert isinstance(copy.deepcopy(clean), Clean)
    for changed in (
        clean + "<b>",
        clean[1:],
        f"{clean}",
        clean.replace("a", "b"),
        clean.strip("*"),
    ):
        assert not isinstance(changed, Clean)


def test_no_file_keeps_its_reader_busy_without_end(tmp_path: Path) -> None:
    """The timeout of a test is the bound."""
    transcript = Transcript(tmp_path / "run.ipynb")
    for _ in range(200):
        transcript.add("prose").source = "![" * 40_000
    transcript.save()
    cells = Transcript.open(tmp_path / "run.ipynb").cells
    assert all(acts(cell.source) == [] for cell in cells[:3] + cells[-1:])


def test_cells_that_are_shown_again_have_ids_of_their_own(tmp_path: Path) -> None:
    recorded(tmp_path / "run.ipynb", "prose", "x")
    transcript = Transcript.open(tmp_path / "run.ipynb")
    again = [cell.id for cell in finished_run(transcript, "Go") + finished_run(transcript, "Go")]
    assert len({*again, *(cell.id for cell in transcript.cells)}) == 9


def test_markdown_reaches_pages_by_one_door() -> None:
    package = Path(__file__).parent.parent / "jupyter_agent"
    ours = [p for p in package.rglob("*.py") if p.parent.name != "guest"]
    doors = [p for p in ours if "text/markdown" in p.read_text()]
    assert {path.name for path in doors} == {"output_area.py", "outputs.py"}
    assert all(path.read_text().count("text/markdown") == 1 for path in doors)


def test_no_recorded_run_brings_markdown_of_its_own_into_a_notebook(folder: Path) -> None:
    for role in SAID:
        recorded(folder / f"{role}.ipynb", role, PAYLOAD)
    with kernel(folder) as mine:
        for option in ("", "-q "):
            for role in SAID:
                mine.run("%agent reset")
                _, published = mine.run(f"%%agent {option}--save {role}.ipynb\nGo")
                shown = [content["data"] for _, content in published if "data" in content]
                assert shown, published
                for data in shown:
                    assert acts(inside(data["text/markdown"])) == [], data


def test_a_line_that_a_users_own_kernel_wanted_is_no_part_of_the_code(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "run.ipynb")
    for role in ("code", "own"):
        transcript.add(role, "%%sandbox\nx = 1", step=1)
    transcript.add("code", "%%sandbox\n%agent reset", step=2)
    transcript.save()
    first, second, third = Transcript.open(tmp_path / "run.ipynb").cells
    assert first.source == second.source == "x = 1"
    assert third.source.splitlines()[1:] == ["%agent reset"]
