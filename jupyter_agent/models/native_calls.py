"""Join the pieces in which servers send native tool calls.

Servers tell their calls apart by an id, by a place in the reply, by both or by neither, and send
arguments as text in pieces, as text in one, as an object, or only when a call is whole.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

from jupyter_agent.models.protocol import Call

__all__ = ["CallReader", "Calls"]

_MAX_ID = 200  # characters; an id is sent back with every request
Place = int | str | None


@dataclass(slots=True)
class _Known:
    """A call of which at least one piece has arrived."""

    index: int
    places: set[Place]
    id: str
    pieces: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether the arguments so far are a JSON object."""
        if not self.pieces or not self.pieces[-1].rstrip().endswith("}"):
            return False
        try:
            return isinstance(json.loads("".join(self.pieces), strict=False), dict)
        except (ValueError, RecursionError):
            return False


class Calls:
    """Join the pieces of the calls of one reply."""

    def __init__(self) -> None:
        self._calls: list[_Known] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def knows(self, *places: object) -> bool:
        """Tell whether a piece of the call at this index has arrived."""
        return any(known.places & {*_places(places)} for known in self._calls)

    def read(
        self, *places: object, call_id: object = "", name: object = "", arguments: object = ""
    ) -> Call:
        """Add a piece of a call; its fields may have any type.

        Parameters
        ----------
        places
            Where the server says that the call stands, by all names that it has for that.
        """
        call_id, name, text = _short(call_id), _short(name), _text(arguments)
        at = _places(places)
        known = self._find(at, call_id)
        if known is None or _is_another(known, call_id=call_id, name=name, text=text):
            known = _Known(len(self._calls), set(at), call_id)
            self._calls.append(known)
        known.id = known.id or call_id
        if text:
            known.pieces.append(text)
        return Call(known.index, call_id, text, name)

    def whole(self, *places: object, call_id: object = "", arguments: object = "") -> Call | None:
        """Add a complete call, if none of it has arrived in pieces."""
        at = _places(places)
        known = self._find(at, _short(call_id))
        if known is None or known.pieces or not (text := _text(arguments)):
            return None
        known.pieces.append(text)
        return Call(known.index, arguments=text)

    def _find(self, places: list[int | str], call_id: str) -> _Known | None:
        """Find the call that a piece belongs to, or the call after which it may begin a new one."""
        for known in self._calls:
            if call_id and known.id == call_id and (not places or known.places & set(places)):
                return known
        for place in places:
            for known in reversed(self._calls):
                if place in known.places:
                    return known
        return self._calls[-1] if self._calls and not places else None


def _is_another(known: _Known, *, call_id: str, name: str, text: str) -> bool:
    """Tell whether a piece begins a new call although its index is already used."""
    if call_id and call_id == known.id:
        return False
    if (
        call_id and known.id and name
    ):  # some servers give each piece an id of its own, but only the first a name
        return True
    return bool(name or (call_id and text.strip())) and known.is_whole


def _places(places: tuple[object, ...]) -> list[int | str]:
    return [place for place in places if isinstance(place, int | str) and place != ""]


def _text(arguments: object) -> str:
    if isinstance(arguments, dict | list):
        try:
            return json.dumps(arguments, ensure_ascii=False)
        except RecursionError:
            return ""
    return arguments if isinstance(arguments, str) else ""


def _short(value: Any) -> str:
    """Return a name or id that can be written to a file and sent back."""
    text = value if isinstance(value, str) else ""
    return text.encode("utf-8", "replace").decode()[:_MAX_ID]


class CallReader:
    """Read ``code`` out of a native call's arguments while their JSON arrives.

    `code` is what may be shown now. It only grows, until `close` reads the whole once more.
    """

    def __init__(self) -> None:
        self.name = ""
        self.arguments = ""
        self._code = ""  # at the last reading
        self._read = 0  # characters of the arguments at the last reading

    def feed(self, text: str) -> None:
        """Add more JSON; it is read when the code is asked for."""
        self.arguments += text

    @property
    def code(self) -> str:
        """The code so far."""
        if self._read < len(self.arguments):
            self._read = len(self.arguments)
            self._code = _read_code(self.arguments)[0] or self._code
        return self._code

    def close(self) -> bool:
        """Tell whether the arguments hold complete code; what follows it may be missing."""
        self._code, is_whole = _read_code(self.arguments)
        self._read = len(self.arguments)
        try:
            whole = json.loads(self.arguments, strict=False)
        except (ValueError, RecursionError):
            return is_whole
        code = whole.get("code") if isinstance(whole, dict) else None
        self._code = code if isinstance(code, str) else self._code
        return isinstance(code, str)


_DECODER = json.JSONDecoder(strict=False)  # some models write line breaks in strings
_MARK = re.compile(r"\s*([{:,])\s*")
# An unfinished escape, or the first half of a surrogate pair, at the end of the text.
_OPEN_ESCAPE = re.compile(
    r"(?<!\\)((?:\\\\)*)(?:\\u[dD][89abAB][0-9a-fA-F]{2})?(?:\\(?:u[0-9a-fA-F]{0,3})?)?$"
)


def _read_code(text: str) -> tuple[str, bool]:
    """Read the member ``code`` as far as it has arrived, and tell whether it is complete."""
    place = 0
    read: object = None
    while mark := _MARK.match(text, place):
        place = mark.end()
        if (mark[1], read) == (":", "code") and text.startswith('"', place):
            return _read_string(text, place)
        try:
            read, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):  # it has not arrived yet
            break
    return "", False


def _read_string(text: str, place: int) -> tuple[str, bool]:
    for rest, is_whole in (
        (text[place:], True),
        (_OPEN_ESCAPE.sub(r"\1", text[place:]) + '"', False),
    ):
        with contextlib.suppress(ValueError):
            return _DECODER.raw_decode(rest)[0], is_whole
    return "", False  # it has an escape that JSON does not have
