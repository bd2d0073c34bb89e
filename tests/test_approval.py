"""Asking the user, in every front end: yes, no with a reason, an edit; and where nobody can be asked."""

from __future__ import annotations

import inspect
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from nbformat.v4 import new_code_cell

from jupyter_agent.exchange.approval import NOBODY, Question, Verdict, asker, with_approval
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Change

F = "```"
COMMAND = [str(Path(sys.executable).with_name("jupyter")), "agent"]
DOORS = {"python3": "%load_ext jupyter_agent", "jupyter-agent": "1"}


@pytest.fixture
def script(folder: Path) -> str:
    """Three cells and an answer."""
    cells = [f"{F}python\nprint('cell {n}')\n{F}" for n in (1, 2, 3)]
    (folder / "s.md").write_text("\n<!-- next reply -->\n".join([*cells, "The answer."]))
    return "scripted:s.md"


@pytest.mark.parametrize(
    ("lines", "verdict"),
    [
        (["y"], Verdict(allowed=True)),
        (["Yes "], Verdict(allowed=True)),
        (["n"], Verdict(allowed=False, reason="the user said no")),
        (["no, use the median"], Verdict(allowed=False, reason="use the median")),
        (["e", "a = 1", "", "a", "."], Verdict(allowed=True, edited="a = 1\n\na")),
        (['e "a = 1\\na"'], Verdict(allowed=True, edited="a = 1\na")),
        (['e "\\ud800"'], Verdict(allowed=True, edited="?")),
        (["r"], Verdict(allowed=True, run_all=True)),
        (["run all"], Verdict(allowed=True, run_all=True)),
        (["run", "Run it", "y"], Verdict(allowed=True)),
        (['r ""'], Verdict(allowed=True, edited="", run_all=True)),
        (["", "what?", "y"], Verdict(allowed=True)),
        (["", "", ""], Verdict(allowed=False, reason="the user gave no answer")),
        ([], Verdict(allowed=False, reason=NOBODY)),
    ],
    ids=str,
)
async def test_what_is_typed_is_understood(lines: list[str], verdict: Verdict) -> None:
    prompts = []

    async def read(prompt: str) -> str:
        prompts.append(prompt)
        if not lines:
            raise EOFError
        return lines.pop(0)

    assert await asker(read, shown=False)(Question("code", "print(1)")) == verdict
    assert prompts[0].startswith("print(1)\n\nRun this? [y]es, [n]o and why, [e]dit, [r]un all: ")


async def test_a_yes_to_code_that_has_changed_since_asks_once_more() -> None:
    cell = new_code_cell("print(1)", metadata={KEY: {"running": True}})
    asked = []

    async def changes() -> AsyncGenerator[Change, None]:
        yield Change(cell)

    async def ask(question: Question) -> Verdict:
        asked.append(question.text)
        cell.source = "print(2)"  # by a page
        return Verdict(allowed=True)

    async for _ in with_approval(changes(), ask):
        pass
    assert asked == ["print(1)", "print(2)"]


async def prompts_for(question: Question, *lines: str, shown: bool = False) -> list[str]:
    """Ask somebody who types these lines; return what was shown to him."""
    prompts, waiting = [], list(lines)

    async def read(prompt: str) -> str:
        prompts.append(prompt)
        return waiting.pop(0)

    await asker(read, shown=shown)(question)
    assert not waiting
    return prompts


