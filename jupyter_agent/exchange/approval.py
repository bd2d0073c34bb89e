r"""Ask the user before a cell runs or a marked tool is called (``--ask``).

The answer is a line of text, typed or sent by a page that shows the question on the cell
(docs/live-cells.md). A page names the question that it answers, and writes edited code as JSON, on
the one line: ``#1fa2 e "x = 1\ny = 2"``.
"""

from __future__ import annotations

import json
import re
import secrets
import unicodedata
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from jupyter_agent._unicode import visible, visible_blanks
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Change

__all__ = [
    "NOBODY",
    "POLICIES",
    "Ask",
    "Question",
    "ReadLine",
    "Verdict",
    "asker",
    "with_approval",
]

NOBODY = "the user cannot be asked here; run it where questions can be answered, or use --ask never"
POLICIES = ["always", "risky", "never"]  # when to ask the user
MAX_TRIES = 3
MAX_ROWS = 40  # of a question, until the user wants to see all of it; fewer than a page shows
MAX_COLUMNS = 99  # of a row; a page with a side bar shows as many
MAX_ASKED = 100_000  # characters of a question; longer code is refused
LONG_GAP = 40  # blanks in a row, after which code is easily overlooked
TALL_GAP = 5  # empty lines in a row
TALL_STACK = 5  # marks on one letter; more are drawn over other lines


@dataclass(frozen=True, slots=True)
class Question:
    """A question to the user: whether a cell, a tool call or a permission is allowed."""

    kind: Literal["code", "tool", "permission"]
    text: str
    cell_id: str = ""  # of the cell that is to run


@dataclass(frozen=True, slots=True)
class Verdict:
    """The user's answer; ``edited`` is the code that runs instead.

    With ``run_all`` the later cells of this run need no question.
    """

    allowed: bool
    reason: str = ""
    edited: str | None = None
    run_all: bool = False


Ask = Callable[[Question], Awaitable[Verdict]]
# Shows a prompt and returns the typed line; raises EOFError where nobody can type
ReadLine = Callable[[str], Awaitable[str]]
# Tells pages of an open question, as JSON; an empty one when it is open no more
Tell = Callable[[dict[str, Any]], None]


def asker(
    read: ReadLine,
    *,
    shown: bool,
    discard: Callable[[], None] = lambda: None,
    tell: Tell = lambda _: None,
) -> Ask:
    """Make an `Ask` from a function that reads a line; where nobody can answer, it says no.

    Parameters
    ----------
    shown
        Whether a cell's code is already shown right above the question.
    discard
        Drops what was typed before the question was shown.
    tell
        Tells pages of the question.
    """

    async def ask(question: Question) -> Verdict:
        text = visible(question.text)
        if len(text) > MAX_ASKED:
            why = f"it is {len(text):,} characters long, too long to check; make it shorter"
            return Verdict(allowed=False, reason=why)
        lines, is_code = text.expandtabs().split("\n"), question.kind == "code"
        rows = [*[_AGAIN] * (shown and is_code), *_numbered(lines)]
        if _seen_whole(lines):
            rows = [] if shown and is_code else lines
        number = secrets.token_hex(4)
        discard()
        tell({**_for_page(question, lines), "number": number})
        try:
            return await _converse(question.kind, rows, read, number=number)
        except (EOFError, NotImplementedError, OSError):
            return Verdict(allowed=False, reason=NOBODY)
        finally:
            tell({})

    return ask


def _for_page(question: Question, lines: list[str]) -> dict[str, Any]:
    """Describe a question to a page, which shows it below the cell and wraps all but code."""
    is_code = question.kind == "code"
    rows = [*[_AGAIN] * is_code, *_numbered(lines)]
    if _in_order(lines) and is_code and _as_wide_as_a_page(lines):
        rows = []
    elif _in_order(lines) and not is_code:
        rows = lines
    facts = {"kind": question.kind, "id": question.cell_id, "text": "\n".join(rows)}
    return {**facts, "code": question.text if is_code else ""}


async def _converse(kind: str, rows: list[str], read: ReadLine, *, number: str) -> Verdict:
    asked, choices = ("Allow" if kind == "permission" else "Run"), "[y]es, [n]o and why"
    choices += ", [e]dit, [r]un all" * (kind == "code")
    shown = _cut(rows)
    for _ in range(MAX_TRIES):
        said, more = "\n".join(shown), ", [a]ll of it" * (shown != rows)
        line = (await read(f"{said}{said and _BELOW}{asked} this? {choices}{more}: ")).strip()
        word, _, rest = _addressed(line, number).partition(" ")
        match word.lower().rstrip(":,."):
            case "a" | "all" if more:
                shown = rows
            case "y" | "yes":
                return Verdict(allowed=True)
            case "n" | "no":
                return Verdict(allowed=False, reason=rest.strip() or "the user said no")
            case "run" if rest.strip().lower() != "all":
                continue  # it may mean this one, or all
            case "r" | "run" if kind == "code":
                return Verdict(allowed=True, edited=_sent(rest), run_all=True)
            case "e" | "edit" if kind == "code":
                code = _sent(rest)
                return Verdict(allowed=True, edited=await _edited(read) if code is None else code)
    return Verdict(allowed=False, reason="the user gave no answer")


def _addressed(line: str, number: str) -> str:
    """Return an answer without the question's number; an empty one if it is to another question."""
    if not line.startswith("#"):
        return line
    to, _, answer = line.partition(" ")
    return answer if to == f"#{number}" else ""


def _sent(text: str) -> str | None:
    """Return the code that a page sends as JSON; None if there is none."""
    try:
        code = json.loads(text)
    except ValueError:
        return None
    return code.encode("utf-8", "replace").decode() if isinstance(code, str) else None


