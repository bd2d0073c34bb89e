"""``jupyter_agent_config.py``: one file that every front end and both kernels obey."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from traitlets.config import Config

from jupyter_agent import settings
from jupyter_agent.errors import UsageError
from jupyter_agent.frontends.doctor import examine
from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner
from jupyter_agent.session import Session

NOTHING = "c.SandboxProvisioner.data = []\nc.SandboxProvisioner.isolation = 'landlock'\n"
LOOK = "import os; print(os.listdir(), os.environ['HOME'] == '/home/agent')"  # bubblewrap's
SEEN = "[] False"
F = "```"
SCRIPT = f"Look.\n\n{F}python\n{LOOK}\n{F}\n<!-- next reply -->\nDone.\n"
BIN = Path(sys.executable).parent
EXECUTE = [f"{BIN}/jupyter", "execute", "--inplace", "n.ipynb"]
RUN = [f"{BIN}/jupyter", "agent", "run", "Look", "-m", "scripted:s.md"]


@pytest.fixture
def configure() -> Callable[[str], Path]:
    """Write the file where Jupyter looks for it."""
    folder = Path(os.environ["JUPYTER_CONFIG_DIR"])
    folder.mkdir(parents=True, exist_ok=True)

    def write(text: str) -> Path:
        path = folder / "jupyter_agent_config.py"
        path.write_text(text)
        return path

    return write


def notebook(folder: Path, kernel: str, *sources: str) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    spec = {"name": kernel, "display_name": kernel, "language": "python"}
    written = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})
    nbformat.write(written, folder / "n.ipynb")


def shown(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.outputs)


# -- each front end


@pytest.mark.parametrize("kernel", ["python3-sandboxed", "jupyter-agent"])
@pytest.mark.parametrize(
    "command",
    [
        "jupyter execute --inplace n.ipynb",
        "papermill n.ipynb n.ipynb",
        "jupyter nbconvert --execute --inplace --to notebook n.ipynb",
    ],
)
def test_notebooks_that_are_executed_obey_the_file(
    command: str, kernel: str, folder: Path, configure: Callable[[str], Path]
) -> None:
    configure(NOTHING)
    notebook(folder, kernel, LOOK)
    program, *words = command.split()
    subprocess.run([BIN / program, *words], cwd=folder, check=True, capture_output=True)
    assert SEEN in shown(folder / "n.ipynb")


@pytest.mark.parametrize("kernel", ["python3-sandboxed", "jupyter-agent"])
async def test_a_jupyter_server_obeys_the_file(
    kernel: str, folder: Path, configure: Callable[[str], Path]
) -> None:
    configure(NOTHING)
    server = AsyncMappingKernelManager(root_dir=str(folder))
    kernel_id = await server.start_kernel(kernel_name=kernel)
    client: Any = server.get_kernel(kernel_id).client()
    client.start_channels()
    found: list[str] = []
    try:
        await client.wait_for_ready(timeout=60)
        await client.execute_interactive(
            LOOK, timeout=60, output_hook=lambda said: found.append(said["content"].get("text", ""))
        )
    finally:
        client.stop_channels()
        await server.shutdown_kernel(kernel_id, now=True)
    assert SEEN in "".join(found)


def test_the_command_and_the_magics_obey_the_file(
    folder: Path, configure: Callable[[str], Path]
) -> None:
    configure(NOTHING)
    (folder / "s.md").write_text(SCRIPT)
    done = subprocess.run(RUN, cwd=folder, check=True, capture_output=True, text=True)
    assert SEEN in done.stdout + done.stderr
    notebook(folder, "python3", "%load_ext jupyter_agent", f"%%sandbox\n{LOOK}")
    subprocess.run(EXECUTE, cwd=folder, check=True, capture_output=True)
    assert SEEN in shown(folder / "n.ipynb")


# -- which file


def test_no_file_of_the_current_folder_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, configure: Callable[[str], Path]
) -> None:
    configure("c.Agent.max_steps = 7")
    (folder / "jupyter_agent_config.py").write_text("open('ran', 'w')\n")
    (folder / "s.md").write_text("Done.\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", f"{os.pathsep}.")
    subprocess.run(RUN, check=True, capture_output=True)
    notebook(folder, "jupyter-agent", "1")
    subprocess.run(EXECUTE, check=True, capture_output=True)
    assert settings.merge_with_files(Config()).Agent.max_steps == 7
    assert not (folder / "ran").exists()


def test_a_limit_with_which_no_kernel_starts_is_refused(configure: Callable[[str], Path]) -> None:
    configure("c.SandboxProvisioner.memory_mib = 149")
    with pytest.raises(UsageError, match=r"memory_mib is 149; set it to 150 or more, or to 0"):
        settings.check()


def test_a_file_is_read_again_when_it_has_changed(configure: Callable[[str], Path]) -> None:
    path = configure("c.SandboxProvisioner.memory_mib = 4000")
    assert SandboxProvisioner().memory_mib == 4000
    configure("c.SandboxProvisioner.memory_mib = 50000")
    assert SandboxProvisioner().memory_mib == 50000
    path.unlink()
    assert SandboxProvisioner().memory_mib == 0


def test_what_a_front_end_is_given_counts_more(
    tmp_path: Path, configure: Callable[[str], Path]
) -> None:
    configure("c.Sandbox.grace = 7\nc.Session.tool_calls = 8")
    session = Session(tmp_path, config=Config({"Sandbox": {"grace": 9}}))
    assert (session.sandbox.grace, session.tool_calls) == (9, 8)


def test_json_is_read_too(configure: Callable[[str], Path]) -> None:
    path = configure("c.Sandbox.grace = 7").with_suffix(".json")
    path.write_text(json.dumps({"Sandbox": {"grace": 8}}))
    assert Sandbox().grace == 8


# -- what stands in it


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("c.SandboxProvisioner.dta = []", "no setting SandboxProvisioner.dta; is it SandboxProvisioner.data?"),
        ("c.SandboxProvisoner.data = []", "no setting SandboxProvisoner.data; is it SandboxProvisioner.data?"),
        ("c.Nosuch.thing = 5", "no setting Nosuch.thing; docs/settings.md lists them"),
        ("c.Session.Sandbox.graze = 5", "no setting Sandbox.graze; is it Sandbox.grace?"),
        ("c.SandboxProvisioner.memory = 500", "is it SandboxProvisioner.memory_mib?"),
        ("c.SandboxProvisioner.file_size = 5", "is it SandboxProvisioner.file_size_mib?"),
        ("c.SandboxProvisioner.private_size = 50", "is it SandboxProvisioner.private_size_mib?"),
        ("c.Sandbox.most_outputs = 5", "is it Sandbox.max_outputs?"),
        ("c.Sandbox.most_output = 5", "is it Sandbox.max_output_mib?"),
        ("c.Sandbox.most_value = 5", "is it Sandbox.max_value_mib?"),
        ("c.SandboxProvisioner.debugger = True", "no setting SandboxProvisioner.debugger; it was removed"),
        ("c.max_steps = 5", "no setting max_steps; is it"),
        ("c.Agnet", "no setting Agnet; is it Agent?"),
        ("c.Session.budget = 5", "no setting Session.budget; docs/settings.md lists them"),
        ("c.Sandbox.memory = 5", "no setting Sandbox.memory; docs/settings.md lists them"),
    ],
)  # fmt: skip
def test_a_misspelt_name_is_said(text: str, line: str, configure: Callable[[str], Path]) -> None:
    path = configure(text)
    found = settings.read()
    [warning] = found.warnings
    assert not found.fault
    assert warning.startswith(f"{path}: there is ")
    assert line in warning
    assert warning in settings.describe()


def test_a_file_with_two_misspelt_names_is_named_once(configure: Callable[[str], Path]) -> None:
    path = configure("c.Agent.max_step = 3\nc.Agent.max_stps = 'local'")
    assert len(settings.read().warnings) == 2
    assert settings.describe().count(str(path)) == 1
    assert "Agent.max_steps?; there is no setting Agent.max_stps" in settings.describe()


def test_names_that_are_right_are_not_complained_of(configure: Callable[[str], Path]) -> None:
    configure(
        "c.AgentKernel.prose = True\nc.Session.ask = 'never'\nc.Agent.max_steps = 3\n"
        "c.SandboxProvisioner.data.append('/srv')\nc.Session.Sandbox.grace = 2\n"
        "c.LocalProvisioner\nc.Configurable\n"
    )
    found = settings.read()
    assert (found.warnings, found.fault) == ([], "")
    assert SandboxProvisioner().data == [".", "/srv"]


@pytest.mark.parametrize("kernel", ["python3", "python3-sandboxed", "jupyter-agent"])
def test_each_front_end_says_a_misspelt_name(
    kernel: str, folder: Path, configure: Callable[[str], Path]
) -> None:
    configure("c.Sandbox.graze = 5")
    sources = {"python3": ("%load_ext jupyter_agent", "%agent status")}.get(kernel, ("1",))
    notebook(folder, kernel, *sources)
    done = subprocess.run(EXECUTE, cwd=folder, check=True, capture_output=True, text=True)
    assert "is it Sandbox.grace?" in done.stderr + shown(folder / "n.ipynb")


def test_the_command_and_the_doctor_say_a_misspelt_name(
    folder: Path, configure: Callable[[str], Path]
) -> None:
    path = configure("c.Sandbox.graze = 5")
    (folder / "s.md").write_text("Done.\n")
    done = subprocess.run([*RUN, "-q"], cwd=folder, check=True, capture_output=True, text=True)
    assert (
        done.stderr
        == f"jupyter agent: {path}: there is no setting Sandbox.graze; is it Sandbox.grace?\n"
    )
    [finding] = [finding for finding in examine() if finding.subject == "settings"]
    assert str(finding).startswith(f"--  settings: {path}: there is no setting")


@pytest.mark.parametrize(
    ("isolation", "line"),
    [
        (
            "none",
            "--  sandbox: NONE, by c.SandboxProvisioner.isolation: code can reach your files, ",
        ),
        ("landlock", "ok  sandbox: uses landlock"),
        ("auto", "ok  sandbox: uses bubblewrap"),
    ],
)
def test_the_doctor_says_which_sandbox_the_settings_choose(
    isolation: str, line: str, configure: Callable[[str], Path]
) -> None:
    configure(f"c.SandboxProvisioner.isolation = {isolation!r}")
    [finding] = [finding for finding in examine() if finding.subject == "sandbox"]
    assert str(finding).startswith(line)


def test_every_class_with_settings_is_known() -> None:
    package = Path(settings.__file__).parent
    marked = [path for path in package.rglob("*.py") if "tag(config=True)" in path.read_text()]
    modules = {str(path.relative_to(package).with_suffix("")).replace("/", ".") for path in marked}
    assert modules <= {*settings.CLASSES.values()}
    assert {"Agent.max_steps", "AgentKernel.widgets", "SandboxProvisioner.data"} <= settings.known()


# -- files that cannot be obeyed


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("c.SandboxProvisioner.data = [", "'[' was never closed"),
        ("\nraise KeyError('x')", "KeyError: 'x' (line 2)"),
        ("import nosuchmodule", "ModuleNotFoundError: No module named 'nosuchmodule' (line 1)"),
        ("raise SystemExit(3)", "SystemExit: 3 (line 1)"),
        ("c.SandboxProvisioner.isolation = 'bubblewrp'", "'isolation' trait of"),
        ("c.Sandbox.grace = 'long'", "'grace' trait of"),
    ],
)
async def test_nothing_starts_under_a_file_that_cannot_be_obeyed(
    text: str, line: str, folder: Path, configure: Callable[[str], Path]
) -> None:
    path = configure(text)
    session = Session(folder)
    with pytest.raises(UsageError) as refused:
        async for _ in session.run("x", model="scripted:s.md"):
            pass
    assert str(refused.value).startswith(f"cannot use the settings in {path}: ")
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(UsageError):
        await session.sandbox.start()
    with pytest.raises(UsageError):
        await SandboxProvisioner().pre_launch()
    assert session.status()["settings"] == str(refused.value)
    [finding] = [finding for finding in examine() if finding.subject == "settings"]
    assert (finding.ok, finding.needed) == (False, True)


def test_an_unreadable_file_is_no_absent_one(configure: Callable[[str], Path]) -> None:
    path = configure("")
    path.unlink()
    path.mkdir()
    assert "cannot use the settings in" in settings.read().fault


@pytest.mark.parametrize("kernel", ["python3", "jupyter-agent"])
def test_a_notebook_says_in_one_line_why_nothing_starts(
    kernel: str, folder: Path, configure: Callable[[str], Path]
) -> None:
    configure("c.SandboxProvisioner.isolation = 'bubblewrp'")
    magic = ("%load_ext jupyter_agent", "%%sandbox\n1")
    notebook(folder, kernel, *(magic if kernel == "python3" else ("1",)))
    subprocess.run([*EXECUTE, "--allow-errors"], cwd=folder, check=True, capture_output=True)
    [error] = nbformat.read(folder / "n.ipynb", as_version=4).cells[-1].outputs
    assert error.ename == "UsageError"
    assert error.evalue.startswith("cannot use the settings in ")