async def test_a_page_is_told_what_is_asked_and_names_it_in_its_answer() -> None:
    told: list[dict[str, Any]] = []
    prompts = []

    async def read(prompt: str) -> str:
        prompts.append(prompt)
        return f"#{told[-1]['number']} y" if len(prompts) == 3 else "#0000 y"

    ask = asker(read, shown=False, tell=told.append)
    assert (await ask(Question("code", "print(1)", "cell"))).allowed
    assert len(prompts) == 3  # two answers were to another question
    asked, over = told
    assert over == {}
    assert {**asked, "number": ""} == {
        "kind": "code", "id": "cell", "number": "", "text": "", "code": "print(1)"
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["code", "tool", "permission"])
async def test_a_page_is_told_all_that_cannot_be_seen_in_the_cell(kind: str) -> None:
    told: list[dict[str, Any]] = []

    async def read(_prompt: str) -> str:
        return "n"

    async def text_of(code: str) -> str:
        await asker(read, shown=False, tell=told.append)(Question(kind, code))  # type: ignore[arg-type]
        text: str = told[-2]["text"]
        return text

    only_long = ("lines of nearly nothing", "few empty lines again and again")  # a cell shows all
    for name, code in OUT_OF_SIGHT.items():
        text = await text_of(code)
        assert "wipe()" in text or (kind == "code" and name in only_long)
        assert not re.search(" {40}|\n{6}", text)
    call = f"send({'a' * 5000!r})"
    assert (await text_of(call)).count("a" * 80) >= 50
    assert kind == "code" or await text_of(call) == call


async def test_a_long_question_says_how_much_of_it_is_not_shown() -> None:
    call = f"send({'a' * 5000!r}, 'the end')"
    first, whole = await prompts_for(Question("tool", call), "a", "n")
    assert whole.endswith("\n\nRun this? [y]es, [n]o and why: ")
    assert "\n[... 16 of 56 rows are not shown here ...]\n" in first
    assert first.endswith("'the end')\n\nRun this? [y]es, [n]o and why, [a]ll of it: ")
    assert code_of(whole) == [call]
    [short] = await prompts_for(Question("tool", call[:99]), "n")
    assert short == f"{call[:99]}\n\nRun this? [y]es, [n]o and why: "


async def test_what_is_too_long_to_be_read_is_refused_unasked() -> None:
    async def read(prompt: str) -> str:
        raise AssertionError(prompt)

    for kind in ("code", "tool"):
        verdict = await asker(read, shown=False)(Question(kind, "x" * 100_001))
        assert not verdict.allowed
        assert "it is 100,001 characters long" in verdict.reason


async def test_nothing_hides_in_a_question() -> None:
    hidden = (
        "x = 1\x1b[8m\u202e # \u200b\rdrop()\x08" + " " * 500 + "; wipe()" + "\n" * 40 + "purge()"
    )
    for kind in ("code", "tool"):
        [prompt] = await prompts_for(Question(kind, hidden), "n")
        assert code_of(prompt) == [
            "x = 1\\x1b[8m\\u202e # \\u200b", "drop()\\x08[500 blanks]; wipe()", "purge()"
        ]  # fmt: skip
        assert "\n[39 empty lines]\n" in prompt


OUT_OF_SIGHT = {
    "blanks": "a = 1" + " " * 40 + "; wipe()",
    "tabs": "a = 1;" + "\t" * 39 + "wipe()",
    "few blanks again and again": "s = '" + (" " * 39 + ".") * 4 + "'; wipe()",
    "a wide line": "a = '" + "b" * 90 + "'; wipe()",
    "wide letters": "a = '" + "\u6771" * 50 + "'; wipe()",
    "two letters in one": "a = '" + "\u01f1" * 60 + "'; wipe()",
    "a word in one letter": "a = '" + "\ufdfd" * 6 + "'; wipe()",
    "wider letters": "a = '" + "\u102a" * 25 + "'; wipe()",
    "the widest letters": "a = '" + "\U0001242b" * 10 + "'; wipe()",
    "NBSP": "a = '" + "\xa0" * 40 + "'; wipe()",
    "EM SPACE": "a = '" + "\u2003" * 40 + "'; wipe()",
    "IDEOGRAPHIC SPACE": "a = '" + "\u3000" * 40 + "'; wipe()",
    "empty lines": "a = 1\n" + "\n" * 5 + "wipe()",
    "lines of blanks": "a = 1\n" + " \t\n" * 5 + "wipe()",
    "few empty lines again and again": "a = 1\n" + ("\n" * 4 + "b = 2\n") * 8 + "wipe()",
    "lines of nearly nothing": "a = 1\n" + "#\n" * 39 + "wipe()",
    "a docstring of NBSP": "'''a\n" + "\xa0\n" * 40 + "'''\nwipe()",
    "marks on one letter": "a = 'b" + "\u0301" * 5 + "'; wipe()",
}
ORDINARY = {
    "short": "x = 1\n\n\ny = 2",
    "indented": "for x in y:\n\tif x:\n\t\tprint(x)",
    "aligned": "print(a,\n" + " " * 38 + "b)",
    "as wide as a page": "#" + "a" * 98,
    "as tall as a page": "x = 1\n" * 39 + "y = 2",
    "other scripts": "x = 'été Ж 数据 \u0939\u093f\u0928\u094d\u0926\u0940 ⚠️ →'  # — naïve",
}


