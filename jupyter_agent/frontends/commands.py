"""``%agent models``, ``use``, ``status``, ``files`` ..., for both kinds of notebook."""

from __future__ import annotations

import functools
import shlex
from pathlib import Path

from jupyter_agent import settings
from jupyter_agent._threads import run_in_thread
from jupyter_agent._unicode import visible
from jupyter_agent.errors import UsageError
from jupyter_agent.exchange.permission import Permit
from jupyter_agent.frontends.model_table import model_table
from jupyter_agent.frontends.options import COMMANDS, LINE_HELP
from jupyter_agent.models.available import unlisted
from jupyter_agent.session import Session
from jupyter_agent.views.tables import Bundle, table

__all__ = ["carry_out"]


async def carry_out(session: Session, command: str, *, permit: Permit | None = None) -> Bundle:
    """Carry out a command and return what to show, as text and where it is a table as HTML too.

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
        case ["status"]:
            return table(["", ""], list(session.status().items()))
        case ["models"]:
            return await model_table(session.model)
    return {"text/plain": await _text(session, words, command, permit)}


async def _text(session: Session, words: list[str], command: str, permit: Permit | None) -> str:
    match words:
        case [] | ["help"]:
            return LINE_HELP
        case ["use", *rest]:
            return await _use(session, rest, permit)
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
    if words[0] in COMMANDS:
        raise UsageError(f"write it as: %agent {words[0]}; nothing stands after it")
    raise UsageError(
        f"%agent has no command {command!r}; its commands are {', '.join(COMMANDS)}; a task is "
        "written below a line %%agent"
    )


async def _use(session: Session, words: list[str], permit: Permit | None) -> str:
    """Choose a model for the session, with ``--save`` also in the user's settings."""
    names = [word for word in words if word != "--save"]
    if len(names) != 1 or len(words) > 2:
        raise UsageError("write it as: %agent use MODEL [--save]; %agent models lists models")
    model, is_saved = names[0], len(words) == 2
    if is_saved:
        model = _from_anywhere(model)
        if permit:
            await permit(f"%agent use --save {visible(model)}")
    before = session.chosen
    await session.use(model, permit=permit)
    warning = await run_in_thread(functools.partial(unlisted, model, configured=session.model))
    if not is_saved:
        return f"The next runs use {model}.{warning}"
    try:
        path = await run_in_thread(functools.partial(settings.save, "Session", "model", model))
    except BaseException:
        session.chosen = before
        raise
    session.model = model
    return f"The next runs use {model}, in every notebook from now on (saved in {path}).{warning}"


def _from_anywhere(model: str) -> str:
    """Write the path of a model's file so that it is found from every folder."""
    kind, _, path = model.partition(":")
    if kind not in ("local", "scripted") or not path or path.startswith("~"):
        return model
    return f"{kind}:{Path(path).absolute()}"
