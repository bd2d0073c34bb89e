"""The notebook as the only state: outputs, messages, saving, going on."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbconvert import ScriptExporter
from nbconvert.preprocessors import ClearOutputPreprocessor
from nbformat import NotebookNode
from nbformat.v4 import new_output

from jupyter_agent.errors import TranscriptError, UsageError
from jupyter_agent.sandbox.filter.cleaning import clean_prose
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Change, Transcript
from jupyter_agent.transcript.shown_outputs import MAX_CHARACTERS, brief
from jupyter_agent.transcript.user_cells import UserCells

from .as_user import as_user, let_in

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def stream(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=text)


def display(text: str, display_id: str = "", **data: str) -> NotebookNode:
    output = new_output("display_data", data={"text/plain": text, **data})
    if display_id:
        output.transient = NotebookNode(display_id=display_id)
    return output


def filled(path: Path | None = None) -> Transcript:
    """A transcript of one run with a plot and an answer."""
    transcript = Transcript(path)
    transcript.add("task", "Draw {x}?", note="Files you can read here: a.csv")
    transcript.add("prose", "I draw.", step=1)
    cell = transcript.add("code", "plot()", step=1)
    transcript.add_output(cell, stream("hello\n"))
    picture: dict[str, Any] = {"image/png": PIXEL}
    transcript.add_output(cell, display("<Figure>", **picture))
    transcript.finish(cell)
    transcript.add("prose", "Drawn.", step=2)
    return transcript


def test_messages_hold_the_task_as_typed_and_the_plot_as_an_image() -> None:
    task, reply, output, answer = filled().messages()
    assert task["content"] == "Draw {x}?\n\nFiles you can read here: a.csv"
    assert reply["content"] == "I draw.\n\n```python\nplot()\n```"
    text, picture = list(output["content"])
    assert text == {"type": "text", "text": "Output:\n[stdout]\nhello\n[displayed]\n<Figure>"}
    assert picture["image_url"]["url"] == f"data:image/png;base64,{PIXEL}"  # type: ignore[index]
    assert answer == {"role": "assistant", "content": "Drawn."}


def test_a_saved_transcript_loads_to_the_same_messages(tmp_path: Path) -> None:
    transcript = filled(tmp_path / "run.ipynb")
    transcript.save()
    assert transcript.path
    nbformat.validate(nbformat.read(transcript.path, as_version=4))
    again = Transcript.open(transcript.path)
    assert json.dumps(again.messages()) == json.dumps(transcript.messages())


def eventful(path: Path) -> Transcript:
    """A transcript whose outputs were cut, drawn over, and are in part the user's own."""
    transcript = filled(path)
    own = UserCells()
    for n in range(8):
        own.add(f"SECRET_{n} = {n}").add_output(stream(f"SECRET own {n}\n" + "x" * 3000))
    own.move_to(transcript, fresh=True)
    transcript.add("task", "Go on")
    cell = transcript.add("code", "show()", step=1)
    transcript.add_output(
        cell, stream("SECRET first\n" + "\x1b[31mred\x1b[0m 10 %\r100 %\n" * 3000)
    )
    transcript.add_output(
        cell, new_output("error", ename="E", evalue="SECRET", traceback=["E: SECRET"])
    )
    picture: dict[str, Any] = {"image/png": PIXEL}
    for n in range(6):
        transcript.add_output(cell, display(f"SECRET picture {n}", f"p{n}", **picture))
    transcript.add_output(cell, display("SECRET text", "text"))
    transcript.add_output(cell, display("", "broken", **{"image/gif": "SECRET"}))
    transcript.finish(cell)
    later = transcript.add("code", "update()", step=2)
    for display_id in ("p1", "p5", "text", "broken"):
        for text in ("SECRET once more", "SECRET twice"):
            update = display(text, display_id, **({} if display_id == "text" else picture))
            transcript.add_output(later, NotebookNode(update, output_type="update_display_data"))
    transcript.finish(later)
    transcript.add("prose", "Done.", step=3)
    transcript.save()
    return transcript


