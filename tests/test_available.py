"""Which models can be used here and now, and what a name without a prefix may mean."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from jupyter_agent.errors import UsageError
from jupyter_agent.models import available, load_model
from jupyter_agent.models.available import Way, listed, suggestion, ways, weights
from jupyter_agent.models.chat_completions import ollama_url

from .servers import ChatServer

pytestmark = pytest.mark.usefixtures("no_ollama")


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Hub cache without files."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def ollama(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> ChatServer:
    server.listed = [{"id": "qwen3:latest"}, {"id": "llama3.2:3b"}, {"id": "bad name"}, {"id": 7}]
    monkeypatch.setenv("OLLAMA_HOST", server.url.removesuffix("/v1"))
    return server


def way(found: list[Way], form: str) -> Way:
    [one] = [each for each in found if each.form == form]
    return one


def test_a_running_ollama_is_asked_for_its_models(ollama: ChatServer) -> None:
    assert listed("ollama:") == ["qwen3:latest", "llama3.2:3b"]
    found = ways()
    assert found[0].ready
    assert way(found, "ollama:NAME").model == "ollama:qwen3:latest"
    assert way(found, "ollama:NAME").found.endswith("has qwen3:latest, llama3.2:3b")


@pytest.mark.parametrize(
    "name", ["{print(1)}", "$HOME", "a;id", "`id`", "a|b", "a&b", "$(id)", "<b>"]
)
def test_a_name_that_a_shell_or_ipython_would_evaluate_is_left_out(
    ollama: ChatServer, name: str
) -> None:
    ollama.listed = [{"id": name}, {"id": "hf.co/org/Model_1.5-GGUF:Q4_K_M"}]
    assert listed("ollama:") == ["hf.co/org/Model_1.5-GGUF:Q4_K_M"]


def test_a_list_is_asked_for_once_in_a_while(ollama: ChatServer) -> None:
    assert listed("ollama:")
    ollama.listed = [{"id": "new"}]
    assert listed("ollama:") == ["qwen3:latest", "llama3.2:3b"]


def test_what_is_missing_is_said_with_what_to_do() -> None:
    found = ways()
    assert "no Ollama answers at http://127.0.0.1:1" in way(found, "ollama:NAME").found
    assert "`hf auth login`" in way(found, "hf:ORG/NAME").todo
    assert way(found, "openai:NAME").todo == "set OPENAI_API_KEY before you start Jupyter"
    assert "`hf download`" in way(found, "local:FILE.gguf").todo
    assert [each.ready for each in found] == sorted([each.ready for each in found], reverse=True)


def test_a_key_is_named_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, server: ChatServer
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-hidden")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    server.listed = [{"id": "claude-opus-4-20250514"}, {"id": "claude-opus-5"}]
    found = way(ways(), "anthropic:NAME")
    assert (found.found, found.model) == ("ANTHROPIC_API_KEY is set", "anthropic:claude-opus-5")
    assert "sk-hidden" not in str(ways())


def test_a_key_goes_only_where_the_model_itself_would_get_it(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers["authorization"])
        body = json.dumps({"data": [{"id": "m"}]}).encode()
        handler.send_response(200)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    server.answer = answer
    monkeypatch.setenv("JUPYTER_AGENT_API_KEY", "sk-ours")
    monkeypatch.setenv("HF_TOKEN", "hf_ours")
    assert listed(f"{server.url}#") == ["m"]
    assert listed(f"{server.url}#", configured=f"{server.url}#m") == ["m"]
    assert seen == [None, "Bearer sk-ours"]


def test_a_redirect_is_not_followed(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        handler.send_response(302)
        handler.send_header("location", f"{server.url}/elsewhere/models")
        handler.send_header("content-length", "0")
        handler.end_headers()

    server.answer = answer
    assert listed(f"{server.url}#m", configured=f"{server.url}#m") is None
    assert asked == ["/v1/models"]


def test_a_server_that_does_not_answer_costs_half_a_second(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = lambda handler: handler.connection.recv(1) and None
    monkeypatch.setattr(available, "WAIT", 0.01)
    assert listed(f"{server.url}#m") is None
    assert len(available._questions) == 1
    assert listed(f"{server.url}#m") is None  # the same question is still open
    assert len(available._questions) == 1


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("gpt-5", "openai:gpt-5"),
        ("o4-mini", "openai:o4-mini"),
        ("openai/gpt-5", "openai:gpt-5"),
        ("claude-opus-4-1", "anthropic:claude-opus-4-1"),
        ("Qwen/Qwen3-8B", "hf:Qwen/Qwen3-8B"),
        ("openai/gpt-oss-20b", "hf:openai/gpt-oss-20b"),
        ("qwen3", "ollama:qwen3"),
        ("llama3.2:3b", "ollama:llama3.2:3b"),
        ("models/small.gguf", "local:models/small.gguf"),
        ("localhost:8000", "http://localhost:8000/v1#NAME"),
        ("localhost:8000/v1#x", "http://localhost:8000/v1#x"),
        ("llama3.2", ""),
        ("nosuch", ""),
    ],
)
def test_a_name_without_a_prefix_is_suggested_with_one(
    ollama: ChatServer, name: str, meant: str
) -> None:
    assert suggestion(name) == meant
    with pytest.raises(UsageError, match=f"is it {meant}" if meant else "use one of hf:ORG/NAME"):
        load_model(name)


def test_weights_in_the_hubs_cache_are_found_once_each(tmp_path: Path) -> None:
    snapshots = tmp_path / "hub" / "models--org--small" / "snapshots"
    names = ("a/x.gguf", "b/x.gguf", "b/x-00001-of-00002.gguf", "b/x-00002-of-00002.gguf")
    for name in (*names, "b/mmproj-x.gguf", "b/deep/y.gguf", "b/readme.md"):
        (snapshots / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshots / name).touch()
    found = [str(file.relative_to(snapshots)) for file in weights()]
    assert sorted(found) == ["b/deep/y.gguf", "b/x-00001-of-00002.gguf", "b/x.gguf"]
    assert way(ways(), "local:FILE.gguf").model.startswith(f"local:{snapshots}/b/")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:5000", "http://127.0.0.1:5000"),
        (":5000", "http://127.0.0.1:5000"),
        ("gpu.lan", "http://gpu.lan:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("https://gpu.lan", "https://gpu.lan"),
    ],
)
def test_ollamas_address_is_read_as_ollama_reads_it(
    monkeypatch: pytest.MonkeyPatch, host: str, url: str
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert ollama_url() == url
