"""A kernel's socket as a client has it: real sockets of libzmq's, and hostile bytes."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import zmq
import zmq.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_agent.sandbox.channels import (
    _GREETING,
    MAX_FRAMES,
    MAX_MESSAGE,
    MAX_WAITING,
    Frame,
    Wire,
)

READY = b"\x04\x06\x05READY"


class Client:
    """A wire and what it has said."""

    def __init__(self, identity: bytes = b"me") -> None:
        self.received: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.passed_over: asyncio.Queue[int] = asyncio.Queue()
        self.lost = asyncio.Event()
        self.wire = Wire(
            self._receive,
            pass_over=self.passed_over.put_nowait,
            lost=self.lost.set,
            identity=identity,
        )

    def _receive(self, frames: list[Frame]) -> None:
        self.received.put_nowait([bytes(frame) for frame in frames])


@asynccontextmanager
async def peers(
    kind: int, path: Path, identity: bytes = b"me"
) -> AsyncIterator[tuple[zmq.asyncio.Socket, Client]]:
    """Yield a socket of libzmq's and a client of it that looks for it before it is there."""
    client = Client(identity)
    connecting = asyncio.create_task(client.wire.connect(str(path)))
    await asyncio.sleep(0.1)
    with zmq.asyncio.Context() as context:
        peer = context.socket(kind)
        peer.linger = 0
        peer.bind(f"ipc://{path}")
        await connecting
        try:
            yield peer, client
        finally:
            client.wire.close()
            peer.close()


SIZES = (0, 1, 255, 256, 65_535, 65_536, 65_537, 5_000_000)


async def test_frames_of_any_size_arrive_as_they_were_sent_in_both_directions(
    tmp_path: Path,
) -> None:
    async with peers(zmq.ROUTER, tmp_path / "s") as (peer, client):
        frames = [os.urandom(size) for size in SIZES]
        client.wire.send(frames)
        client.wire.send([b"second"])
        assert await peer.recv_multipart() == [b"me", *frames]
        assert await peer.recv_multipart() == [b"me", b"second"]
        await peer.send_multipart([b"me", *frames])
        assert await client.received.get() == frames


async def test_a_subscriber_hears_every_topic(tmp_path: Path) -> None:
    async with peers(zmq.XPUB, tmp_path / "s", b"") as (peer, client):
        assert await peer.recv_multipart() == [b"\x01"]
        await peer.send_multipart([b"topic", b"text"])
        assert await client.received.get() == [b"topic", b"text"]


async def test_a_message_that_is_too_large_is_passed_over_and_the_next_arrives(
    tmp_path: Path,
) -> None:
    async with peers(zmq.ROUTER, tmp_path / "s") as (peer, client):
        client.wire.send([b"hello"])  # a ROUTER drops what is for nobody it has heard of
        await peer.recv_multipart()
        half = bytes(MAX_MESSAGE // 2 + 1)
        too_large = ([half, half], [b"", bytes(MAX_MESSAGE + 1), b""], [b""] * (MAX_FRAMES + 1))
        for frames in too_large:
            await peer.send_multipart([b"me", *frames])
            await peer.send_multipart([b"me", b"next"])
            assert await client.passed_over.get() == sum(map(len, frames))
            assert await client.received.get() == [b"next"]
        largest = [bytes(MAX_MESSAGE - 1), b"x", *[b""] * (MAX_FRAMES - 2)]
        await peer.send_multipart([b"me", *largest])
        assert await client.received.get() == largest


async def test_no_more_is_read_than_may_wait(tmp_path: Path) -> None:
    client = Client()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    await client.wire.connect(str(tmp_path / "s"))
    peer, _ = listener.accept()
    with listener, peer:
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, _GREETING + READY)
        piece = b"\x02" + (1 << 20).to_bytes(8, "big") + bytes(1 << 20)
        client.wire._receive = lambda frames: client.wire.hold(sum(map(len, frames)))
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                async with asyncio.timeout(2):
                    await loop.sock_sendall(peer, piece)
                sent += 1
        assert MAX_WAITING >> 20 <= sent <= (MAX_WAITING >> 20) + 3
        client.wire.release(MAX_WAITING)
        async with asyncio.timeout(10):
            await loop.sock_sendall(peer, bytes(len(piece)))
        client.wire.close()


@pytest.mark.parametrize(
    "noise",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(64),
        _GREETING[:10] + b"\x01" + bytes(53),
        _GREETING + b"\x06" + (1 << 40).to_bytes(8, "big"),
        b"",
    ],
    ids=["another protocol", "an older one", "a long command", "nothing"],
)
async def test_what_is_no_peer_is_left(noise: bytes, tmp_path: Path) -> None:
    client = Client()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        await client.wire.connect(str(tmp_path / "s"))
        with listener.accept()[0] as peer:
            peer.sendall(noise)
            if noise:
                await client.lost.wait()
        await client.lost.wait()
        client.wire.send([b"to nobody"])


def frame(body: bytes, flags: int, *, long: bool) -> bytes:
    if long or len(body) > 255:
        return bytes([flags | 2]) + len(body).to_bytes(8, "big") + body
    return bytes([flags, len(body)]) + body


@settings(max_examples=200, deadline=None)
@given(
    messages=st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=5), max_size=6),
    long=st.booleans(),
    commands=st.booleans(),
    cuts=st.lists(st.integers(1, 400), min_size=1, max_size=30),
)
def test_it_matters_not_in_which_pieces_bytes_come(
    messages: list[list[bytes]], long: bool, commands: bool, cuts: list[int]
) -> None:
    received: list[list[bytes]] = []
    wire = Wire(
        lambda frames: received.append([bytes(each) for each in frames]),
        pass_over=lambda _: None,
        lost=lambda: None,
        identity=b"me",
    )
    data = _GREETING + READY
    for message in messages:
        for place, body in enumerate(message):
            data += frame(body, place < len(message) - 1, long=long)
            data += frame(b"\x04PING", 4, long=False) * commands
    place = 0
    while place < len(data):
        for cut in cuts:
            room = wire.get_buffer(-1)
            piece = data[place : place + min(cut, len(room))]
            room[: len(piece)] = piece
            wire.buffer_updated(len(piece))
            place += len(piece)
    assert received == messages