def code_of(prompt: str) -> list[str]:
    """Put the lines of code together that a prompt shows in numbered rows."""
    lines: list[str] = []
    for row in prompt.splitlines():
        number, bar, text = row.partition(" | ")
        if bar and number.strip():
            lines.append(text)
        elif bar:
            lines[-1] += text
    return lines


@pytest.mark.parametrize("name", OUT_OF_SIGHT)
async def test_code_that_may_be_out_of_sight_is_in_the_question(name: str) -> None:
    code = OUT_OF_SIGHT[name]
    prompts = await prompts_for(Question("code", code), "a", "n", shown=True)
    assert prompts[0].startswith("The whole code again, because part of it may be out of sight:")
    for prompt in prompts:
        assert code_of(prompt)[-1].endswith("wipe()")
        assert all(len(row) < 100 for row in prompt.splitlines())
        assert " " * 40 not in prompt
        assert "\n" * 5 not in prompt
    assert len(prompts[0].splitlines()) < 45
    assert [line for line in code_of(prompts[-1]) if line.strip()] == [
        re.sub(" {40,}", lambda gap: f"[{len(gap[0])} blanks]", written(line))
        for line in code.expandtabs().splitlines()
        if line.strip()
    ]


def written(code: str) -> str:
    """Write marks and blanks as the question does."""
    return re.sub("[\xa0\u2003\u3000\u0301]", lambda found: ascii(found[0])[1:-1], code)


@pytest.mark.parametrize("name", ORDINARY)
async def test_of_ordinary_code_on_the_screen_the_question_says_nothing(name: str) -> None:
    assert await prompts_for(Question("code", ORDINARY[name]), "n", shown=True) == [
        "Run this? [y]es, [n]o and why, [e]dit, [r]un all: "
    ]


async def test_what_is_drawn_from_right_to_left_is_there_in_its_order_too() -> None:
    call = "pay('\u05d3\u05df', 7000, 5, '\u05d0\u05d1')"
    order = "pay('\\u05d3\\u05df', 7000, 5, '\\u05d0\\u05d1')"
    for kind, shown in (("code", True), ("code", False), ("tool", True), ("permission", True)):
        [prompt] = await prompts_for(Question(kind, f"x\n{call}"), "n", shown=shown)  # type: ignore[arg-type]
        assert (
            f"\n     2 | {call}\n[the same line, in the order in which Python reads it:]\n       | {order}\n"
            in prompt
        )
    for letter in "\u0627\u0661\u07ca\U0001e900\u05ff":  # the last is one to come
        [prompt] = await prompts_for(Question("code", f"x = '{letter}'"), "n", shown=True)
        assert f"x = {letter!a}" in prompt


# -- in a notebook


@asynccontextmanager
async def started(kernel: str, folder: Path) -> AsyncIterator[AsyncKernelClient]:
    manager = AsyncKernelManager(kernel_name=kernel)
    await manager.start_kernel(cwd=str(folder))
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=40)
        client.execute(DOORS[kernel])
        yield client
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


async def typed(client: AsyncKernelClient, code: str, *answers: str) -> str:
    """Run a cell as somebody who answers what is asked; return all that is shown."""
    lines = list(answers)
    shown: list[str] = []

    def hear(message: dict) -> None:  # type: ignore[type-arg]
        content = message["content"]
        shown.append(content.get("text") or content.get("data", {}).get("text/plain") or "")
        if message["msg_type"] == "error":
            shown.append(f"{content['ename']}: {content['evalue']}")

    def ask(message: dict) -> None:  # type: ignore[type-arg]
        shown.append(message["content"]["prompt"])
        client.input(lines.pop(0))

    await client.execute_interactive(
        code, output_hook=hear, stdin_hook=ask, allow_stdin=bool(answers), timeout=50
    )
    assert lines == []
    return "\n".join(shown)


