"""Asking the user: before a cell runs, or before a tool does what it was marked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from jupyter_agent.transcript import KEY, Change

__all__ = ["NOBODY", "Ask", "Question", "ReadLine", "Verdict", "asker", "with_approval"]

NOBODY = "nobody can be asked here; run it where questions can be answered, or with --ask never"
MOST_TRIES = 3


@dataclass(frozen=True, slots=True)
class Question:
    """Something that is about to happen: a cell's code, or the call of a tool."""

    kind: Literal["code", "tool"]
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the user says to it; ``edited`` is what shall run instead."""

    allowed: bool
    reason: str = ""
    edited: str | None = None


Ask = Callable[[Question], Awaitable[Verdict]]
# Shows a prompt and returns the line that was typed; EOFError where nobody can
ReadLine = Callable[[str], Awaitable[str]]


def asker(read: ReadLine, *, shown: bool) -> Ask:
    """Make an `Ask` of what reads a line; where nobody can be asked the answer is no.

    Parameters
    ----------
    shown
        Whether a cell's code is on the screen already.
    """

    async def ask(question: Question) -> Verdict:
        text = "" if shown and question.kind == "code" else f"{question.text}\n\n"
        try:
            return await _converse(question.kind, text, read)
        except (EOFError, NotImplementedError, OSError):
            return Verdict(allowed=False, reason=NOBODY)

    return ask


async def _converse(kind: str, text: str, read: ReadLine) -> Verdict:
    choices = "[y]es, [n]o and why" + ", [e]dit" * (kind == "code")
    for _ in range(MOST_TRIES):
        line = (await read(f"{text}Run this? {choices}: ")).strip()
        word, _, rest = line.partition(" ")
        match word.lower().rstrip(":,."):
            case "y" | "yes":
                return Verdict(allowed=True)
            case "n" | "no":
                return Verdict(allowed=False, reason=rest.strip() or "the user said no")
            case "e" | "edit" if kind == "code":
                return Verdict(allowed=True, edited=await _edited(read))
    return Verdict(allowed=False, reason="the user gave no answer")


async def _edited(read: ReadLine) -> str:
    """Read code line by line, up to a line with a full stop alone."""
    lines: list[str] = []
    prompt = "The code instead, line by line; a full stop alone ends it\n> "
    while (line := await read(prompt)) != ".":
        lines.append(line)
        prompt = "> "
    return "\n".join(lines)


async def with_approval(
    changes: AsyncGenerator[Change, None], ask: Ask
) -> AsyncGenerator[Change, None]:
    """Have each code cell approved between the change that shows it and its running.

    What the user wrote instead is what runs; a cell that was refused does not run, and the model
    reads why.
    """
    asked = set()
    async with aclosing(changes):
        async for change in changes:
            yield change
            cell = change.cell
            if change.done or cell.id in asked or not cell.metadata[KEY].get("running"):
                continue
            asked.add(cell.id)
            verdict = await ask(Question("code", cell.source))
            if not verdict.allowed:
                cell.metadata[KEY]["refused"] = verdict.reason
            elif verdict.edited is not None:
                cell.source = verdict.edited
                yield Change(cell)
