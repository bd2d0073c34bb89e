"""OpenAI's models by their own client and the Responses API.

Nothing is stored there (``store=False``): what the model has thought comes back to us encrypted,
is kept with the cell that follows it, and is sent again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

from jupyter_agent.models.bounds import bounded
from jupyter_agent.models.faults import StreamError, broken_off, cut_short
from jupyter_agent.models.remote import RemoteModel, vendor_settings
from jupyter_agent.protocol import TOOL, Call, Delta, Kept, Message, Usage

__all__ = ["OpenAIModel", "load"]

URL = "https://api.openai.com"


def load(name: str, **settings: Any) -> OpenAIModel:
    """Make the model of an ``openai:`` string; `vendor_settings` says what it raises."""
    instead = "; a server that speaks chat completions needs none: name it http://HOST/v1#NAME"
    found = vendor_settings(name, "OpenAI", url=URL, instead=instead)
    found["url"] += "/v1"
    return OpenAIModel(name, **settings | found)


class OpenAIModel(RemoteModel):
    """A model that speaks OpenAI's Responses."""

    best_form = "tool"
    optional = ("tools", "include")

    async def _deltas(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        tools = {"tools": [{"type": "function", "strict": True, **TOOL}]}
        fields = self._fields(
            store=False,
            include=["reasoning.encrypted_content"],
            **tools if self.form == "tool" else {},
        )
        finished = False
        async with AsyncOpenAI(
            api_key=self._key,
            base_url=self._url,
            max_retries=0,
            timeout=None,
            http_client=bounded(DefaultAsyncHttpxClient()),
        ) as client:
            stream: Any = await client.responses.create(
                model=self._model,
                input=[item for message in messages for item in _items(message, self.name)],  # type: ignore[misc]  # items of every kind
                stream=True,
                extra_body=fields,
            )
            async with stream:
                async for event in stream:
                    if event.type in ("response.completed", "response.incomplete"):
                        finished = True
                        yield Delta(usage=_usage(event.response.usage))
                    if event.type == "response.incomplete":
                        raise cut_short(self.name)
                    if event.type == "response.failed":
                        raise StreamError(event.response.error.model_dump())
                    if event.type == "error":
                        raise StreamError(event.model_dump())
                    if delta := _delta(event):
                        yield delta
        if not finished:
            raise broken_off(self.name)


def _delta(event: Any) -> Delta | None:
    """Read what an event adds to the reply."""
    match event.type:
        case "response.output_text.delta" | "response.refusal.delta":
            return Delta(event.delta)
        case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
            return Delta(thought=len(event.delta))
        case "response.output_item.added" if event.item.type == "function_call":
            return Delta(call=Call(event.output_index, event.item.call_id))
        case "response.output_item.added" if getattr(event.item, "phase", None):
            return Delta(kept={"phase": event.item.phase})
        case "response.function_call_arguments.delta":
            return Delta(call=Call(event.output_index, arguments=event.delta))
        case "response.output_item.done" if event.item.type == "reasoning":
            item = event.item.model_dump(mode="json", exclude_unset=True)
            item.pop("status", None)  # which is refused as input
            return Delta(kept=item)
    return None


def _items(message: Message, by: str) -> Iterator[dict[str, Any]]:
    """Translate a message into input items."""
    content = message["content"]
    if message["role"] == "tool":
        call = message["tool_call_id"]
        yield {"type": "function_call_output", "call_id": call, "output": content}
        return
    phase = {}
    for item in _kept(message.get("kept"), by):
        if "phase" in item:
            phase = item
        else:
            yield item
    if not isinstance(content, str):
        yield {"role": message["role"], "content": [_part(part) for part in content]}
    elif content:
        yield {"role": message["role"], "content": content, **phase}
    for made in message.get("tool_calls", ()):
        yield from (item for item in _kept(made.get("kept"), by) if "phase" not in item)
        yield {"type": "function_call", "call_id": made["id"], **made["function"]}


def _kept(kept: Kept | None, by: str) -> list[dict[str, Any]]:
    """Return what this model gave us to keep; a notebook from elsewhere may hold other things."""
    items = kept["items"] if kept and kept["by"] == by else []
    return [item for item in items if item.get("type") == "reasoning" or item.keys() == {"phase"}]


def _part(part: Any) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "input_text", "text": part["text"]}
    return {"type": "input_image", "image_url": part["image_url"]["url"], "detail": "auto"}


def _usage(usage: Any) -> Usage | None:
    if usage is None:
        return None
    cached = getattr(usage.input_tokens_details, "cached_tokens", 0)
    return Usage.told(usage.input_tokens, usage.output_tokens, cached)
