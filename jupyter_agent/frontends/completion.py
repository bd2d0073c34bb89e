"""Complete ``%%agent`` and ``%agent`` lines: flags, models, variables, paths, commands, files."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import getattr_static
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_agent.errors import AgentError
from jupyter_agent.frontends.options import COMMANDS
from jupyter_agent.models import available

if TYPE_CHECKING:
    from jupyter_agent.session import Session

__all__ = [
    "Completion",
    "Completions",
    "Sources",
    "complete",
    "known_models",
    "typed_line",
    "working_files",
]

MAX_PATHS = 500
FILES_SECONDS = 2
_BLANK = re.compile(r"(?<!\\)\s")
_FLAGS = {"use": ["--save"], "fetch": ["--force"]}  # of commands
_SAFE = re.compile(r"[\w@%+=:,./~#-]+")  # what needs no quotation marks
# packages whose values can be copied into the sandbox, and Python's own kinds of value
_PACKAGES = {"datetime", "decimal", "uuid", "numpy", "pandas", "polars", "pyarrow", "PIL"}
_KINDS = set("bool bytearray bytes complex dict float frozenset int list set str tuple".split())

Options = Sequence[tuple[tuple[str, ...], Mapping[str, Any]]]  # flags, with what argparse is told


@dataclass(frozen=True, slots=True)
class Completion:
    """A text that may stand in place of what was typed, and what it is."""

    text: str
    kind: str


@dataclass(frozen=True, slots=True)
class Completions:
    """What may stand in place of the code from ``start`` to the cursor; perhaps nothing."""

    start: int
    choices: tuple[Completion, ...] = ()


@dataclass(frozen=True, slots=True)
class Sources:
    """What a front end knows that lines can be completed with.

    Parameters
    ----------
    models
        The models that are configured, and those used before; the first is offered first.
    configured
        The model in the settings, whose server may get a key.
    files
        Names the files in the agent's working folder.
    """

    options: Options
    folder: Path
    models: Sequence[str] = ()
    configured: str = ""
    variables: Mapping[str, object] = field(default_factory=dict)
    files: Callable[[], list[str]] = list


def known_models(session: Session | None, configured: str) -> tuple[str, ...]:
    """Name the models that are configured or chosen, and then those that were used."""
    chosen, used = (session.chosen, session.used) if session else ("", [])
    names = [chosen, configured, os.environ.get("JUPYTER_AGENT_MODEL", ""), *used]
    return tuple(dict.fromkeys(name for name in names if name.isprintable() and name))


async def working_files(session: Session) -> list[str]:
    """Name the files in the agent's working folder, if its sandbox can say so at once."""
    if not session.sandbox.alive:
        return []
    try:
        async with asyncio.timeout(FILES_SECONDS):
            return [name for name, _ in await session.files()]
    except (AgentError, TimeoutError):
        return []


def typed_line(code: str, place: int) -> tuple[str, int] | None:
    """Return the name of the magic on the line of the cursor, and where its words begin.

    None if there is none: in the text of a task nothing is completed.
    """
    begin = code.rfind("\n", 0, place) + 1
    found = re.match(r"\s*(%{1,2}agent)\s+", code[begin:place])
    first = code.lstrip()
    if found is None:
        return None
    is_first = not code[:begin].strip()
    if found[1] == "%%agent" and not is_first:
        return None
    if found[1] == "%agent" and not is_first and first.startswith("%%agent"):
        return None
    return found[1], begin + found.end()


def complete(code: str, place: int, sources: Sources) -> Completions | None:
    """Complete a line of ours; None if the cursor is on none."""
    line = typed_line(code, place)
    if line is None:
        return None
    name, begin = line
    words, word = _split(code[begin:place])
    closed = code[place : place + 1]
    make = _cell_line if name == "%%agent" else _command_line
    skip, found = make(words, word, sources)
    start = place - len(word) + skip
    shown = _quoted(found, word[skip:], closed=closed)
    return Completions(start, tuple(dict.fromkeys(shown)))


def _split(text: str) -> tuple[list[str], str]:
    """Split a line into the words before the cursor and the one at it, as it was typed."""
    for start in [*(found.end() for found in reversed([*_BLANK.finditer(text)])), 0]:
        try:
            return shlex.split(text[:start]), text[start:]
        except ValueError:  # within quotation marks
            continue
    return [], text


