"""Read the guest's messages: the header at once, the content when it is used.

So what waits takes no more memory than its bytes, and JSON becomes objects, which take more, one
message at a time and within a bound.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Any

from jupyter_client.session import DELIM, Session

from jupyter_agent.sandbox.channels import Frame
from jupyter_agent.sandbox.filter.figures import NotShown
from jupyter_agent.sandbox.guest.json_cost import costs_more

__all__ = ["MAX_COST", "TOO_LARGE", "KernelMessage", "read_message"]

MAX_HEADER = 1 << 16  # bytes
MAX_COST = 64 << 20  # bytes of memory that the JSON of one message may become
TOO_LARGE = "too_large"  # the kind of a message that stands for one that was too large
_BUSY = b'{"execution_state": "busy"}'


@dataclass(frozen=True, slots=True)
class KernelMessage:
    """One message.

    Parameters
    ----------
    kind
        Its type in the message spec.
    parent
        The id of the request that it follows from; empty if it names none.
    size
        Bytes that it takes while it waits.
    """

    channel: str
    kind: str
    parent: str = ""
    size: int = 0
    buffers: list[memoryview] = field(default_factory=list)
    _content: Frame = b"{}"

    def content(self) -> Any:
        """Read its content.

        Raises
        ------
        NotShown
            It is of too many parts. ValueError: no JSON. RecursionError: nested too deep.
        """
        return read_json(self._content, MAX_COST)


def read_message(channel: str, frames: list[Frame], session: Session) -> KernelMessage | None:
    """Check a message's form and signature; return None for a kind that nobody needs.

    Raises
    ------
    ValueError
        It is no message, or not signed. RecursionError: its header is nested too deep.
    """
    start = frames.index(DELIM) + 1
    signature, header, parent, metadata, content, *buffers = frames[start:]
    if session.auth is not None and not compare_digest(
        session.sign([header, parent, metadata, content]), bytes(signature)
    ):
        raise ValueError("a message with a wrong signature")
    if content == _BUSY or b'"execute_input"' in header[:MAX_HEADER]:
        return None
    kind, asked = _object(header).get("msg_type"), _object(parent).get("msg_id")
    if not isinstance(kind, str):
        raise ValueError("a message of no type")
    return KernelMessage(
        channel,
        kind,
        asked if isinstance(asked, str) else "",
        sum(map(len, frames)),
        [memoryview(buffer) for buffer in buffers],
        content,
    )


def read_json(text: Frame, max_cost: int) -> Any:
    """Read JSON that takes about ``max_cost`` bytes of memory at most.

    Raises
    ------
    NotShown
        It would take more. ValueError: it is no JSON. RecursionError: nested too deep.
    """
    if costs_more(text, max_cost):
        raise NotShown("too many parts")
    return json.loads(text.decode("utf-8", "replace"))


def _object(text: Frame) -> dict[str, Any]:
    if len(text) > MAX_HEADER:
        raise ValueError("a header that is too long")
    value = read_json(text, MAX_COST)
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} where a header belongs")
    return value
