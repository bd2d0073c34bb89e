"""``%agent status``, ``files``, ``fetch``, ``stop``, ``reset``, for both kinds of notebook."""

from __future__ import annotations

import shlex

from jupyter_agent.errors import UsageError
from jupyter_agent.exchange.permission import Permit
from jupyter_agent.frontends.options import LINE_HELP
from jupyter_agent.session import Session

__all__ = ["carry_out"]


async def carry_out(session: Session, command: str, *, permit: Permit | None = None) -> str:
    """Carry out a command and return what to show.

    Parameters
    ----------
    permit
        Asks the user for a permission; without it everything is allowed.

    Raises
    ------
    UsageError
        There is no such command, or its arguments are wrong.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"cannot read {command!r}: {error}") from None
    match words:
        case [] | ["help"]:
            return LINE_HELP
        case ["status"]:
            lines = [f"{name:<8} {value}" for name, value in session.status().items()]
            return "\n".join(lines)
        case ["reset"]:
            await session.reset()
            return "The sandbox is new. The session's runs are forgotten."
        case ["files"]:
            sizes = [f"{size:>14,}  {name}" for name, size in await session.files()]
            return "\n".join(sizes) or "The agent has written no files."
        case ["fetch", *rest]:
            places = [word for word in rest if word not in ("-f", "--force")]
            if not 1 <= len(places) <= 2:
                raise UsageError("write it as: %agent fetch NAME [DEST] [--force]")
            path = await session.fetch(*places, overwrite=len(places) < len(rest), permit=permit)
            return f"{path}: {path.stat().st_size:,} bytes"
    raise UsageError(
        f"%agent has no command {command!r}; its commands are status, files, fetch, stop, reset "
        "and help; a task is written below a line %%agent"
    )
