"""The flags of a run (``-m``, ``-i``, ``--save`` ...), the same in every front end."""

from __future__ import annotations

import argparse
from typing import Any

from jupyter_agent.exchange.approval import POLICIES
from jupyter_agent.exchange.run_options import RunOptions

__all__ = [
    "CELL_OPTIONS",
    "LINE_HELP",
    "RUN_OPTIONS",
    "USAGE_HINT",
    "VALUE_OPTIONS",
    "add_run_options",
    "run_options",
]

LINE_HELP = """\
%%agent          the cell's text is the task; %%agent? lists its options
%%sandbox        run your own code in the agent's sandbox
%agent status    model, sandbox, limits, what was used
%agent files     what the agent has written to its working folder
%agent fetch     copy one of them out: %agent fetch NAME [DEST] [--force]
%agent stop      stop a run, from a subshell console that was open before it
%agent reset     a new sandbox; the session's runs are forgotten
%agent help      this"""
USAGE_HINT = "the task stands below that line, and %%agent? lists the options"


_MAX_DIGITS = 18  # of a count


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


RUN_OPTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (
        ("-m", "--model"),
        {
            "metavar": "MODEL",
            "default": "",
            "help": "hf:ORG/NAME, openai:NAME, anthropic:NAME, http://HOST/v1#NAME, ollama:NAME, "
            "local or scripted:FILE; by default c.Session.model, else JUPYTER_AGENT_MODEL",
        },
    ),
    (
        ("-n", "--max-steps"),
        {"metavar": "STEPS", "type": _count, "help": "most replies of the model (default 20)"},
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
        {"metavar": "S", "type": _seconds, "help": "most seconds the run may take"},
    ),
    (
        ("--budget",),
        {"metavar": "TOKENS", "type": _count, "help": "most tokens the run may use"},
    ),
    (
        ("--ask",),
        {
            "choices": POLICIES,
            "help": "ask before each cell, before tools marked ask=True (the default), or never",
        },
    ),
    (("-q", "--quiet"), {"action": "store_true", "help": "show nothing but the answer"}),
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
            "help": "ask the model even if PATH holds a finished run of this task, "
            "whose code would else run again without it",
        },
    ),
]

VALUE_OPTIONS: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (
        ("-i", "--input"),
        {
            "metavar": "NAMES",
            "type": _names,
            "action": "extend",
            "help": "variables of yours that the agent gets, separated by commas",
        },
    ),
    (
        ("-o", "--output"),
        {
            "metavar": "NAMES",
            "type": _names,
            "action": "extend",
            "help": "variables of the agent's that you get when the run ends",
        },
    ),
    (
        ("-t", "--tool"),
        {
            "metavar": "NAMES",
            "type": _names,
            "action": "extend",
            "help": "functions of yours that the agent may call, beside those marked @tool",
        },
    ),
]


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser the flags of a run."""
    for flags, settings in RUN_OPTIONS:
        parser.add_argument(*flags, **settings)


def run_options(parsed: argparse.Namespace, **more: Any) -> RunOptions:
    """Make the options of a run from what was parsed, and from what no flag says."""
    names = ("model", "max_steps", "data", "save", "timeout", "budget", "ask")
    return RunOptions(**{name: getattr(parsed, name) for name in names}, **more)
