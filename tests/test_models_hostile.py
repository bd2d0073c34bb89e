"""Servers that mean ill, or are badly broken: what they get out of the clients, and of us."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from itertools import cycle, repeat
from typing import Any

import pytest

from jupyter_agent.errors import LimitReached, ModelError, UsageError
from jupyter_agent.models import choose_model, load_model
from jupyter_agent.session import Session
from jupyter_agent.transcript.metadata import KEY

from .faults import FORMS, refusal
from .servers import ChatServer, Reply
from .test_agent import roles
from .test_models_faults import agent_for, run

KEYS = {"openai:x": "sk-openai", "anthropic:x": "sk-anthropic", "hf:org/x": "hf_decoy"}
KEYS["http://URL/v1#x"] = "sk-ours"


@pytest.fixture(autouse=True)
def our_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_AGENT_API_KEY", "sk-ours")


def error_event(path: str, said: str) -> bytes:
    """An error inside a stream, in the wire protocol that a path asks for."""
    body: dict[str, Any] = {"error": {"message": said, "type": "server_error"}}
    if path.endswith("/responses"):
        body = {"type": "error", "code": "server_error", "message": said, "sequence_number": 0}
    if path.endswith("/messages"):
        body = {"type": "error", **body}
    return f"event: error\ndata: {json.dumps(body)}\n\n".encode()


def stream(handler: BaseHTTPRequestHandler, *pieces: bytes, **headers: str) -> None:
    """Answer with an event stream that ends where the connection does."""
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    for piece in pieces:
        handler.wfile.write(piece)


@pytest.mark.parametrize("where", ["body", "cut body", "stream"])
@pytest.mark.parametrize("name", FORMS)
async def test_a_key_that_a_server_repeats_is_neither_shown_nor_saved(
    everywhere: ChatServer, name: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    key, said = KEYS[name], "x" * 196 * (where == "cut body")
    if where == "stream":
        everywhere.answer = lambda handler: stream(
            handler, error_event(handler.path, f"no such key: {key}")
        )
    else:
        everywhere.replies = [Reply(**refusal(401, f"{said}{key}")) for _ in range(2)]
    agent = agent_for(name, everywhere)
    with caplog.at_level(logging.DEBUG, "jupyter_agent"), pytest.raises(ModelError) as caught:
        await run(agent)
    assert "[key]" in str(caught.value) or where == "cut body"
    told = "".join(traceback.format_exception(caught.value))
    for text in (str(caught.value), told, caught.value.said, caplog.text, repr(agent.model)):
        assert key not in text
        assert key[:4] not in text.replace("x" * 196, "")
    assert key not in json.dumps(agent.transcript.notebook)
    assert key in str(everywhere.requests[0].headers)


@pytest.mark.parametrize("where", ["no reply", "redirect", "refusal"])
async def test_no_part_of_a_key_is_left_where_a_text_is_cut(
    everywhere: ChatServer, where: str
) -> None:
    name = "http://URL/v1#x"
    key = KEYS[name]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        said, there = "x" * 96 + key, "http://localhost:1/"
        match where:
            case "redirect":
                handler.send_response(307)
                handler.send_header("location", there + "x" * (196 - len(there)) + key)
                said = ""
            case "refusal":
                handler.send_response(401)
                said = " " * 9_996 + key
            case _:
                handler.send_response(200)
        handler.send_header("content-length", str(len(said)))
        handler.end_headers()
        handler.wfile.write(said.encode())

    everywhere.answer = answer
    agent = agent_for(name, everywhere, retries=0)
    with pytest.raises(ModelError) as caught:
        await run(agent)
    assert key in str(everywhere.requests[0].headers)
    assert key[:4] not in str(caught.value)
    assert key[:4] not in json.dumps(agent.transcript.notebook)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:pa55@h/v1",
        "https://huggingface.co:pa55@h/v1",
        "http://pa55@h:x/v1",
        "http://h/v1?api-key=pa55",
    ],
)
def test_a_url_that_holds_a_key_is_refused_without_showing_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_AGENT_MODEL", f"{url}#x")
    for variable in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "OLLAMA_HOST"):
        monkeypatch.setenv(variable, url)
    for vendor in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{vendor}_API_KEY", "sk-good")
    with pytest.raises(UsageError, match="holds a password or a key"):
        choose_model()
    for name in (f"{url}#x", url, "openai:x", "anthropic:x", "ollama:x"):
        with pytest.raises(UsageError, match="holds a password or a key") as caught:
            load_model(name)
        assert "pa55" not in str(caught.value)
    assert "pa55" not in str(Session().status())


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-one two", "sk-“one”", "sk-one\x1b"])
@pytest.mark.parametrize("name", ["openai:x", "anthropic:x", "http://URL/v1#x"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(
    everywhere: ChatServer, name: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "JUPYTER_AGENT_API_KEY"):
        monkeypatch.setenv(variable, key)
    with pytest.raises(
        UsageError, match=r"^[A-Z_]*_API_KEY holds a character that no key has"
    ) as caught:
        load_model(name.replace("http://URL/v1", everywhere.url))
    assert "one" not in str(caught.value).replace("once", "")


# -- what is sent without end


PLAGUES = {
    "a line without end": lambda path: [b"data: " + b"x" * (1 << 20)] * 2_000,
    "an event without end": lambda path: [b"data: {}\n" * 100_000] * 2_000,
    "a packed reply": lambda path: [],
    "an error without end": lambda path: [b"no " * 300_000] * 2_000,
    "deep nesting": lambda path: [b'event: response.completed\ndata: {"a":' + b"[" * 200_000 + b"\n\n"],
    "no UTF-8": lambda path: [b"data: \xff\xfe\n\n"],
    "JSON of another kind": lambda path: [b"data: [1, null]\n\n", b'data: "x"\n\n', b"data: 7\n\n"],
}  # fmt: skip


@pytest.mark.parametrize("plague", PLAGUES)
@pytest.mark.parametrize("name", FORMS)
async def test_what_no_reply_is_ends_soon_and_fills_nothing(
    everywhere: ChatServer, name: str, plague: str
) -> None:
    sent = 0

    def answer(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        handler.send_response(500 if plague == "an error without end" else 200)
        handler.send_header("content-type", "text/event-stream")
        if plague == "a packed reply":
            handler.send_header("content-encoding", "gzip")
        handler.end_headers()
        for piece in PLAGUES[plague](handler.path):
            handler.wfile.write(piece)
            sent += len(piece)
        if plague == "a packed reply":
            handler.wfile.write(gzip.compress(bytes(1 << 26)))

    everywhere.answer = answer
    agent = agent_for(name, everywhere, retries=0)
    with pytest.raises(ModelError) as caught:
        await run(agent)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert ("not asked for" in str(caught.value)) == (plague == "a packed reply")
    assert [cell.metadata[KEY]["role"] for cell in agent.transcript.cells] == ["task", "end"]
    assert sent < 100 << 20


@pytest.mark.parametrize("count", [-5, 1e308, float("inf"), "12", None, True, {}])
@pytest.mark.parametrize("name", FORMS)
async def test_counts_that_are_none_count_nothing(
    everywhere: ChatServer, name: str, count: object
) -> None:
    usage: dict[str, Any] = {
        "prompt_tokens": count,
        "completion_tokens": count,
        "total_tokens": count,
    }
    everywhere.replies = [Reply("Done.", usage=usage)]
    agent = agent_for(name, everywhere, token_budget=100_000)
    await run(agent)
    total = agent.transcript.total_usage
    assert 0 < total.tokens < 10_000
    assert total.estimated or count in ("12", True)  # which Anthropic's client reads as a number


@pytest.mark.parametrize("headers", [{"retry-after": "Mon, 01 Jan 2026 99999999999:00:00 GMT"}, {"retry-after": "nan"}, {"retry-after": "-1e999"}])  # fmt: skip
@pytest.mark.parametrize("name", FORMS)
async def test_numbers_that_no_machine_holds_are_no_reason_to_fail(
    everywhere: ChatServer, name: str, headers: dict[str, str]
) -> None:
    said = f"maximum context length is {'9' * 5000} tokens"
    everywhere.replies = [Reply(**refusal(400, said)), Reply(**refusal(429, said, **headers))]
    for kind in ("context", "rate_limit"):
        with pytest.raises(ModelError) as caught:
            await run(agent_for(name, everywhere, retries=0))
        assert caught.value.kind == kind


async def test_calls_may_be_nested_deeply_and_share_an_id(everywhere: ChatServer) -> None:
    deep = '{"code": ' + "[" * 90_000
    everywhere.replies = [Reply(calls=[deep, deep]), Reply("Done.")]
    agent = agent_for("http://URL/v1#x", everywhere, "tool")
    await run(agent)
    assert agent.transcript.answer == "Done."


def thought(path: str) -> bytes:
    """A piece of what a model thinks, in the wire protocol that a path asks for."""
    kind = ""
    body: dict[str, Any] = {"choices": [{"index": 0, "delta": {"reasoning_content": "so "}}]}
    if path.endswith("/responses"):
        kind = "response.reasoning_text.delta"
        body = {"type": kind, "sequence_number": 0, "delta": "so ", "item_id": "r"}
        body |= {"output_index": 0, "content_index": 0}
    if path.endswith("/messages"):
        kind = "content_block_delta"
        delta = {"type": "thinking_delta", "thinking": "so "}
        body = {"type": kind, "index": 0, "delta": delta}
    return f"event: {kind}\ndata: {json.dumps(body)}\n\n".encode()


ENDLESS: dict[str, Callable[[str], Iterator[bytes]]] = {
    "comments": lambda path: repeat(b": ping\n\n" * 100),
    "drip": lambda path: (bytes([byte]) for byte in cycle(thought(path))),
    "thoughts": lambda path: repeat(thought(path) * 10),
}


@pytest.mark.parametrize("way", ENDLESS)
@pytest.mark.parametrize("name", FORMS)
async def test_a_stream_without_end_or_answer_is_ended_by_the_clock_and_by_the_user(
    everywhere: ChatServer, name: str, way: str
) -> None:
    gone = threading.Semaphore(0)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        try:
            stream(handler)
            for piece in ENDLESS[way](handler.path):
                handler.wfile.write(piece)
                time.sleep(0.01 * (way == "drip"))
        finally:
            gone.release()

    everywhere.answer = answer
    with pytest.raises(ModelError, match=r"did not finish its reply within 0\.5 s"):
        await run(agent_for(name, everywhere, retries=0, reply_timeout=0.5))
    running = asyncio.ensure_future(run(agent_for(name, everywhere, retries=0)))
    before = len(everywhere.requests)  # none if it took that long to import the client
    while len(everywhere.requests) == before:
        await asyncio.sleep(0.02)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for _ in everywhere.requests:
        assert await asyncio.to_thread(gone.acquire, timeout=10)


# -- redirects


@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("name", FORMS)
async def test_a_redirect_to_another_host_gets_nothing(
    everywhere: ChatServer, name: str, status: int
) -> None:
    other = ChatServer()
    there = other.url.replace("127.0.0.1", "localhost")

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("location", there + handler.path.removeprefix("/v1"))
        handler.send_header("content-length", "0")
        handler.end_headers()

    everywhere.answer = answer
    heard: list[str] = []

    def hear(handler: BaseHTTPRequestHandler) -> None:
        heard.append(str(handler.headers))
        handler.send_error(404)

    other.answer = hear
    agent = agent_for(name, everywhere, retries=0)
    with pytest.raises(ModelError) as caught:
        await run(agent)
    other.close()
    assert str(caught.value).startswith(
        f"{agent.model.name}: the server redirects elsewhere ({there}"
    )
    assert str(caught.value).endswith(
        "), where nothing was sent; if that is the right server, use its URL"
    )
    assert "\n" not in str(caught.value)
    assert KEYS[name] in str(everywhere.requests[0].headers)
    assert heard == []


@pytest.mark.parametrize(
    "place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "javascript:x", "//", "http:///x"]
)
@pytest.mark.parametrize("name", FORMS)
async def test_a_redirect_to_what_is_no_server_is_refused_in_one_line(
    everywhere: ChatServer, name: str, place: str
) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("location", place)
        handler.send_header("content-length", "0")
        handler.end_headers()

    everywhere.answer = answer
    agent = agent_for(name, everywhere)
    with pytest.raises(ModelError) as caught:
        await run(agent)
    if place != "//":  # which clients take for the same place, or none
        assert str(caught.value).startswith(f"{agent.model.name}: the server redirects elsewhere (")
        ends = ("; if that is the right server, use its URL", "; is the URL right?")
        assert str(caught.value).endswith(ends)
        assert len(everywhere.requests) == 1
    assert "\n" not in str(caught.value)
    assert roles(agent) == ["task", "end"]


@pytest.mark.parametrize("name", FORMS)
async def test_thoughts_without_end_are_ended_by_the_budget(
    everywhere: ChatServer, name: str
) -> None:
    everywhere.answer = lambda handler: stream(handler, *repeat(thought(handler.path), 5_000))
    agent = agent_for(name, everywhere, token_budget=3_000)
    with pytest.raises(LimitReached, match="of 3,000 tokens are used"):
        await run(agent)
    assert agent.transcript.total_usage.tokens == agent.budget.used.tokens > 2_990
