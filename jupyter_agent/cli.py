"""The command ``jupyter agent``: run a task in a terminal or in CI, and see what is missing."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import re
import signal
import sys
import termios
from collections.abc import Sequence
from contextlib import aclosing
from typing import NoReturn, TextIO

from traitlets import TraitError
from traitlets.config import Application, Config

from jupyter_agent import __version__
from jupyter_agent.errors import AgentError, Defect, Unsaved, UsageError
from jupyter_agent.options import add_run_options, run_arguments

__all__ = ["main"]

_TRAIT = re.compile(r"--[^=]*\..*=")
ANSWERED, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a model's "é" must not end a run in ASCII
            stream.reconfigure(errors="backslashreplace")
    try:
        options, rest = _parser().parse_known_args(argv)
    except UsageError as error:
        return _fail(error, MISUSED)
    try:
        _check(rest)
        if options.command == "doctor":
            return _doctor()
        return asyncio.run(_run(options, _configuration(rest)))
    except (UsageError, TraitError) as error:
        return _fail(error, MISUSED, debug=options.debug)
    except AgentError as error:
        return _fail(error, FAILED, debug=options.debug)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("jupyter agent: interrupted", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except BrokenPipeError:  # who read our output has gone, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # whatever nobody has foreseen
        if options.debug:
            raise
        return _fail(Defect.of(error, "With --debug it shows where"), FAILED)


def _nowhere() -> TextIO:
    """Stand for a stream that is closed, as ``>&-`` does it."""
    return open(os.devnull, "w")  # noqa: PTH123


class _Parser(argparse.ArgumentParser):
    """Says in one line what it cannot read."""

    def error(self, message: str) -> NoReturn:
        if message.endswith("required: task"):
            message += "; write it first, in quotes"
        raise UsageError(message)


def _parser() -> _Parser:
    parser = _Parser(
        "jupyter agent", description="An agent that works in a notebook, in a sandbox."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="carry a task to its answer",
        description="Carry a task to its answer. Exit code: 0 answered, 1 failed or hit a limit, "
        "2 wrong usage, 130 interrupted. Any option of the configuration can be given too, as in "
        "--Agent.token_budget=100000.",
    )
    run.add_argument("task", help="what is to be done, in quotes")
    add_run_options(run)
    run.add_argument(
        "-o",
        "--output",
        dest="save",
        metavar="RUN.ipynb",
        help="save the run as a notebook, after every cell; one that is there is gone on with",
    )
    doctor = commands.add_parser("doctor", help="see what works here and what is missing")
    for command in (run, doctor):
        command.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _check(rest: list[str]) -> None:
    """Refuse what is no option and no setting; a misspelt limit would be none."""
    from jupyter_agent import settings

    unknown = [word for word in rest if not _TRAIT.match(word)]
    if unknown and unknown[0].startswith("-"):
        raise UsageError(f"unknown option {unknown[0]}; see jupyter agent run --help")
    if unknown:
        raise UsageError(f"unknown arguments: {' '.join(unknown)}; quote the task")
    for word in rest:
        name = word.removeprefix("--").partition("=")[0]
        if name not in settings.known():
            raise UsageError(settings.misspelt(name))


def _configuration(traits: list[str]) -> Config:
    application = Application()
    try:
        application.parse_command_line(traits)
    except Exception as error:
        raise UsageError(f"cannot read the configuration: {error}") from error
    return application.config


async def _run(options: argparse.Namespace, config: Config) -> int:
    from jupyter_agent import settings
    from jupyter_agent.ask import asker
    from jupyter_agent.session import Session
    from jupyter_agent.views.terminal import TerminalView

    settings.check()
    for line in settings.read().warnings:
        print(f"jupyter agent: {line}", file=sys.stderr)  # noqa: T201

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    view = TerminalView(quiet=options.quiet)
    session = Session(config=config)
    session.model = options.model or session.model  # whoever types a command configures it
    state = "stopped"
    try:
        ask = None
        if sys.stdin.isatty():
            ask = asker(_read_line, shown=not options.quiet, discard=_forget_typed)
        changes = session.run(options.task, **run_arguments(options), asker=ask)
        async with aclosing(changes):
            async for change in changes:
                view(change)
        state = "done"
    except Unsaved:
        state = "done"
        raise
    finally:
        with contextlib.suppress(BrokenPipeError):
            view.finish(state)
        await session.close()
    return ANSWERED


def _forget_typed() -> None:
    """Let what was typed while code could write questions of its own answer none of ours."""
    termios.tcflush(sys.stdin, termios.TCIFLUSH)


async def _read_line(prompt: str) -> str:
    """Read a line of the terminal's; unlike a thread in `input` this can be given up."""
    sys.stderr.write(prompt)
    sys.stderr.flush()
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sys.stdin)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def _fail(error: AgentError | TraitError, code: int, *, debug: bool = False) -> int:
    if debug:
        raise error
    print(f"jupyter agent: {error}", file=sys.stderr)  # noqa: T201
    return code


def _doctor() -> int:
    from jupyter_agent.doctor import examine

    findings = list(examine())
    for finding in findings:
        print(finding)  # noqa: T201
    return FAILED if any(f.needed and not f.ok for f in findings) else ANSWERED


if __name__ == "__main__":
    sys.exit(main())
