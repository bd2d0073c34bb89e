"""Models behind a chat-completions URL: the Hugging Face Hub and every OpenAI-compatible server.

One client does all of it, `huggingface_hub.AsyncInferenceClient`: cancelling it closes the
connection, so that the server stops generating.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

from jupyter_agent.errors import UsageError
from jupyter_agent.models.bounds import bounded
from jupyter_agent.models.faults import broken_off, cut_short
from jupyter_agent.models.remote import RemoteModel, checked_key, origin, server_url
from jupyter_agent.protocol import TOOL, Call, Delta, Message, Usage

__all__ = ["HubModel", "load"]

NO_KEY = "none"  # the client sends the user's Hub token wherever it is given no key
HUB_URL = "https://router.huggingface.co/v1"
HUB_DOMAINS = ("huggingface.co", "hf.co")  # hf.space and huggingface.cloud run anybody's code
OLLAMA_URL = "http://127.0.0.1:11434"
_WINDOWS = ("context_length", "max_model_len", "context_window", "max_context_length", "n_ctx")
_SIGNATURES = ("extra_content",)  # of a call: Gemini wants them back
_THOUGHTS = ("reasoning_content", "reasoning_details")  # which some servers want back with calls


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
            host = os.environ.get("OLLAMA_HOST") or OLLAMA_URL
            base = host if "://" in host else f"http://{host}"
            return HubModel(name, model=rest, url=_chat_url(base), key=NO_KEY, **settings)
    base, _, model = name.partition("#")
    server_url(base)  # before it is shown
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


def _key_owner(configured: str) -> str:
    """Say which server the keys that come without a URL belong to: the one that is configured."""
    return origin(os.environ.get("JUPYTER_AGENT_MODEL", "")) or origin(configured)


def _why_keyless(url: str, owner: str) -> str:
    return (
        f"JUPYTER_AGENT_API_KEY was not sent: it is for {owner or 'no server yet'}; to have it "
        f"sent to {origin(url)}, name a model there in JUPYTER_AGENT_MODEL or c.Session.model"
    )


def _hub_token(name: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise UsageError(f"{name} wants a Hugging Face token: run `hf auth login` or set HF_TOKEN")
    return checked_key(token, "HF_TOKEN (or `hf auth login`)")


def _is_hub(url: str) -> bool:
    """Tell whether a URL is of the Hub itself."""
    return _is_below(url, *HUB_DOMAINS)


def _runs_on_the_hub(url: str) -> bool:
    """Tell whether a URL is of a dedicated endpoint: it takes the Hub's token, if it is yours."""
    return _is_below(url, "huggingface.cloud")


def _is_below(url: str, *domains: str) -> bool:
    parts = urlsplit(url)
    host = f".{parts.hostname}"
    return parts.scheme == "https" and host.endswith(tuple(f".{each}" for each in domains))


def _chat_url(base: str) -> str:
    """Complete a base URL; a full one is used by the client exactly as it is."""
    parts = urlsplit(server_url(base))
    return parts._replace(path=(parts.path or "/v1") + "/chat/completions").geturl()


