"""The bound on a sandbox as a whole, and how it is described."""

from __future__ import annotations

from jupyter_agent.sandbox.isolation import cgroup
from jupyter_agent.sandbox.isolation.provisioner import SandboxProvisioner


def test_what_is_limited_is_called_by_its_name() -> None:
    provisioner = SandboxProvisioner(memory_mib=1536)
    assert "memory 1.5 GiB in all, watched, " in provisioner.describe_limits()
    provisioner._group = cgroup.Group(())
    assert "memory 1.5 GiB in all, " in provisioner.describe_limits()
