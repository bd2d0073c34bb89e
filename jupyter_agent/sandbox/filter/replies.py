"""Replies to completion, inspection and history: keep known fields only.

Of each reply only the fields that the message spec names are kept, each of its type; text passes
`printable`, mime bundles the filter of outputs.
"""

from __future__ import annotations

from collections.abc import Callable

from jupyter_agent._unicode import visible
from jupyter_agent.sandbox.filter.fields import JSON, as_list, as_object, as_text
from jupyter_agent.sandbox.filter.host_commands import agents_code
from jupyter_agent.sandbox.filter.outputs import read_output

__all__ = ["Reply", "read_reply"]

Reply = dict[str, JSON]

MAX_ITEMS = 100_000  # of a list
MAX_COUNT = 1 << 31
MAX_EXPRESSIONS = 100
MAX_PAYLOADS = 100
MAX_MATCHES = 2_000  # completions that are kept
_TYPES = "_jupyter_types_experimental"  # what kind of thing each completion is


def read_reply(kind: str, content: object) -> Reply:
    """Turn the content of a reply of the guest's into one that a client may read.

    Raises
    ------
    ValueError
        It is malformed, or not a kind of reply that is passed on.
    """
    fields = as_object(content)
    if kind not in _READERS:
        raise ValueError(f"a reply called {kind!r}")
    if fields.get("status") == "error" and kind != "execute_reply":
        return {"status": "error", **_error(fields)}
    return _READERS[kind](fields)


def _count(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < MAX_COUNT:
        raise ValueError(f"{value!r:.40} where a count belongs")
    return int(value)


def _error(fields: dict[str, object]) -> Reply:
    error = read_output("error", fields)
    assert error is not None
    return {name: error[name] for name in ("ename", "evalue", "traceback")}


def _display(fields: dict[str, object]) -> Reply:
    display = read_output("display_data", fields)
    assert display is not None
    return {"data": display.data, "metadata": display.metadata}


# -- the kinds


def _execute(fields: dict[str, object]) -> Reply:
    expressions = as_object(fields.get("user_expressions", {}))
    if len(expressions) > MAX_EXPRESSIONS:
        raise ValueError(f"{len(expressions):,} expressions")
    payloads = as_list(fields.get("payload", []), MAX_ITEMS)[:MAX_PAYLOADS]
    reply: Reply = {
        "status": "ok",
        "execution_count": _count(fields.get("execution_count")),
        "user_expressions": {as_text(k): _expression(as_object(v)) for k, v in expressions.items()},
        "payload": [*filter(None, map(_payload, payloads))],
    }
    return reply if fields.get("status") == "ok" else reply | {"status": "error"} | _error(fields)


def _expression(fields: dict[str, object]) -> Reply:
    if fields.get("status") == "ok":
        return {"status": "ok", **_display(fields)}
    return {"status": "error", **_error(fields)}


def _payload(value: object) -> Reply | None:
    """Keep what pages text, offers a next cell or says goodbye; others open files by path.

    What is offered replaces no cell, and is no command to the host.
    """
    fields = as_object(value)
    match fields:
        case {"source": "page", "data": {"text/plain": text}}:
            return {"source": "page", "data": {"text/plain": as_text(text)}, "start": 0}
        case {"source": "set_next_input", "text": text}:
            offered = agents_code(as_text(text))
            return {"source": "set_next_input", "text": offered, "replace": False}
        case {"source": "ask_exit"}:
            return {"source": "ask_exit", "keepkernel": fields.get("keepkernel") is True}
    return None


def _complete(fields: dict[str, object]) -> Reply:
    metadata = as_object(fields.get("metadata", {}))
    found = as_list(fields.get("matches"), MAX_ITEMS)[:MAX_MATCHES]
    typed = as_list(metadata.get(_TYPES, []), MAX_ITEMS)[:MAX_MATCHES]
    matches: list[JSON] = [visible(as_text(match)) for match in found]
    types: list[JSON] = [_completion(as_object(one)) for one in typed]
    return {
        "status": "ok",
        "matches": matches,
        "cursor_start": _count(fields.get("cursor_start")),
        "cursor_end": _count(fields.get("cursor_end")),
        "metadata": {_TYPES: types} if _TYPES in metadata else {},
    }


def _completion(fields: dict[str, object]) -> Reply:
    text = {name: fields[name] for name in ("text", "type", "signature") if name in fields}
    return {
        "start": _count(fields.get("start")),
        "end": _count(fields.get("end")),
        **{name: None if value is None else as_text(value) for name, value in text.items()},
    }


def _inspect(fields: dict[str, object]) -> Reply:
    if fields.get("found") is not True:
        return {"status": "ok", "found": False, "data": {}, "metadata": {}}
    return {"status": "ok", "found": True, **_display(fields)}


def _is_complete(fields: dict[str, object]) -> Reply:
    match fields:
        case {"status": "incomplete", "indent": str(indent)}:
            return {"status": "incomplete", "indent": " " * min(len(indent), 200)}
        case {"status": "complete" | "incomplete" | "invalid" | "unknown" as status}:
            return {"status": as_text(status)}
    raise ValueError(f"code that is {fields.get('status')!r:.40}")


def _history(fields: dict[str, object]) -> Reply:
    entries = as_list(fields.get("history"), MAX_ITEMS)
    return {"status": "ok", "history": [_entry(as_list(one, MAX_ITEMS)) for one in entries]}


def _entry(entry: list[object]) -> JSON:
    session, line, source = entry
    if isinstance(source, list):  # with what it put out
        code, output = source
        return [_count(session), _count(line), [as_text(code), as_text(output) if output else None]]
    return [_count(session), _count(line), as_text(source)]


_READERS: dict[str, Callable[[dict[str, object]], Reply]] = {
    "execute_reply": _execute,
    "complete_reply": _complete,
    "inspect_reply": _inspect,
    "is_complete_reply": _is_complete,
    "history_reply": _history,
}
