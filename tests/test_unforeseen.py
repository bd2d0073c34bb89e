"""Whatever is raised in whichever layer, each front end answers: an error, a reply, an exit code."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from jupyter_agent.errors import Defect, UsageError
from jupyter_agent.exchange.tools import Tool, find
from jupyter_agent.frontends.cli import main
from jupyter_agent.views.page_requests import REQUEST, KnownRuns

from .test_agent_kernel import Kernel, said
from .throwing import LAYERS, thrower

F = "```"
SCRIPT = f"I count.\n\n{F}python\nprint(1)\n{F}\n<!-- next reply -->\n**344**\n"
AGENT = "%%agent -m scripted:s.md\nHow many?"


@pytest.fixture
def script(folder: Path) -> str:
    (folder / "s.md").write_text(SCRIPT)
    return "scripted:s.md"


def test_a_defect_is_one_line_and_says_where() -> None:
    try:
        raise LookupError("one\x1b[2J\ntwo")
    except LookupError as error:
        said = str(Defect.of(error, "See there"))
    assert "\n" not in said
    assert "\x1b" not in said
    assert said.startswith("unexpected LookupError")
    assert said.endswith("See there")


@pytest.mark.parametrize("layer", LAYERS)
def test_the_command_ends_with_one_line_and_exit_code_1(
    folder: Path, script: str, layer: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(folder)
    sys.settrace(thrower(layer))
    try:
        code = main(["run", "How many?", "-q", "-m", script, "-o", "run.ipynb"])
    finally:
        sys.settrace(None)
    out, err = capfd.readouterr()
    if (
        layer == "sandbox/connection.py:_receive"
    ):  # a task of its own: the sandbox goes on, or is lost
        assert code in (0, 1)
        return
    assert (code, out) == (1, "")
    assert err.count("\n") == 1, err
    assert "unexpected LookupError in " in err
    if (folder / "run.ipynb").exists():
        nbformat.validate(nbformat.read(folder / "run.ipynb", as_version=4))


@pytest.fixture(scope="module")
def throwing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kernel, Path]]:
    """Start an agent kernel that raises where a file says so."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "s.md").write_text(SCRIPT)
    told = folder / ".told"
    told.write_text(":")
    spec = folder / "kernels" / "throwing"
    spec.mkdir(parents=True)
    words = [
        "-m",
        "tests.throwing",
        str(told),
        "jupyter_agent.frontends.agent_kernel",
        "-f",
        "{connection_file}",
    ]
    facts = {"argv": [sys.executable, *words], "display_name": "x", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(facts))
    manager = KernelManager(
        kernel_name="throwing",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(spec.parent)]),
    )
    root = str(Path(__file__).parent.parent)
    manager.start_kernel(cwd=str(folder), env=os.environ | {"PYTHONPATH": root})
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=40)
    yield Kernel(manager, client), told
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def throw(kernel: Kernel, told: Path, layer: str) -> None:
    told.write_text(layer)
    assert kernel.manager.provisioner
    os.kill(kernel.manager.provisioner.pid, signal.SIGUSR1)  # type: ignore[attr-defined]
    kernel.client.kernel_info(reply=True, timeout=20)  # it has heard the signal by now


@pytest.mark.parametrize("layer", [*LAYERS, "host_commands.py:read_command", "live.py:__call__"])
def test_a_cell_of_the_agent_kernel_is_answered(throwing: tuple[Kernel, Path], layer: str) -> None:
    kernel, told = throwing
    throw(kernel, told, layer)
    reply, published = kernel.run(AGENT)
    throw(kernel, told, ":")
    if reply["status"] == "error":
        assert reply["ename"] in ("Defect", "SandboxError")
        assert "\n" not in reply["evalue"]
    else:
        assert layer == "sandbox/connection.py:_receive"
    reply, published = kernel.run(AGENT)
    assert reply["status"] == "ok", reply
    assert "**344**" in said(published)


@pytest.mark.parametrize(
    "layer", ["agent_kernel.py:ask", "agent_kernel.py:_ask", "host_commands.py:read_command"]
)
def test_whatever_else_is_asked_of_it_is_answered(
    throwing: tuple[Kernel, Path], layer: str
) -> None:
    kernel, told = throwing
    assert kernel.run("import json")[0]["status"] == "ok"
    client = kernel.client
    for ask, answer in (
        (lambda: client.complete("js", 2), "complete_reply"),
        (lambda: client.inspect("json", 4), "inspect_reply"),
        (lambda: client.is_complete("if 1:"), "is_complete_reply"),
        (lambda: client.history(), "history_reply"),
    ):
        throw(kernel, told, layer)
        ask()
        assert kernel.shell(answer)["content"]["status"] in ("error", "ok", "incomplete")
    throw(kernel, told, ":")
    client.complete("jso", 3)
    assert kernel.shell("complete_reply")["content"]["matches"]


