"""Chat completions: the Hugging Face Hub and every OpenAI-compatible server.

They are asked by the HTTP client of ``huggingface_hub``, with whatever proxy or certificate was set
for it; cancelling a request closes the connection, so that the server stops generating.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from itertools import groupby
from typing import Any
from urllib.parse import urlsplit

from jupyter_agent.errors import UsageError
from jupyter_agent.models.event_stream import DONE, as_dict, as_list, as_text, events
from jupyter_agent.models.faults import StreamError
from jupyter_agent.models.http import RemoteModel, checked_key, origin, server_url
from jupyter_agent.models.limits import bounded
from jupyter_agent.models.native_calls import Calls
from jupyter_agent.models.protocol import TOOL, Delta, Message, Usage, number

__all__ = ["HUB_DEFAULT", "HubModel", "load", "ollama_url"]

NO_KEY = "none"  # the client sends the user's Hub token unless it is given a key
HUB_URL = "https://router.huggingface.co/v1"
HUB_DOMAINS = ("huggingface.co", "hf.co")  # hf.space runs anybody's code
OLLAMA_PORT = 11434
HUB_DEFAULT = "hf:Qwen/Qwen3-Coder-480B-A35B-Instruct"
_WINDOWS = ("context_length", "max_model_len", "context_window", "max_context_length", "n_ctx")
_SIGNATURES = ("extra_content",)  # fields of a call that Gemini wants back
# Fields that hold thoughts, which some servers want back with calls; the first holds the most.
_THOUGHTS = ("reasoning_details", "reasoning_content", "reasoning")
_FIXED, _GROWING = ("type", "index", "id", "data"), ("text", "summary")  # fields of a detail


def load(name: str, *, configured: str = "", **settings: Any) -> HubModel:
    """Make the model of an ``hf:``, ``ollama:`` or ``http(s):`` string.

    Parameters
    ----------
    configured
        The model that the configuration names: a key is for its server alone.

    Raises
    ------
    UsageError
        A key is missing or the URL is not one.
    """
    kind, _, rest = name.partition(":")
    match kind:
        case "hf":
            url = _chat_url(os.environ.get("HF_INFERENCE_ENDPOINT") or HUB_URL)
            bill_to = os.environ.get("JUPYTER_AGENT_BILL_TO", "").strip()
            key = _hub_token(name)
            return HubModel(name, model=rest, url=url, key=key, bill_to=bill_to, **settings)
        case "ollama":
            return HubModel(name, model=rest, url=_chat_url(ollama_url()), key=NO_KEY, **settings)
    base, _, model = name.partition("#")
    server_url(base)  # checked before an error shows it
    if not model:
        raise UsageError(f"{name!r} names no model: write it after a #, as in {base}#NAME")
    url = _chat_url(base)
    settings |= {"model": model, "url": url}
    owner = _key_owner(configured)
    ours = os.environ.get("JUPYTER_AGENT_API_KEY", "").strip()
    if ours and origin(url) == owner:
        return HubModel(name, key=checked_key(ours, "JUPYTER_AGENT_API_KEY"), **settings)
    if _is_hub(url) or (origin(url) == owner and _runs_on_the_hub(url)):
        return HubModel(name, key=_hub_token(name), **settings)
    return HubModel(name, key=NO_KEY, keyless=_why_keyless(url, owner) if ours else "", **settings)


def ollama_url() -> str:
    """Return where Ollama is: OLLAMA_HOST, read as Ollama reads it, or this machine.

    Without a scheme the port is 11434, and an address to listen at, such as 0.0.0.0, is here.
    """
    host = os.environ.get("OLLAMA_HOST", "").strip()
    if "://" in host:
        return host
    parts = urlsplit(f"http://{host}")
    try:
        name, port = parts.hostname or "", parts.port or OLLAMA_PORT
    except ValueError:  # refused as an address, with its text
        return f"http://{host}"
    here = name in ("", "0.0.0.0", "::")
    shown = "127.0.0.1" if here else f"[{name}]" if ":" in name else name
    return f"http://{shown}:{port}{parts.path}"


def _key_owner(configured: str) -> str:
    """Return the server that keys without a URL belong to: the configured one."""
    return origin(os.environ.get("JUPYTER_AGENT_MODEL", "")) or origin(configured)


def _why_keyless(url: str, owner: str) -> str:
    return (
        f"JUPYTER_AGENT_API_KEY was not sent: it is for {owner or 'no server yet'}; to send it "
        f"to {origin(url)}, name a model there in JUPYTER_AGENT_MODEL or c.Session.model"
    )


def _hub_token(name: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise UsageError(f"{name} needs a Hugging Face token: run `hf auth login` or set HF_TOKEN")
    return checked_key(token, "HF_TOKEN (or `hf auth login`)")


def _is_hub(url: str) -> bool:
    """Tell whether a URL belongs to the Hub itself."""
    return _is_below(url, *HUB_DOMAINS)


def _runs_on_the_hub(url: str) -> bool:
    """Tell whether a URL belongs to a dedicated endpoint, which takes its owner's Hub token."""
    return _is_below(url, "huggingface.cloud")


