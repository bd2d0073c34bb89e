"""The agent kernel by the name that kernelspecs give: ``python -m jupyter_agent.kernel``."""

from __future__ import annotations

from jupyter_agent.frontends.agent_kernel import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
