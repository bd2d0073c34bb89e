"""Limit how much a server may send.

The clients read an event or an error's body until it ends, however long it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["ElsewhereError", "TooMuchError", "bounded"]

MAX_OF_AN_EVENT = 16 << 20  # bytes; the longest holds a whole reply
MAX_OF_A_STREAM = 512 << 20  # bytes: a million tokens, each in an event of its own
_WEIGHT_OF_A_LINE = 1 << 8  # bytes, beyond its own
MAX_OF_A_REFUSAL = 64 << 10  # bytes; the rest is not read
LONGEST_REFUSAL = 10.0  # seconds

Client = TypeVar("Client")


class TooMuchError(Exception):
    """A server sends more than any reply is."""


class ElsewhereError(Exception):
    """A server sends a request on to another server, which nobody has named."""


def bounded(client: Client) -> Client:
    """Have an HTTP client of any client library's give up servers that send too much.

    It follows a redirect to the same server only: the conversation is for nobody else.
    """
    http: Any = client
    http.headers["accept-encoding"] = "identity"  # what is packed may be a thousand times as long
    http.event_hooks["request"].append(_stays())
    http.event_hooks["response"].insert(0, _bound)
    return client


def _stays() -> Callable[[Any], Awaitable[None]]:
    """Let requests go to the server of the first alone, whatever a redirect is taken to mean."""
    servers: set[tuple[str, str, int | None]] = set()

    async def stays(request: Any) -> None:
        url = request.url
        servers.update({(url.scheme, url.host, url.port)} if not servers else ())
        if (url.scheme, url.host, url.port) not in servers:
            raise ElsewhereError(str(url))

    return stays


async def _bound(response: Any) -> None:
    """Count what a reply holds; read a refusal at once, which not every client does."""
    refusal = response.status_code >= 300
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        if not refusal:
            raise TooMuchError(
                f"the server compresses its reply ({encoding[:20]!r}), which was not asked for"
            )
        del response.headers["content-encoding"]  # its status says enough
    whole = response.stream
    response.stream = _replaced(whole, _beginning(whole) if refusal else _events(whole))
    if refusal:
        await response.aread()


def _replaced(stream: Any, pieces: AsyncIterator[bytes]) -> Any:
    """Put other pieces in place of the body of a response."""
    [base] = [kind for kind in type(stream).__mro__ if kind.__name__ == "AsyncByteStream"]

    class Replaced(base):  # type: ignore[misc, valid-type]  # httpx's or httpx2's
        def __aiter__(self) -> AsyncIterator[bytes]:
            return pieces

        async def aclose(self) -> None:
            await stream.aclose()

    return Replaced()


async def _events(stream: Any) -> AsyncIterator[bytes]:
    whole = event = 0
    async for data in stream:
        end = max(data.rfind(blank) for blank in (b"\n\n", b"\r\n\r\n", b"\r\r"))
        last = data[max(end, 0) :]
        event = event * (end < 0) + len(last) + _WEIGHT_OF_A_LINE * last.count(b"\n")
        whole += len(data)
        if event > MAX_OF_AN_EVENT or whole > MAX_OF_A_STREAM:
            raise TooMuchError("the server sends more than any reply can be; is the URL right?")
        yield data


async def _beginning(stream: Any) -> AsyncIterator[bytes]:
    """Yield the first part of a body, as far as it comes; its end may never come."""
    said = bytearray()
    with suppress(Exception):  # of many kinds: the connection broke, or nothing more came in time
        async with asyncio.timeout(LONGEST_REFUSAL):
            async for data in stream:
                said += data
                if len(said) >= MAX_OF_A_REFUSAL:
                    break
    yield bytes(said[:MAX_OF_A_REFUSAL])
