"""The debugger's responses and events: keep known fields only.

A page shows the text in them (Debug Adapter Protocol), and draws the mime bundle of a variable, for
which the filter of outputs stands.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable

from jupyter_agent.errors import SandboxError
from jupyter_agent.sandbox.filter.figures import JSON
from jupyter_agent.sandbox.filter.outputs import printable, read_output
from jupyter_agent.sandbox.filter.replies import Reply

__all__ = ["Debugger", "Events", "lacks", "read_event", "read_response"]

Events = Callable[[Reply], None]  # is given each event
MAX_DEPTH = 30
MAX_ITEMS = 100_000  # of a list
_FIELDS = ("type", "seq", "request_seq", "success", "command", "message", "event", "body")
_NAME = re.compile(r"[A-Za-z]\w{,80}")


def lacks(choose_tier: Callable[[], str]) -> str:
    """Return why cells cannot be debugged in a sandbox of the tier that is chosen, or nothing."""
    if importlib.util.find_spec("debugpy") is None:
        return "debugpy is not installed"
    try:
        tier = choose_tier()
    except SandboxError as error:
        return str(error)
    why = "debugpy listens on a TCP socket, which cannot be made where Landlock confines"
    return why if tier == "landlock" else ""


class Debugger:
    """The debugger of one kernel, as its client knows it."""

    def __init__(self) -> None:
        self._events: Events | None = None
        self._stopped: JSON = None  # the thread that stands at a breakpoint

    @property
    def started(self) -> bool:
        """Whether a client has started it."""
        return self._events is not None

    def start(self, events: Events) -> None:
        """Pass its events on from now."""
        self._events = events

    def hear(self, content: object) -> None:
        """Pass on an event; nobody hears one before the start.

        Raises
        ------
        ValueError
            It must not reach a page.
        """
        if self._events is None:
            return
        event = read_event(content)
        match event:
            case {"event": "stopped", "body": {"threadId": thread}}:
                self._stopped = thread
            case {"event": "continued"}:
                self._stopped = None
        self._events(event)

    def end(self) -> None:
        """Say that it has gone with its kernel, so that no page shows a cell that stands still."""
        if self._stopped is not None:
            on = {"threadId": self._stopped, "allThreadsContinued": True}
            self.hear({"type": "event", "event": "continued", "body": on})
        self.hear({"type": "event", "event": "terminated"})
        self._events = None


def read_event(content: object) -> Reply:
    """Turn the content of a debug_event into one that a client may read.

    Raises
    ------
    ValueError
        It is malformed.
    """
    fields = _dict(content)
    return {name: _plain(fields[name]) for name in _FIELDS if name in fields}


def read_response(kind: str, content: object) -> Reply:
    """Turn the content of a debug_reply into one that a client may read.

    Raises
    ------
    ValueError
        It is malformed.
    """
    fields = _dict(content)
    body = fields.get("body")
    if kind != "debug_reply":
        raise ValueError(f"a reply called {kind!r}")
    response = read_event(fields)
    if isinstance(body, dict) and "data" in body:
        drawn = read_output("display_data", body)
        assert drawn is not None
        response["body"] = {"data": drawn.data, "metadata": drawn.metadata}
    return response


def _dict(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} where an object belongs")
    return value


def _plain(value: object, depth: int = 0) -> JSON:
    match value:
        case None | bool():
            return value
        case int() if abs(value) < 1 << 63:
            return value
        case float() if math.isfinite(value):
            return value
        case str():
            return printable(value.encode("utf-8", "replace").decode())
        case list() if depth < MAX_DEPTH and len(value) <= MAX_ITEMS:
            return [_plain(item, depth + 1) for item in value]
        case dict() if depth < MAX_DEPTH:
            known = filter(_NAME.fullmatch, value)
            return {name: _plain(value[name], depth + 1) for name in known}
    raise ValueError(f"{type(value).__name__} where plain JSON belongs")
