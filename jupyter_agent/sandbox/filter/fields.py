"""Read fields of the guest's JSON: check their types, and remove terminal control sequences."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["JSON", "as_json", "as_list", "as_object", "as_text", "printable"]

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

_CONTROL = re.compile(
    r"\x1b\[(?P<colour>[0-9;]*m)"  # kept: it does no more than colour
    r"|\x1b(?:\][^\x07\x1b]*(?:\x07|\x1b\\)?|\[[0-?]*[ -/]*[@-~]|[P^_X][^\x1b]*(?:\x1b\\)?|.)?"
    r"|[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]",
    re.DOTALL,
)
# what such a sequence begins with, as UTF-8: other text is told by this ten times as fast
_SUSPECT = bytes({*range(0x20), 0x7F, 0xC2} - {*b"\b\t\n\r"})
_LONE = bytes({*range(0x20), 0x7F} - {*b"\b\t\n\r\x07\x1b"})  # stand in no sequence
_C1 = [f"{chr(code)}".encode() for code in range(0x80, 0xA0)]
MAX_DEPTH = 50  # of lists and objects in each other
MAX_SEQUENCES = 100_000  # of one text; where there are more, their first characters are taken


def printable(text: str) -> str:
    """Remove terminal control sequences, such as those that set the title or the clipboard."""
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded.translate(None, _SUSPECT)) == len(encoded):
        return text
    crowded = encoded.count(b"\x1b") + encoded.count(b"\x07") > MAX_SEQUENCES
    encoded = encoded.translate(None, _LONE + b"\x07\x1b" * crowded)
    if b"\xc2" in encoded:
        for control in _C1:
            encoded = encoded.replace(control, b"")
    text = encoded.decode("utf-8", "surrogatepass")
    return text if crowded else _CONTROL.sub(_without, text)


def _without(found: re.Match[str]) -> str:
    return found[0] if found["colour"] else ""


def as_object(value: object) -> dict[str, object]:
    """Return a value that has to be an object."""
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} where an object belongs")
    return value


def as_list(value: object, limit: int) -> list[object]:
    """Return a value that has to be a list of ``limit`` items at most."""
    if not isinstance(value, list) or len(value) > limit:
        raise ValueError(f"{type(value).__name__} where a short list belongs")
    return value


def as_text(value: object) -> str:
    """Return a value that has to be text, made safe to print and to write to a file."""
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} where text belongs")
    return printable(value.encode("utf-8", "replace").decode())  # no file holds lone surrogates


def as_json(value: object, text: Callable[[str], str] = as_text, *, depth: int = 0) -> JSON:
    """Return JSON in which each text has passed ``text``."""
    if depth > MAX_DEPTH:
        raise ValueError(f"JSON nested deeper than {MAX_DEPTH}")
    match value:
        case float() if not math.isfinite(value):
            return None  # JSON has no such number: a page could not read the notebook
        case None | bool() | int() | float():
            return value
        case str():
            return text(value)
        case list():
            return [as_json(item, text, depth=depth + 1) for item in value]
        case dict():
            items = value.items()
            return {as_text(name): as_json(item, text, depth=depth + 1) for name, item in items}
    raise ValueError(f"{type(value).__name__} where JSON belongs")
