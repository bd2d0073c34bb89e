"""Tell the model what the data files of a task look like, and which packages it has."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from jupyter_agent._nbformat import NotebookNode
from jupyter_agent.errors import SandboxError
from jupyter_agent.exchange.values import read
from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.filter.fields import printable
from jupyter_agent.sandbox.guest.codec import encode
from jupyter_agent.transcript.metadata import facts_of

__all__ = ["DataNotes"]

MAX_SECONDS = 20.0  # longer than the guest gives itself; then the model has to look for itself
MAX_FILES = 5
MAX_LATER = 20  # names of files that are not described yet
MAX_LINE = 2_000  # characters about one file
MAX_BEGINNING = 2_000  # characters of one file
MAX_TOLD = 8_000  # characters in all, about 2,000 tokens
_NOT_DESCRIBED = "The data files could not be described: look at them first."
_NO_SERVERS = "Not possible here: servers of `multiprocessing`, lists of processes, `chmod`."

State = tuple[int, int, int]  # bytes, when it was changed (ns), whether its rows were told


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    state: State
    line: str
    beginning: str


@dataclass(slots=True)
class DataNotes:
    """What was told of data files, so that it is told once.

    What is told is made in the sandbox, and as hostile as all that comes from there.
    """

    _told: dict[str, tuple[State, str]] = field(default_factory=dict)  # by name; with the line
    _packages: str = ""

    async def write(
        self, task: str, sandbox: Sandbox, *, listed: Sequence[str], cells: Sequence[NotebookNode]
    ) -> tuple[str, str]:
        """Write the note about the files of a task, and their beginnings.

        Parameters
        ----------
        listed
            The names of what is shared, folders with a slash at the end.
        cells
            The cells that the model reads already; what they say is not said again.
        """
        known = "\n".join(_notes(cells))
        if not listed and self._packages and self._packages in known:
            return "", ""
        told = {name: list(state) for name, (state, line) in self._told.items() if line in known}
        try:
            found, later, packages = await self._ask(task, sandbox, listed, told)
        except (SandboxError, TimeoutError, ValueError, ImportError):
            return (_NOT_DESCRIBED, "") if listed else ("", "")
        notes = [] if self._packages and self._packages in known else [f"You have {packages}."]
        self._packages = packages
        if sandbox.tier == "landlock" and _NO_SERVERS not in known:
            notes.append(_NO_SERVERS)
        lines, beginnings = [], []
        for each in found:
            self._told[each.name] = (each.state, each.line)
            lines.append(each.line)
            beginnings += [f"{each.name} begins:\n{each.beginning}"] if each.beginning else []
        if lines:
            lines += [f"- not looked at yet: {', '.join(later)}"] if later else []
            notes.append("Data files, as they are read by default:\n\n" + "\n".join(lines))
        return "\n\n".join(notes), "\n".join(beginnings)

    async def _ask(
        self, task: str, sandbox: Sandbox, listed: Sequence[str], told: dict[str, list[int]]
    ) -> tuple[list[_File], list[str], str]:
        request = {"task": task, "listed": list(listed), "told": told}
        async with asyncio.timeout(MAX_SECONDS):
            reply = await read(await sandbox.call("describe_data", encode(request)))
        match reply:
            case {"files": [*files], "later": [*later], "packages": str(packages)}:
                names = [f"`{_name(each)}`" for each in later[:MAX_LATER] if isinstance(each, str)]
                return list(_checked(files)), names, _one_line(packages)
        raise ValueError("it holds no description")


def _notes(cells: Sequence[NotebookNode]) -> Iterator[str]:
    """Yield the notes that the model reads."""
    for facts in map(facts_of, cells):
        if facts.get("role") == "task" and not facts.get("replaced"):
            yield facts.get("note", "")


def _checked(files: list[object]) -> Iterator[_File]:
    """Read the guest's descriptions, as many as there is room for."""
    room = MAX_TOLD
    for each in files[:MAX_FILES]:
        match each:
            case [str(name), [int(size), int(changed), int(rows)], str(line), str(beginning)]:
                told = f"- `{_name(name)}`: {_one_line(line)}"
                begins = _short(printable(beginning[: 2 * MAX_BEGINNING]), MAX_BEGINNING)
                room -= len(told) + len(begins)
                if room > 0:
                    yield _File(_name(name), (size, changed, rows), told, begins)


def _name(text: str) -> str:
    return _one_line(text)[:200]


def _one_line(text: str) -> str:
    text = printable(text[: 2 * MAX_LINE])  # of a text of any length
    return _short(re.sub(r"\s+", _without_breaks, text), MAX_LINE)


def _without_breaks(blanks: re.Match[str]) -> str:
    return " " if {"\r", "\n"} & {*blanks[0]} else blanks[0]


def _short(text: str, max_characters: int) -> str:
    return text if len(text) <= max_characters else f"{text[:max_characters]}…"