def _quoted(found: Iterable[Completion], word: str, *, closed: str) -> Iterator[Completion]:
    """Choose what the word begins, and write it with the quotation marks that it needs."""
    quote = word[:1] if word[:1] in ("'", '"') else ""
    typed = word[1:] if quote else word.replace("\\ ", " ")
    for one in found:
        if not one.text.startswith(typed):
            continue
        mark = quote or ("" if _SAFE.fullmatch(one.text) else "'")
        if mark:
            end = "" if one.text.endswith("/") or closed == mark else mark
            text = f"{mark}{one.text.replace(mark, mark + chr(92) + mark + mark)}{end}"
            yield Completion(text, one.kind)
        else:
            yield one


# -- %%agent


def _cell_line(words: list[str], word: str, sources: Sources) -> tuple[int, Iterator[Completion]]:
    """Return how much of the word stays, and what may stand in place of the rest."""
    flag, equals, _ = word.partition("=")
    if equals and flag.startswith("--") and (facts := _facts(flag, sources.options)):
        skip, found = _value(flag, facts, word[len(flag) + 1 :], sources)
        return len(flag) + 1 + skip, found
    waiting, needed = _waiting(words, sources.options)
    if waiting and (needed or not word.startswith("-")):
        facts = _facts(waiting, sources.options) or {}
        skip, found = _value(waiting, facts, word, sources)
        if needed or word:
            return skip, found
        return skip, iter([*found, *_flags(words, word, sources.options)])
    return 0, _flags(words, word, sources.options)


def _facts(flag: str, options: Options) -> Mapping[str, Any] | None:
    return next((facts for flags, facts in options if flag in flags), None)


def _waiting(words: list[str], options: Options) -> tuple[str, bool]:
    """Return the flag whose value may come next, and whether it has to."""
    for number, word in enumerate(reversed(words)):
        facts = _facts(word, options)
        if word.startswith("-") and facts is None:
            return "", False
        if facts is None:
            continue
        several, optional = facts.get("nargs") in ("+", "*"), facts.get("nargs") in ("?", "*")
        takes = facts.get("action", "store") in ("store", "append", "extend")
        fits = takes and (number == 0 or several)
        return (word if fits else ""), fits and number == 0 and not optional
    return "", False


def _flags(words: list[str], word: str, options: Options) -> Iterator[Completion]:
    """Offer the flags that can still be given, in the long form unless one dash is typed."""
    for flags, facts in options:
        if facts.get("action") == "extend" or not {*flags} & {*words}:
            long = [flag for flag in flags if flag.startswith("--")]
            for flag in long if word in ("", "--") else flags:
                yield Completion(flag, "option")


def _value(
    flag: str, facts: Mapping[str, Any], word: str, sources: Sources
) -> tuple[int, Iterator[Completion]]:
    if choices := facts.get("choices"):
        return 0, (Completion(choice, "value") for choice in choices)
    match facts.get("metavar"):
        case "MODEL":
            return 0, _models(word, sources)
        case "PATH":
            return 0, _paths(word, sources.folder)
        case "NAMES":
            return _names(flag, word, sources.variables)
    return 0, iter(())


# -- models


def _models(word: str, sources: Sources) -> Iterator[Completion]:
    """Offer models: those known here, and of the server that the word names those that it lists."""
    typed = word.lstrip("'\"")
    kind, colon, rest = typed.partition(":")
    names = [*sources.models]
    if not colon:
        if "http".startswith(kind):
            names += _of_known_servers(typed, sources)
        names += [*_listed("ollama:", sources), *available.PREFIXES]
        if "local".startswith(kind):
            names.append("local")
    elif kind in ("http", "https"):
        names += _of_known_servers(typed, sources)
    elif kind == "local":
        yield from (Completion(f"local:{file}", "model") for file in available.weights())
        found = _paths(rest, sources.folder)
        yield from (Completion(f"local:{one.text}", "path") for one in found if _is_gguf(one.text))
    elif kind == "scripted":
        yield from (
            Completion(f"scripted:{one.text}", "path") for one in _paths(rest, sources.folder)
        )
    else:
        names += _listed(f"{kind}:", sources)
    yield from (Completion(name, "model") for name in names)