_BELOW = "\n\n"
_AGAIN = "The whole code again, because part of it may be out of sight:"
_IN_ORDER = "[the same line, in the order in which Python reads it:]"
_ROW = "{:>6} | {}"
_GAP = re.compile(rf" {{{LONG_GAP},}}")


def _cut(rows: list[str]) -> list[str]:
    """Leave out the middle of a long question, and say how much."""
    if len(rows) <= MAX_ROWS:
        return rows
    half = MAX_ROWS // 2
    left_out = f"[... {len(rows) - 2 * half:,} of {len(rows):,} rows are not shown here ...]"
    return [*rows[:half], left_out, *rows[-half:]]


def _seen_whole(lines: list[str]) -> bool:
    """Tell whether a page shows the whole of each line at once, in the right order."""
    return len(lines) <= MAX_ROWS and _as_wide_as_a_page(lines) and _in_order(lines)


def _as_wide_as_a_page(lines: list[str]) -> bool:
    return all(sum(map(_columns, line)) <= MAX_COLUMNS for line in lines)


def _in_order(lines: list[str]) -> bool:
    """Tell whether nothing in the lines is drawn out of its place, or easily overlooked."""
    return (
        not any(_GAP.search(line) or _is_stacked(line) or _turns(line) for line in lines)
        and all(line == visible_blanks(line) for line in lines)
        and not any(empty and len(few) >= TALL_GAP for empty, few in _grouped(lines))
    )


def _numbered(lines: list[str]) -> Iterator[str]:
    """Wrap lines and number them, so that all of each line can be seen.

    A line that is too wide continues in a row without a number. Shortened gaps, and text that is
    drawn from right to left, are noted in a row without a bar.
    """
    for empty, few in _grouped(lines):
        if empty and len(few) >= TALL_GAP:
            yield f"[{len(few):,} empty lines]"
            continue
        for number, line in few:
            text = _GAP.sub(lambda gap: f"[{len(gap[0]):,} blanks]", visible_blanks(line))
            first, *rest = _wrapped(_in_ascii(text) if _is_stacked(text) else text)
            yield _ROW.format(number, first)
            yield from (_ROW.format("", row) for row in rest)
            if _turns(text):
                yield _IN_ORDER
                yield from (_ROW.format("", row) for row in _wrapped(_in_ascii(text)))


def _grouped(lines: list[str]) -> Iterator[tuple[bool, list[tuple[int, str]]]]:
    """Group numbered lines by whether they are empty."""
    numbered = enumerate(lines, 1)
    for filled, few in groupby(numbered, key=lambda each: bool(each[1].strip())):
        yield not filled, list(few)


def _wrapped(line: str) -> Iterator[str]:
    """Wrap a line into rows that fit on a page beside their number."""
    start = width = 0
    for index, character in enumerate(line):
        width += _columns(character)
        if width > MAX_COLUMNS - len(_ROW.format("", "")):
            yield line[start:index]
            start, width = index, _columns(character)
    yield line[start:]


def _columns(character: str) -> int:
    """Return how many columns a character may take, at most."""
    code = ord(character)
    usual = code < 0x180 or 0x370 <= code < 0x460  # Latin, Greek, Cyrillic
    if usual or unicodedata.category(character) == "Mn":
        return 1
    if unicodedata.east_asian_width(character) in "FW" or 0x2000 <= code < 0x2C00:
        return 2
    if 0xFB50 <= code < 0xFE00:  # whole words of Arabic
        return 20
    return 4 if code < 0x10000 else 10


def _is_stacked(line: str) -> bool:
    """Tell whether one letter has so many marks that they are drawn over other lines."""
    marks = "".join("m" if unicodedata.category(each) in ("Mn", "Me") else " " for each in line)
    return "m" * TALL_STACK in marks


def _turns(line: str) -> bool:
    """Tell whether a line has letters that are drawn from right to left.

    A character that this Python's Unicode data do not have may be one.
    """
    return any(unicodedata.bidirectional(each) in ("R", "AL", "AN", "") for each in line)


def _in_ascii(line: str) -> str:
    return line.encode("ascii", "backslashreplace").decode()


async def _edited(read: ReadLine) -> str:
    """Read code line by line, until a line that is only a full stop."""
    lines: list[str] = []
    prompt = "Type the new code line by line; a line with only a full stop ends it\n> "
    while (line := await read(prompt)) != ".":
        lines.append(line)
        prompt = "> "
    return "\n".join(lines)


async def with_approval(
    changes: AsyncGenerator[Change, None], ask: Ask
) -> AsyncGenerator[Change, None]:
    """Ask for approval of each code cell after it is shown and before it runs.

    Code that the user edits runs as edited. After a yes to code that has changed since, it is asked
    once more. A refused cell does not run, and the model reads why. After an answer with
    `Verdict.run_all` nothing is asked.
    """
    asked, run_all = set(), False
    async with aclosing(changes):
        async for change in changes:
            yield change
            cell = change.cell
            known = run_all or change.done or cell.id in asked
            if known or not cell.metadata[KEY].get("running"):
                continue
            asked.add(cell.id)
            verdict, shown = Verdict(allowed=True), None
            while verdict.allowed and verdict.edited is None and cell.source != shown:
                shown = cell.source  # a page may change it while the question stands
                verdict = await ask(Question("code", shown, cell.id))
            run_all = verdict.run_all
            if not verdict.allowed:
                cell.metadata[KEY]["refused"] = verdict.reason
            elif verdict.edited is not None:
                cell.source = verdict.edited
                yield Change(cell)
