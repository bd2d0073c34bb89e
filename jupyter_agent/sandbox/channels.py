"""The sockets of a kernel, read by a ZMTP client that counts bytes before it keeps them.

libzmq gathers all frames of a message before anybody sees one, and its limits hold for a single
frame or for a number of messages: none of them bounds bytes. So what the guest sends is parsed
here: ZMTP 3.0 (https://rfc.zeromq.org/spec/23) with the NULL mechanism, as a DEALER or a SUB. A
message beyond the limits is passed over as it comes, and none of it is kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["MAX_MESSAGE", "Wire"]

MAX_MESSAGE = 32 << 20  # bytes
MAX_FRAMES = 2048  # of a message
MAX_WAITING = 16 << 20  # bytes of messages that nobody has taken yet; then no more is read
MAX_COMMAND = 512  # bytes
CHUNK = 1 << 16  # bytes that are read at once
RETRY = 0.05  # seconds until a socket that is not there yet is looked for again

Frame = bytes | bytearray
_MORE, _LONG, _COMMAND = 1, 2, 4  # a frame's flags
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


class Wire(asyncio.BufferedProtocol):
    """One connection to a socket of a kernel's.

    Parameters
    ----------
    receive
        Is given the frames of each message.
    pass_over
        Is told how many bytes a message had that was too large to be received.
    lost
        Is called when the connection has ended, but not by `close`.
    identity
        The routing id, which several sockets of a kernel know a client by; without it this
        subscribes to all that a PUB socket sends.
    """

    def __init__(
        self,
        receive: Callable[[list[Frame]], None],
        *,
        pass_over: Callable[[int], None],
        lost: Callable[[], None],
        identity: bytes = b"",
    ) -> None:
        self._receive, self._pass_over, self._lost = receive, pass_over, lost
        self._transport: asyncio.Transport | None = None
        self._closed = False
        self._waiting = 0  # bytes that were received and not yet released
        self._hello = _GREETING + _ready("DEALER" if identity else "SUB", identity)
        self._welcome = False  # the guest has said hello; libzmq takes nothing before that
        self._outgoing: deque[memoryview] = deque()
        self._writable = True
        if not identity:
            self.send([b"\x01"])  # a subscription, to every topic
        self._chunk = bytearray(CHUNK)
        self._unread = 0  # bytes at its start that are not parsed yet
        self._greeted = False
        self._frames: list[Frame] = []  # of the message that is being read
        self._count = self._size = 0  # of its frames and bytes
        self._flags = 0  # of the frame that is being read
        self._body: bytearray | None = None  # of a frame that did not fit into the chunk
        self._filled = 0
        self._skip = 0  # bytes of a frame that are passed over

    async def connect(self, address: str | tuple[str, int]) -> None:
        """Connect to a path or to a host and port, as soon as something listens there."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            try:
                if isinstance(address, str):
                    await loop.create_unix_connection(lambda: self, address)
                else:
                    await loop.create_connection(lambda: self, *address)
                return
            except OSError:
                await asyncio.sleep(RETRY)

    def close(self) -> None:
        """End the connection; nothing more is received."""
        self._closed = True
        if self._transport:
            self._transport.abort()

    # -- writing

    def send(self, frames: Sequence[Any]) -> None:
        """Send a message; large frames are not copied, and wait here until there is room."""
        small = bytearray()
        for place, frame in enumerate(frames):
            view = memoryview(frame).cast("B")
            flags = _MORE if place < len(frames) - 1 else 0
            small += _header(flags, view.nbytes)
            if view.nbytes < CHUNK:
                small += view
                continue
            self._outgoing.append(memoryview(small))
            starts = range(0, view.nbytes, CHUNK)
            self._outgoing += (view[start : start + CHUNK] for start in starts)
            small = bytearray()
        self._outgoing.append(memoryview(small))
        self._feed()

    def _feed(self) -> None:
        while self._outgoing and self._writable and self._welcome:
            if self._transport is None or self._transport.is_closing():
                break
            self._transport.write(self._outgoing.popleft())

    def pause_writing(self) -> None:
        """Write no more for now (asyncio calls it when the guest does not read)."""
        self._writable = False

    def resume_writing(self) -> None:
        """Write again."""
        self._writable = True
        self._feed()

    # -- reading

    def hold(self, size: int) -> None:
        """Count a message that waits; read no more while too many bytes wait."""
        self._waiting += size
        if self._waiting > MAX_WAITING and self._transport:
            self._transport.pause_reading()

    def release(self, size: int) -> None:
        """Note that a message waits no longer."""
        self._waiting -= size
        if self._waiting <= MAX_WAITING and self._transport:
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the greeting."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._hello)
        if self._closed:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Report it, unless `close` was called."""
        self._transport = None
        self._outgoing.clear()
        if not self._closed:
            self._closed = True
            self._lost()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Return where the next bytes go: into a large frame, or to the unparsed ones."""
        if self._body is not None:
            return memoryview(self._body)[self._filled :]
        return memoryview(self._chunk)[self._unread :]

    def buffer_updated(self, nbytes: int) -> None:
        """Read bytes that have arrived."""
        if self._body is not None:
            self._filled += nbytes
            if self._filled == len(self._body):
                body, self._body = self._body, None
                self._add(body)
            return
        end = self._unread + nbytes
        try:
            place = self._parse(end)
        except ValueError:
            assert self._transport
            self._transport.abort()
            return
        self._unread = end - place
        self._chunk[: self._unread] = self._chunk[place:end]

    def _parse(self, end: int) -> int:
        """Parse the chunk up to an end; return where the rest begins, which is no whole header.

        Raises
        ------
        ValueError
            This is not ZMTP 3.
        """
        chunk, place = self._chunk, 0
        if not self._greeted:
            if end < len(_GREETING):
                return 0
            if chunk[0] != 0xFF or not chunk[9] & 1 or chunk[10] < 3:
                raise ValueError("no greeting of ZMTP 3")
            self._greeted, place = True, len(_GREETING)
        while not self._closed:
            if self._skip:
                passed = min(self._skip, end - place)
                self._skip -= passed
                place += passed
                if self._skip:
                    break
                self._add(b"")
            head = 9 if end > place and chunk[place] & _LONG else 2
            body = place + head
            if body > end:
                break
            flags, size = chunk[place], int.from_bytes(chunk[place + 1 : body], "big")
            if flags & _COMMAND:
                if size > MAX_COMMAND:
                    raise ValueError("a command that is too long")
                if body + size > end:
                    break
                place = body + size  # the first is READY, and no other matters
                if not self._welcome:
                    self._welcome = True
                    self._feed()
                continue
            self._flags = flags
            self._count += 1
            self._size += size
            if self._is_too_large:
                self._frames.clear()
                self._skip, place = size, body
                if not size:
                    self._add(b"")
            elif body + size <= end:
                place = body + size
                self._add(bytes(chunk[body:place]))
            else:
                self._body, self._filled = bytearray(size), end - body
                self._body[: self._filled] = chunk[body:end]
                return end
        return place

    @property
    def _is_too_large(self) -> bool:
        return self._size > MAX_MESSAGE or self._count > MAX_FRAMES

    def _add(self, frame: Frame) -> None:
        """Add a complete frame; pass the message on if it was the last one."""
        if not self._is_too_large:
            self._frames.append(frame)
        if self._flags & _MORE:
            return
        frames, size, too_large = self._frames, self._size, self._is_too_large
        self._frames, self._count, self._size = [], 0, 0
        if too_large:
            self._pass_over(size)
        else:
            self._receive(frames)


def _header(flags: int, size: int) -> bytes:
    if size > 255:
        return bytes([flags | _LONG]) + size.to_bytes(8, "big")
    return bytes([flags, size])


def _ready(kind: str, identity: bytes) -> bytes:
    """Write the command that ends the handshake."""
    facts = {b"Socket-Type": kind.encode(), b"Identity": identity}
    body = b"\x05READY"
    for name, value in facts.items():
        body += bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value
    return _header(_COMMAND, len(body)) + body
