"""Check what works on this machine, and say how to correct the rest."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points

from jupyter_agent import settings
from jupyter_agent.errors import AgentError, UsageError
from jupyter_agent.models import choose_model, load_model
from jupyter_agent.sandbox.isolation import bubblewrap as bubblewrap_tier
from jupyter_agent.sandbox.isolation import landlock as landlock_tier
from jupyter_agent.sandbox.isolation.provisioner import (
    SandboxProvisioner,
    choose_tier,
)

__all__ = ["Finding", "examine"]

KERNELSPECS = ("jupyter-agent", "python3-sandboxed")
KEYS = ("HF_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "JUPYTER_AGENT_API_KEY")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; without a ``needed`` one that is ok, nothing can run."""

    subject: str
    ok: bool
    text: str
    needed: bool = True

    def __str__(self) -> str:
        mark = "ok" if self.ok else "NO" if self.needed else "--"
        return f"{mark}  {self.subject}: {self.text}"


def examine() -> Iterator[Finding]:
    """Check the tiers, the kernelspecs, the settings, the model and the keys."""
    yield from _tiers()
    yield _provisioner()
    yield from _kernelspecs()
    yield _settings()
    yield _model()
    yield _local()
    for name in KEYS:
        there = bool(os.environ.get(name))
        yield Finding(name, there, "is set" if there else "is not set", needed=False)


def _tiers() -> Iterator[Finding]:
    bubblewrap, landlock = bubblewrap_tier.check(), landlock_tier.check()
    advice = f"{bubblewrap}; apt install bubblewrap" if bubblewrap else "works"
    yield Finding("bubblewrap", not bubblewrap, advice, needed=False)
    yield Finding("landlock", not landlock, landlock or "works", needed=False)
    try:
        tier = choose_tier(SandboxProvisioner(config=settings.read().config).isolation)
    except AgentError as error:
        yield Finding("sandbox", ok=False, text=str(error))
    else:
        none = (
            "NONE, by c.SandboxProvisioner.isolation: code can reach your files, keys and network"
        )
        text = none if tier == "none" else f"uses {tier}"
        yield Finding("sandbox", tier != "none", text, needed=False)


def _provisioner() -> Finding:
    group = entry_points(group="jupyter_client.kernel_provisioners")
    there = "jupyter-agent-sandbox" in group.names
    advice = "is not registered; pip install --force-reinstall jupyter-agent-kernel"
    return Finding("provisioner", there, "is registered" if there else advice)


def _kernelspecs() -> Iterator[Finding]:
    from jupyter_client.kernelspec import KernelSpecManager

    found = KernelSpecManager().find_kernel_specs()
    for name in KERNELSPECS:
        advice = "is not installed; pip install --force-reinstall jupyter-agent-kernel"
        yield Finding(f"kernelspec {name}", name in found, found.get(name, advice))


def _settings() -> Finding:
    found = settings.read()
    unfit = bool(found.fault or found.warnings)
    return Finding("settings", not unfit, settings.describe(), needed=bool(found.fault))


def _model() -> Finding:
    try:
        name = choose_model(str(settings.read().config.Session.get("model", "")))
        load_model(name)
    except AgentError as error:
        return Finding("model", ok=False, text=str(error))
    return Finding("model", ok=True, text=f"{name} (the default; not contacted)")


def _local() -> Finding:
    if not importlib.util.find_spec("xllamacpp"):
        advice = "needs xllamacpp; pip install 'jupyter-agent-kernel[local]'"
        return Finding("local model", ok=False, text=advice, needed=False)
    from jupyter_agent.models.local import find_weights

    try:
        return Finding("local model", ok=True, text=f"{find_weights()}", needed=False)
    except UsageError as error:
        return Finding("local model", ok=False, text=str(error), needed=False)
