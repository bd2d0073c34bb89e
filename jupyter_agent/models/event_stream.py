"""Read a streamed reply: server-sent events and the JSON in them.

The format is that of the HTML standard (9.2). What differs from it is forgiven: an event without a
blank line after it, an error in place of an event, and one JSON body in place of all. Whatever
shapes the JSON has are taken apart by functions that never raise.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import Any

from jupyter_agent.models.faults import NoEventsError, StreamError

__all__ = ["DONE", "as_dict", "as_list", "as_text", "events"]

DONE: dict[str, Any] = {"type": "[DONE]"}  # the event that ends chat completions
_BODY = "body"  # stands for lines that are not events
_MAX_LINES, _MAX_LINE = 1_000, 65_536  # of a body without events; characters of a line
_MAX_OF_A_TEXT = 10_000  # characters; cut to a line once no key is in it
_MAX_NESTING = 20  # levels of parts in parts


async def events(body: AsyncIterable[bytes]) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the objects that a server streams, each as soon as it is complete, up to `DONE`.

    Raises
    ------
    StreamError
        The server says what went wrong, in an event or instead of all of them.
    NoEventsError
        There was no event at all.
    ValueError
        An event is not JSON.
    """
    begun, odd = False, ""
    async with aclosing(_frames(body)) as frames:
        async for name, text, event in frames:
            if name == _BODY:
                event = None if begun else _whole_reply(text)
            elif text.strip() == "[DONE]":
                if not begun:
                    break
                yield DONE
                return
            else:
                event = _checked(name, text, event)
            if isinstance(event, dict):
                begun = True
                yield event
            odd = odd or text
    if not begun:
        raise _no_reply(odd) if odd else NoEventsError("the server sent an empty reply; try again")


def _checked(name: str, text: str, event: Any) -> Any:
    """Return the object of an event; raise if it is an error."""
    try:
        event = json.loads(text) if event is None else event
    except ValueError:
        if name != "error":
            raise
        event = text
    if name == "error" or (
        isinstance(event, dict) and (event.get("error") or event.get("type") == "error")
    ):
        raise StreamError(event)
    return event


def _whole_reply(text: str) -> dict[str, Any]:
    """Read a body without events: a reply in one piece, or an error."""
    try:
        body = json.loads(text)
    except ValueError:
        raise _no_reply(text) from None
    if isinstance(body, dict) and body.get("choices") and not body.get("error"):
        return body
    raise StreamError(body)


def _no_reply(text: str) -> NoEventsError:
    line = " ".join(text.split())[:_MAX_OF_A_TEXT]
    says = "a page" if line.startswith("<") else f"{line!a}"
    return NoEventsError(f"the server sent no reply; is that the right URL? It sent {says}")


async def _frames(
    body: AsyncIterable[bytes],
) -> AsyncGenerator[tuple[str, str, dict[str, Any] | None], None]:
    """Yield each event's name, data and, if already read, its object; then the other lines."""
    name, data, other = "", list[str](), list[str]()
    async with aclosing(_lines(body)) as lines:
        async for line in lines:
            line = line.removeprefix("\ufeff")  # a body may begin with a byte order mark
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match field:
                case "data" if not data and (
                    (event := _object(value)) is not None or value == "[DONE]"
                ):
                    yield name, value, event  # the object ends the event
                case "data":
                    data.append(value)
                case "event":
                    name = value
                case "error":
                    yield "error", value, None
                case "" if not line:
                    if data:
                        yield name, "\n".join(data), None
                    name, data = "", []
                case "" | "id" | "retry":
                    pass
                case _ if not other and (event := _object(line)) is not None:
                    yield (_BODY, line, None) if "error" not in event else ("", line, event)
                case _ if len(other) < _MAX_LINES:
                    other.append(line[:_MAX_LINE])
    if data:
        yield name, "\n".join(data), None
    if other:
        yield _BODY, "\n".join(other), None


def _object(text: str) -> dict[str, Any] | None:
    """Read a line that is a complete JSON object."""
    try:
        read = json.loads(text) if text[:1] == "{" else None
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


async def _lines(body: AsyncIterable[bytes]) -> AsyncGenerator[str, None]:
    """Yield each line when its end arrives: LF, CR or both."""
    rest = bytearray()
    async for chunk in body:
        rest += chunk
        if b"\n" not in chunk and b"\r" not in chunk:
            continue
        *lines, last = rest.splitlines(keepends=True)
        rest = bytearray()
        if last.endswith(b"\n"):  # after a CR, an LF may follow
            lines.append(last)
        else:
            rest += last
        for line in lines:
            yield line.rstrip(b"\r\n").decode(errors="replace")
    if rest:
        yield rest.rstrip(b"\r\n").decode(errors="replace")


# -- reading JSON of any shape


def as_dict(value: object) -> dict[str, Any]:
    """Return the value if it is an object, else an empty object."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """Return the value if it is a list, else a list that holds it; an empty list for nothing."""
    if isinstance(value, list):
        return value
    return [value] if value else []


def as_text(value: object, deepest: int = _MAX_NESTING) -> str:
    """Read a text, or the texts in a list of parts; thoughts are left out."""
    match value:
        case str():
            return value
        case list() if deepest:
            return "".join(as_text(part, deepest - 1) for part in value)
        case dict() if deepest and value.get("type") not in ("thinking", "reasoning"):
            return as_text(value.get("text") or value.get("content"), deepest - 1)
    return ""
