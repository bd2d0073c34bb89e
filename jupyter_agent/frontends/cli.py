"""The program ``jupyter-agent``: starts the command line; can be interrupted while it loads."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    before = signal.signal(signal.SIGINT, _leave)
    try:
        from jupyter_agent.frontends import command_line

        code = command_line.main(argv)
        command_line.flush_stderr()
        return code
    finally:  # ignored at the end of a process; restored where another program called this
        signal.signal(signal.SIGINT, signal.SIG_IGN if argv is None else before)


def _leave(*_: object) -> None:
    """End this process at once; the processes that it started end with it."""
    os.write(2, b"jupyter agent: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
