"""What libraries and programs expect of a machine, and find in the sandbox, in both tiers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jupyter_agent.sandbox.kernel import Sandbox

from .test_sandbox_kernel import attempt, text


async def test_a_program_finds_no_words_of_the_launcher(sandbox: Sandbox) -> None:
    code = "import argparse, sys; argparse.ArgumentParser().parse_args(), sys.argv"
    assert await text(sandbox, code) == "(Namespace(), ['ipykernel_launcher.py'])"


async def test_the_user_has_a_name(sandbox: Sandbox) -> None:
    code = "import getpass, os, pwd; me = pwd.getpwuid(os.getuid())"
    await text(sandbox, code)
    assert await text(sandbox, "me.pw_name, getpass.getuser()") == "('agent', 'agent')"
    assert await text(sandbox, "me.pw_dir == os.path.expanduser('~')") == "True"
    assert await attempt(sandbox, "pwd.getpwuid(54321)") == "KeyError"


async def test_commands_run_in_the_users_shell(
    sandbox: Sandbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHELL", "/bin/bash")
    async with Sandbox(folder, config=sandbox.config) as inside:
        assert await text(inside, "!a=(1 2); echo ${a[1]} $SHELL") == "2 /bin/bash"
        assert await text(inside, "found = !echo {1..3}\nfound[0]") == "'1 2 3'"
    monkeypatch.setenv("SHELL", "/opt/nonexistent/fish")
    async with Sandbox(folder, config=sandbox.config) as inside:
        assert await text(inside, "!echo $SHELL") == "/bin/bash"


async def test_a_group_of_control_is_readable_or_absent(sandbox: Sandbox) -> None:
    """DuckDB fails where it is forbidden."""
    code = "open('/proc/self/cgroup').read() is not None"
    assert await attempt(sandbox, code) in ("True", "FileNotFoundError")


async def test_cores_can_be_counted(sandbox: Sandbox) -> None:
    """joblib and scikit-learn warn in six lines where they cannot."""
    if not Path("/sys/devices/system/cpu/possible").exists():
        pytest.skip("this machine says nothing of its processors")
    assert await text(sandbox, "!lscpu --parse=core | grep -c '^[0-9]'") != "0"
    assert await attempt(sandbox, "open('/sys/devices/system/cpu/possible').read()[0]") == "0"
    assert await attempt(sandbox, "open('/sys/kernel/uevent_seqnum')") != "True"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
async def test_git_and_pip_work_on_files(sandbox: Sandbox) -> None:
    code = (
        "!git init -q r && cd r && git config user.email a@b && git config user.name a && touch a "
        "&& git add a && git commit -qm first && git log --format=%s"
    )
    assert await text(sandbox, code) == "first"
    assert "ERROR" not in await text(sandbox, "!pip config list; pip --version")


async def test_temporary_files_go_to_the_private_folder(sandbox: Sandbox) -> None:
    code = "import tempfile, pathlib\npathlib.Path(tempfile.gettempdir()) == pathlib.Path.home() / 'tmp'"
    assert await text(sandbox, code) == "True"
    assert await text(sandbox, "tempfile.NamedTemporaryFile('w').write('abc')") == "3"
