"""Servers that mean ill, or are badly broken: what they get out of the clients, and of us."""

from __future__ import annotations

import json
import logging
import traceback
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from jupyter_agent.errors import ModelError, UsageError
from jupyter_agent.models import choose_model, load_model
from jupyter_agent.session import Session

from .faults import FORMS, refusal
from .servers import ChatServer, Reply
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
    with pytest.raises(UsageError, match=r"^[A-Z_]*_API_KEY holds what no key does") as caught:
        load_model(name.replace("http://URL/v1", everywhere.url))
    assert "one" not in str(caught.value).replace("once", "")
