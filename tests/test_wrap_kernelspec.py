"""Wrapping installed kernelspecs: what is written, what is refused, and that it runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipykernel
import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from jupyter_agent.frontends.wrap_kernelspec import main
from jupyter_agent.sandbox.isolation import private_folders

from .test_private_folders import when_the_loop_goes_on

ARGV = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
Install = Callable[..., Path]


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prefix where Jupyter looks for kernelspecs."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "prefix" / "share" / "jupyter"))
    return tmp_path / "prefix"


@pytest.fixture
def add(prefix: Path) -> Install:
    """Install a kernelspec in the prefix, an ordinary one where nothing else is said."""

    def add(name: str, **changed: Any) -> Path:
        folder = prefix / "share" / "jupyter" / "kernels" / name
        folder.mkdir(parents=True)
        spec = {"argv": ARGV, "display_name": f"My {name}", "language": "python"} | changed
        (folder / "kernel.json").write_text(json.dumps(spec))
        (folder / "logo-64x64.png").write_bytes(b"picture")
        return folder

    return add


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Why a command was refused, having made nothing."""
    before = KernelSpecManager().find_kernel_specs()
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("jupyter_agent.sandbox: ")
    assert said.err.count("\n") == 1
    assert KernelSpecManager().find_kernel_specs() == before
    return said.err


def test_a_copy_is_installed_beside_the_kernelspec(add: Install, prefix: Path) -> None:
    original = add(
        "mine", metadata={"debugger": True, "kept": 1, "supported_encryption": ["curve"]}
    )
    before = (original / "kernel.json").read_text()
    assert main(["mine", "--prefix", str(prefix)]) == 0
    folder = original.with_name("mine-sandboxed")
    assert json.loads((folder / "kernel.json").read_text()) == {
        "argv": ARGV,
        "display_name": "My mine (sandboxed)",
        "language": "python",
        "interrupt_mode": "message",
        "metadata": {
            "debugger": False,
            "kept": 1,
            "kernel_provisioner": {"provisioner_name": "jupyter-agent-sandbox"},
        },
    }
    assert (folder / "logo-64x64.png").read_bytes() == b"picture"
    assert (original / "kernel.json").read_text() == before


def test_names_and_paths_are_as_asked(add: Install, prefix: Path, folder: Path) -> None:
    original = add("mine")
    data = folder / "deep"
    where = ["--prefix", str(prefix), "--name", "Safe", "--display-name", "Quite safe"]
    assert main(["mine", *where, "--read-only", str(data), str(folder / "penguins.csv")]) == 0
    spec = json.loads((original.with_name("safe") / "kernel.json").read_text())
    assert spec["display_name"] == "Quite safe"
    config = spec["metadata"]["kernel_provisioner"]["config"]
    assert config == {"data": [".", str(data), str(folder / "penguins.csv")]}