@pytest.mark.parametrize("kernel", DOORS)
async def test_the_rest_of_a_run_needs_no_question_and_the_next_run_does(
    kernel: str, folder: Path, script: str
) -> None:
    run = f"%%agent -m {script} --ask always\nGo"
    async with started(kernel, folder) as client:
        shown = await typed(client, run, "r")
        assert "cell 3\n" in shown
        assert "the user did not let" in await typed(client, run, "n", "n", "r")


@pytest.mark.parametrize("kernel", DOORS)
async def test_each_cell_is_asked_for(kernel: str, folder: Path, script: str) -> None:
    run = f"%%agent -m {script} --ask always --save run.ipynb\nGo"
    async with started(kernel, folder) as client:
        shown = await typed(client, run, "y", "no: too early", "e", "print('other')", ".")
        assert "cell 1\n" in shown
        assert "cell 2\n" not in shown.replace("print('cell 2')", "")
        assert "Refused: the user did not let this cell run: too early" in shown
        assert "other\n" in shown
        assert "The answer." in shown
        refused = await typed(client, f"%%agent -m {script} --ask always\nGo")
        assert "cannot ask before each cell: the user cannot be asked here" in refused
    assert "print('other')" in (folder / "run.ipynb").read_text()


async def test_a_tool_marked_so_is_asked_for_in_the_users_thread(folder: Path) -> None:
    (folder / "s.md").write_text(f"{F}python\nprint(drop('x'))\n{F}\n<!-- next reply -->\nDone.")
    define = (
        "from jupyter_agent import tool\n@tool(ask=True)\ndef drop(name: str) -> str:\n"
        "    print('host has it')\n    return f'dropped {name}'"
    )
    async with started("python3", folder) as client:
        await typed(client, define)
        shown = await typed(client, "%%agent -m scripted:s.md\nGo", "y")
        assert "drop(name='x')\n\nRun this? [y]es, [n]o and why: " in shown
        assert "host has it" in shown
        assert "dropped x\n" in shown
        shown = await typed(client, "%%agent -m scripted:s.md\nGo", "n not now")
        assert "drop() was not called: not now" in shown
        shown = await typed(client, "%%agent -m scripted:s.md\nGo")
        assert "drop() was not called: the user cannot be asked here" in shown
        shown = await typed(client, "%%agent -m scripted:s.md --ask never\nGo")
        assert "dropped x\n" in shown


async def test_a_run_is_stopped_from_a_subshell(folder: Path) -> None:
    code = "print('begun', flush=True)\nimport time\ntime.sleep(60)"
    (folder / "s.md").write_text(f"{F}python\n{code}\n{F}\n<!-- next reply -->\nDone.")
    async with started("python3", folder) as client:
        control = client.session.msg("create_subshell_request")
        client.control_channel.send(control)
        subshell = (await client.get_control_msg(timeout=60))["content"]["subshell_id"]
        assert "No run is going on" in await typed(client, "%agent stop")
        run = client.execute("%%agent -m scripted:s.md\nGo")
        stop = client.session.msg(
            "execute_request",
            {"code": "%agent stop", "silent": False, "allow_stdin": False, "user_expressions": {}},
        )
        stop["header"]["subshell_id"] = subshell
        shown = ""
        while "Interrupted" not in shown:
            message = await client.get_iopub_msg(timeout=40)
            content = message["content"]
            shown += content.get("text") or content.get("ename") or ""
            if "begun" in shown and stop:
                client.shell_channel.send(stop)
                stop = {}
        assert "Stopped." in shown
        reply = await client.get_shell_msg(timeout=60)
        while reply["parent_header"]["msg_id"] != run:
            reply = await client.get_shell_msg(timeout=60)
        assert reply["content"]["status"] == "error"