class _Verbatim(str):
    """A field's name that the client does not find: it would rewrite ``response_format``."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class HubModel(RemoteModel):
    """A model that speaks chat completions."""

    optional = ("tools",)

    def __init__(self, name: str, *, bill_to: str = "", **settings: Any) -> None:
        super().__init__(name, **settings)
        self._headers = {"X-HF-Bill-To": bill_to} if bill_to else None

    async def check(self) -> None:
        """See that a server listens at the URL, and ask it for the model's context window."""
        await super().check()
        try:
            async with asyncio.timeout(5):
                listed = await self._listed()
            self.window = _window(listed, self._model)
        except Exception:  # many servers keep no such list: it is learnt from an error then
            self.window = None

    async def _listed(self) -> Any:
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # both are documented
            build_hf_headers,
            get_async_session,
        )

        headers = build_hf_headers(token=self._key)
        async with bounded(get_async_session()) as session:
            answer = await session.get(
                self._url.replace("/chat/completions", "/models"), headers=headers
            )
            return answer.raise_for_status().json()

    async def _deltas(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        from huggingface_hub import AsyncInferenceClient

        class Client(AsyncInferenceClient):
            async def _get_async_client(self) -> Any:  # there is no public way to its session
                return bounded(await super()._get_async_client())

        tools = [{"type": "function", "function": TOOL}] if self.form == "tool" else None
        fields = self._fields(**{"tools": tools} if tools else {})
        if "response_format" in fields:
            fields[_Verbatim("response_format")] = fields.pop("response_format")
        thoughts: dict[str, list[Any]] = {}
        finished = False
        async with Client(base_url=self._url, api_key=self._key, headers=self._headers) as client:
            chunks: AsyncIterable[Any] = await client.chat_completion(
                [self._wire(message) for message in messages],
                model=self._model,
                stream=True,
                extra_body=fields,
            )
            async with aclosing(chunks):  # type: ignore[type-var]  # it is a generator
                async for chunk in chunks:
                    for choice in (chunk.choices or [])[:1]:
                        for delta in _read(choice.delta, thoughts):
                            yield delta
                        if choice.finish_reason == "length":
                            raise cut_short(self.name)
                        finished |= bool(choice.finish_reason)
                    if usage := getattr(chunk, "usage", None):
                        yield Delta(usage=_usage(usage))
        if not finished:
            raise broken_off(self.name)

    def _wire(self, message: Message) -> dict[str, Any]:
        """Write a message for the server, with what it gave us to keep."""
        wire: dict[str, Any] = {**message}
        kept = [wire.pop("kept", None)]
        if calls := wire.get("tool_calls"):
            wire["tool_calls"] = [{**call} for call in calls]
            for call in wire["tool_calls"]:
                kept.append(call.pop("kept", None))
                more = self._kept(kept[-1:])
                call |= {name: more[name] for name in more if name in _SIGNATURES}
            more = self._kept(kept)
            wire |= {name: more[name] for name in _THOUGHTS if name in more}
        return wire

    def _kept(self, kept: list[Any]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for item in [
            item for each in kept if each and each["by"] == self.name for item in each["items"]
        ]:
            fields |= item
        return fields


def _read(delta: Any, thoughts: dict[str, list[Any]]) -> Iterator[Delta]:
    """Read a chunk's piece of the reply; thoughts are gathered until they are over."""
    for name in _THOUGHTS:
        if piece := getattr(delta, name, None):
            thoughts.setdefault(name, []).append(piece)
            yield Delta(thought=len(piece) if isinstance(piece, str) else len(str(piece)))
    content = getattr(delta, "content", None)
    calls = [vars(call) for call in getattr(delta, "tool_calls", None) or []]  # with every field
    if thoughts and (content or calls):
        yield Delta(kept={name: _joined(pieces) for name, pieces in thoughts.items()})
        thoughts.clear()
    if content:
        yield Delta(content)
    for place, call in enumerate(calls):
        function = call.get("function")
        more = {name: call[name] for name in _SIGNATURES if call.get(name)}
        index = call.get("index")
        yield Delta(
            call=Call(
                index if isinstance(index, int) else place,
                call.get("id") or "",
                getattr(function, "arguments", None) or "",
            ),
            kept=more or None,
        )


def _joined(pieces: list[Any]) -> Any:
    """Put thoughts together: text, or lists of what a server calls details."""
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(pieces)
    return [item for piece in pieces if isinstance(piece, list) for item in piece]


def _usage(usage: Any) -> Usage:
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    tokens = (usage.get("prompt_tokens"), usage.get("completion_tokens"), cached)
    return Usage.told(*tokens, cost=usage.get("cost"))  # OpenRouter says it


def _window(listed: Any, model: str) -> int | None:
    """Find a model's context window, in tokens, in a server's list of models."""
    name, _, provider = model.partition(":")
    entries = listed["data"]
    [entry] = [e for e in entries if e["id"] in (model, name)] or entries
    providers = [p for p in entry.get("providers", ()) if provider in ("", p.get("provider"))]
    places = [entry, entry.get("meta") or {}, *providers]
    sizes = [place[key] for place in places for key in _WINDOWS if place.get(key)]
    return min(int(size) for size in sizes) if sizes else None
