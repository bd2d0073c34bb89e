"""Write values as JSON and buffers, and check them when they are read.

A node is a plain value of JSON, a list of nodes or a dict whose ``is`` names a kind of value. The
kinds are known to `codec` and to the modules that it names; this one counts and checks.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import time
import zoneinfo
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

Buffer: TypeAlias = "bytes | bytearray | memoryview"
Node: TypeAlias = Any

MAX_DEPTH = 100
MAX_DIGITS = 1 << 16  # of one number
LONG_TEXT = 1000  # characters; a longer text is a buffer
TABLE = 1 << 12  # elements that a table counts as: it takes memory itself
HINTS = {  # what could be copied instead, for the names of types
    "make it a list": "generator map filter zip range dict_keys dict_values dict_items",
    "make it a dict": "OrderedDict defaultdict Counter",
    "make it a str": "PosixPath",
    "make it a float": "Fraction",
    "collect() it": "LazyFrame",
    "its .numpy() can": "Tensor",
    "its .filled() can": "MaskedArray",
    "its .toarray() can": "csr_matrix",
    "numpy.asarray of it can": "matrix memmap recarray",
    "its .start_time can": "Period",
    "its .left and .right can": "Interval",
    "pandas.Series of it can": "Categorical IntegerArray FloatingArray BooleanArray DatetimeArray",
    "pyarrow.table of it can": "RecordBatch Array ChunkedArray Int64Array DoubleArray StringArray",
    "its .figure can": "Axes FacetGrid PairGrid JointGrid",
}
CAN = (
    "numbers, text, bytes, dates, lists and dicts of them, numpy arrays, pandas, polars and Arrow "
    "tables, pictures and figures can"
)


class CannotCopyError(TypeError):
    """A value that cannot be copied: which part of it, and why."""

    def __init__(self, why: str, where: str = "") -> None:
        super().__init__(why, where)
        self.why, self.where = why, where

    def __str__(self) -> str:
        return f"{self.where}: {self.why}" if self.where else self.why


def unknown(value: object) -> CannotCopyError:
    """Return the error for a type that cannot be copied; it says what can be copied instead."""
    name = type(value).__name__
    hint = next((hint for hint, names in HINTS.items() if name in names.split()), CAN)
    return CannotCopyError(f"a value of type {name} cannot be copied; {hint}")


@contextmanager
def inside(part: object) -> Iterator[None]:
    """Name the part of a value that is being written in the error about it."""
    try:
        yield
    except CannotCopyError as error:
        raise CannotCopyError(error.why, f"[{part!r:.60}]{error.where}") from None


class Writer:
    """Write a value as nodes and buffers.

    Parameters
    ----------
    write
        Writes a value that is no plain value of JSON.
    """

    def __init__(self, write: Callable[[Writer, Any], Node]) -> None:
        self.buffers: list[Buffer] = []
        self._write = write
        self._depth = 0

    def buffer(self, data: Any) -> int:
        """Add a buffer; return its number."""
        view = memoryview(data)
        self.buffers.append(view.cast("B") if view.nbytes else b"")
        return len(self.buffers) - 1

    def node(self, value: Any) -> Node:
        """Write a value."""
        kind = type(value)
        if (
            (kind is str and len(value) <= LONG_TEXT)
            or (kind is int and abs(value) < 1 << 63)
            or (kind is float and math.isfinite(value))
            or (kind is bool or value is None)
        ):
            return value
        if self._depth >= MAX_DEPTH:
            raise CannotCopyError(f"it is nested deeper than {MAX_DEPTH}, or holds itself")
        self._depth += 1
        try:
            return self._write(self, value)
        finally:
            self._depth -= 1

    def nodes(self, values: Any) -> list[Node]:
        """Write each of several values."""
        nodes = []
        for index, value in enumerate(values):
            if type(value) is str and len(value) <= LONG_TEXT:  # at once: there may be millions
                nodes.append(value)
                continue
            with inside(index):
                nodes.append(self.node(value))
        return nodes


class Reader:
    """Read a value from nodes and buffers that may be hostile.

    Parameters
    ----------
    read
        Reads a node that is a dict.
    room
        How many elements may take memory but no bytes of their own.
    until
        When to give up, in seconds of `time.monotonic`.
    """

    def __init__(
        self,
        read: Callable[[Reader, Node], Any],
        buffers: Sequence[Buffer],
        *,
        room: int,
        until: float,
    ) -> None:
        self._read = read
        self._buffers: list[Buffer | None] = list(buffers)
        self._depth = 0
        self._room = room
        self._until = until

    def claim(self, elements: int) -> None:
        """Count elements that take memory but no bytes of their own.

        Raises
        ------
        ValueError
            They are too many for the bytes that came.
        """
        self._room -= elements
        if self._room < 0:
            raise ValueError("a value of more elements than bytes have come for")

    def check_time(self) -> None:
        """Raise if it takes too long."""
        if time.monotonic() > self._until:
            raise ValueError("it takes too long to read")

    def value(self, node: Node) -> Any:
        """Read a node of any kind."""
        if node is None or isinstance(node, bool | int | float | str):
            return node
        self.check_time()
        self._depth += 1
        if self._depth > 2 * MAX_DEPTH:
            raise ValueError("a value that is nested too deep")
        value = self.values(node) if isinstance(node, list) else self._read(self, node)
        self._depth -= 1
        return value

    def values(self, nodes: Node) -> list[Any]:
        """Read a list of nodes."""
        return [self.value(node) for node in as_list(nodes)]

    def expect(self, node: Node, *kinds: str) -> Any:
        """Read a node that has to be of one of these kinds."""
        if not isinstance(node, dict) or node.get("is") not in kinds:
            raise ValueError(f"{node!r:.60} where {' or '.join(kinds)} belongs")
        return self.value(node)

    def bytes_of(self, node: Node) -> memoryview:
        """Return the buffer that a node names; no other node may name it."""
        index = as_count(node["data"])
        buffer, self._buffers[index] = self._buffers[index], None
        if buffer is None:
            raise ValueError("bytes that are used twice")
        return memoryview(buffer).cast("B")


def as_list(node: Node) -> list[Any]:
    """Return what has to be a list."""
    if not isinstance(node, list):
        raise ValueError(f"{node!r:.60} where a list belongs")
    return node


def as_count(node: Node) -> int:
    """Return what has to be a whole number, and not negative."""
    if type(node) is not int or node < 0:
        raise ValueError(f"{node!r:.60} where a whole number belongs")
    return node


def check_digits(text: str) -> str:
    """Return a number's text, if it is not so long that reading it would take long."""
    if len(text) > MAX_DIGITS:
        raise CannotCopyError(
            f"a number of {len(text):,} digits cannot be copied; one of {MAX_DIGITS:,} can"
        )
    return text


def write_zone(zone: dt.tzinfo | None) -> str | float | None:
    """Write a time zone as its name or its seconds from UTC."""
    match zone:
        case None:
            return None
        case dt.timezone():
            return zone.utcoffset(None).total_seconds()
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    if not isinstance(name, str):
        raise CannotCopyError(f"the time zone {zone!r:.60} cannot be copied; one of zoneinfo's can")
    return name


def read_zone(node: Node) -> dt.tzinfo | None:
    """Read a time zone; its name must not be a path to another file."""
    match node:
        case None:
            return None
        case int() | float():
            return dt.timezone(dt.timedelta(seconds=node))
        case str() if re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,3}", node[:80]):
            return zoneinfo.ZoneInfo(node)
    raise ValueError(f"no time zone: {node!r:.60}")
