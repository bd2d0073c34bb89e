"""The module that kernelspecs start: ``python -m jupyter_agent.kernel`` is the agent kernel."""

from __future__ import annotations

from jupyter_agent.frontends.agent_kernel import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