def test_what_the_model_reads_is_the_same_after_a_resume_whatever_became_of_outputs(
    tmp_path: Path,
) -> None:
    transcript = eventful(tmp_path / "run.ipynb")
    before = json.dumps(transcript.messages())
    assert before.count("SECRET own") == 6
    assert "3 more pictures are not shown" in before
    for _ in range(2):
        transcript = Transcript.open(tmp_path / "run.ipynb")
        assert json.dumps(transcript.messages()) == before
        transcript.save()
    nbformat.validate(nbformat.read(tmp_path / "run.ipynb", 4))


def test_who_clears_the_outputs_has_cleared_them(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    eventful(path)
    assert "SECRET" in path.read_text()
    notebook, _ = ClearOutputPreprocessor().preprocess(nbformat.read(path, 4), {})
    left = nbformat.writes(notebook).replace("SECRET_", "")  # of the code
    assert "SECRET" not in left
    assert PIXEL not in left
    nbformat.write(notebook, path)
    assert "SECRET first" not in json.dumps(Transcript.open(path).messages())


def test_no_output_stands_in_the_metadata_of_a_cell(tmp_path: Path) -> None:
    """Jupytext writes that into a script."""
    path = tmp_path / "run.ipynb"
    eventful(path)
    for cell in nbformat.read(path, 4).cells:
        assert "SECRET" not in json.dumps(cell.metadata)


def test_a_saved_run_is_exported_as_a_python_script(tmp_path: Path) -> None:
    filled(tmp_path / "run.ipynb").save()
    _, resources = ScriptExporter().from_filename(str(tmp_path / "run.ipynb"))
    assert resources["output_extension"] == ".py"


def test_neighbouring_outputs_of_one_stream_are_joined() -> None:
    transcript = Transcript()
    cell = transcript.add("code", "x")
    for output in (stream("a"), stream("b"), stream("c", "stderr"), stream("d")):
        transcript.add_output(cell, output)
    assert [o.text for o in cell.outputs] == ["ab", "c", "d"]


def test_an_update_changes_the_display_wherever_it_stands() -> None:
    transcript = Transcript()
    first, second = transcript.add("code", "x"), transcript.add("code", "y")
    transcript.add_output(first, display("old", "one"))
    update = display("new", "one")
    update.output_type = "update_display_data"
    transcript.add_output(second, update)
    assert first.outputs[0].data["text/plain"] == "new"
    assert second.outputs == []


def test_clear_output_clears_at_once_or_with_the_next_output() -> None:
    transcript = Transcript()
    cell = transcript.add("code", "x")
    transcript.add_output(cell, stream("a"))
    transcript.add_output(cell, NotebookNode(output_type="clear_output", wait=True))
    assert len(cell.outputs) == 1
    transcript.add_output(cell, stream("b"))
    assert [o.text for o in cell.outputs] == ["b"]
    transcript.add_output(cell, NotebookNode(output_type="clear_output", wait=False))
    assert cell.outputs == []


def test_long_outputs_are_cut_once_when_recorded() -> None:
    transcript = Transcript()
    cell = transcript.add("code", "x")
    transcript.add_output(cell, stream("a" * MAX_CHARACTERS + "\n" + "b" * MAX_CHARACTERS))
    transcript.finish(cell)
    shown = transcript.messages()[-1]["content"]
    assert isinstance(shown, str)
    assert len(shown) < MAX_CHARACTERS + 100
    assert shown.startswith("Output:\naaa")
    assert shown.endswith("bbb")
    assert "20,001 characters left out" in shown
    assert len(cell.outputs[0].text) == 2 * MAX_CHARACTERS + 1


@pytest.mark.parametrize(
    ("file", "kept"),
    [
        ("~/work/job.py:4", True),
        ("~/work/job.py:3, in f()", True),
        ("/srv/project/src/model.py:3, in fit(x)", True),
        ("~/work/lib/parse.py:3, in f()", True),
        ("/usr/lib/python3.11/json/decoder.py:355, in decode()", False),
        ("~/.venv/lib/python3.14t/site-packages/pandas/core/frame.py:4, in f()", False),
        ("/opt/conda/lib/python3.12/json/decoder.py:355, in decode()", False),
        ("/usr/lib/python3/dist-packages/yaml/reader.py:1, in f()", False),
        ("pandas/_libs/index.pyx:172, in pandas._libs.index.IndexEngine.get_loc()", False),
        ("<frozen importlib._bootstrap>:1204, in _gcd_import()", False),
        ("<string>:1", False),
    ],
)
def test_the_model_reads_the_frames_of_the_users_own_files(file: str, kept: bool) -> None:
    frame = f"\x1b[36mFile \x1b[39m\x1b[32m{file}\x1b[39m\n      1 line"
    traceback = ["KeyError   Traceback", frame, "KeyError: 1"]
    assert brief(traceback) == [line for line in traceback if kept or line != frame]


def test_the_model_reads_no_colours_no_overdrawn_progress_and_no_library_frames() -> None:
    transcript = Transcript()
    cell = transcript.add("code", "x")
    transcript.add_output(cell, stream("10%\r50%\r100%\ndone\n"))
    frames = [
        "\x1b[31m-----\x1b[39m",
        "KeyError Traceback",
        "Cell In[1], line 1\n----> 1 x",
        "File /usr/lib/pandas/core.py:7, in f()\n   7 raise KeyError",
        "\x1b[31mKeyError\x1b[39m: 'x'",
    ]
    error = new_output("error", ename="KeyError", evalue="'x'", traceback=frames)
    transcript.add_output(cell, error)
    transcript.finish(cell)
    assert transcript.messages()[-1]["content"] == (
        "Output, which ends in an error:\n[stdout]\n100%\ndone\n"
        "[error]\n-----\nKeyError Traceback\nCell In[1], line 1\n----> 1 x\nKeyError: 'x'"
    )
    assert len(cell.outputs[1].traceback) == 5


def test_an_edited_cell_is_what_the_model_reads_next() -> None:
    transcript = filled()
    transcript.cells[2].source = "plot(2)"
    assert "plot(2)" in str(transcript.messages()[1]["content"])


def test_a_users_own_markdown_joins_the_message_before_it() -> None:
    transcript = filled()
    transcript.cells.insert(1, nbformat.v4.new_markdown_cell("In blue."))
    assert str(transcript.messages()[0]["content"]).endswith("a.csv\n\nIn blue.")


def test_a_cell_that_failed_stops_no_one_who_runs_them_all(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "run.ipynb")
    cell = transcript.add("code", "1/0")
    transcript.add_output(cell, new_output("error", ename="E", evalue="e", traceback=[]))
    transcript.finish(cell)
    transcript.save()
    again = Transcript.open(tmp_path / "run.ipynb").cells[0]
    assert again.metadata.tags == ["raises-exception"]
    again.outputs = []
    transcript.finish(again)
    assert "tags" not in again.metadata


def test_saving_never_leaves_half_a_file(tmp_path: Path) -> None:
    transcript = filled(tmp_path / "run.ipynb")
    transcript.save()
    before = (tmp_path / "run.ipynb").read_bytes()
    transcript.cells[0].metadata[KEY]["bad"] = object()
    with pytest.raises(TypeError):
        transcript.save()
    assert (tmp_path / "run.ipynb").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.ipynb"]


def test_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    transcript = filled(tmp_path / "gone" / "run.ipynb")
    with pytest.raises(TranscriptError, match=r"cannot save .*run.ipynb.*No such file"):
        transcript.save()


def test_a_full_disk_keeps_the_notebook_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    transcript = filled(path)
    transcript.save()
    before = path.read_bytes()
    transcript.add("prose", "x" * 100_000)
    import resource

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old[1]))  # as a full disk does: EFBIG
    try:
        with pytest.raises(TranscriptError, match="File too large"):
            transcript.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.ipynb"]


