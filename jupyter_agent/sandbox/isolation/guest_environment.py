"""The command that starts the guest, and the whole environment that it gets."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jupyter_agent.sandbox.isolation.guest_user import user_shell
from jupyter_agent.sandbox.isolation.interpreter import EXECUTABLE

__all__ = ["guest_environment", "launcher"]

ENVIRONMENT = ("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_NUMERIC", "LC_TIME", "TZ")


def launcher() -> list[str]:
    """Start Python so that no module beside the user's files can stand in for one of ours."""
    return [EXECUTABLE, "-P", "-m", "jupyter_agent.sandbox"]


def guest_environment(temporary: str, home: str, search: Sequence[Path]) -> dict[str, str]:
    """Write the whole environment of the guest: language and paths, nothing else of the host's."""
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    path = [f"{sys.prefix}/bin", f"{sys.base_prefix}/bin", "/usr/local/bin", "/usr/bin", "/bin"]
    extra = os.pathsep.join(map(str, search))
    return (
        kept
        | ({"PYTHONPATH": extra} if extra else {})
        | {
            "GIT_CONFIG_NOSYSTEM": "1",  # git and pip end where they may not read those of /etc
            "HOME": home,
            "LOGNAME": "agent",
            "PATH": os.pathsep.join(dict.fromkeys(path)),
            "PIP_CONFIG_FILE": os.devnull,
            "PYTHONDONTWRITEBYTECODE": "1",
            "SHELL": user_shell(),
            "TMPDIR": temporary,
            "USER": "agent",
        }
    )
