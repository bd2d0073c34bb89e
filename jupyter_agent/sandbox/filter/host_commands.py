"""Keep the agent's cells from being commands to the host, such as ``%agent``.

A notebook is run again as a whole, and then each cell reaches the agent kernel's front as if the
user had typed it. So what the front takes for a command and what no code of the agent's may begin
with is said here, once.
"""

from __future__ import annotations

import ast
import keyword
import re
from dataclasses import dataclass
from typing import Literal

from jupyter_agent._unicode import visible

__all__ = ["NAMES", "Command", "agents_code", "inert", "plainly_prose", "read_command"]

NAMES = ("%%agent", "%agent", "%%sandbox")
MAX_PROSE = 2_000  # characters; hostile text takes Python's parser long
_HELP = {f"{name}?" for name in NAMES[:2]} | {f"?{name}" for name in NAMES[:2]}
_FIRST_LINE = re.compile(r"\r\n?|\n")
_BEGINS_SO = re.compile(r"\s*[?%][?%\s]*(?:agent|sandbox)(?!\w)")
_MARK = "# Code of the agent's is run in the sandbox, and is no command to the host:\n"


@dataclass(frozen=True, slots=True)
class Command:
    """A cell that says what the host is to do."""

    kind: Literal["agent", "line", "help", "sandbox", "prose"]
    line: str = ""  # what stands after the name
    body: str = ""  # the lines below that


def read_command(code: str, *, prose: bool = False) -> Command | None:
    """Read what a cell commands; None if it is code.

    Parameters
    ----------
    prose
        Whether a cell that is plainly prose is a task.
    """
    if code.strip() in _HELP:
        return Command("help")
    first, *rest = _FIRST_LINE.split(code.lstrip(), maxsplit=1)
    body = "".join(rest).removesuffix("\n")
    name = (first.split() or [""])[0]
    line = first.removeprefix(name).strip()
    match name:
        case "%%agent":
            return Command("agent", line, body)
        case "%agent" if not body.strip():
            return Command("line", line)
        case "%%sandbox":
            return Command("sandbox", line, "".join(rest))
    if prose and _is_prose(code):
        return Command("prose", body=code.strip())
    return None


def inert(code: str) -> str:
    """Put a comment before text that begins as a command does, or could be taken for a task."""
    return code if not _BEGINS_SO.match(code) and _is_prose(code) is False else f"{_MARK}{code}"


def agents_code(text: str) -> str:
    """Write code of the agent's so that it is no command, and what is shown of it is what runs."""
    return inert(visible(text))


_WORD = re.compile(r"[(\"']?[A-Za-z][A-Za-z'\u2019-]*[)\"']?[.,;:!?]*")


def plainly_prose(code: str) -> bool:
    """Tell whether a cell is a sentence and certainly no Python, whole or broken.

    It does not parse, is mostly words, begins with one that is no keyword, and has at least four
    of them; it is no longer than anybody types.
    """
    return _is_prose(code) is True


def _is_prose(code: str) -> bool | None:
    """Tell the same; None where Python's parser gives up, which it may do at another place."""
    if len(code) > MAX_PROSE:
        return False
    words = code.split()
    if len(words) < 4 or not _WORD.fullmatch(words[0]) or keyword.iskeyword(words[0]):
        return False
    if sum(_WORD.fullmatch(word) is not None for word in words) < 0.8 * len(words):
        return False
    try:
        ast.parse(code)
    except SyntaxError:
        return True
    except (ValueError, MemoryError, RecursionError):  # half a character; too deep
        return None
    return False
