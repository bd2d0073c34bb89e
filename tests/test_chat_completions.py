"""The chat-completions adapter: the real client against a server on loopback."""

from __future__ import annotations

import asyncio
import json

import pytest

from jupyter_agent.errors import ModelError, UsageError
from jupyter_agent.models import load_model
from jupyter_agent.models.protocol import Delta, Message, Usage

from .servers import ChatServer, Reply

HELLO: list[Message] = [Message(role="user", content="hello")]
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


async def ask(name: str) -> list[Delta]:
    return [delta async for delta in load_model(name).stream(HELLO)]


async def test_a_reply_streams_in_pieces_with_its_bill(server: ChatServer) -> None:
    usage = {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 8},
    }
    server.replies = [Reply("Grüße aus Köln", usage=usage)]
    deltas = await ask(server.model)
    assert [delta.text for delta in deltas] == ["Grüße ", "aus ", "Köln", "", ""]
    assert [delta.end for delta in deltas] == [None, None, None, "stop", None]
    assert deltas[-1].usage == Usage(11, 5, 8)


async def test_a_request_holds_model_messages_and_how_to_stream_and_nothing_else(
    server: ChatServer,
) -> None:
    server.replies = [Reply("ok")]
    await ask(server.model)
    [request] = server.requests
    assert json.loads(request.raw) == {"model": "test", "messages": HELLO, **STREAM}
    assert request.path == "/v1/chat/completions"


async def test_fields_that_the_user_sets_are_sent_as_they_are(server: ChatServer) -> None:
    schema = {"name": "x", "schema": {"type": "object", "properties": {}}, "strict": True}
    options = {"response_format": {"type": "json_schema", "json_schema": schema}, "seed": 3}
    server.replies = [Reply("ok")]
    async for _ in load_model(server.model, options=options).stream(HELLO):
        pass
    sent = {"model": "test", "messages": HELLO, **STREAM, **options}
    assert json.loads(server.requests[0].raw) == sent


@pytest.mark.parametrize("key", [None, ""])
async def test_the_hub_token_goes_nowhere_but_the_hub(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_decoy")
    if key is not None:
        monkeypatch.setenv("JUPYTER_AGENT_API_KEY", key)
    server.replies = [Reply("ok")] * 3
    await ask(server.model)
    monkeypatch.setenv("OLLAMA_HOST", server.model.split("/v1")[0])
    await ask("ollama:x")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    monkeypatch.setenv("OPENAI_BASE_URL", server.model.split("#")[0])
    await ask("openai:x")
    assert all("hf_decoy" not in str(r.headers) + str(r.raw) for r in server.requests)
    keys = [request.headers["authorization"] for request in server.requests]
    assert keys == ["Bearer none", "Bearer none", "Bearer sk-mine"]


@pytest.mark.parametrize("by", ["environment", "configuration"])
async def test_a_key_of_our_own_variable_goes_to_the_server_that_is_configured(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setenv("JUPYTER_AGENT_API_KEY", "k-1")
    configured = server.url.upper().replace("HTTP", "http").replace("/V1", "/v1/") + "#another"
    if by == "environment":
        monkeypatch.setenv("JUPYTER_AGENT_MODEL", configured)
        configured = "http://127.0.0.1:9/v1#x"  # the environment's comes first, as the key does
    model = load_model(server.model, configured=configured)
    server.replies = [Reply("ok")]
    async for _ in model.stream(HELLO):
        pass
    assert server.requests[0].headers["authorization"] == "Bearer k-1"
    assert "k-1" not in repr(model)


@pytest.mark.parametrize(
    "configured",
    [
        "",
        "openai:x",
        "http://127.0.0.1:9/v1#x",  # another port
        "https://127.0.0.1:PORT/v1#x",
        "http://localhost:PORT/v1#x",
        "http://127.0.0.1.example:PORT/v1#x",
        "http://127.0.0.1/v1#x:PORT",
        "http://user@127.0.0.1:PORT/v1#x",  # refused as a model too
    ],
)
async def test_a_key_goes_to_no_other_server_and_a_refusal_says_why(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, configured: str
) -> None:
    monkeypatch.setenv("JUPYTER_AGENT_API_KEY", "k-1")
    configured = configured.replace("PORT", server.url.split(":")[2].removesuffix("/v1"))
    server.listed = [{"id": "test"}]
    server.replies = [Reply(status=401)]
    model = load_model(server.model, configured=configured)
    await model.check()
    with pytest.raises(
        ModelError, match=r"JUPYTER_AGENT_API_KEY was not sent: it is for"
    ) as caught:
        await anext(model.stream(HELLO))
    assert f"to send it to {server.url.removesuffix('/v1')}, name a model" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "k-1" not in str([(r.headers, r.raw) for r in server.requests])


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(status=401), "the key was refused (401: refused); check it"),
        (Reply(status=404), "no such model or path (404: refused)"),
        (Reply(status=429), "too many requests (429: refused)"),
        (Reply("boom\n  bang", status=500), "the server failed (500: boom bang); try again"),
        (Reply(status=400), "the server refused the request (400: refused)"),
        (Reply("half a", fault="disconnect"), "try again"),
        (Reply("half a", fault="no end mark"), "broke off in the middle of its reply"),
        (Reply("half a", fault="not json"), "reply is not JSON"),
        (Reply("half a", fault="error event"), "overloaded"),
    ],
)
async def test_every_fault_is_one_line(server: ChatServer, reply: Reply, said: str) -> None:
    server.replies = [reply] * 2
    with pytest.raises(ModelError) as caught:
        await ask(server.model)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert server.model in str(caught.value)


async def test_breaking_off_stops_the_servers_generation(server: ChatServer) -> None:
    server.replies = [Reply("start", fault="endless")]
    stream = load_model(server.model).stream(HELLO)
    await anext(stream)
    await stream.aclose()
    assert await asyncio.to_thread(server.hung_up.wait, 10)


async def test_a_refused_connection_is_found_before_the_run() -> None:
    with pytest.raises(
        UsageError, match=r"no server answers at http://127.0.0.1:9 .*is it running"
    ):
        await load_model("http://127.0.0.1:9/v1#x").check()


async def test_offline_mode_is_named(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
        await ask(server.model)
