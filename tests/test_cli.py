"""``jupyter agent`` as a user types it: exit codes, streams, bad input, Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from jupyter_agent.frontends.cli import main

from .conftest import TIERS
from .servers import ChatServer, Reply, descendants

F = "```"
ANSWER = "There are **344** penguins.\n"
SCRIPT = f"""\
I count.

{F}python
print(len(open('penguins.csv').readlines()) - 1)
{F}
<!-- next reply -->
{ANSWER}"""
COMMAND = [str(Path(sys.executable).with_name("jupyter")), "agent"]


@pytest.fixture
def script(folder: Path) -> str:
    (folder / "s.md").write_text(SCRIPT)
    return "scripted:s.md"


def agent(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear_hang_ups,
    )


def _hear_hang_ups() -> None:
    """Do as in a terminal, where nohup may have started these tests."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_run_shows_its_steps_and_ends_with_the_answer(folder: Path, script: str) -> None:
    done = agent(folder, "run", "How many penguins?", "-m", script, "-o", "run.ipynb")
    assert done.returncode == 0, done.stderr
    steps = "I count.\n\n    print(len(open('penguins.csv').readlines()) - 1)\n\n344\n\n"
    assert done.stdout == steps + ANSWER
    assert "bubblewrap, reads project/" in done.stderr
    assert "done after 2 steps, ~" in done.stderr
    notebook = nbformat.read(folder / "run.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert [cell.cell_type for cell in notebook.cells] == [
        "markdown",
        "code",
        "markdown",
        "code",
        "markdown",
    ]
    assert notebook.cells[0].source == "How many penguins?"
    assert notebook.cells[1].outputs[0].text.startswith("penguins.csv begins:\n")
    assert notebook.cells[3].outputs[0].text == "344\n"
    assert notebook.metadata.kernelspec.name == "jupyter-agent"