@pytest.mark.parametrize("python", ["python", "python3", sys.executable])
def test_what_is_installed_runs_and_reads_only_what_it_may(
    add: Install, prefix: Path, folder: Path, tmp_path: Path, python: str
) -> None:
    add("mine", argv=[python, "-Xfrozen_modules=off", *ARGV[1:]])
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "a.txt").write_text("a")
    (tmp_path / "other.txt").write_text("other")
    shared = str(tmp_path / "shared")
    install = ["install", "mine", "--prefix", str(prefix), "--read-only", shared]
    subprocess.run(
        [sys.executable, "-m", "jupyter_agent.sandbox", *install], check=True, capture_output=True
    )
    code = f"""
import sys
def read(path):
    try:
        return open(path).read(7)
    except OSError as error:
        return type(error).__name__
print(sys.prefix, read("penguins.csv"), read("shared/a.txt"), read("{shared}/a.txt"))
print(read("{tmp_path}/other.txt"))
"""
    notebook = new_notebook(cells=[new_code_cell(code)])
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, kernel_name="mine-sandboxed", resources=resources).execute()
    first, second = notebook.cells[0].outputs[0].text.splitlines()
    assert first == f"{sys.prefix} species a a"
    assert second in ("FileNotFoundError", "PermissionError")


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(
    add: Install, prefix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = add("mine")
    taken = add("mine-sandboxed", display_name="Older")
    where = ["--prefix", str(prefix)]
    said = refusal(capsys, "mine", *where)
    assert f"there is a kernelspec 'mine-sandboxed' in {taken}; add --replace" in said
    assert "the original kernelspec has this name" in refusal(
        capsys, "mine", "--name", "mine", "--replace"
    )
    assert main(["mine", *where, "--replace"]) == 0
    assert "Older" not in (taken / "kernel.json").read_text()
    assert original.exists()


def test_an_unknown_kernelspec_is_refused_and_those_that_are_there_are_named(
    add: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    add("mine")
    said = refusal(capsys, "yours")
    assert "there is no kernelspec 'yours'; there are: " in said
    assert "mine" in said
    assert "python3" in said


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"metadata": {"kernel_provisioner": {"provisioner_name": "k8s"}}},
            "is started by 'k8s', which would be lost",
        ),
        (
            {"metadata": {"kernel_provisioner": {"provisioner_name": "jupyter-agent-sandbox"}}},
            "is sandboxed already",
        ),
        ({"argv": []}, "has no command"),
        ({"argv": ["gone-kernel", "-f"]}, "runs 'gone-kernel', which does not exist"),
        ({"argv": ["/gone/python", *ARGV[1:]]}, "'/gone/python' cannot start: "),
    ],
)
def test_what_the_sandbox_cannot_start_is_refused(
    add: Install, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], said: str
) -> None:
    add("mine", **changed)
    assert said in refusal(capsys, "mine")


