"""Models behind a chat-completions URL: the Hugging Face Hub and every OpenAI-compatible server.

One client does all of it, `huggingface_hub.AsyncInferenceClient`: cancelling it closes the
connection, so that the server stops generating.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from jupyter_agent.errors import AgentError, ModelError, UsageError
from jupyter_agent.protocol import Delta, Message, Usage

__all__ = ["HubModel", "load"]

NO_KEY = "none"  # the client sends the user's Hub token wherever it is given no key
OPENAI_URL = "https://api.openai.com/v1"
OLLAMA_URL = "http://127.0.0.1:11434"


def load(name: str) -> HubModel:
    """Make the model of an ``hf:``, ``openai:``, ``ollama:`` or ``http(s):`` string.

    Raises
    ------
    UsageError
        A key is missing or the URL is not one.
    """
    kind, _, rest = name.partition(":")
    match kind:
        case "hf":
            return HubModel(name, model=rest, key=_hub_token(name))
        case "openai":
            key = os.environ.get("OPENAI_API_KEY", "").strip()
            if not key:
                raise UsageError(f"{name} wants a key: set OPENAI_API_KEY")
            base = os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
            return HubModel(name, model=rest, url=_chat_url(base), key=key)
        case "ollama":
            host = os.environ.get("OLLAMA_HOST") or OLLAMA_URL
            base = host if "://" in host else f"http://{host}"
            return HubModel(name, model=rest, url=_chat_url(base), key=NO_KEY)
    base, _, model = name.partition("#")
    if not model:
        raise UsageError(f"{name!r} names no model: write it after a #, as in {base}#NAME")
    key = os.environ.get("JUPYTER_AGENT_API_KEY", "").strip() or NO_KEY
    return HubModel(name, model=model, url=_chat_url(base), key=key)


def _hub_token(name: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise UsageError(f"{name} wants a Hugging Face token: run `hf auth login` or set HF_TOKEN")
    return token


def _chat_url(base: str) -> str:
    """Complete a base URL; a full one is used by the client exactly as it is."""
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{base!r} is not a server's URL; write it as http://HOST:PORT/v1")
    path = parts.path.rstrip("/") or "/v1"
    if not path.endswith("/chat/completions"):
        path += "/chat/completions"
    return parts._replace(path=path).geturl()


class HubModel:
    """A model that speaks chat completions.

    Parameters
    ----------
    url
        The full URL of its chat completions; None for the Hub's Inference Providers.
    key
        Sent to that URL and nowhere else.
    """

    def __init__(self, name: str, *, model: str, key: str, url: str | None = None) -> None:
        self.name = name
        self._model = model
        self._url = url
        self._key = key

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"  # never the key

    async def check(self) -> None:
        """See that a server listens at the URL; the Hub and what goes by a proxy is not tried.

        Raises
        ------
        UsageError
            Nobody listens there.
        """
        parts = urlsplit(self._url or "")
        if not parts.hostname or parts.scheme in getproxies():
            return
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            async with asyncio.timeout(10):
                _, writer = await asyncio.open_connection(parts.hostname, port)
        except (OSError, TimeoutError) as error:
            reason = getattr(error, "strerror", None) or "no answer within 10 s"
            raise UsageError(
                f"no server answers at {parts.scheme}://{parts.netloc} ({reason}); "
                "is it running, and is the address right?"
            ) from None
        writer.close()

    async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        """Yield the reply; a stream that ends without its end mark raises `ModelError`."""
        from huggingface_hub import AsyncInferenceClient

        finished = False
        try:
            async with AsyncInferenceClient(base_url=self._url, api_key=self._key) as client:
                chunks: AsyncIterable[Any] = await client.chat_completion(
                    list(messages), model=self._model, stream=True
                )
                async with aclosing(chunks):  # type: ignore[type-var]  # it is a generator
                    async for chunk in chunks:
                        for choice in chunk.choices[:1]:
                            finished |= self._ended(choice.finish_reason)
                            if choice.delta and choice.delta.content:
                                yield Delta(choice.delta.content)
                        if usage := getattr(chunk, "usage", None):
                            yield Delta(usage=_usage(usage))
        except AgentError:
            raise
        except Exception as error:
            raise ModelError(f"{self.name}: {await _explain(error)}") from error
        if not finished:
            raise ModelError(f"{self.name} broke off in the middle of its reply; try again")

    def _ended(self, reason: object) -> bool:
        if reason == "length":
            raise ModelError(
                f"{self.name} reached the server's length limit in the middle of its reply; "
                "raise that limit or ask for less"
            )
        return bool(reason)


def _usage(usage: Any) -> Usage:
    details = getattr(usage, "prompt_tokens_details", None)
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(usage.prompt_tokens or 0, usage.completion_tokens or 0, cached or 0)


async def _explain(error: Exception) -> str:
    """Say in one line what went wrong and what to do."""
    from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError, OfflineModeIsEnabled

    response = getattr(error, "response", None)
    if isinstance(error, HfHubHTTPError) and response is not None:
        said = await _body(response)
        match response.status_code:
            case 401 | 403:
                return f"the key was refused ({response.status_code}{said}); check it"
            case 404:
                return f"no such model or path (404{said}); check the name and the URL"
            case 429:
                return f"too many requests (429{said}); wait and try again"
            case code if code >= 500:
                return f"the server failed ({code}{said}); try again"
            case code:
                return f"the server refused the request ({code}{said})"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, which forbids every request; unset it"
    if isinstance(error, InferenceTimeoutError):
        return "the server did not answer in time; try again"
    if isinstance(error, json.JSONDecodeError):
        return "the server sent what is not JSON; is that its chat completions URL?"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "connect" in type(error).__name__.lower():
        return f"no server answers there ({text}); is it running?"
    return f"{text}; try again"


async def _body(response: Any) -> str:
    """Read what the server said about a refusal, as one line."""
    try:
        text = (await response.aread()).decode(errors="replace")
        said = json.loads(text)
        said = said.get("error", said) if isinstance(said, dict) else said
        said = said.get("message", said) if isinstance(said, dict) else said
    except Exception:  # the connection is gone, or it is no JSON: the status code has to do
        return ""
    line = " ".join(str(said).split())[:200]
    return f": {line}" if line else ""
