"""Encode values as bytes and decode them, without pickle; used on both sides.

A value becomes a tree, which is JSON, and buffers beside it. Numbers in arrays and columns go as
they lie in memory, text in columns and Arrow's own types as an Arrow stream. What is read chooses
no class and runs no code: nothing is unpickled, Arrow's metadata and extension types are refused.
Both sides read with the same care; only the host needs it.

Standard library; numpy, pandas, polars, pyarrow, PIL only where a value is one of theirs.
"""

from __future__ import annotations

import datetime as dt
import decimal
import functools
import importlib
import json
import math
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from jupyter_agent.sandbox.guest.json_cost import costs_more
from jupyter_agent.sandbox.guest.nodes import (
    Buffer,
    CannotCopyError,
    Node,
    Reader,
    Writer,
    check_digits,
    inside,
    read_zone,
    unknown,
    write_zone,
)

MAX_TREE = 32 << 20  # bytes of JSON
MAX_COST = 256 << 20  # bytes of memory that the tree may become
MAX_ELEMENTS = 16 << 20  # that need no bytes of their own, beside one for each bit that came
_MODULES = {  # what writes and reads the values of a package
    **{"numpy": "arrays", "pandas": "pandas_tables", "pyarrow": "arrow_tables"},
    **{"polars": "arrow_tables", "PIL": "pictures", "matplotlib": "pictures"},
}


def encode(value: object) -> list[Buffer]:
    """Turn a value into bytes: its tree, then its buffers.

    Raises
    ------
    CannotCopyError
        A part of it cannot be copied.
    """
    writer = Writer(_write)
    tree = json.dumps(writer.node(value), allow_nan=False, separators=(",", ":")).encode()
    if len(tree) > MAX_TREE or costs_more(tree, MAX_COST):
        raise CannotCopyError(
            "it is too much for a list or a dict; an array or a table can be copied"
        )
    return [tree, *writer.buffers]


def decode(parts: Sequence[Buffer], until: float = math.inf) -> Any:
    """Turn bytes back into the value.

    Parameters
    ----------
    until
        When to give up, in seconds of `time.monotonic`: keys can be chosen so that a dict of them
        takes the square of their number.

    Raises
    ------
    ValueError
        They are not what `encode` makes. ImportError: a package that the value needs is missing.
    """
    if not parts or len(parts[0]) > MAX_TREE:
        raise ValueError(f"a value described in more than {MAX_TREE >> 20} MiB, or in none")
    tree = bytes(parts[0])
    if costs_more(tree, MAX_COST):
        raise ValueError("a value of too many parts")
    try:
        room = MAX_ELEMENTS + 8 * sum(memoryview(part).nbytes for part in parts)
        return Reader(_read, parts[1:], room=room, until=until).value(json.loads(tree))
    except ImportError:
        raise
    except Exception as error:  # numpy, pandas and Arrow raise what they like
        raise ValueError(f"{type(error).__name__}: {str(error)[:300]}") from None


_TEXTS: dict[type, tuple[Callable[[Any], str], Callable[[str], Any]]] = {
    int: (hex, functools.partial(int, base=16)),
    float: (repr, float),
    complex: (repr, complex),
    decimal.Decimal: (str, decimal.Decimal),
    dt.date: (dt.date.isoformat, dt.date.fromisoformat),
    uuid.UUID: (str, uuid.UUID),
}
_FROM_TEXT = {kind.__name__: read for kind, (_, read) in _TEXTS.items()}


def _write(writer: Writer, value: Any) -> Node:
    """Write a value that JSON has no type for."""
    kind = type(value)
    name = kind.__name__
    if kind is list:
        return writer.nodes(value)
    if kind is dict:
        return _write_dict(writer, value)
    if kind in (tuple, set, frozenset):
        return {"is": name, "items": writer.nodes(value)}
    if kind in (bytes, bytearray, memoryview):
        return {"is": name, "data": writer.buffer(value)}
    if kind is str:
        return {"is": name, "data": writer.buffer(value.encode("utf-8", "surrogatepass"))}
    if kind is dt.timedelta:
        return {"is": name, "microseconds": value // dt.timedelta(microseconds=1)}
    if kind in (dt.datetime, dt.time):
        text, zone = value.replace(tzinfo=None).isoformat(), write_zone(value.tzinfo)
        return {"is": name, "text": text, "zone": zone, "fold": value.fold}
    if kind in _TEXTS:
        write, _ = _TEXTS[kind]
        return {"is": name, "text": check_digits(write(value))}
    return _write_foreign(writer, value)


def _read(reader: Reader, node: Node) -> Any:
    """Read a node of a value that JSON has no type for."""
    match node["is"]:
        case "dict":
            return _read_dict(reader, node)
        case "tuple":
            return tuple(reader.values(node["items"]))
        case "set":
            return _read_set(reader, node)
        case "frozenset":
            return frozenset(_read_set(reader, node))
        case "bytes":
            return bytes(reader.bytes_of(node))
        case "bytearray":
            return bytearray(reader.bytes_of(node))
        case "memoryview":
            return reader.bytes_of(node)
        case "str":
            return bytes(reader.bytes_of(node)).decode("utf-8", "surrogatepass")
        case "timedelta":
            return dt.timedelta(microseconds=node["microseconds"])
        case "datetime" | "time" as name:
            made = getattr(dt, name).fromisoformat(node["text"])
            return made.replace(tzinfo=read_zone(node["zone"]), fold=node["fold"])
        case str(name) if name in _FROM_TEXT:
            return _FROM_TEXT[name](check_digits(node["text"]))
        case str(name) if module := _MODULES.get(name.partition(" ")[0]):
            return _import(module).read(reader, node)
    raise ValueError(f"no kind of value: {node!r:.60}")


def _write_dict(writer: Writer, value: dict[Any, Any]) -> Node:
    keys, values = writer.nodes(value.keys()), []
    for key, item in value.items():
        with inside(key):
            values.append(writer.node(item))
    return {"is": "dict", "keys": keys, "values": values}


def _read_dict(reader: Reader, node: Node) -> dict[Any, Any]:
    made = {}
    keys, values = reader.values(node["keys"]), reader.values(node["values"])
    for key, value in zip(keys, values, strict=True):
        made[key] = value
        reader.check_time()
    return made


def _read_set(reader: Reader, node: Node) -> set[Any]:
    made = set()
    for item in reader.values(node["items"]):
        made.add(item)
        reader.check_time()
    return made


def _write_foreign(writer: Writer, value: Any) -> Node:
    """Write a value whose class, or a base of it, is from another package."""
    packages = [base.__module__.partition(".")[0] for base in type(value).__mro__]
    module = next(filter(None, map(_MODULES.get, packages)), None)
    if module is None:
        raise unknown(value)
    try:
        write = _import(module).write
    except ImportError as error:
        why = f"a value of type {type(value).__name__} cannot be copied without {error.name}"
        raise CannotCopyError(f'{why}; pip install "jupyter-agent-kernel[arrow]"') from None
    return write(writer, value)


def _import(module: str) -> Any:
    return importlib.import_module(f"jupyter_agent.sandbox.guest.{module}")
