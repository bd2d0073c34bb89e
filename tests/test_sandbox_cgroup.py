"""The bound on a sandbox as a whole that the user's systemd makes, and what is not relied on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from traitlets.config import Config

from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.isolation import cgroup
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner

MAKE = """\
from jupyter_agent.sandbox import cgroup
print(cgroup._make_scope("a-name", 1 << 30, 64))
"""
BOUNDLESS = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
SAYS_SO = "echo /user.slice/its.scope 268435456 99"


@pytest.mark.parametrize(
    ("does", "where"),
    [("exit 1", None), (BOUNDLESS, None), (SAYS_SO, "/sys/fs/cgroup/user.slice/a-name.scope")],
)
def test_a_systemd_that_bounds_nothing_is_not_relied_on(
    does: str, where: str | None, tmp_path: Path
) -> None:
    program = tmp_path / "systemd-run"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "XDG_RUNTIME_DIR": str(tmp_path)}
    made = subprocess.run(
        [sys.executable, "-c", MAKE], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert made == "None\n" if where is None else where in made


def test_what_runs_in_a_scope_does_not_see_the_bus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "systemd-run"
    program.write_text(f"#!/bin/sh\n{BOUNDLESS}\n")
    program.chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/of-the-host")
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/of-the-host/bus")
    group = cgroup.Group((tmp_path,), (str(program), "--user"))
    environment = {"PATH": "/usr/bin:/bin"} | group.environment
    assert len(environment) == 3
    command = group.wrap(["/usr/bin/env"])
    seen = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "PATH=/usr/bin" in seen.stdout
    assert "of-the-host" not in seen.stdout


def test_what_is_limited_is_called_by_its_name() -> None:
    provisioner = SandboxProvisioner(memory=1536)
    assert "memory 1.5 GiB in all, watched, " in provisioner.describe_limits()
    provisioner._bound = cgroup.Group(())
    assert "memory 1.5 GiB in all, " in provisioner.describe_limits()


@pytest.mark.skipif(cgroup._scopes() is None, reason="needs a systemd of the user's that answers")
async def test_systemd_bounds_all_of_a_sandbox_and_leaves_nothing(tmp_path: Path) -> None:
    options = {"isolation": "bubblewrap", "memory": 1000, "data": []}
    sandbox = Sandbox(tmp_path, config=Config({"SandboxProvisioner": options}))
    fill = "import os\nfile = os.memfd_create('x')\nfor i in range(1200): os.write(file, bytes(1 << 20))"
    try:
        await sandbox.start()
        assert sandbox._kernel
        provisioner = sandbox._kernel.manager.provisioner
        assert isinstance(provisioner, SandboxProvisioner)
        bound = provisioner._bound
        assert bound
        found = [output async for output in sandbox.execute(fill)]
        assert found[-1]["ename"] == "SandboxDied"
    finally:
        await sandbox.close()
    assert not any(folder.exists() for folder in bound.folders)
