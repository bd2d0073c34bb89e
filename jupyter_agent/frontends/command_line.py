"""``jupyter agent run``, ``models``, ``setup`` and ``doctor``."""

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
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from difflib import get_close_matches
from types import FrameType
from typing import Literal, NoReturn, Self, TextIO

from traitlets import TraitError
from traitlets.config import Application, Config

from jupyter_agent import __version__
from jupyter_agent.errors import AgentError, Defect, NoModel, Unsaved, UsageError
from jupyter_agent.frontends.options import RUN_OPTIONS, add_run_options, run_options

__all__ = ["flush_stderr", "main"]

_TRAIT = re.compile(r"--[^=]*\..*=")
ANSWERED, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
_GRACE_SECONDS = 1  # for a run to end after a signal; a later signal has its usual effect


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    sys.stdin = sys.stdin or _open_devnull("r")
    sys.stdout = sys.stdout or _open_devnull("w")
    sys.stderr = sys.stderr or _open_devnull("w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a model's "é" must not end a run on an ASCII terminal
            stream.reconfigure(errors="backslashreplace")
    debug = False
    try:
        with _printing():  # --help and --version
            options, rest = _parser().parse_known_args(argv)
        debug = options.debug
        _check(options.command, rest)
        if options.command == "doctor":
            return _doctor()
        if options.command == "models":
            return _list_models()
        if options.command == "setup":
            return _set_up(undo=options.undo)
        with _Signals() as signals:
            return asyncio.run(_run(options, _configuration(rest), signals))
    except NoModel as error:
        return _fail_with_models(error, debug=options.debug)
    except (UsageError, TraitError) as error:
        return _fail(error, MISUSED, debug=debug)
    except AgentError as error:
        if isinstance(error, _StdoutError) and isinstance(
            error.__cause__, BrokenPipeError
        ):  # the reader has ended, as head does
            return FAILED
        return _fail(error, FAILED, debug=debug)
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("interrupted")
        return INTERRUPTED
    except Exception as error:  # a bug
        if debug:
            raise
        return _fail(Defect.of(error, "Use --debug to see the traceback"), FAILED)


def _open_devnull(mode: Literal["r", "w"]) -> TextIO:
    """Return a stream that replaces a closed one (``>&-`` in a shell)."""
    return open(os.devnull, mode)  # noqa: PTH123


class _Signals:
    """Makes SIGINT, SIGTERM and SIGHUP end a run; a later signal has its usual effect."""

    def __init__(self) -> None:
        self._run: asyncio.Task[int] | None = None
        self._since = 0.0

    def stop(self, run: asyncio.Task[int]) -> None:
        """Set the run that a signal stops."""
        self._run, self._loop = run, run.get_loop()

    def __enter__(self) -> Self:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup sets it
            numbers.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._hear) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._run and not self._since:
            self._since = time.monotonic()
            self._loop.call_soon_threadsafe(self._run.cancel)
        elif time.monotonic() - self._since > _GRACE_SECONDS:
            self.__exit__()
            signal.raise_signal(number)


class _StdoutError(AgentError):
    """Stdout could not be written to; from now on nothing is written there."""


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    try:
        try:
            yield
        finally:  # argparse exits after --help
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise _StdoutError(f"cannot write to stdout: {error.strerror}") from error


class _CommandParser(argparse.ArgumentParser):
    """Reports wrong arguments in one line."""

    def error(self, message: str) -> NoReturn:
        if message.endswith("required: task"):
            message += "; write it first, in quotes"
        if message.endswith("required: COMMAND"):
            message = "name a command: run, models, setup or doctor"
        raise UsageError(message)


def _parser() -> _CommandParser:
    parser = _CommandParser(
        "jupyter agent", description="An agent that works in a notebook, in a sandbox."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="carry out a task",
        description="Carry out a task. Exit code: 0 answered, 1 failed or hit a limit, "
        "2 wrong usage, 130 interrupted. Any setting can be given too, as in "
        "--Agent.token_budget=100000.",
    )
    run.add_argument("task", help="the task, in quotes")
    add_run_options(run)
    run.add_argument(
        "-o",
        "--output",
        dest="save",
        metavar="RUN.ipynb",
        help="save the run as a notebook after every cell; an existing one is continued",
    )
    doctor = commands.add_parser("doctor", help="check what works on this machine")
    models = commands.add_parser("models", help="list the models that can be used here")
    setup = commands.add_parser(
        "setup",
        help="have every IPython kernel know %%%%agent without %%load_ext",
        description="Write a file that IPython runs when a kernel of yours starts, so that "
        "%%%%agent, %%agent and %%%%sandbox are loaded when they are first used.",
    )
    setup.add_argument("--undo", action="store_true", help="remove that file")
    for command in (run, models, setup, doctor):
        command.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _check(command: str, rest: list[str]) -> None:
    """Refuse unknown options and settings: a misspelt limit would have no effect."""
    from jupyter_agent import settings

    unknown = [word for word in rest if not _TRAIT.match(word)]
    if unknown and unknown[0].startswith("-"):
        flags = ["--output", *(flag for flags, _ in RUN_OPTIONS for flag in flags)]
        if unknown[0].removeprefix("--") in settings.known():
            advice = f"write it as {unknown[0]}=VALUE"
        elif command == "run" and (near := get_close_matches(unknown[0], flags, 1)):
            advice = f"is it {near[0]}?"
        else:
            advice = f"see jupyter agent {command} --help"
        raise UsageError(f"unknown option {unknown[0]}; {advice}")
    if unknown:
        none = f"jupyter agent {command} takes none"
        advice = "put the task in quotes" if command == "run" else none
        raise UsageError(f"unknown arguments: {' '.join(unknown)}; {advice}")
    for word in rest:
        name = word.removeprefix("--").partition("=")[0]
        if name not in settings.known():
            raise UsageError(settings.unknown_setting(name))


