"""Asking the user: before a cell runs, or before a tool does what it was marked for."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from jupyter_agent.invisibles import visible
from jupyter_agent.transcript import KEY, Change

__all__ = ["NOBODY", "Ask", "Question", "ReadLine", "Verdict", "asker", "with_approval"]

NOBODY = "nobody can be asked here; run it where questions can be answered, or with --ask never"
MOST_TRIES = 3
MOST_SHOWN = 4_000  # characters of a question, until somebody wants to see all of it
MOST_ASKED = 100_000  # of one that is asked at all
LONG_LINE = 200  # characters, of which a page or a terminal may not show the end
LONG_GAP = 40  # blanks in a row, beyond which nobody looks for code
TALL_GAP = 10  # lines without anything


@dataclass(frozen=True, slots=True)
class Question:
    """What is about to happen: a cell's code, the call of a tool, what needs a permission."""

    kind: Literal["code", "tool", "permission"]
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


def asker(read: ReadLine, *, shown: bool, discard: Callable[[], None] = lambda: None) -> Ask:
    """Make an `Ask` of what reads a line; where nobody can be asked the answer is no.

    Parameters
    ----------
    shown
        Whether a cell's code is on the screen already.
    discard
        Throws away what was typed before there was a question to answer.
    """

    async def ask(question: Question) -> Verdict:
        text = visible(question.text)
        if len(text) > MOST_ASKED:
            why = f"it is {len(text):,} characters long, more than anybody reads; make it shorter"
            return Verdict(allowed=False, reason=why)
        if shown and question.kind == "code":
            text = "\n".join(_look_out(text))
        discard()
        try:
            return await _converse(question.kind, text, read)
        except (EOFError, NotImplementedError, OSError):
            return Verdict(allowed=False, reason=NOBODY)

    return ask


async def _converse(kind: str, text: str, read: ReadLine) -> Verdict:
    asked, choices = ("Allow" if kind == "permission" else "Run"), "[y]es, [n]o and why"
    choices += ", [e]dit" * (kind == "code") + ", [a]ll of it" * (len(text) > MOST_SHOWN)
    said = _without_gaps(_cut(text))
    for _ in range(MOST_TRIES):
        line = (await read(f"{said}{said and _BELOW}{asked} this? {choices}: ")).strip()
        word, _, rest = line.partition(" ")
        match word.lower().rstrip(":,."):
            case "a" | "all" if len(text) > MOST_SHOWN:
                said = _without_gaps(text)
            case "y" | "yes":
                return Verdict(allowed=True)
            case "n" | "no":
                return Verdict(allowed=False, reason=rest.strip() or "the user said no")
            case "e" | "edit" if kind == "code":
                return Verdict(allowed=True, edited=await _edited(read))
    return Verdict(allowed=False, reason="the user gave no answer")


_BELOW = "\n\n"
_GAP = re.compile(rf"[ \t]{{{LONG_GAP},}}")
_EMPTY_LINES = re.compile(rf"\n(?:[ \t]*\n){{{TALL_GAP},}}")


def _cut(text: str) -> str:
    """Show how a long question begins and ends, and how much of it there is."""
    if len(text) <= MOST_SHOWN:
        return text
    half = MOST_SHOWN // 2
    left_out = f"[... {len(text) - 2 * half:,} of {len(text):,} characters are not shown here ...]"
    return f"{text[:half]}\n{left_out}\n{text[-half:]}"


def _without_gaps(text: str) -> str:
    """Leave out what pushes the rest out of sight, and say so."""
    text = _EMPTY_LINES.sub(lambda gap: f"\n[{_lines(gap):,} empty lines]\n", text)
    return _GAP.sub(lambda gap: f"[{len(gap[0]):,} blanks]", text)


def _lines(gap: re.Match[str]) -> int:
    return gap[0].count("\n") - 1


def _look_out(code: str) -> Iterator[str]:
    """Say where the code that is on the screen may go on out of sight."""
    for number, line in enumerate(code.split("\n"), 1):
        if len(line) > LONG_LINE or _GAP.search(line):
            yield f"Look to the end of line {number:,}: it has {len(line):,} characters."
    for gap in _EMPTY_LINES.finditer(code):
        last = code.count("\n", 0, gap.start()) + 1
        yield f"The code goes on below line {last:,}, after {_lines(gap):,} empty lines."


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
