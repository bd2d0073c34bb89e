"""What views send, and what they answer to pages."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from typing import Any

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_output

from jupyter_agent.errors import LimitReached, ModelError
from jupyter_agent.sandbox.filter.markdown import clean_markdown
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Change, Transcript, temporary_cell
from jupyter_agent.views.live import INTERVAL, DisplayView
from jupyter_agent.views.output_area import (
    MAX_LINE,
    MAX_OUTPUTS,
    MAX_TEXT,
    MIME,
    NOT_SHOWN,
    ending,
    show_recorded,
)
from jupyter_agent.views.page_requests import KnownRuns, Note, checksum, digest
from jupyter_agent.views.terminal import TerminalView


class Page:
    """Keeps what is sent, and makes cells of it as the extension does."""

    def __init__(self) -> None:
        self.tags: list[dict[str, Any]] = []
        self.cells: dict[str, dict[str, Any]] = {}
        self.plain: list[str] = []
        self.bundles: list[dict[str, Any]] = []
        self.beats = threading.Event()

    def display(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any],
        *,
        display_id: str,
        update: bool,
        tag: dict[str, Any] | None = None,
    ) -> None:
        self.plain.append(data["text/plain"])
        self.bundles.append(data)
        if tag is None:
            return
        self.tags.append(tag)
        match tag["op"]:
            case "cell":
                cell = self.cells.setdefault(tag["id"], {"outputs": []})
                cell.update(source=data["text/plain"], state=tag["state"])
            case "clear":
                self.cells[tag["id"]]["outputs"] = []
            case "output":
                outputs = self.cells[tag["id"]]["outputs"]
                outputs[tag["index"] : tag["index"] + 1] = [data["text/plain"]]

    def stream(self, name: str, text: str, tag: dict[str, Any] | None = None) -> None:
        self.plain.append(text)
        if tag:
            self.tags.append(tag)
            outputs = self.cells[tag["id"]]["outputs"]
            grown = [*outputs, ""][tag["index"]] + (
                tag["error"]["evalue"] if "error" in tag else text
            )
            outputs[tag["index"] : tag["index"] + 1] = [grown]

    def busy(self, tag: dict[str, Any] | None = None) -> None:
        if not tag:  # else a beat, which may come at any time
            self.tags.append({"op": "busy"})
        elif tag["op"] == "beat":
            self.beats.set()
        else:
            self.tags.append(tag)


class Run:
    """A run, written step by step."""

    def __init__(self, **settings: Any) -> None:
        self.page = Page()
        self.transcript = Transcript()
        self.view = DisplayView(self.page, anchor="anchor", **settings)
        cell = self.transcript.add("task", "x", run="run", model="m", sandbox="s")
        self.view(Change(cell, done=True))

    def begin(self, source: str) -> NotebookNode:
        cell = self.transcript.add("code", source, step=1)
        self.view(Change(cell))
        return cell

    def execute(self, cell: NotebookNode, *outputs: NotebookNode) -> None:
        cell.metadata[KEY]["running"] = True
        self.view(Change(cell))
        for output in outputs:
            self.transcript.add_output(cell, output)
            self.view(Change(cell))

    def end(self, cell: NotebookNode) -> None:
        self.transcript.finish(cell)
        self.view(Change(cell, done=True))
        while self.view._pace.timer:  # what comes last needs no change after it
            time.sleep(0.01)
        time.sleep(2 * INTERVAL)


def text(text: str) -> NotebookNode:
    return new_output("stream", name="stdout", text=text)


def shown(text: str) -> NotebookNode:
    return new_output("display_data", data={"text/plain": text})


def test_messages_are_counted_and_add_up_to_the_snapshot() -> None:
    run = Run(first_line="%%sandbox\n")
    cell = run.begin("print(1)")
    run.execute(cell, text("a"), text("b"), shown("one"), new_output("error", evalue="bad"))
    run.end(cell)
    run.view.finish("done")
    assert [tag["sent"] for tag in run.page.tags] == list(range(1, len(run.page.tags) + 1))
    snapshot = run.view.snapshot()
    assert snapshot["sent"] == len(run.page.tags)
    (state,) = snapshot["cells"]
    assert (state["source"], state["first_line"], state["state"]) == (
        "print(1)",
        "%%sandbox\n",
        "done",
    )
    assert [o.get("text") or o.get("evalue") or o.data["text/plain"] for o in state["outputs"]] == [
        "ab", "one", "bad"
    ]  # fmt: skip
    assert run.page.cells[cell.id] == {
        "source": "print(1)", "state": "done", "outputs": ["ab", "one", "bad"]
    }  # fmt: skip


def test_a_flood_of_changes_is_few_messages_and_loses_nothing() -> None:
    run = Run()
    cell = run.begin("x")
    run.execute(cell)
    before = len(run.page.tags)
    start = time.monotonic()
    for number in range(2000):
        run.transcript.add_output(cell, text(f"{number}\n"))
        run.view(Change(cell))
    took = time.monotonic() - start
    time.sleep(4 * INTERVAL)
    assert run.page.cells[cell.id]["outputs"] == ["".join(f"{n}\n" for n in range(2000))]
    assert len(run.page.tags) - before < took / INTERVAL * 2 + 5


def test_cleared_outputs_are_shown_anew() -> None:
    run = Run()
    cell = run.begin("x")
    run.execute(cell, text("10 %\n"))
    run.execute(cell, NotebookNode(output_type="clear_output", wait=True), text("20 %\n"))
    run.end(cell)
    assert run.page.cells[cell.id]["outputs"] == ["20 %\n"]
    assert run.view.snapshot()["cells"][0]["outputs"][0].text == "20 %\n"


def test_a_text_without_end_is_cut_once() -> None:
    run = Run()
    cell = run.begin("x")
    run.execute(cell, *[text("short\n" * 50_000) for _ in range(5)])
    run.end(cell)
    (output,) = run.page.cells[cell.id]["outputs"]
    assert output == ("short\n" * 250_000)[:MAX_TEXT] + NOT_SHOWN


def test_a_long_line_is_cut_where_it_was_when_it_grows() -> None:
    run = Run()
    cell = run.begin("x")
    pieces = ["x" * (MAX_LINE - 1), "x", "x", "xyz\n", "100 %\r" * MAX_LINE, "end"]
    for piece in pieces:
        run.execute(cell, text(piece))
        time.sleep(INTERVAL)
    run.end(cell)
    (output,) = run.page.cells[cell.id]["outputs"]
    assert output == "x" * MAX_LINE + " […]\n" + "100 %\r" * MAX_LINE + "end"


def test_a_flood_of_outputs_is_cut_but_not_why_it_was_stopped() -> None:
    run = Run()
    cell = run.begin("x")
    run.execute(cell, *[shown(f"{number}") for number in range(MAX_OUTPUTS + 50)])
    run.execute(cell, new_output("error", ename="OutputLimit", evalue="stopped"))
    run.end(cell)
    *first, note, error = run.page.cells[cell.id]["outputs"]
    assert first == [f"{number}" for number in range(MAX_OUTPUTS)]
    assert note.startswith("[outputs after the first")
    assert error == "stopped"
    assert len(cell.outputs) == MAX_OUTPUTS + 51  # what is saved, and read by the model


def test_an_edit_counts_from_the_moment_the_agent_has_written_the_cell() -> None:
    run = Run(first_line="%%sandbox\n")
    cell = run.begin("print('half")
    run.view.edit(cell.id, "%%sandbox\nprint('mine')")
    cell.source = "print('half of it')"  # the model goes on
    run.view(Change(cell))
    run.execute(cell)
    assert cell.source == "print('mine')"  # what runs
    run.end(cell)
    run.view.edit(cell.id, "print('mine again')")
    assert "print('mine again')" in str(run.transcript.messages())


def test_a_deleted_cell_is_not_run_and_not_read_until_it_is_back() -> None:
    run = Run()
    ran = run.begin("print('secret')")
    run.execute(ran, text("secret\n"))
    run.end(ran)
    waits = run.begin("print('later')")
    run.view.delete(ran.id)
    run.view.delete(waits.id)
    assert run.view.snapshot()["cells"] == []
    assert waits.metadata[KEY]["refused"] == "deleted"
    messages = run.transcript.messages()
    assert [message["role"] for message in messages] == ["user"]
    assert "secret" not in str(messages)
    assert "I deleted a cell of yours" in str(messages)
    run.view.edit(ran.id, "print('secret')")  # the deletion was undone
    assert "secret" in str(run.transcript.messages())


def test_pages_are_told_of_a_question_after_its_cell_and_of_its_end() -> None:
    run = Run(first_line="%%sandbox\n")
    cell = run.begin("1")
    run.execute(cell)
    run.view.ask({"kind": "tool", "id": "", "number": "7", "text": "drop()", "code": ""})
    *_, last, header, asked = run.page.tags
    assert (last["op"], last["id"], header["op"]) == ("cell", cell.id, "run")
    assert run.view.header[MIME]["doing"] == "asking"
    assert (asked["op"], asked["id"], asked["text"]) == ("ask", cell.id, "drop()")
    assert (asked["anchor"], asked["first_line"]) == ("anchor", "%%sandbox\n")
    assert run.view.snapshot()["asks"] == asked
    run.view.ask({})
    assert run.page.tags[-1]["op"] == "answered"
    assert run.view.header[MIME]["doing"] == "running"
    assert run.view.snapshot()["asks"] is None


def test_a_cell_that_is_deleted_while_the_user_is_asked_does_not_run() -> None:
    run = Run()
    cell = run.begin("1")
    run.execute(cell)
    run.view.delete(cell.id)
    assert "refused" not in cell.metadata[KEY]  # it runs already
    run.view.ask({"kind": "code", "id": cell.id, "number": "7", "text": "", "code": "1"})
    run.view.delete(cell.id)
    assert cell.metadata[KEY]["refused"] == "deleted"


def test_the_header_comes_before_the_sandbox_is_up() -> None:
    page = Page()
    view = DisplayView(page, anchor="anchor", replaces="old")
    view(Change(temporary_cell("*Starting the sandbox*")))
    assert [(tag["op"], tag["state"]) for tag in page.tags] == [("run", "starting")]
    assert "Starting the sandbox" in page.plain[0]
    assert view.replaces == ""
    cell = Transcript().add("task", "x", model="m", sandbox="s")
    view(Change(cell, done=True))
    assert page.tags[1]["state"] == "working"
    assert page.tags[1]["run"] == page.tags[0]["run"]
    assert "Starting" not in page.plain[1]
    assert view.replaces == "old"


def test_a_run_that_never_began_takes_no_other_ones_place() -> None:
    page = Page()
    view = DisplayView(page, anchor="anchor", replaces="old")
    view(Change(temporary_cell("*Starting the sandbox*")))
    view.finish("stopped")
    assert page.tags[-1]["state"] == "unstarted"
    assert view.replaces == ""


def test_without_a_front_end_that_names_cells_nothing_is_tagged() -> None:
    page = Page()
    view = DisplayView(page)
    transcript = Transcript()
    view(Change(transcript.add("task", "x", run="run", model="m", sandbox="s"), done=True))
    prose = transcript.add("prose", "It is 2.", step=1)
    view(Change(prose))
    view(Change(prose, done=True))
    view.finish("done")
    assert page.tags == []
    assert page.plain[1] == "It is 2."
    assert len(page.plain) == 3


def request(code: str, cell_id: str = "c", **note: object) -> dict[str, Any]:
    return {
        "content": {"code": code},
        "metadata": {"cellId": cell_id, "jupyter_agent": {"id": "c", **note}},
    }


def test_a_finished_run_is_held_until_its_text_changes() -> None:
    facts: dict[str, Any] = {"run": "run", "state": "done", "digest": digest("%%agent\nGo.")}
    assert Note.of(request("%%agent\nGo.", **facts)).held
    assert not Note.of(request("%%agent\nGo on.", **facts)).held
    assert not Note.of(request("%%agent\nGo.", **facts | {"state": "stopped"})).held
    assert not Note.of(request("%%agent\nGo.", cell_id="a copy", **facts)).held
    assert not Note.of(request("%%agent\nGo.", **facts | {"digest": [1]})).held
    assert not Note.of({"metadata": {"cellId": 7, "jupyter_agent": "?"}}).held


def test_a_request_that_waited_for_the_run_asks_no_model_again() -> None:
    """As of a page where the cell was run once more while it ran."""
    runs, run = KnownRuns(), Run(digest=digest("%%agent\nGo."))
    runs.add(run.view)
    note = Note.of(request("%%agent\nGo.", run=run.view.run, state="working"))
    assert not runs.held(note)
    run.view.finish("done")
    assert runs.held(note)
    assert not runs.held(Note.of(request("%%agent\nGo on.", run=run.view.run, state="working")))
    again = Note.of(request("%%agent\nGo.", run=run.view.run, state="again"))
    assert again.again
    assert not runs.held(again)


def test_what_is_shown_as_recorded_keeps_its_model_and_cost() -> None:
    run = Run()
    note = Note.of(request("%%agent\nGo.", run=run.view.run))
    run.view.finish("done")
    page = Page()
    show_recorded(page, note, header=run.view.header)
    assert page.plain[0].startswith("agent: done · ")
    assert " · m · s · shown as recorded; no model was asked" in page.plain[0]
    assert page.bundles[0][MIME] == run.view.header[MIME] | {"state": "recorded"}
    show_recorded(page, note, header=None)
    assert page.plain[1].startswith("agent: shown as in the file; this kernel did not run it")
    assert page.bundles[1][MIME] == {"run": note.run, "state": "claimed"}


def test_a_cell_that_is_emptied_before_it_is_dropped_is_taken_back() -> None:
    run = Run()
    cell = run.transcript.add("prose", "Half a", step=1)
    run.view(Change(cell))
    run.view._show()
    run.view(Change(cell))  # shown late, by a timer: what a stop has emptied meanwhile
    run.transcript.drop(cell)
    run.view._show()
    run.view(Change(cell, done=True))
    run.view.finish("stopped")
    assert run.page.cells[cell.id] == {"outputs": [], "source": "", "state": "done"}
    assert run.view.snapshot()["cells"] == []


def test_what_is_left_of_a_reply_that_was_stopped_is_shown() -> None:
    run = Run()
    run.view(Change(run.transcript.add("end", "*Stopped.*"), done=True))
    half = run.transcript.add("end", "*Stopped.*\n\nI will", unfinished=True)
    run.view(Change(half, done=True))
    run.view.finish("stopped")
    assert [cell["source"] for cell in run.page.cells.values()] == ["I will"]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ModelError("m: no credit (402)"), "failed: m: no credit (402)"),
        (ZeroDivisionError(), "failed: ZeroDivisionError"),
        (ModelError("no `x`,\nbut a*b* & [c]\x1b[2J"), "failed: no `x`, but a*b* & [c]"),
        (LimitReached("no answer after 2 steps"), "stopped: no answer after 2 steps"),
        (KeyboardInterrupt(), "stopped"),
        (asyncio.CancelledError(), "stopped"),
    ],
)
def test_a_run_that_failed_says_so_and_why(error: BaseException, state: str) -> None:
    run = Run()
    run.view.finish(*ending(error))
    assert run.page.plain[-1].startswith(f"agent: {state} · ")
    facts = run.view.header[MIME]
    assert (facts["state"], facts["why"]) == (*state.split(": ", maxsplit=1), "")[:2]


@pytest.mark.parametrize("problem", ["m: busy; wait and try again", "m: busy; try again", "busy"])
def test_pages_are_told_that_the_kernel_lives_and_for_how_long_a_run_waits(problem: str) -> None:
    run = Run()
    assert run.page.beats.wait(20)
    run.view(Change(temporary_cell("*Asking again in 7 s. m: busy*", seconds=7.0, problem=problem)))
    facts = run.view.header[MIME]
    assert (facts["waiting"], facts["wait"]) == ("Asking again: busy", 7.0)
    assert "Asking again: busy in 7 s" in run.page.plain[-1]
    run.view(Change(temporary_cell(""), done=True))
    assert run.view.header[MIME]["waiting"] == ""
    run.view.finish("done")


def test_a_cell_of_a_replaced_run_is_replaced_unless_it_was_edited() -> None:
    runs = KnownRuns()
    old = request("%%sandbox\n1", run="old", checksum=checksum("%%sandbox\n1"))
    assert not runs.is_replaced(Note.of(old))
    runs.add(Run(replaces="old").view)
    assert runs.is_replaced(Note.of(old))
    old["content"]["code"] = "%%sandbox\n2"
    assert not runs.is_replaced(Note.of(old))


def test_a_kernel_knows_its_own_runs_and_no_other() -> None:
    runs, run = KnownRuns(), Run(first_line="%%sandbox\n", session="page")
    runs.add(run.view)
    cell = run.begin("print(1)")
    run.execute(cell, text("1\n"))
    run.end(cell)
    run.view.edit(cell.id, "%%sandbox\nprint(2)")
    known = runs.answer({"op": "known", "runs": [run.view.run, "forged", "", 7, None, [], {}]})
    assert list(known["runs"]) == [run.view.run]
    told = known["runs"][run.view.run]
    assert (told["anchor"], told["session"]) == ("anchor", "page")
    assert told["facts"]["state"] == "working"
    assert (told["cells"], told["deleted"]) == ({cell.id: "%%sandbox\nprint(2)"}, [])
    run.view.delete(cell.id)
    told = runs.answer({"op": "known", "runs": [run.view.run]})["runs"][run.view.run]
    assert (told["cells"], told["deleted"]) == ({}, [cell.id])
    header = runs.header(Note.of(request("1", run=run.view.run)))
    assert header is not None
    assert header[MIME]["model"] == "m"
    assert runs.header(Note.of(request("1", run="forged"))) is None
    assert runs.header(Note.of(request("1"))) is None


@pytest.mark.parametrize(
    "content",
    [None, {}, {"op": "sync", "run": ""}, {"op": "edit", "run": "run"}, {"op": "known", "runs": 1}],
)
def test_what_pages_may_not_ask_is_an_error(content: object) -> None:
    runs = KnownRuns()
    view = Run().view
    runs.add(view)
    assert runs.answer(content)["status"] == "error"
    assert runs.answer({"op": "sync", "run": view.run})["anchor"] == "anchor"


def test_the_checksum_is_that_of_the_page() -> None:
    assert checksum("") == "811c9dc5"
    assert checksum("a") == "e40c292c"  # FNV-1a's own example
    assert checksum("🐧") == "b22e775d"  # over UTF-16; tests/js/notes.test.mjs has the same figures


class Screen(io.StringIO):
    """A terminal, so that colours are shown."""

    def isatty(self) -> bool:
        return True


def test_no_output_hides_what_a_terminal_shows_after_it() -> None:
    out = Screen()
    view, transcript = TerminalView(out, Screen()), Transcript()
    first = transcript.add("code", "print(1)", step=1, running=True)
    view(Change(first))
    for text in ("\x1b[31mred", " and\x1b[8m gone\n", "\x1b[1;8;30;40mx\n", "over\b\b\b\bdone\n"):
        first.outputs.append(new_output("stream", name="stdout", text=text))
        view(Change(first))
    second = transcript.add("code", "wipe() # \u202e\rprint(2)", step=2, running=True)
    view(Change(second))
    shown = out.getvalue()
    assert "\x1b[31mred\x1b[0m\n and gone\n" in shown
    assert "x\noverdone\n" in shown
    assert "\b" not in shown
    assert shown.endswith("    wipe() # \\u202e\n    print(2)\n")
    after = shown[shown.index("wipe") :]
    assert "\x1b" not in after
    assert shown[: shown.index("wipe")].rfind("\x1b[0m") == shown.rfind("\x1b")


def test_prose_in_a_terminal_is_written_once_also_a_table() -> None:
    text = (
        "Two species, and *both* are heavy:\n\n- one\n- two\n\n| a | b |\n|---|:-:|\n| 1 | $x$ |\n"
        "| 2 | y |\n\n| c |\n|---|\n| 3 |\n\nA [link](https://example.org/a) and **done**."
    )
    out, transcript = io.StringIO(), Transcript()
    view = TerminalView(out, io.StringIO())
    cell = transcript.add("prose", step=1)
    for end in range(1, len(text) + 1):
        cell.source = clean_markdown(text[:end])
        view(Change(cell))
    view(Change(cell, done=True))
    said = out.getvalue()
    assert said.endswith(f"{cell.source[cell.source.rindex('| c |') :]}\n")
    assert said.count("| 1 |") == said.count("| 3 |") == said.count("both") == 1
    assert len(said) < len(cell.source) + 80


def test_a_terminal_says_of_half_a_reply_that_it_was_not_run() -> None:
    out, notes, transcript = io.StringIO(), io.StringIO(), Transcript()
    view = TerminalView(out, notes)
    view(Change(transcript.add("code", "wipe(", step=1)))
    view(Change(transcript.add("end", "*Stopped.*\n\nwipe(", unfinished=True), done=True))
    assert notes.getvalue() == "[agent] the reply was not finished, and nothing of it was run\n"
    view(Change(transcript.add("end", "*Stopped.*"), done=True))
    assert notes.getvalue().count("\n") == 1


def test_a_terminal_goes_on_with_a_line_that_a_cell_has_begun() -> None:
    out, transcript = io.StringIO(), Transcript()
    view = TerminalView(out, io.StringIO())
    cell = transcript.add("code", "count()", step=1, running=True)
    view(Change(cell))
    cell.outputs.append(new_output("stream", name="stdout", text=""))
    for text in (".", "..", "...", "...done\n"):
        cell.outputs[0].text = text
        view(Change(cell))
    assert out.getvalue() == "    count()\n\n...done\n"
