"""Anthropic's Messages API, with Anthropic's own client.

Prompts are cached by one mark at the top of the request. What the model has thought is signed: it
is kept with the cell that follows it, and sent again as it came.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from jupyter_agent.errors import ModelError
from jupyter_agent.models.event_stream import as_dict, as_text, events
from jupyter_agent.models.http import RemoteModel, vendor_settings
from jupyter_agent.models.limits import bounded
from jupyter_agent.models.native_calls import Calls
from jupyter_agent.models.protocol import TOOL, Delta, Kept, Message, Usage, number

__all__ = ["AnthropicModel", "load"]

URL = "https://api.anthropic.com"
MAX_TOKENS = 16_000  # of a reply; the API needs a number
_SIGNED = ("thinking", "redacted_thinking")


def load(name: str, **settings: Any) -> AnthropicModel:
    """Make the model of an ``anthropic:`` string; it raises what `vendor_settings` raises."""
    return AnthropicModel(name, **settings | vendor_settings(name, "Anthropic", url=URL))


class AnthropicModel(RemoteModel):
    """A model behind Anthropic's Messages API."""

    best_form = "tool"
    optional = ("tools", "cache_control")
    unasked = ("cache_control",)
    _max_tokens = MAX_TOKENS

    def list_request(self) -> tuple[str, dict[str, str]]:
        """Return the URL of the server's list of models, and the headers that it wants."""
        headers = {"x-api-key": self._key, "anthropic-version": "2023-06-01"}
        return f"{self._url}/v1/models", headers

    async def _deltas(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

        tool = {**TOOL, "input_schema": TOOL["parameters"]}
        del tool["parameters"]
        fields = self._fields(
            max_tokens=self._max_tokens,
            cache_control={"type": "ephemeral"},
            **{"tools": [tool]} if self.form == "tool" else {},
        )
        most = fields.pop("max_tokens")
        async with (
            AsyncAnthropic(
                api_key=self._key,
                base_url=self._url,
                max_retries=0,
                timeout=None,
                http_client=bounded(DefaultAsyncHttpxClient()),
            ) as client,
            client.messages.with_streaming_response.create(
                model=self._model,
                max_tokens=most,
                system=messages[0]["content"],  # type: ignore[arg-type]  # it is text
                messages=_turns(messages[1:], self.name),  # type: ignore[arg-type]  # blocks of every kind
                stream=True,
                extra_body=fields,
            ) as response,
            aclosing(events(response.iter_bytes())) as told,
        ):
            reply = _AnthropicReply()
            async for event in told:
                for delta in reply.read(event):
                    yield delta

    def _learn(self, problem: ModelError) -> bool:
        """Limit the reply's length to that of the model, if the server tells it."""
        most = re.search(r"max_tokens: \d+ > (\d+)", problem.said)
        if most and "max_tokens" not in self._options and int(most[1]) < self._max_tokens:
            self._max_tokens = int(most[1])
            return True
        return super()._learn(problem)


class _AnthropicReply:
    """Read the events of one reply; a thought is collected until it is complete."""

    def __init__(self) -> None:
        self._ended = False
        self._usage = Usage()
        self._block: dict[str, Any] = {}  # the block that is streaming, as it began
        self._thoughts: list[str] = []
        self._signature = ""
        self._calls = Calls()
        self._has_text = False  # whether text has arrived
        self._is_apart = False  # whether a block of another kind has followed it

    def read(self, event: dict[str, Any]) -> Iterator[Delta]:
        """Read what an event adds to the reply."""
        place, delta = event.get("index"), as_dict(event.get("delta"))
        match event.get("type"):
            case "message_start":
                yield from self._count(as_dict(as_dict(event.get("message")).get("usage")))
            case "message_delta":
                yield from self._count(as_dict(event.get("usage")))
                if (reason := delta.get("stop_reason")) and not self._ended:
                    self._ended = True
                    why = as_text(as_dict(delta.get("stop_details")).get("explanation"))
                    yield Delta(end=str(reason), refusal=why if reason == "refusal" else "")
            case "message_stop" if not self._ended:
                self._ended = True
                yield Delta(end="")
            case "content_block_start":
                self._block = as_dict(event.get("content_block"))
                yield from self._begin(place)
            case "content_block_delta":
                yield from self._piece(place, delta)
            case "content_block_stop":
                yield from self._stop(place)

    def _begin(self, place: object) -> Iterator[Delta]:
        block = self._block
        if block.get("type") == "tool_use":
            call = self._calls.read(place, call_id=block.get("id"), name=block.get("name"))
            yield Delta(call=call)
        if block.get("type") != "text":
            self._is_apart = self._has_text
        elif text := as_text(block.get("text")):
            yield self._say(text)

    def _say(self, text: str) -> Delta:
        """Begin a paragraph after a block of another kind; blocks of text continue each other."""
        before, self._has_text, self._is_apart = "\n\n" * self._is_apart, True, False
        return Delta(before + text)

    def _piece(self, place: object, delta: dict[str, Any]) -> Iterator[Delta]:
        text, thought = as_text(delta.get("text")), as_text(delta.get("thinking"))
        arguments = as_text(delta.get("partial_json"))
        match delta.get("type"):
            case "text_delta" if text:
                yield self._say(text)
            # the input of a server's own tool is not a call
            case "input_json_delta" if arguments and self._calls.knows(place):
                yield Delta(call=self._calls.read(place, arguments=arguments))
            case "thinking_delta" if thought:
                self._thoughts.append(thought)
                yield Delta(thought=len(thought))
            case "signature_delta":
                self._signature += as_text(delta.get("signature"))

    def _stop(self, place: object) -> Iterator[Delta]:
        block, self._block = self._block, {}
        if block.get("type") in _SIGNED:
            thoughts = as_text(block.get("thinking")) + "".join(self._thoughts)
            signature = self._signature or as_text(block.get("signature"))
            whole = {"thinking": thoughts, "signature": signature}  # a signature may be sent alone
            yield Delta(kept=block | (whole if block["type"] == "thinking" else {}))
            self._thoughts, self._signature = [], ""
        elif block.get("input") and (call := self._calls.whole(place, arguments=block["input"])):
            yield Delta(call=call)  # other servers send it in one piece

    def _count(self, counted: dict[str, Any]) -> Iterator[Delta]:
        """Count cached tokens as read; the counts of later events replace earlier ones."""
        cached, written = counted.get("cache_read_input_tokens"), counted.get("output_tokens")
        parts = [counted.get("input_tokens"), cached, counted.get("cache_creation_input_tokens")]
        prompt = sum(number(part) or 0 for part in parts)
        if prompt:
            self._usage = Usage.told(prompt, written, cached)
        else:
            self._usage = Usage.told(self._usage.prompt, written, self._usage.cached)
        if self._usage.total:
            yield Delta(usage=self._usage)


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
    yield from _signed_items(message.get("kept"), by)
    if not isinstance(content, str):
        yield from map(_block, content)
    elif content:
        yield {"type": "text", "text": content}
    for made in message.get("tool_calls", ()):
        yield from _signed_items(made.get("kept"), by)
        code = json.loads(made["function"]["arguments"])
        name = made["function"]["name"]
        yield {"type": "tool_use", "id": _id(made["id"]), "name": name, "input": code}


def _block(part: Any) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    mime, _, data = part["image_url"]["url"].removeprefix("data:").partition(";base64,")
    return {"type": "image", "source": {"type": "base64", "media_type": mime, "data": data}}


def _signed_items(kept: Kept | None, by: str) -> list[dict[str, Any]]:
    """Return the fields that this model wants back; a foreign notebook may hold others."""
    items = kept["items"] if kept and kept["by"] == by else []
    return [item for item in items if item.get("type") in _SIGNED]


def _id(call: str) -> str:
    """Replace characters that this API refuses in an id; another server may have made it."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", call)