def _configuration(traits: list[str]) -> Config:
    application = Application()
    try:
        application.parse_command_line(traits)
    except Exception as error:
        raise UsageError(f"cannot read the settings: {error}") from error
    return application.config


async def _run(options: argparse.Namespace, config: Config, signals: _Signals) -> int:
    from jupyter_agent import settings
    from jupyter_agent.exchange.approval import asker
    from jupyter_agent.session import Session
    from jupyter_agent.views.terminal import TerminalView

    settings.check()
    for line in settings.read().warnings:
        _say(line)

    task = asyncio.current_task()
    assert task is not None
    signals.stop(task)
    view = TerminalView(quiet=options.quiet)
    session = Session(config=config)
    session.model = (
        options.model or session.model
    )  # a model on the command line needs no permission
    state = "stopped"

    async def read_line(prompt: str) -> str:
        with _printing():
            view.end_line()
        return await _read_line(prompt)

    try:
        ask = None
        if sys.stdin.isatty():
            ask = asker(read_line, shown=not options.quiet, discard=_forget_typed)
        changes = session.run(options.task, run_options(options, asker=ask))
        async with aclosing(changes):
            async for change in changes:
                with _printing():
                    view(change)
        state = "done"
    except Unsaved:
        state = "done"
        raise
    finally:
        try:
            with _printing():
                view.finish(state)
        finally:
            await session.close()
    return ANSWERED


def _forget_typed() -> None:
    """Drop what was typed before our question: it may answer a text that the code printed."""
    termios.tcflush(sys.stdin, termios.TCIFLUSH)


async def _read_line(prompt: str) -> str:
    """Read a line from the terminal; unlike `input` in a thread, this can be cancelled."""
    sys.stderr.write(prompt)
    sys.stderr.flush()
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, ready.set)
    try:
        await ready.wait()
    except asyncio.CancelledError:
        sys.stderr.write("\n")
        raise
    finally:
        loop.remove_reader(sys.stdin)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


def _fail(error: AgentError | TraitError, code: int, *, debug: bool = False) -> int:
    if debug:
        raise error
    _say(str(error))
    return code


def _fail_with_models(error: NoModel, *, debug: bool) -> int:
    """List the models that could be named, and the error below that."""
    from jupyter_agent.frontends.model_table import IN_TERMINAL

    with contextlib.suppress(OSError):
        print(f"{_models(IN_TERMINAL)}\n", file=sys.stderr)  # noqa: T201
    return _fail(error, MISUSED, debug=debug)


def _models(line: str) -> str:
    from jupyter_agent import settings
    from jupyter_agent.frontends.model_table import model_table

    configured = str(settings.read().config.Session.get("model", ""))
    return asyncio.run(model_table(configured, line=line))["text/plain"]


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # stderr cannot be written to either
        print(f"jupyter agent: {text}", file=sys.stderr)  # noqa: T201


def flush_stderr() -> None:
    """Flush stderr; where that fails, keep Python from changing the exit code."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _list_models() -> int:
    from jupyter_agent.frontends.model_table import IN_TERMINAL

    listed = _models(IN_TERMINAL)
    with _printing():
        print(listed)  # noqa: T201
    return ANSWERED


def _set_up(*, undo: bool) -> int:
    from jupyter_agent.frontends import startup_file

    done = startup_file.remove() if undo else startup_file.write()
    with _printing():
        print(done)  # noqa: T201
    return ANSWERED


def _doctor() -> int:
    from jupyter_agent.frontends.doctor import examine

    findings = list(examine())
    with _printing():
        for finding in findings:
            print(finding)  # noqa: T201
    return FAILED if any(f.needed and not f.ok for f in findings) else ANSWERED