def test_a_program_elsewhere_must_be_named(
    add: Install, tmp_path: Path, prefix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "bin" / "kernel"
    program.parent.mkdir()
    program.write_text("#!/bin/sh")
    program.chmod(0o755)
    add("mine", argv=[str(program), "{connection_file}"], language="mine")
    said = refusal(capsys, "mine")
    assert f"runs {str(program)!r}; name the folder of that program" in said
    assert "is your home folder" in refusal(capsys, "mine", "--program", "~")
    assert "is missing" in refusal(capsys, "mine", "--program", "/gone")
    assert main(["mine", "--prefix", str(prefix), "--program", str(program.parent)]) == 0
    assert config(prefix, "mine-sandboxed")["programs"] == [str(program.parent)]


def config(prefix: Path, name: str) -> dict[str, Any]:
    """How an installed copy configures its sandbox."""
    path = prefix / "share" / "jupyter" / "kernels" / name / "kernel.json"
    spec = json.loads(path.read_text())
    found: dict[str, Any] = spec["metadata"]["kernel_provisioner"].get("config", {})
    return found


@pytest.mark.parametrize("changed", [{"env": {"X": "y"}}, {"argv": [*ARGV, "--matplotlib=inline"]}])
def test_a_kernelspec_that_asks_for_more_keeps_its_own_command(
    add: Install, prefix: Path, changed: dict[str, Any]
) -> None:
    add("mine", **changed)
    assert main(["mine", "--prefix", str(prefix)]) == 0
    assert config(prefix, "mine-sandboxed")["socket_folder"]


def test_another_environments_python_is_its_own_in_the_sandbox(
    add: Install, tmp_path: Path, prefix: Path, folder: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    [library] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (library / "here.pth").write_text(str(Path(ipykernel.__file__).parent.parent))
    (library / "only_there.py").write_text("found = 'yes'")
    add("mine", argv=[str(python), *ARGV[1:]])
    assert main(["mine", "--prefix", str(prefix)]) == 0
    notebook = new_notebook(
        cells=[new_code_cell("import sys, only_there\nprint(sys.prefix, only_there.found)")]
    )
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, kernel_name="mine-sandboxed", resources=resources).execute()
    assert notebook.cells[0].outputs[0].text.split() == [str(tmp_path / "venv"), "yes"]


async def test_a_kernel_of_another_language_is_confined_interrupted_and_restarted(
    add: Install, prefix: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    argv = [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"]
    add("bash", argv=argv, language="bash", env={"PS1": "$"})
    assert main(["bash", "--prefix", str(prefix)]) == 0
    assert "binds its own sockets" in capsys.readouterr().out
    manager = AsyncKernelManager(kernel_name="bash-sandboxed")
    await manager.start_kernel(cwd=str(folder))
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=30)
        assert await said(client, "head -c 7 penguins.csv") == "species"
        assert "No such file" in await said(client, f"ls {folder.parent}/x {Path.home()}")
        assert "Read-only" in await said(client, f"echo x > {folder}/penguins.csv")
        assert "sk-secret" not in await said(client, f"cat .env {folder}/.env deep/server.key")
        assert await said(client, "grep -vc lo: /proc/net/dev") == "2"  # its heading alone
        asked = asyncio.ensure_future(said(client, "sleep 60; echo over"))
        while not asked.done():  # bash_kernel misses an interrupt that comes before its command
            await manager.interrupt_kernel()
            await asyncio.wait({asked}, timeout=1)
        assert "over" not in asked.result()
        client.stop_channels()
        waits, gone_on = when_the_loop_goes_on(
            private_folders._empty
        )  # as it may have filled its folder
        monkeypatch.setattr(private_folders, "_empty", waits)
        await manager.restart_kernel(now=True)
        assert gone_on.is_set()
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=30)
        assert await said(client, "echo $((6*7))") == "42"
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
    assert not list(tmp_path.glob("jupyter-agent-*"))


async def said(client: AsyncKernelClient, command: str) -> str:
    """All that a command prints."""
    texts: list[str] = []
    await client.execute_interactive(
        command, timeout=30, output_hook=lambda m: texts.append(m["content"].get("text", ""))
    )
    return "".join(texts).strip()


def test_a_broken_kernelspec_is_refused(add: Install, capsys: pytest.CaptureFixture[str]) -> None:
    path = add("mine") / "kernel.json"
    for broken in ("{", '{"argv": 5}'):
        path.write_text(broken)
        said = refusal(capsys, "mine")
        assert f"kernelspec 'mine' in {path.parent} cannot be read: " in said


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("~", "that is your home folder"),
        ("/", "too wide a folder"),
        ("/tmp", "a folder for temporary files"),
        ("gone.csv", "there is no "),
        ("project/.env", "'.env' looks like a secret"),
        ("project/deep/server.key", "'server.key' looks like a secret"),
        ("~/.ssh", "'.ssh' looks like a secret"),
    ],
)
def test_a_path_that_is_not_to_be_shared_is_refused(
    add: Install, folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], path: str, said: str,
) -> None:  # fmt: skip
    add("mine")
    monkeypatch.chdir(folder.parent)
    refused = refusal(capsys, "mine", "--read-only", "project/penguins.csv", path)
    assert f"--read-only {path!r}: " in refused
    assert said in refused


@pytest.mark.parametrize("name", ["a b", "a/b", "../up"])
def test_a_name_that_is_none_is_refused(
    add: Install, prefix: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    add("mine")
    said = refusal(capsys, "mine", "--prefix", str(prefix), "--name", name)
    assert "Invalid kernel name" in said
    assert not (prefix / "share" / "jupyter" / "up").exists()


def test_a_place_that_cannot_be_written_is_refused(
    add: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add("mine")
    (tmp_path / "file").write_text("")
    said = refusal(capsys, "mine", "--prefix", str(tmp_path / "file"))
    assert "cannot install " in said
    assert "Not a directory" in said


def test_the_command_explains_every_flag() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_agent.sandbox", "install", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for flag in (
        "--user",
        "--sys-prefix",
        "--prefix",
        "--name",
        "--display-name",
        "--read-only",
        "--program",
    ):
        assert flag in done.stdout


@pytest.mark.parametrize("words", [[], ["--help"], ["python3"], ["1", "install"]])
def test_the_module_without_its_command_says_how_it_is_used(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_agent.sandbox", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m jupyter_agent.sandbox install KERNEL")
    assert done.stderr.count("\n") == 1