def _is_below(url: str, *domains: str) -> bool:
    parts = urlsplit(url)
    host = f".{parts.hostname}"
    return parts.scheme == "https" and host.endswith(tuple(f".{each}" for each in domains))


def _chat_url(base: str) -> str:
    """Complete a base URL; a full one is used by the client exactly as it is."""
    parts = urlsplit(server_url(base))
    return parts._replace(path=(parts.path or "/v1") + "/chat/completions").geturl()


class HubModel(RemoteModel):
    """A model that speaks chat completions."""

    optional = ("tools", "stream_options", *_THOUGHTS)
    unasked = ("stream_options",)

    def __init__(self, name: str, *, bill_to: str = "", **settings: Any) -> None:
        super().__init__(name, **settings)
        self._headers = {"x-hf-bill-to": bill_to} if bill_to else {}

    async def check(self) -> None:
        """Check that a server listens at the URL, and ask it for the model's context window."""
        await super().check()
        await self._ask_window()

    async def _ask_window(self) -> None:
        try:
            async with asyncio.timeout(5):
                listed = await self._listed()
            self.window = _window(listed, self._model)
        except Exception:  # many servers have no such list: an error tells the window then
            self.window = None

    async def _listed(self) -> Any:
        async with self._client() as client:
            return (await client.get(self.list_request()[0])).raise_for_status().json()

    def list_request(self) -> tuple[str, dict[str, str]]:
        """Return the URL of the server's list of models, and the headers that it wants."""
        headers = {} if self._key == NO_KEY else {"authorization": f"Bearer {self._key}"}
        return self._url.replace("/chat/completions", "/models"), headers

    def _client(self) -> Any:
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # both are documented
            build_hf_headers,
            get_async_session,
        )

        client = bounded(get_async_session())
        client.headers.update(build_hf_headers(token=self._key) | self._headers)
        return client

    async def _deltas(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        tools = {"tools": [{"type": "function", "function": TOOL}]} if self.form == "tool" else {}
        fields = self._fields(stream_options={"include_usage": True}, **tools)
        told = [self._wire(message) for message in messages]
        body = {"model": self._model, "messages": told, "stream": True, **fields}
        async with (
            self._client() as client,
            client.stream("POST", self._url, json=body, timeout=None) as response,
            aclosing(events(response.raise_for_status().aiter_bytes())) as chunks,
        ):
            reply = _ChatReply()
            chunk: dict[str, Any] = {}
            async for chunk in chunks:
                for delta in reply.read(chunk):
                    yield delta
            if reply.odd and not reply.begun:
                raise StreamError(reply.odd)
            if chunk is DONE and not reply.ended:  # some services end without a reason
                yield Delta(end="")

    def _wire(self, message: Message) -> dict[str, Any]:
        """Translate a message for the server, with the fields that it wants back."""
        wire: dict[str, Any] = {**message}
        kept = [wire.pop("kept", None)]
        if calls := wire.get("tool_calls"):
            wire["tool_calls"] = [{**call} for call in calls]
            for call in wire["tool_calls"]:
                kept.append(call.pop("kept", None))
                more = self._joined_fields(kept[-1:])
                call |= {name: more[name] for name in more if name in _SIGNATURES}
            more = self._joined_fields(kept)
            thoughts = {
                name: more[name] for name in _THOUGHTS if name in more.keys() - self.refused
            }
            self._sent |= thoughts.keys()
            wire |= thoughts
        return wire

    def _joined_fields(self, kept: list[Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for item in [
            item for each in kept if each and each["by"] == self.name for item in each["items"]
        ]:
            for name, value in item.items():
                more = name in fields and type(fields[name]) is type(value) in (str, list)
                fields[name] = fields[name] + value if more else value
        return fields


class _ChatReply:
    """Read the chunks of one reply; thoughts are collected until they end."""

    def __init__(self) -> None:
        self.begun = self.ended = False
        self.odd: dict[str, Any] = {}  # a chunk without a piece of the reply; it may name an error
        self._thoughts: dict[str, list[Any]] = {}
        self._calls = Calls()

    def read(self, chunk: dict[str, Any]) -> Iterator[Delta]:
        """Read a chunk; if it has several choices, only the first is read."""
        choices = [as_dict(choice) for choice in as_list(chunk.get("choices"))]
        choice: dict[str, Any] = next((c for c in choices if c.get("index") in (None, 0)), {})
        if choice.get("error"):
            raise StreamError(choice)
        self.odd = chunk if chunk.get("choices") is None else self.odd
        self.begun |= bool(choices) and chunk is not DONE
        yield from self._piece(as_dict(choice.get("delta")) or as_dict(choice.get("message")))
        if (reason := choice.get("finish_reason")) and not self.ended:
            self.ended = True
            yield Delta(end=str(reason))
        groq = as_dict(chunk.get("x_groq"))
        for counted in (groq.get("usage"), choice.get("usage"), chunk.get("usage")):
            if usage := _usage(as_dict(counted)):
                yield Delta(usage=usage)

    def _piece(self, delta: dict[str, Any]) -> Iterator[Delta]:
        """Read a piece of the reply."""
        thought = self._think(delta)
        if thought:
            yield Delta(thought=thought)
        content = as_text(delta.get("content"))
        calls = [as_dict(call) for call in as_list(delta.get("tool_calls"))]
        calls += [
            {"index": "function_call", "function": c} for c in as_list(delta.get("function_call"))
        ]
        calls = [call for call in calls if call.get("id") or as_dict(call.get("function"))]
        if self._thoughts and (content or calls):
            name = next(name for name in _THOUGHTS if name in self._thoughts)
            yield Delta(kept={name: _joined(self._thoughts[name])})
            self._thoughts.clear()
        if content:
            yield Delta(content)
        if refusal := as_text(delta.get("refusal")):
            yield Delta(refusal=refusal)
        for call in calls:
            function = as_dict(call.get("function"))
            more = {name: call[name] for name in _SIGNATURES if call.get(name)}
            piece = self._calls.read(
                call.get("index"),
                call_id=call.get("id"),
                name=function.get("name"),
                arguments=function.get("arguments"),
            )
            yield Delta(call=piece, kept=more or None)

    def _think(self, delta: dict[str, Any]) -> int:
        """Collect thoughts, which may stand in several fields at once; return their length."""
        longest = len(_thoughts_among(delta.get("content")))
        for name in _THOUGHTS:
            if piece := delta.get(name):
                self._thoughts.setdefault(name, []).append(piece)
                longest = max(longest, len(_said(piece)))
        return longest


def _thoughts_among(content: object) -> str:
    """Read the thoughts in a list of parts, as Mistral sends them."""
    parts = [as_dict(part) for part in as_list(content)]
    return "".join(as_text(part.get("thinking")) for part in parts)


def _said(piece: object) -> str:
    """Read the text of a thought: a text, or a list of OpenRouter's reasoning details."""
    if isinstance(piece, str):
        return piece
    details = [as_dict(detail) for detail in as_list(piece)]
    return "".join(as_text(detail.get(name)) for detail in details for name in _GROWING)


def _joined(pieces: list[Any]) -> Any:
    """Join the pieces of thoughts: texts, or details to which later pieces add."""
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(pieces)
    details = [detail for piece in pieces for detail in as_list(piece) if isinstance(detail, dict)]
    joined: list[dict[str, Any]] = []
    for _, group in groupby(details, lambda detail: [detail.get(name) for name in _FIXED]):
        parts = [*group]
        joined.append({name: value for part in parts for name, value in part.items()})
        for name in _GROWING:
            if texts := [part[name] for part in parts if isinstance(part.get(name), str)]:
                joined[-1][name] = "".join(texts)
    return joined


def _usage(usage: dict[str, Any]) -> Usage | None:
    """Read the token counts of a server; thoughts may be counted in the total only."""
    prompt = number(usage.get("prompt_tokens")) or 0
    completion = number(usage.get("completion_tokens")) or 0
    total = number(usage.get("total_tokens")) or 0
    details = as_dict(usage.get("prompt_tokens_details"))
    places = (details.get("cached_tokens"), usage.get("prompt_cache_hit_tokens"))
    cached = max(number(n) or 0 for n in (*places, usage.get("cached_tokens")))
    told = Usage.told(
        prompt, max(completion, total - prompt if prompt else 0), cached, usage.get("cost")
    )
    return told if told.total or told.cost else None


def _window(listed: Any, model: str) -> int | None:
    """Find a model's context window, in tokens, in a server's list of models."""
    name, _, provider = model.partition(":")
    entries = listed["data"]
    [entry] = [e for e in entries if e["id"] in (model, name)] or entries
    providers = [p for p in entry.get("providers", ()) if provider in ("", p.get("provider"))]
    places = [entry, entry.get("meta") or {}, *providers]
    sizes = [place[key] for place in places for key in _WINDOWS if place.get(key)]
    return min(int(size) for size in sizes) if sizes else None
