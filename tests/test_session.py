"""What lives on between runs, and what a later run may change."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from traitlets.config import Config

from jupyter_agent.errors import SandboxError, UsageError
from jupyter_agent.resume import finished_run
from jupyter_agent.session import Session
from jupyter_agent.transcript.metadata import KEY, facts_of
from jupyter_agent.transcript.notebook import Change, Transcript
from jupyter_agent.transcript.user_cells import mark_replaced

F = "```"


@pytest.fixture
async def session(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Session]:
    monkeypatch.chdir(folder)
    (folder / "set.md").write_text(f"x\n{F}python\nx = 1\n{F}\n<!-- next reply -->\nset\n")
    (folder / "get.md").write_text(f"x\n{F}python\nprint(x)\n{F}\n<!-- next reply -->\ngot\n")
    session = Session(folder)
    yield session
    await session.close()


async def ask(session: Session, task: str) -> None:
    async with aclosing(session.run(task, model="scripted:set.md")) as changes:
        async for _ in changes:
            pass


async def run(session: Session, script: str, **options: object) -> list[Change]:
    changes = session.run("Go", model=f"scripted:{script}", **options)  # type: ignore[arg-type]
    async with aclosing(changes):
        return [change async for change in changes]


def last_output(session: Session) -> str:
    cell = [cell for cell in session.transcript.cells if cell.cell_type == "code"][-1]
    output = cell.outputs[-1]
    return str(output.get("text") or output.get("ename"))


def notes(session: Session) -> list[str]:
    cells = session.transcript.cells
    return [c.metadata[KEY]["note"] for c in cells if c.metadata[KEY]["role"] == "task"]


async def test_variables_and_transcript_live_on_between_runs(session: Session) -> None:
    await run(session, "set.md")
    await run(session, "get.md")
    assert last_output(session) == "1\n"
    assert len(session.transcript.cells) == 8
    assert session.transcript.answer == "got"


async def test_the_model_is_told_what_it_can_read(session: Session) -> None:
    changes = await run(session, "set.md")
    shared, has, data, columns = notes(session)[0].split("\n\n")
    assert shared == (
        "Files you can read here: deep/, get.md, penguins.csv, set.md\n"
        "Not shared with you: project: 1 path left out as secret"
    )
    assert has.startswith("You have Python 3.")
    assert "pandas" in has
    assert data == "Data files, as they are read by default:"
    assert "`penguins.csv`: " in columns
    assert "344 rows x 8 columns: 'species' (str), 'island' (str)" in columns
    starting, looking, task, *_ = [change.cell for change in changes]
    assert starting.source == "*Starting the sandbox*"
    assert looking.source == "*Looking at the data*"
    assert not {starting.id, looking.id} & {cell.id for cell in session.transcript.cells}
    facts = task.metadata[KEY]
    assert facts["sandbox"].startswith("bubblewrap, reads project/")
    assert facts["model"] == "scripted:set.md"


async def test_other_data_mean_a_new_sandbox_and_the_model_is_told(session: Session) -> None:
    await run(session, "set.md")
    await run(session, "get.md", data=["penguins.csv"])
    assert last_output(session) == "NameError"
    assert notes(session)[1] == (
        "Files you can read here: penguins.csv\n"
        "The kernel is new: variables and files of earlier cells are gone."
    )
    sandbox = session.sandbox
    await run(session, "get.md", data=["penguins.csv"])
    assert session.sandbox is sandbox


async def test_no_data_is_no_files(session: Session) -> None:
    await run(session, "set.md", data=["none"])
    [note] = notes(session)
    assert note.startswith("You have Python 3.")
    assert "\n" not in note
    assert session.sandbox.describe().startswith("bubblewrap, reads no files")


async def test_what_data_look_like_is_told_once_and_again_when_they_change(
    session: Session, folder: Path
) -> None:
    for _ in range(2):
        await ask(session, "How heavy are the penguins?")
    first, second = notes(session)
    assert "`penguins.csv`" in first
    assert second == first.partition("\n\n")[0]  # the files that can be read
    given = [cell for cell in session.transcript.cells if facts_of(cell).get("given")]
    assert [cell.outputs[0].text.partition("\n")[0] for cell in given] == ["penguins.csv begins:"]
    (folder / "penguins.csv").write_text("a,b\n1,2\n")
    await ask(session, "How heavy are the penguins?")
    assert "1 rows x 2 columns: 'a' (int64), 'b' (int64); no" in notes(session)[2]


async def test_a_saved_run_with_data_is_found_and_run_again(session: Session) -> None:
    task = "How heavy are the penguins?"
    for _ in range(2):
        changes = session.run(task, model="scripted:set.md", save="run.ipynb", replay=True)
        async with aclosing(changes):
            cells = [change.cell async for change in changes]
    assert "as recorded" in next(facts_of(c)["model"] for c in cells if "model" in facts_of(c))
    assert len(notes(session)) == 1


async def test_a_description_that_cannot_be_read_does_not_end_the_run(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)  # not installed on this side
    forge = 'calls.encode = lambda _: [b\'{"is": "polars DataFrame"}\']'
    async with aclosing(
        session.execute(f"from jupyter_agent.sandbox.guest import calls\n{forge}")
    ) as outputs:
        assert [output async for output in outputs] == []
    await ask(session, "How heavy are the penguins?")
    assert "`penguins.csv`" not in notes(session)[0]


async def test_data_are_not_told_where_the_user_does_not_want_it(session: Session) -> None:
    session.data_profile = False
    await ask(session, "How heavy are the penguins?")
    assert "`penguins.csv`" not in notes(session)[0]
    assert "You have Python 3." in notes(session)[0]


@pytest.mark.parametrize(
    "forged",
    [
        "'text'",
        "{'files': 1, 'later': [], 'packages': 'p'}",
        "{'files': [['a', [1], 'b', 'c']], 'later': [1], 'packages': 'p'}",
        "{'files': [['a', [1, 1], 'b', 'c']], 'later': [['# You'] * 9], 'packages': 'p'}",
        "{'files': [['a\\x1b[2J', [1, 1], 'b\\n\\nc' * 9_000, 'd' * 9_000]] * 9, 'later': [],"
        " 'packages': 'p'}",
        "{'files': [['a\\n\\n# You', [1, 1], 'b\\r\\n# You', '']], 'later': ['c\\n\\n# You'],"
        " 'packages': 'p\\n\\n# You'}",
        "{'files': [[' ' * 200_000, [1, 1], ' ' * 1_000_000, '']], 'later': [], 'packages': 'p'}",
        "1 / 0",
    ],
)
async def test_a_forged_description_of_data_does_no_harm(
    session: Session, folder: Path, forged: str
) -> None:
    code = f"from jupyter_agent.sandbox.guest import data_files\ndata_files.describe = lambda _: {forged}"
    (folder / "forge.md").write_text(
        f"I forge.\n\n```python\n{code}\n```\n\n<!-- next reply -->\nDone."
    )
    await run(session, "forge.md")
    (folder / "penguins.csv").write_text("a,b\n1,2\n")
    await ask(session, "How heavy are the penguins?")
    note = notes(session)[1]
    assert ("could not be described" in note) is not forged.startswith("{'files': [")
    assert "\x1b" not in note
    assert len(note) < 8_000
    assert note.count("\n\n") <= 4
    assert "\n# You" not in note
    assert "['# You'" not in note
    assert session.transcript.answer == "set"


async def test_a_saved_run_is_gone_on_with_only_by_a_fresh_session(
    session: Session, folder: Path
) -> None:
    await run(session, "set.md", save="one.ipynb")
    other = Session(folder)
    try:
        await run(other, "set.md", save="two.ipynb")
        with pytest.raises(UsageError, match="holds another run"):
            await run(other, "get.md", save="one.ipynb")
        await other.reset()
        await run(other, "get.md", save="one.ipynb")
        assert len(other.transcript.cells) == 8
    finally:
        await other.close()


async def test_reset_forgets_and_a_run_starts_afresh(session: Session) -> None:
    await run(session, "set.md")
    await session.reset()
    assert session.transcript.cells == []
    await run(session, "get.md")
    assert last_output(session) == "NameError"
    assert len(session.transcript.cells) == 4


async def test_bad_input_starts_nothing(session: Session) -> None:
    for task, options in (
        (" ", {}),
        ("Go", {"data": ["gone.csv"]}),
        ("Go", {"save": "gone/x.ipynb"}),
    ):
        with pytest.raises(UsageError):
            async for _ in session.run(task, model="scripted:set.md", **options):
                pass
    assert not session.sandbox.alive
    assert session.transcript.cells == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"data": "none"},
            "data must be a list of paths, such as ['data.csv'], not 'none' (str)",
        ),
        ({"outputs": "x"}, "outputs must be a list of names, such as ['total'], not 'x' (str)"),
        (
            {"inputs": ["x"]},
            "inputs must be a dict of values by name, such as {'df': df}, not ['x'] (list)",
        ),
        ({"ask": "every"}, "ask must be one of always, risky, never, not 'every' (str)"),
        ({"max_steps": 0}, "max_steps must be a whole number above 0, not 0 (int)"),
        ({"timeout": "9"}, "timeout must be a number of seconds, not '9' (str)"),
        ({"asker": 3}, "asker must be an async function that asks the user, not 3 (int)"),
        ({"max_step": 3}, "Session.run has no argument 'max_step'; is it 'max_steps'?"),
    ],
)
async def test_a_wrong_option_is_refused_before_anything_starts(
    options: dict[str, object], line: str, session: Session
) -> None:
    with pytest.raises(UsageError) as refused:
        await run(session, "set.md", **options)
    assert str(refused.value) == line
    assert (session.transcript.cells, session.sandbox.alive) == ([], False)


def test_what_is_no_task_or_no_options_is_refused_when_a_run_is_asked_for(session: Session) -> None:
    for task, options, line in (
        (3, None, "task must be a text, not 3 (int)"),
        (
            "Go",
            "ollama:q",
            "options must be RunOptions, or options given by name, .* not 'ollama:q'",
        ),
    ):
        with pytest.raises(UsageError, match=line.replace("(int)", r"\(int\)")):
            session.run(task, options)  # type: ignore[arg-type]


async def test_options_may_be_none_and_a_file_a_path(session: Session, folder: Path) -> None:
    await run(session, "set.md", inputs=None, tools=None, save=folder / "r.ipynb")
    assert session.transcript.path == folder / "r.ipynb"


async def test_status_says_how_things_stand(session: Session) -> None:
    assert session.status()["sandbox"] == "starts with the next run"
    await run(session, "set.md", save="run.ipynb")
    status = session.status()
    assert status["sandbox"].startswith("bubblewrap, reads project/")
    assert status["runs"] == "1, 4 cells"
    assert status["saved"].endswith("project/run.ipynb")


async def test_the_model_no_longer_reads_a_run_that_was_replaced(session: Session) -> None:
    await run(session, "set.md")
    task = session.transcript.cells[0]
    await run(session, "get.md", replaces=task)
    assert last_output(session) == "1\n"
    asked = str(session.transcript.messages())
    assert "print(x)" in asked
    assert "x = 1" not in asked
    assert asked.count("Go") == 1
    assert session.status()["runs"] == "1, 4 cells"


async def test_what_the_user_has_edited_of_a_replaced_run_is_the_users(session: Session) -> None:
    await run(session, "get.md")
    task, prose, code, _ = session.transcript.cells
    for cell, source in ((prose, "My words"), (code, "print(2)")):
        cell.source = source
        cell.metadata[KEY]["edited"] = True
    await run(session, "set.md", replaces=task)
    first, second, third, *_ = session.transcript.messages()
    assert [first["role"], second["role"], third["role"]] == ["user", "assistant", "user"]
    assert "My words" in str(first)
    assert "I ran:\n```python\nprint(2)\n```" in first["content"]
    assert "got" not in str(session.transcript.messages())


async def test_a_run_that_cannot_start_replaces_none(session: Session) -> None:
    await run(session, "set.md")
    with pytest.raises(UsageError):
        await run(session, "missing.md", replaces=session.transcript.cells[0])
    assert "x = 1" in str(session.transcript.messages())


async def test_what_was_deleted_or_replaced_stays_so_in_a_saved_run(
    session: Session, folder: Path
) -> None:
    await run(session, "set.md", save="run.ipynb")
    session.transcript.cells[2].metadata[KEY]["deleted"] = True
    session.transcript.save()
    reopened = Transcript.open(folder / "run.ipynb")
    assert "x = 1" not in str(reopened.messages())
    roles = [cell.metadata[KEY]["role"] for cell in finished_run(reopened, "Go")]
    assert roles == ["task", "prose", "prose"]
    mark_replaced(reopened, reopened.cells[0])
    assert finished_run(reopened, "Go") == []
    reopened.save()
    assert Transcript.open(folder / "run.ipynb").messages() == []


@pytest.mark.parametrize(("name", "value"), [("max_steps", 0), ("max_seconds", float("nan"))])
async def test_a_limit_that_is_none_is_refused_in_one_line(
    folder: Path, name: str, value: float
) -> None:
    (folder / "s.md").write_text("Done.")
    session = Session(folder, config=Config({"Agent": {name: value}}))
    with pytest.raises(UsageError, match=f"'{name}' trait of an Agent"):
        async for _ in session.run("x", model=f"scripted:{folder / 's.md'}"):
            pass
    assert not session.sandbox.alive


# -- nothing changes before the last check


def saved_run(path: Path, answer: str = "old") -> bytes:
    transcript = Transcript(path)
    transcript.add("task", "Earlier", note="")
    transcript.add("prose", answer, step=1)
    transcript.save()
    return path.read_bytes()


REFUSED: list[dict[str, object]] = [
    {"ask": "always"},
    {"inputs": {"x": print}},
    {"outputs": ["no name"]},
    {"tools": {"no name": print}},
    {"data": ["gone.csv"]},
    {"max_steps": 0},
    {"model": "http://127.0.0.1:1/v1"},
    {"model": "scripted:gone.md"},
]


@pytest.mark.parametrize("refused", REFUSED, ids=range(len(REFUSED)))
async def test_a_refused_run_changes_nothing(
    session: Session, folder: Path, refused: dict[str, object]
) -> None:
    await run(session, "set.md", outputs=["x"])
    before = saved_run(folder / "old.ipynb")
    sandbox, transcript, results = session.sandbox, session.transcript, session.results
    options: dict[str, object] = {"save": "new.ipynb", "data": ["penguins.csv"]} | refused
    with pytest.raises(UsageError):
        async for _ in session.run("Go", **({"model": "scripted:get.md"} | options)):  # type: ignore[arg-type]
            pass
    assert (session.sandbox, session.transcript) == (sandbox, transcript)
    assert session.sandbox.alive
    assert session.results == results == {"x": 1}
    assert session.transcript.path is None
    assert len(session.transcript.cells) == 4
    assert not (folder / "new.ipynb").exists()
    await session.reset()
    with pytest.raises(UsageError):
        async for _ in session.run(
            "Go",
            **({"model": "scripted:get.md"} | refused | {"save": "old.ipynb"}),  # type: ignore[arg-type]
        ):
            pass
    await run(session, "get.md")
    assert (folder / "old.ipynb").read_bytes() == before


async def test_a_sandbox_that_cannot_start_leaves_the_one_before(
    session: Session, folder: Path, tmp_path: Path
) -> None:
    await run(session, "set.md")
    sandbox = session.sandbox
    session.config.SandboxProvisioner.socket_folder = True
    session.config.SandboxProvisioner.isolation = "landlock"
    with pytest.raises(SandboxError):
        await run(session, "get.md", data=["penguins.csv"], save="new.ipynb")
    assert session.sandbox is sandbox
    assert session.transcript.path is None
    await run(session, "get.md")
    assert last_output(session) == "1\n"


# -- one thing at a time


async def test_a_second_run_is_refused_while_one_goes_on(session: Session) -> None:
    first = session.run("Go", model="scripted:set.md")
    async with aclosing(first):
        async for change in first:
            if change.cell.metadata[KEY]["role"] == "task":
                break
        others = [
            lambda: run(session, "get.md"),
            lambda: anext(session.execute("1")),
            session.files,
            session.reset,
            lambda: session.fetch("x"),
        ]
        for other in others:
            with pytest.raises(UsageError, match="a run is going on in this session"):
                await asyncio.create_task(other())
        seen = [change async for change in first]
    assert seen[-1].cell.source == "set"
    assert [cell.metadata[KEY]["role"] for cell in session.transcript.cells] == [
        *("task", "prose", "code", "prose")
    ]
    await run(session, "get.md")
    assert last_output(session) == "1\n"


async def test_two_runs_that_begin_together_do_not_mix(session: Session) -> None:
    both = await asyncio.gather(
        run(session, "set.md"), run(session, "set.md"), return_exceptions=True
    )
    assert [type(each) for each in both] == [list, UsageError]
    assert len(session.transcript.cells) == 4


@pytest.mark.parametrize("held", [False, True])
async def test_a_run_that_was_left_is_closed_when_the_next_begins(
    session: Session, held: bool
) -> None:
    changes = session.run("Go", model="scripted:set.md")
    async for change in changes:
        if change.cell.metadata[KEY]["role"] == "code":
            break
    if not held:
        del changes
    await run(session, "get.md")
    roles = [cell.metadata[KEY]["role"] for cell in session.transcript.cells]
    assert roles[-4:] == ["task", "prose", "code", "prose"]
    assert "end" in roles[:-4]


# -- where a run is saved


async def test_a_saved_run_keeps_the_link_that_leads_to_it(session: Session, folder: Path) -> None:
    (folder / "deep" / "real.ipynb").symlink_to("kept.ipynb")
    (folder / "link.ipynb").symlink_to("deep/real.ipynb")
    await run(session, "set.md", save="link.ipynb")
    assert (folder / "link.ipynb").is_symlink()
    assert (folder / "deep" / "real.ipynb").is_symlink()
    assert len(Transcript.open(folder / "deep" / "kept.ipynb").cells) == 4


@pytest.mark.parametrize("save", ["plots/", "plots/.", "deep/", "deep", "."])
async def test_a_folder_is_no_file_to_save_to(session: Session, folder: Path, save: str) -> None:
    before = set(folder.rglob("*"))
    with pytest.raises(UsageError, match="folder"):
        await run(session, "set.md", save=save)
    assert set(folder.rglob("*")) == before


async def test_a_read_only_run_is_replayed_but_not_written(session: Session, folder: Path) -> None:
    await run(session, "set.md", save="run.ipynb")
    (folder / "run.ipynb").chmod(0o444)
    before = (folder / "run.ipynb").read_bytes()
    await session.reset()
    with pytest.raises(UsageError, match="read-only"):
        await run(session, "get.md", save="run.ipynb")
    changes = await run(session, "set.md", save="run.ipynb", replay=True)
    assert changes[-1].cell.source == "set"
    (task,) = {
        c.cell.id: c.cell for c in changes if c.cell.metadata[KEY]["role"] == "task"
    }.values()
    assert task.metadata[KEY]["model"].endswith("the file is read-only, nothing is saved")
    assert (folder / "run.ipynb").read_bytes() == before


async def test_what_another_program_wrote_meanwhile_is_not_overwritten(
    session: Session, folder: Path
) -> None:
    await run(session, "set.md", save="run.ipynb")
    os.utime(folder / "run.ipynb")  # as a copy that is synchronised
    await run(session, "get.md")
    other = Session(folder)
    try:
        await run(other, "get.md", save="run.ipynb")
        theirs = (folder / "run.ipynb").read_bytes()
        for save in (None, "run.ipynb"):
            with pytest.raises(UsageError, match="changed by another program"):
                await run(session, "get.md", save=save)
        assert (folder / "run.ipynb").read_bytes() == theirs
        await run(session, "get.md", save="mine.ipynb")
        assert len(Transcript.open(folder / "mine.ipynb").cells) == 12
    finally:
        await other.close()