def test_it_knows_the_file_that_it_has_written(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    transcript = Transcript.open(path)
    assert not transcript.has_written(path)
    transcript.add("task", "Go")
    transcript.save()
    assert transcript.has_written(path)
    assert not transcript.has_written(tmp_path / "other.ipynb")
    assert not Transcript.open(path).has_written(path)
    other = tmp_path / "other.ipynb"
    other.write_text(path.read_text())
    other.replace(path)
    assert not transcript.has_written(path)


def test_the_saved_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "run.ipynb"
    transcript = filled(path)
    transcript.save()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()
    path.chmod(0o640)
    transcript.save()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{not json", "is not a notebook"),
        ("", "is not a notebook"),
        ('{"nbformat": 4}', "is not a notebook"),
        ("[]", "is not a notebook"),
        ('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', "not a saved run"),
    ],
)
def test_what_is_not_a_saved_run_is_left_as_it_is(
    tmp_path: Path, content: str, reason: str
) -> None:
    path = tmp_path / "run.ipynb"
    path.write_text(content)
    with pytest.raises(UsageError, match=reason) as caught:
        Transcript.open(path)
    assert "\n" not in str(caught.value)
    assert path.read_text() == content


def test_a_file_in_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folder does not exist"):
        Transcript.open(tmp_path / "gone" / "run.ipynb")
    with pytest.raises(UsageError, match="that is a folder"):
        Transcript.open(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for endless in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UsageError, match="not a regular file"):
            Transcript.open(endless)