# -- in a terminal


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, folder: Path, *words: str, command: Sequence[str] = COMMAND) -> None:
        self._end, inner = pty.openpty()
        self.process = subprocess.Popen(
            [*command, *words], cwd=folder, stdin=inner, stdout=inner, stderr=inner,
            start_new_session=True,
        )  # fmt: skip
        os.close(inner)
        self.shown = ""

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 40
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            if select.select([self._end], [], [], 0.5)[0]:
                try:
                    self.shown += os.read(self._end, 65536).decode(errors="replace")
                except OSError:
                    break
        head, found, self.shown = self.shown.partition(text)
        assert found, head

    def type_in(self, line: str) -> None:
        os.write(self._end, f"{line}\n".encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)


@pytest.fixture
def terminal(folder: Path, script: str) -> Iterator[Terminal]:
    terminal = Terminal(folder, "run", "Go", "-m", script, "--ask", "always")
    yield terminal
    terminal.close()


def test_in_a_terminal_each_cell_is_asked_for(terminal: Terminal) -> None:
    terminal.wait_for("\nRun this? [y]es, [n]o and why, [e]dit, [r]un all: ")  # not behind the code
    terminal.type_in("y")
    terminal.wait_for("\ncell 1")
    terminal.wait_for("[r]un all: ")
    terminal.type_in("n too early")
    terminal.wait_for("Refused: the user did not let this cell run: too early")
    terminal.wait_for("[r]un all: ")
    terminal.type_in("e")
    terminal.wait_for("a line with only a full stop ends it")
    terminal.type_in("print('ot' + 'her')")
    terminal.type_in(".")
    terminal.wait_for("\nother")
    terminal.wait_for("The answer.")
    assert terminal.process.wait(20) == 0


def test_in_ipython_in_a_terminal_too(folder: Path, script: str) -> None:
    code = f"""
    get_ipython().run_line_magic("load_ext", "jupyter_agent")
    get_ipython().run_cell_magic("agent", "-m {script} --ask always", "Go")
    """
    command = [sys.executable, "-m", "IPython", "--simple-prompt", "-c", inspect.cleandoc(code)]
    terminal = Terminal(folder, command=command)
    try:
        terminal.wait_for(
            "\nRun this? [y]es, [n]o and why, [e]dit, [r]un all: "
        )  # not behind the code
    finally:
        terminal.close()


def test_what_is_typed_before_there_is_a_question_answers_none(folder: Path) -> None:
    """A cell prints a question of its own, and asks again when it has been answered."""
    go = str(folder / "go.txt")  # the file itself: its copy in there follows before each cell
    wait = f"while not open({go!r}).read(): time.sleep(0.1)"
    code = f"import time\nprint('Run th' + 'is? [y]es: ', flush=True)\n{wait}"
    (folder / "go.txt").touch()
    reply = f"{F}python\n{code}\n{F}"
    (folder / "s.md").write_text(
        f"{reply}\n<!-- next reply -->\n{reply}\n<!-- next reply -->\nDone."
    )
    terminal = Terminal(folder, "run", "Go", "-m", "scripted:s.md", "--ask", "always")
    try:
        terminal.wait_for("[r]un all: ")
        terminal.type_in("y")
        terminal.wait_for("Run this? [y]es: ")
        terminal.type_in("y")
        (folder / "go.txt").write_text("on")
        terminal.wait_for("[r]un all: ")
        terminal.type_in("n never")
        terminal.wait_for("the user did not let this cell run: never")
    finally:
        terminal.close()


def test_ctrl_c_at_a_question_ends_the_run(terminal: Terminal) -> None:
    terminal.wait_for("[r]un all: ")
    terminal.process.send_signal(2)
    terminal.wait_for("\n[agent] stopped")  # not behind the question
    terminal.wait_for("interrupted")
    assert terminal.process.wait(20) == 130


def test_without_a_terminal_it_is_refused_before_anything_is_spent(
    folder: Path, script: str
) -> None:
    done = subprocess.run(
        [*COMMAND, "run", "Go", "-m", script, "--ask", "always"],
        cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cannot ask before each cell: the user cannot be asked here" in done.stderr
