"""Raise in a function of ours, to see what a front end makes of what nobody has foreseen.

As a program, ``python -m tests.throwing FILE MODULE WORDS…``, it is the module with these words;
FILE names the function, and is read again at each SIGUSR1.
"""

from __future__ import annotations

import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

# one function or more of each layer, as module.py:name, that a run comes by
LAYERS = [
    "options.py:run_options",
    "notebook.py:add",
    "notebook.py:messages",
    "notebook.py:finish",
    "scripted.py:stream",
    "reply.py:read",
    "request.py:sized",
    "loop.py:_run_cells",
    "workspace.py:note",
    "tools.py:start_cell",
    "sandbox/client.py:execute",
    "sandbox/connection.py:_receive",
    "sandbox/filter/outputs.py:read_output",
    "session.py:_note",
    "models/__init__.py:load_model",
]


def thrower(target: str) -> Callable[[FrameType, str, Any], None]:
    """Make what raises once when a function is called (for sys.settrace)."""
    file, _, name = target.partition(":")

    def trace(frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name == name and code.co_filename.endswith(file):
            raise LookupError("thrown\n in a test")

    return trace


def main() -> None:
    told, module, *words = sys.argv[1:]

    def read(*_: object) -> None:
        sys.settrace(thrower(Path(told).read_text()))

    signal.signal(signal.SIGUSR1, read)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