def _is_gguf(path: str) -> bool:
    return path.endswith(("/", ".gguf"))


def _listed(prefix: str, sources: Sources) -> list[str]:
    names = available.listed(prefix, configured=sources.configured) or []
    return [f"{prefix}{name}" for name in names]


def _of_known_servers(typed: str, sources: Sources) -> list[str]:
    """Ask the servers of known models, and no other: a notebook may name anybody's."""
    names = []
    for base in {model.partition("#")[0] for model in sources.models if model.startswith("http")}:
        if base.startswith(typed) or typed.startswith(f"{base}#"):
            names += _listed(f"{base}#", sources)
    return names


# -- variables


def _names(
    flag: str, word: str, variables: Mapping[str, object]
) -> tuple[int, Iterator[Completion]]:
    """Offer variables, after a comma too: functions for ``-t``, else values that can be copied."""
    skip = word.rfind(",") + 1
    given = {name.strip(" '\"") for name in word[:skip].split(",")}
    found = _functions(word[skip:], variables) if flag in ("-t", "--tool") else _values(variables)
    return skip, (one for one in found if one.text not in given)


def _values(variables: Mapping[str, object]) -> Iterator[Completion]:
    for name, value in [*variables.items()]:
        if not name.startswith("_") and _can_be_copied(value):
            yield Completion(name, type(value).__name__)


def _can_be_copied(value: object) -> bool:
    kind = type(value)
    package = kind.__module__.partition(".")[0]
    if package == "builtins":
        return kind.__name__ in _KINDS
    is_figure = package == "matplotlib" and kind.__name__ == "Figure"
    return is_figure or (package in _PACKAGES and not callable(value))


def _functions(word: str, variables: Mapping[str, object]) -> Iterator[Completion]:
    """Offer functions; after a dot those of a module or an object, without running its code."""
    outer, dot, _ = word.rpartition(".")
    if not dot:
        for name, value in [*variables.items()]:
            is_tool = callable(value) and not isinstance(value, type)
            if not name.startswith("_") and (is_tool or isinstance(value, types.ModuleType)):
                yield Completion(name, "function" if is_tool else "module")
        return
    owner = variables.get(outer)
    for name in () if owner is None else object.__dir__(owner):
        value = getattr_static(owner, name, None)
        if not name.startswith("_") and callable(value) and not isinstance(value, type):
            yield Completion(f"{outer}.{name}", "function")


# -- paths


def _paths(word: str, folder: Path) -> Iterator[Completion]:
    """Offer what is in a folder; what is hidden only where a dot is typed."""
    typed = word.lstrip("'\"").replace("\\ ", " ")
    head, _, begun = typed.rpartition("/")
    head = f"{head}/" if "/" in typed else ""
    try:
        with os.scandir((folder / head).expanduser()) as entries:
            found = [entry for entry in entries if _is_offered(entry.name, begun)]
    except (OSError, RuntimeError, ValueError):  # no such folder or user; a null
        return
    for entry in sorted(found, key=lambda entry: entry.name)[:MAX_PATHS]:
        yield Completion(f"{head}{entry.name}{'/' * _is_folder(entry)}", "path")


def _is_offered(name: str, begun: str) -> bool:
    hidden = name.startswith(".") and not begun
    return name.startswith(begun) and name.isprintable() and not hidden


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link into a folder that is closed to us
        return False


# -- %agent


def _command_line(
    words: list[str], word: str, sources: Sources
) -> tuple[int, Iterator[Completion]]:
    """Complete a command, or what comes after one."""
    match words:
        case []:
            return 0, (Completion(name, "command") for name in COMMANDS)
        case ["fix", *rest]:
            return _cell_line(rest, word, sources)
        case ["use" | "fetch" as command, *_] if word.startswith("-"):
            flags = [flag for flag in _FLAGS[command] if flag not in words]
            return 0, (Completion(flag, "option") for flag in flags)
        case ["use"] | ["use", "--save"]:
            return 0, _models(word, sources)
        case ["fetch"]:
            return 0, (Completion(name, "path") for name in sources.files())
        case ["fetch", _]:
            return 0, _paths(word, sources.folder)
    return 0, iter(())
