"""Anthropic's models by their own client.

Prompts are cached by one mark at the top of the request. What the model has thought is signed: it
is kept with the cell that follows it, and sent again as it came.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from jupyter_agent.errors import ModelError
from jupyter_agent.models.bounds import bounded
from jupyter_agent.models.faults import broken_off, cut_short
from jupyter_agent.models.remote import RemoteModel, vendor_settings
from jupyter_agent.protocol import TOOL, Call, Delta, Kept, Message, Usage, number

__all__ = ["AnthropicModel", "load"]

URL = "https://api.anthropic.com"
MOST_TOKENS = 16_000  # of a reply: the API wants a number, and tells the model's own if it is less
_SIGNED = ("thinking", "redacted_thinking")


def load(name: str, **settings: Any) -> AnthropicModel:
    """Make the model of an ``anthropic:`` string; `vendor_settings` says what it raises."""
    return AnthropicModel(name, **settings | vendor_settings(name, "Anthropic", url=URL))


class AnthropicModel(RemoteModel):
    """A model that speaks Anthropic's Messages."""

    best_form = "tool"
    optional = ("tools", "cache_control")
    _most_tokens = MOST_TOKENS

    async def _deltas(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

        tool = {**TOOL, "input_schema": TOOL["parameters"]}
        del tool["parameters"]
        fields = self._fields(
            max_tokens=self._most_tokens,
            cache_control={"type": "ephemeral"},
            **{"tools": [tool]} if self.form == "tool" else {},
        )
        finished = False
        usage = Usage()
        async with AsyncAnthropic(
            api_key=self._key,
            base_url=self._url,
            max_retries=0,
            timeout=None,
            http_client=bounded(DefaultAsyncHttpxClient()),
        ) as client:
            stream: Any = await client.messages.create(
                model=self._model,
                max_tokens=fields.pop("max_tokens"),
                system=messages[0]["content"],  # type: ignore[arg-type]  # it is text
                messages=_turns(messages[1:], self.name),  # type: ignore[arg-type]  # blocks of every kind
                stream=True,
                extra_body=fields,
            )
            async with stream:
                signed: dict[str, Any] = {}
                thoughts: list[str] = []
                async for event in stream:
                    match event.type:
                        case "message_start":
                            usage = _usage(event.message.usage, usage)
                            yield Delta(usage=usage)
                        case "message_delta":
                            usage = _usage(event.usage, usage)
                            yield Delta(usage=usage)
                            if event.delta.stop_reason in (
                                "max_tokens",
                                "model_context_window_exceeded",
                            ):
                                raise cut_short(self.name)
                        case "message_stop":
                            finished = True
                    for delta in _read(event, signed, thoughts):
                        yield delta
        if not finished:
            raise broken_off(self.name)

    def _learn(self, problem: ModelError) -> bool:
        """Ask for no longer a reply than the model can give, where the server tells."""
        most = re.search(r"max_tokens: \d+ > (\d+)", problem.said)
        if most and "max_tokens" not in self._options and int(most[1]) < self._most_tokens:
            self._most_tokens = int(most[1])
            return True
        return super()._learn(problem)


def _read(event: Any, signed: dict[str, Any], thoughts: list[str]) -> Iterator[Delta]:
    """Read what an event adds to the reply; a thought is gathered until it is whole."""
    match event.type:
        case "content_block_start" if event.content_block.type in _SIGNED:
            signed |= event.content_block.model_dump(mode="json", exclude_unset=True)
        case "content_block_start" if event.content_block.type == "tool_use":
            yield Delta(call=Call(event.index, event.content_block.id))
        case "content_block_delta" if event.delta.type == "text_delta":
            yield Delta(event.delta.text)
        case "content_block_delta" if event.delta.type == "input_json_delta":
            yield Delta(call=Call(event.index, arguments=event.delta.partial_json))
        case "content_block_delta" if event.delta.type == "thinking_delta":
            thoughts.append(event.delta.thinking)
            yield Delta(thought=len(event.delta.thinking))
        case "content_block_delta" if event.delta.type == "signature_delta":
            signed["signature"] = event.delta.signature
        case "content_block_stop" if signed:
            whole = {"thinking": signed.get("thinking", "") + "".join(thoughts)} if thoughts else {}
            yield Delta(kept=signed | whole)
            signed.clear()
            thoughts.clear()


def _usage(counted: Any, before: Usage) -> Usage:
    """Count what is read from the cache and written to it as read; later events count anew."""
    cached = counted.cache_read_input_tokens
    parts = [counted.input_tokens, cached, counted.cache_creation_input_tokens]
    if not any(parts):
        return Usage.told(before.prompt, counted.output_tokens, before.cached)
    return Usage.told(sum(number(part) or 0 for part in parts), counted.output_tokens, cached)


def _turns(messages: list[Message], by: str) -> list[dict[str, Any]]:
    """Translate messages into turns that alternate, each a list of blocks."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "content": []})
        turns[-1]["content"] += _blocks(message, by)
    return turns


def _blocks(message: Message, by: str) -> Iterator[dict[str, Any]]:
    content = message["content"]
    if message["role"] == "tool":
        call = _id(message["tool_call_id"])
        yield {"type": "tool_result", "tool_use_id": call, "content": content}
        return
    yield from _kept(message.get("kept"), by)
    if not isinstance(content, str):
        yield from map(_block, content)
    elif content:
        yield {"type": "text", "text": content}
    for made in message.get("tool_calls", ()):
        yield from _kept(made.get("kept"), by)
        code = json.loads(made["function"]["arguments"])
        name = made["function"]["name"]
        yield {"type": "tool_use", "id": _id(made["id"]), "name": name, "input": code}


def _block(part: Any) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    mime, _, data = part["image_url"]["url"].removeprefix("data:").partition(";base64,")
    return {"type": "image", "source": {"type": "base64", "media_type": mime, "data": data}}


def _kept(kept: Kept | None, by: str) -> list[dict[str, Any]]:
    """Return what this model gave us to keep; a notebook from elsewhere may hold other things."""
    items = kept["items"] if kept and kept["by"] == by else []
    return [item for item in items if item.get("type") in _SIGNED]


def _id(call: str) -> str:
    """Write a call's id, which may be another server's, in the letters that are allowed here."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", call)
