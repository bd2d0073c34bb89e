"""An agent that works in your notebook, in a sandboxed kernel of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_agent.agent.loop import Agent
    from jupyter_agent.exchange.tools import tool
    from jupyter_agent.sandbox.client import Sandbox
    from jupyter_agent.session import Session
    from jupyter_agent.transcript.notebook import Change, Transcript

__all__ = ["Agent", "Change", "Sandbox", "Session", "Transcript", "load_ipython_extension", "tool"]
__version__ = "0.1.0"

_HOMES = {
    "Agent": "agent.loop",
    "Change": "transcript.notebook",
    "Sandbox": "sandbox.client",
    "Session": "session",
    "Transcript": "transcript.notebook",
    "tool": "exchange.tools",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a kernel that starts pays for none of them."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Register ``%%agent``, ``%agent`` and ``%%sandbox`` (``%load_ext jupyter_agent``)."""
    from jupyter_agent.frontends.magics import register

    register(ipython)