def test_quiet_prints_the_answer_alone(folder: Path, script: str) -> None:
    done = agent(folder, "run", "How many penguins?", "-m", script, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")


def test_quiet_prints_an_answer_that_comes_after_the_sandbox_has_died(folder: Path) -> None:
    (folder / "s.md").write_text(
        "```python\nimport os; os._exit(1)\n```\n<!-- next reply -->\nIt died.\n"
    )
    done = agent(folder, "run", "Go on", "-m", "scripted:s.md", "-q")
    assert (done.returncode, done.stdout) == (0, "It died.\n"), done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict"])
def test_what_a_stream_cannot_encode_is_escaped(folder: Path, encoding: str) -> None:
    (folder / "s.md").write_text("Un café à 3 €.\n")
    done = agent(folder, "run", "Où ?", "-m", "scripted:s.md", "-q", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("3 \\u20ac.\n")


def test_the_model_may_be_named_by_the_environment(folder: Path, script: str) -> None:
    done = agent(folder, "run", "How many?", "-q", JUPYTER_AGENT_MODEL=script)
    assert done.stdout == ANSWER


def test_a_limit_is_exit_code_1_and_the_run_is_saved(folder: Path, script: str) -> None:
    done = agent(folder, "run", "How many?", "-m", script, "-n", "1", "-o", "run.ipynb")
    assert done.returncode == 1
    assert done.stderr.endswith(
        "jupyter agent: no answer after 1 step; raise -n (c.Agent.max_steps), or make the task smaller\n"
    )
    cells = nbformat.read(folder / "run.ipynb", as_version=4).cells
    assert cells[-1].source.startswith("*Stopped: no answer after 1 step;")
    assert cells[-2].outputs[0].text == "344\n"


def test_a_saved_run_is_gone_on_with(folder: Path, script: str) -> None:
    agent(folder, "run", "How many?", "-m", script, "-o", "run.ipynb", "-q")
    (folder / "more.md").write_text("Still 344.\n")
    done = agent(folder, "run", "And now?", "-m", "scripted:more.md", "-o", "run.ipynb", "-q")
    assert done.stdout == "Still 344.\n"
    cells = nbformat.read(folder / "run.ipynb", as_version=4).cells
    assert len(cells) == 6
    assert "kernel is new" in cells[4].metadata.jupyter_agent.note


def test_options_of_the_configuration_can_be_given(folder: Path, script: str) -> None:
    done = agent(folder, "run", "How many?", "-m", script, "--Agent.token_budget=10")
    assert done.returncode == 1
    assert "tokens are used" in done.stderr
    done = agent(
        folder, "run", "How many?", "-m", script, "--SandboxProvisioner.isolation=landlock"
    )
    assert "landlock, reads project/" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "x", "-m", "gpt-5"], "unknown model 'gpt-5': is it openai:gpt-5?"),
        (["run", "x", "-m", "gpt"], "unknown model 'gpt': use one of hf:ORG/NAME"),
        (["run", "x", "-m", "openai:x"], "openai:x needs a key: set OPENAI_API_KEY"),
        (["run", "x", "-m", "hf:a/b"], "hf:a/b needs a Hugging Face token"),
        (["run", "x", "-m", "http://127.0.0.1:9/v1#x"], "no server answers at http://127.0.0.1:9"),
        (["run", "x", "-m", "scripted:s.md", "--data", "no.csv"], "--data 'no.csv': there is no"),
        (["run", "x", "-m", "scripted:no.md"], "cannot read the script 'no.md'"),
        (["run", "x", "-m", "scripted:few.md"], "'few.md' has too few replies"),
        (["run", "x", "-m", "local:penguins.csv"], "penguins.csv"),
        (["run", "x", "-m", "local:no.gguf"], "no.gguf"),
        (["run", " \n", "-m", "scripted:s.md"], "the task is empty"),
        (["run", "Go", "-m", "scripted:s.md", "-o", ""], "the name of the file to save to is empty"),
        (["run", "x", "-m", "scripted:s.md", "-o", "no/run.ipynb"], "the folder does not exist; create it first"),
        (["run", "x", "-m", "scripted:s.md", "-o", "bad.ipynb"], "is not a notebook"),
        (["run", "x", "-m", "scripted:s.md", "-n", "0"], "'0' is not a whole number above 0"),
        (["run", "x", "-m", "scripted:s.md", "--timeout", "-1"], "'-1' is not a number of seconds"),
        (["run", "x", "-m", "scripted:s.md", "--timeout", "soon"], "'soon' is not a number"),
        (["run", "two", "words", "-m", "scripted:s.md"], "unknown arguments: words; put the task in quotes"),
        (["run", "x", "--budgt", "5", "-m", "scripted:s.md"], "unknown option --budgt; is it --budget?"),
        (["run", "x", "--frobnicate", "-m", "scripted:s.md"], "unknown option --frobnicate; see jupyter agent run --help"),
        (["run"], "the following arguments are required: task; write it first, in quotes"),
        (["walk"], "invalid choice: 'walk'"),
        ([], "name a command: run, models, setup or doctor"),
        (["doctor", "all"], "unknown arguments: all; jupyter agent doctor takes none"),
        (["run", "x", "--Agent.max_steps", "3"], "unknown option --Agent.max_steps; write it as --Agent.max_steps=VALUE"),
        (["run", "x", "-m", "scripted:s.md", "--data", ""], "the path '' is empty"),
        (["run", "x", "-m", "scripted:s.md", "--Agent.max_steps=no"], "max_steps"),
        (["run", "x", "-m", "scripted:s.md", "--Agent.token_budgt=5"], "no setting Agent.token_budgt; is it Agent.token_budget?"),
        (["run", "x", "-m", "scripted:s.md", "--Nosuch.thing=5"], "no setting Nosuch.thing; docs/settings.md lists them"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(
    folder: Path, script: str, words: list[str], said: str
) -> None:
    (folder / "bad.ipynb").write_text("{")
    (folder / "few.md").write_text(f"x\n{F}python\n1\n{F}\n")
    before = sorted(path.name for path in folder.iterdir())
    done = agent(folder, *words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert len(done.stderr) < 1_000
    assert done.stdout == ""
    assert (folder / "bad.ipynb").read_text() == "{"
    assert sorted(path.name for path in folder.iterdir()) == before


def test_without_a_model_the_ways_to_one_are_listed(folder: Path) -> None:
    done = agent(folder, "run", "x", OLLAMA_HOST="127.0.0.1:1", OPENAI_API_KEY="sk-decoy")
    assert done.returncode == 2
    *table, _, said = done.stderr.splitlines()
    assert said.startswith("jupyter agent: no model is named: use -m MODEL")
    assert table[0].split() == ["model", "here", "to", "use", "it"]
    assert any(line.endswith("is set    -m openai:NAME") for line in map(squeezed, table))
    assert "sk-decoy" not in done.stderr
    listed = agent(folder, "models", OLLAMA_HOST="127.0.0.1:1", OPENAI_API_KEY="sk-decoy")
    assert (listed.returncode, listed.stdout.splitlines()) == (0, table)


def squeezed(line: str) -> str:
    """A table's line with columns of one width."""
    return re.sub(r" {2,}", "    ", line)


def test_a_current_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    command = shlex.join([*COMMAND, "run", "x", "-m", "scripted:s.md"])
    done = subprocess.run(
        ["sh", "-c", f"mkdir gone && cd gone && rmdir ../gone && {command}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr == "jupyter agent: the current folder is gone; change to another one\n"


@pytest.mark.parametrize(
    "word",
    "--budget=0 --budget=-1 --budget=1e5 --budget= --budget=² --timeout=nan --timeout=inf "
    "--timeout=0 --timeout=1e400 -n=0 --max-steps=-1 --Agent.max_seconds=nan "
    "--Agent.reply_timeout=nan --Sandbox.cell_timeout=nan --Agent.token_budget=-1 "
    f"--Agent.reply_length=1e5 --Session.tool_calls=0 --budget={'9' * 5000}".split(),
)
def test_a_number_that_is_none_is_refused_before_anything_starts(
    folder: Path, script: str, word: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(folder)
    assert main(["run", "x", "-m", script, "-o", "run.ipynb", word]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert len(said.err) < 200
    assert "the sandbox" not in said.err
    assert not (folder / "run.ipynb").exists()


@pytest.mark.parametrize("words", [["--budget", "٣٠٠٠٠"], ["-n", "٣"], ["--timeout", "1e2"], ["--timeout", "1e30"], ["--Agent.max_seconds=inf"]])  # fmt: skip
def test_numbers_are_read_as_their_writer_means_them(
    folder: Path, script: str, words: list[str]
) -> None:
    done = agent(folder, "run", "How many?", "-q", "-m", script, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, ANSWER, "")


def test_debug_shows_the_traceback(folder: Path) -> None:
    done = agent(folder, "run", "x", "-m", "gpt", "--debug")
    assert "Traceback" in done.stderr


def test_a_wait_is_shown_and_options_reach_the_server(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply("no <b>\x1b[2J", status=500), Reply(ANSWER)]
    words = ["run", "How many?", "-m", server.model, "-o", "run.ipynb", "--Agent.retry_wait=0"]
    done = agent(folder, *words, "--Session.model_options={'temperature': 0.5}")
    assert done.returncode == 0, done.stderr
    assert (
        f"[agent] Asking again in 0 s. {server.model}: the server failed (500: no <b>[2J); try"
        in done.stderr
    )
    assert done.stdout == ANSWER
    assert [request.body["temperature"] for request in server.requests] == [0.5, 0.5]
    cells = nbformat.read(folder / "run.ipynb", as_version=4).cells
    assert [cell.source for cell in cells] == ["How many?", ANSWER.strip()]


def test_the_hubs_offline_mode_is_named(folder: Path, server: ChatServer) -> None:
    done = agent(folder, "run", "x", "-m", server.model, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert done.stderr.endswith("HF_HUB_OFFLINE is set, which forbids every request; unset it\n")
    assert server.requests == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_models_stream_stops_the_run(
    folder: Path, server: ChatServer, number: signal.Signals
) -> None:
    server.replies = [Reply("I think ", fault="endless")]
    process = start(folder, "run", "x", "-m", server.model, "-o", "run.ipynb")
    assert process.stdout
    assert process.stdout.read(7) == "I think"
    assert _seconds_to_stop(process, number) < 10
    assert server.hung_up.wait(10)
    cells = nbformat.read(folder / "run.ipynb", as_version=4).cells
    task, end = (cell.source for cell in cells)
    assert task == "x"
    assert end.startswith("*Stopped: interrupted.*\n\n*The reply was not finished")


def test_a_terminal_that_is_closed_ends_the_run(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply("I think ", fault="endless")]
    command = [*COMMAND, "run", "x", "-m", server.model, "-o", "run.ipynb"]
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(folder)
        _hear_hang_ups()
        os.execv(command[0], command)
    said = b""
    while b"I think" not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (1, 130)  # what comes first: the signal, or a write that fails
    end = nbformat.read(folder / "run.ipynb", as_version=4).cells[-1].source
    assert end.startswith("*Stopped: interrupted.*\n\n*The reply was not finished")


def test_a_run_below_nohup_outlives_its_terminal(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply("I think ", fault="endless")]
    words = ["nohup", *COMMAND, "run", "x", "-m", server.model]
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.read(7) == "I think"
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.terminate()
        assert process.wait(20) == 130


def test_a_signal_during_an_endless_cell_stops_it_and_leaves_nothing(folder: Path) -> None:
    code = "print('going', flush=True)\nwhile True: pass"
    (folder / "s.md").write_text(f"x\n{F}python\n{code}\n{F}\n<!-- next reply -->\nok\n")
    process = start(folder, "run", "x", "-m", "scripted:s.md", "-o", "run.ipynb")
    assert process.stdout
    while process.stdout.readline() != "going\n":
        pass
    children = descendants(process.pid)
    assert children
    assert _seconds_to_stop(process, signal.SIGINT) < 10
    notebook = nbformat.read(folder / "run.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[2].outputs[0].text == "going\n"
    assert notebook.cells[2].outputs[-1].ename == "KeyboardInterrupt"
    assert notebook.cells[-1].source == "*Stopped: interrupted.*"
    deadline = time.monotonic() + 10  # the kernel ends a namespace a little after its first process
    while alive := [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive


def _seconds_to_stop(process: subprocess.Popen[str], number: signal.Signals) -> float:
    started = time.monotonic()
    process.send_signal(number)
    try:
        _, stderr = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert stderr.endswith("jupyter agent: interrupted\n")
    assert "Traceback" not in stderr
    seconds = time.monotonic() - started
    print(f"stopped in {seconds:.2f} s after {number.name}")
    return seconds


def test_a_reader_that_leaves_is_no_traceback(folder: Path, script: str) -> None:
    done = subprocess.run(
        f"{COMMAND[0]} agent run 'How many?' -m {script} | head -n 1",
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout == "I count.\n"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    ["run Go -m scripted:s.md", "run Go -m scripted:s.md -q", "doctor", "run --help", "--version"],
)
def test_a_stdout_that_is_full_is_one_line_and_no_fault_of_ours(folder: Path, words: str) -> None:
    (folder / "s.md").write_text("344\n")
    command = f"exec {shlex.join(COMMAND)} {words} > /dev/full"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "jupyter agent: cannot write to stdout: No space left on device"


@pytest.mark.parametrize("tier", TIERS)
def test_a_list_of_mounts_that_cannot_be_written_whole_is_said(folder: Path, tier: str) -> None:
    (folder / "s.md").write_text(f"x\n{F}python\n1\n{F}\n<!-- next reply -->\n344\n")
    options = f"run Go -m scripted:s.md --SandboxProvisioner.isolation={tier}"
    command = f"ulimit -f 1; exec {shlex.join(COMMAND)} {options}"  # files of 512 bytes, no more
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 1
    assert "the sandbox cannot start: [Errno 27] File too large" in done.stderr


def test_a_run_goes_on_without_its_notes(folder: Path) -> None:
    (folder / "s.md").write_text("344\n")
    command = f"exec {shlex.join(COMMAND)} run Go -m scripted:s.md 2> /dev/full"
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout) == (0, "344\n")


NO_HOME = {"HOME": "/nonexistent", "IPYTHONDIR": "/nonexistent/.ipython"}


def test_without_a_home_the_answer_comes_alone(folder: Path) -> None:
    (folder / "s.md").write_text("```python\n1\n```\n<!-- next reply -->\n344\n")
    done = agent(folder, "run", "Go", "-q", "-m", "scripted:s.md", **NO_HOME)
    assert (done.returncode, done.stdout, done.stderr) == (0, "344\n", "")


def test_an_interrupt_while_modules_load_is_one_line(folder: Path) -> None:
    (folder / "argparse.py").write_text("print('loading', flush=True)\nwhile True: pass\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyter_agent.frontends.cli", "run", "Go"],
        env=os.environ | {"PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[1] == "jupyter agent: interrupted\n"
    assert process.returncode == 130


def test_many_interrupts_at_once_are_as_one(folder: Path, server: ChatServer) -> None:
    server.replies = [Reply("I think ", fault="endless")]
    process = start(folder, "run", "x", "-m", server.model, "-o", "run.ipynb")
    assert process.stdout
    assert process.stdout.read(7) == "I think"
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)  # or the kernel would join them
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "jupyter agent: interrupted"
    assert "Task" not in stderr
    assert nbformat.read(folder / "run.ipynb", as_version=4).cells[-1].source.startswith("*Stopped")


def test_the_doctor_is_truthful_with_and_without_bubblewrap(folder: Path) -> None:
    done = agent(folder, "doctor", JUPYTER_AGENT_MODEL="ollama:x")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert "ok  bubblewrap: works" in lines
    assert "ok  sandbox: uses bubblewrap" in lines
    assert any(line.startswith("ok  kernelspec python3-sandboxed: /") for line in lines)
    assert any(line.startswith("ok  kernelspec jupyter-agent: /") for line in lines)
    assert "ok  model: ollama:x (the default; not contacted)" in lines
    without = agent(
        folder, "doctor", JUPYTER_AGENT_MODEL="ollama:x", PATH=str(Path(sys.executable).parent)
    )
    assert "--  bubblewrap: not installed; apt install bubblewrap" in without.stdout
    assert "ok  sandbox: uses landlock" in without.stdout
    assert without.returncode == 0
    none = agent(folder, "doctor")
    assert "NO  model: no model is named" in none.stdout
    assert none.returncode == 1


def test_the_doctor_names_no_key(folder: Path) -> None:
    done = agent(folder, "doctor", OPENAI_API_KEY="sk-decoy", HF_TOKEN="hf_decoy")
    assert "ok  OPENAI_API_KEY: is set" in done.stdout
    assert "decoy" not in done.stdout + done.stderr


def test_the_kernelspecs_are_installed() -> None:
    done = subprocess.run(
        [COMMAND[0], "kernelspec", "list"], capture_output=True, text=True, check=True
    )
    assert "jupyter-agent " in done.stdout
    assert "python3-sandboxed " in done.stdout


def test_a_key_goes_to_the_server_that_is_typed_unless_it_is_anothers(
    folder: Path, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_AGENT_API_KEY", "sk-mine")
    server.replies = [Reply("ok"), Reply(status=401)]
    assert agent(folder, "run", "Go", "-m", server.model).returncode == 0
    monkeypatch.setenv("JUPYTER_AGENT_MODEL", "http://127.0.0.1:9/v1#x")
    refused = agent(folder, "run", "Go", "-m", server.model)
    assert refused.returncode == 1
    assert "was not sent: it is for http://127.0.0.1:9; to send it to" in refused.stderr
    keys = [request.headers["authorization"] for request in server.requests]
    assert keys == ["Bearer sk-mine", "Bearer none"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_no_fault(folder: Path, closed: str) -> None:
    (folder / "s.md").write_text("344\n")
    command = f"exec {shlex.join(COMMAND)} run Go -m scripted:s.md -o run.ipynb {closed}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "344" in (folder / "run.ipynb").read_text()