def test_a_file_in_a_folder_that_cannot_be_entered_is_refused(tmp_path: Path) -> None:
    """As an ordinary user, whom a folder's mode keeps out."""
    (tmp_path / "closed").mkdir(mode=0)
    code = (
        "import sys; from pathlib import Path; from jupyter_agent.transcript.notebook import Transcript;"
        "Transcript.open(Path(sys.argv[1]) / 'closed' / 'run.ipynb')"
    )
    let_in(tmp_path)
    command = [sys.executable, "-c", code, str(tmp_path)]
    if os.geteuid() == 0:
        command = as_user(command)
    done = subprocess.run(
        command, capture_output=True, text=True, env={"HOME": "/x"}, check=False, timeout=60
    )
    (tmp_path / "closed").chmod(0o700)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("jupyter_agent.errors.UsageError: cannot save to"), done.stderr
    assert last.endswith(": Permission denied")


def test_a_long_line_is_read_in_no_time_to_speak_of() -> None:
    transcript = Transcript()
    cell = transcript.add("code", "x")
    transcript.add_output(cell, stream("x" * 2_000_000))  # hours, if each character began a search
    transcript.finish(cell)
    assert cell.metadata.jupyter_agent.shown["text"].startswith("Output:\nxxx")


def test_a_display_that_was_cleared_is_updated_no_more_and_not_kept() -> None:
    transcript = Transcript()
    cell = transcript.add("code", "1")
    for n in range(3):
        transcript.add_output(cell, NotebookNode(output_type="clear_output", wait=n == 1))
        shown = new_output("display_data", data={"text/plain": str(n)})
        shown.transient = NotebookNode(display_id="d")
        transcript.add_output(cell, shown)
    assert len(transcript._displays["d"]) == 1
    update = NotebookNode(output_type="update_display_data", data={"text/plain": "x"}, metadata={})
    update.transient = NotebookNode(display_id="d")
    transcript.add_output(cell, update)
    assert [output.data["text/plain"] for output in cell.outputs] == ["x"]
    transcript.add_output(cell, NotebookNode(output_type="clear_output", wait=False))
    assert not transcript._displays


def test_the_text_of_a_change_has_none_of_a_pages_escapes() -> None:
    transcript = Transcript()
    said = "It grew from $1.2M to $1.5M, and $x^2$ is a formula."
    prose = transcript.add("prose", clean_prose(said))
    code = transcript.add("code", "!echo \\$1")
    assert prose.source != said
    assert Change(prose).text == said
    assert Change(code).text == code.source