class Broken:
    """A run that cannot say how it stands."""

    run = "r"

    def known(self) -> dict[str, Any]:
        raise LookupError("thrown")

    def still_busy(self) -> None:
        pass


class Stand:
    """A kernel, as far as `KnownRuns` needs one."""

    iopub_socket = None
    log = logging.getLogger("stand")

    def __init__(self) -> None:
        self.control_handlers: dict[str, Any] = {}
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.session = self

    def send(self, _stream: object, kind: str, reply: dict[str, Any], *_: object) -> None:
        self.sent.append((kind, reply))


async def test_a_page_that_asks_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    runs, kernel = KnownRuns(), Stand()
    runs.add(Broken())  # type: ignore[arg-type]
    runs.listen(kernel)
    kernel.control_handlers[REQUEST](None, None, {"content": {"op": "known", "runs": ["r"]}})
    ((kind, reply),) = kernel.sent
    assert kind == "jupyter_agent_reply"
    assert reply["ename"] == "Defect"
    assert "LookupError: thrown" in caplog.text


MAGICS = """
import logging, sys
from IPython.core.interactiveshell import InteractiveShell
from jupyter_agent.frontends.event_loop import shared_loop
from tests.throwing import LAYERS, thrower

logging.getLogger().setLevel(logging.CRITICAL + 1)
shell = InteractiveShell.instance(history_length=0)
shell.run_line_magic("load_ext", "jupyter_agent")
shell.showtraceback = lambda *_, **__: None
for layer in [*LAYERS, "magics.py:_view", "terminal.py:__call__"]:
    trace = thrower(layer)
    shared_loop()._loop.call_soon_threadsafe(sys.settrace, trace)
    sys.settrace(trace)
    done = shell.run_cell(%r)
    sys.settrace(None)
    shared_loop()._loop.call_soon_threadsafe(sys.settrace, None)
    error = done.error_in_exec
    print("#", layer, type(error).__name__, str(error).count("\\n"))
done = shell.run_cell(%r)
print("#", "at last", type(done.error_in_exec).__name__, 0)
"""


def test_a_cell_with_the_magic_ends_in_an_error_of_one_line(folder: Path, script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAGICS % (AGENT, AGENT)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    ends = [line.split()[-3:] for line in done.stdout.splitlines() if line.startswith("#")]
    assert len(ends) > len(LAYERS)
    for layer, kind, lines in ends[:-1]:
        assert lines == "0"
        assert kind == "Defect" or layer == "sandbox/connection.py:_receive", (layer, kind)
    assert ends[-1] == ["last", "NoneType", "0"]


@pytest.mark.parametrize(
    "line",
    ["What's the heaviest?", '-m "x', "--save it's.ipynb", "-n ٣ 'a", "\\", "-m scripted:s.md \\"],
)
def test_whatever_stands_on_the_magics_line_is_answered(
    throwing: tuple[Kernel, Path], line: str
) -> None:
    kernel, told = throwing
    throw(kernel, told, ":")
    reply, _ = kernel.run(f"%%agent {line}\nHow many?")
    assert reply["status"] == "error" or line.endswith("md \\")
    if reply["status"] == "error":
        assert reply["ename"] == "UsageError"
        assert "\n" not in reply["evalue"]


@pytest.mark.parametrize(
    "body", ["def f(:", "raise RuntimeError('x\\ny')", "import sys; sys.exit(3)", "import nowhere"]
)
def test_a_module_of_tools_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    name = f"broken_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=name) as caught:
        find(f"{name}:f")
    assert "\n" not in str(caught.value)


def test_bare_hints_say_nothing_of_what_is_inside() -> None:
    def count(
        a: typing.List,  # type: ignore[type-arg]  # noqa: UP006
        b: typing.Dict,  # type: ignore[type-arg]  # noqa: UP006
        c: typing.Set,  # type: ignore[type-arg]  # noqa: UP006
        d: typing.Sequence,  # type: ignore[type-arg]
        e: typing.Tuple,  # type: ignore[type-arg]  # noqa: UP006
        f: list,  # type: ignore[type-arg]
        g: dict[str],  # type: ignore[type-arg]
        h: typing.Literal["x"],
    ) -> None:
        pass

    tool = Tool.of(count)
    tool.bind([[1, "x"], {1: 2}, {3}, (4,), (5, "y"), [], {"k": 1}, "x"], {})
    with pytest.raises(TypeError, match="for 'a'"):
        tool.bind([1, {}, set(), [], (), [], {}, "x"], {})
