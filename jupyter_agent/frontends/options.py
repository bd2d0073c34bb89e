"""The flags of a run (``-m``, ``-i``, ``--save`` ...), the same in every front end."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

from jupyter_agent.exchange.approval import POLICIES
from jupyter_agent.exchange.run_options import RunOptions

__all__ = [
    "CELL_OPTIONS",
    "COMMANDS",
    "CONTEXT_CELLS",
    "CONTEXT_OPTION",
    "LINE_HELP",
    "RUN_OPTIONS",
    "VALUE_OPTIONS",
    "add_run_options",
    "context_cells",
    "run_options",
    "wrong_line",
]

LINE_HELP = """\
%%agent          the cell's text is the task; %%agent? lists its options
%%sandbox        run your own code in the agent's sandbox
%agent fix       explain and mend your last error: %agent fix [WORDS] [-m MODEL ...]
%agent keep      make the code cells of the last run your own
%agent models    list the models that can be used here, and what the others need
%agent use       choose the model of the next runs: %agent use MODEL [--save]
%agent status    show the model, the sandbox, the limits and the tokens used
%agent files     list what the agent has written to its working folder
%agent fetch     copy one of them out: %agent fetch NAME [DEST] [--force]
%agent stop      stop a run (one without --background from a subshell that was open before)
%agent wait      wait for the run that began with --background
%agent reset     start a new sandbox and forget the session's runs
%agent help      show this list"""
COMMANDS = tuple(re.findall(r"^%agent (\w+)", LINE_HELP, re.MULTILINE))

CONTEXT_CELLS = 5  # of the user's own that -c tells
_MAX_DIGITS = 18  # in a count


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > _MAX_DIGITS or int(text) < 1:
        shown = text if len(text) <= _MAX_DIGITS else f"{text[:_MAX_DIGITS]}…"
        raise argparse.ArgumentTypeError(f"{shown!r} is not a whole number above 0")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def context_cells(text: str) -> int:
    """Read a number of cells; ``all`` is more than there can be.

    Raises
    ------
    ArgumentTypeError
        It is neither.
    """
    if text in ("0", "all"):
        return sys.maxsize if text == "all" else 0
    try:
        return _count(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor 0 or 'all'") from None


RUN_OPTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (
        ("-m", "--model"),
        {
            "metavar": "MODEL",
            "default": "",
            "help": "hf:ORG/NAME, openai:NAME, anthropic:NAME, http://HOST/v1#NAME, ollama:NAME, "
            "local:FILE.gguf, local or scripted:FILE; by default c.Session.model, else "
            "JUPYTER_AGENT_MODEL",
        },
    ),
    (
        ("-n", "--max-steps"),
        {
            "metavar": "STEPS",
            "type": _count,
            "help": "maximum number of replies of the model (default 20)",
        },
    ),
    (
        ("--data",),
        {
            "metavar": "PATH",
            "nargs": "+",
            "help": "files and folders the sandbox may read, instead of the current folder; "
            "'none' shares nothing",
        },
    ),
    (
        ("--timeout",),
        {"metavar": "S", "type": _seconds, "help": "maximum seconds for the run"},
    ),
    (
        ("--budget",),
        {"metavar": "TOKENS", "type": _count, "help": "maximum number of tokens for the run"},
    ),
    (
        ("--ask",),
        {
            "choices": POLICIES,
            "help": "ask before each cell, before tools marked ask=True (the default), or never",
        },
    ),
    (("-q", "--quiet"), {"action": "store_true", "help": "show only the answer"}),
]
CELL_OPTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    *RUN_OPTIONS,
    (
        ("--save",),
        {"metavar": "PATH", "help": "save the run as a notebook, after every cell"},
    ),
    (
        ("--rerun",),
        {
            "action": "store_true",
            "help": "ask the model even if PATH holds a finished run of this task; "
            "without it, that run is shown again and its code runs again",
        },
    ),
]

CONTEXT_OPTION: tuple[tuple[str, ...], dict[str, Any]] = (
    ("-c", "--context"),
    {
        "metavar": "N",
        "nargs": "?",
        "type": context_cells,
        "const": CONTEXT_CELLS,
        "help": "tell the agent your last N cells (5, or 'all') with their outputs, your last "
        "error, and the names and types of your variables, but no values (default "
        "c.AgentMagics.context)",
    },
)
VALUE_OPTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (
        ("-i", "--input"),
        {
            "metavar": "NAMES",
            "type": _names,
            "action": "extend",
            "help": "your variables that the agent gets, separated by commas",
        },
    ),
    (
        ("-o", "--output"),
        {
            "metavar": "NAMES",
            "type": _names,
            "action": "extend",
            "help": "the agent's variables that you get when the run ends",
        },
    ),
    (
        ("-t", "--tool"),
        {
            "metavar": "NAMES",
            "type": _names,
            "action": "extend",
            "help": "your functions that the agent may call, besides those marked @tool",
        },
    ),
    (
        ("--background",),
        {
            "action": "store_true",
            "help": "return at once: your own cells run while the agent works; see `%agent wait`",
        },
    ),
    CONTEXT_OPTION,
]


def wrong_line(what: object, *, command: str = "%%agent") -> str:
    """Return the message about a ``%%agent`` line, or that of a command, that cannot be parsed."""
    may_be_task = command == "%%agent" and not str(what).startswith("argument ")
    below = "write the task below this line; " if may_be_task else ""
    return f"{command}: {what}; {below}%%agent? lists the options"


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a run to a parser."""
    for flags, settings in RUN_OPTIONS:
        parser.add_argument(*flags, **settings)


def run_options(parsed: argparse.Namespace, **more: Any) -> RunOptions:
    """Make the options of a run from parsed flags and from options that have no flag."""
    names = ("model", "max_steps", "data", "save", "timeout", "budget", "ask")
    return RunOptions(**{name: getattr(parsed, name) for name in names}, **more)
