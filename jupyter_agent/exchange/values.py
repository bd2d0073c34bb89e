"""Pass the user's values in and results out (``-i``, ``-o``), and describe them to the model."""

from __future__ import annotations

import asyncio
import functools
import keyword
import reprlib
import time
from collections.abc import Mapping, Sequence

from jupyter_agent._threads import run_in_thread
from jupyter_agent.errors import UsageError
from jupyter_agent.sandbox.filter.fields import printable
from jupyter_agent.sandbox.guest.codec import decode, encode
from jupyter_agent.sandbox.guest.nodes import Buffer, CannotCopyError
from jupyter_agent.sandbox.guest.table_text import columns, in_words, some_rows

__all__ = ["Inputs", "check_name", "describe", "preview", "read", "unpack"]

_brief = reprlib.Repr()
_brief.maxdict = _brief.maxlist = _brief.maxtuple = _brief.maxset = 5
_brief.maxstring = _brief.maxother = 80


def check_name(name: str) -> str:
    """Return the name if a variable can have it.

    Raises
    ------
    UsageError
        A variable cannot have this name.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(f"{name!r} is not a variable name; write names, as in -i df,limit")
    return name


class Inputs:
    """The user's values, encoded for the sandbox.

    Raises
    ------
    UsageError
        A value cannot be copied; the message names it, the reason, and what could be.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        self.packed = {name: _pack(name, value) for name, value in values.items()}
        self.told = [describe(name, value) for name, value in values.items()]
        shown = (preview(name, value) for name, value in values.items())
        self.preview = "\n".join(
            filter(None, shown)
        )  # saved as an output, so that clearing outputs removes it


def _pack(name: str, value: object) -> list[memoryview]:
    try:
        check_name(name)
        return [memoryview(part) for part in encode(value)]
    except CannotCopyError as error:
        raise UsageError(f"{name}{error.where}: {error.why}") from None


async def read(parts: Sequence[Buffer], seconds: float = 60) -> object:
    """Decode a value of the guest's on a thread, with a time limit.

    Raises
    ------
    ValueError
        It is not a value, or decoding takes too long.
    ImportError
        A package that the value needs is missing.
    """
    try:
        async with asyncio.timeout(
            seconds + 1
        ):  # a single long call in a package cannot be stopped sooner
            return await run_in_thread(functools.partial(decode, parts, time.monotonic() + seconds))
    except TimeoutError:
        raise ValueError("it takes too long to read") from None


async def unpack(
    reply: Sequence[Buffer], names: Sequence[str]
) -> tuple[dict[str, object], list[str]]:
    """Read the guest's reply to ``give``: the values, and what is wrong with the others."""
    values: dict[str, object] = {}
    faults = []
    try:
        given = await read(reply)
    except ValueError as error:
        return {}, [f"the results cannot be read: {printable(str(error))[:300]}"]
    for name in names:
        match given.get(name) if isinstance(given, dict) else None:
            case None:
                faults.append(f"`{name}` is not set")
            case str(why):
                faults.append(printable(why)[:500])
            case parts:
                try:
                    values[name] = await read(_parts(parts))
                except ValueError as error:
                    faults.append(f"`{name}` cannot be read: {printable(str(error))[:300]}")
                except ImportError as error:
                    faults.append(f"`{name}` needs {error.name}, which the host does not have")
    return values, faults


def _parts(value: object) -> list[Buffer]:
    """Return a value's bytes.

    Raises
    ------
    ValueError
        It holds anything else.
    """
    if isinstance(value, list) and all(
        isinstance(part, bytes | bytearray | memoryview) for part in value
    ):
        return value
    raise ValueError("it holds no value")


def describe(name: str, value: object) -> str:
    """Describe a variable by its type and its shape."""
    kind = type(value).__name__
    shape = getattr(value, "shape", None)
    if (found := columns(value)) is not None and isinstance(shape, tuple):
        return f"- `{name}`: {kind}, {printable(in_words(found, rows=f'{shape[0]:,}'))}"
    if isinstance(shape, tuple):
        sides = " x ".join(f"{side:,}" for side in shape)
        return f"- `{name}`: {kind} of {getattr(value, 'dtype', '')}, {sides or 'one value'}"
    if isinstance(value, bytes | bytearray):
        return f"- `{name}`: {kind}, {len(value):,} bytes"
    size = f", {len(value):,} in all" if isinstance(value, dict | list | tuple | set) else ""
    return f"- `{name}`: {kind}{size}"


def preview(name: str, value: object) -> str:
    """Show the beginning of a value; nothing for bytes, arrays and what cannot be printed."""
    try:
        if columns(value) is not None:
            return f"{name} begins:\n{printable(some_rows(value))}"
        if hasattr(value, "shape") or isinstance(value, bytes | bytearray):
            return ""
        return f"{name} = {printable(_brief.repr(value))}"
    except Exception:  # from the user's __repr__, or for an int with too many digits
        return ""
