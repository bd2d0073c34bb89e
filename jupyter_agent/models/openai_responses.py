"""OpenAI's Responses API, with OpenAI's own client.

Nothing is stored there (``store=False``): what the model has thought comes back to us encrypted,
is kept with the cell that follows it, and is sent again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from jupyter_agent.models.event_stream import as_dict, as_list, as_text, events
from jupyter_agent.models.faults import StreamError
from jupyter_agent.models.http import RemoteModel, vendor_settings
from jupyter_agent.models.limits import bounded
from jupyter_agent.models.native_calls import Calls
from jupyter_agent.models.protocol import TOOL, Delta, Kept, Message, Usage, number

__all__ = ["OpenAIModel", "load"]

URL = "https://api.openai.com"


def load(name: str, **settings: Any) -> OpenAIModel:
    """Make the model of an ``openai:`` string; it raises what `vendor_settings` raises."""
    instead = "; a server that speaks chat completions needs none: name it http://HOST/v1#NAME"
    found = vendor_settings(name, "OpenAI", url=URL, instead=instead)
    found["url"] += "/v1"
    return OpenAIModel(name, **settings | found)


class OpenAIModel(RemoteModel):
    """A model behind OpenAI's Responses API."""

    best_form = "tool"
    optional = ("tools", "include")
    unasked = ("include",)

    def list_request(self) -> tuple[str, dict[str, str]]:
        """Return the URL of the server's list of models, and the headers that it wants."""
        return f"{self._url}/models", {"authorization": f"Bearer {self._key}"}

    async def _deltas(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        tools = {"tools": [{"type": "function", "strict": True, **TOOL}]}
        fields = self._fields(
            store=False,
            include=["reasoning.encrypted_content"],
            **tools if self.form == "tool" else {},
        )
        items = [item for message in messages for item in _items(message, self.name)]
        async with (
            AsyncOpenAI(
                api_key=self._key,
                base_url=self._url,
                max_retries=0,
                timeout=None,
                http_client=bounded(DefaultAsyncHttpxClient()),
            ) as client,
            client.responses.with_streaming_response.create(
                model=self._model,
                input=items,  # type: ignore[arg-type]  # items of every kind
                stream=True,
                extra_body=fields,
            ) as response,
            aclosing(events(response.iter_bytes())) as told,
        ):
            reply = _ResponsesReply(most=number(fields.get("max_output_tokens")))
            async for event in told:
                for delta in reply.read(event):
                    yield delta


class _ResponsesReply:
    """Read the events of one reply.

    Most servers send pieces, and what they make once more as a whole; some send only the whole.

    Parameters
    ----------
    most
        Tokens that were asked for; some servers call a reply complete that was cut off there.
    """

    def __init__(self, most: float | None = None) -> None:
        self._most = most or float("inf")
        self._ended = False
        self._begun = False  # whether anything of the reply has arrived
        self._has_text = False  # whether text of the streaming item has arrived
        self._had_text = False  # whether text of an earlier item has arrived
        self._calls = Calls()

    def read(self, event: dict[str, Any]) -> Iterator[Delta]:
        """Read what an event adds to the reply."""
        item = as_dict(event.get("item"))
        place = event.get("output_index")
        delta = as_text(event.get("delta"))
        match event.get("type"):
            case "[DONE]" if not self._ended:
                yield from self._end("")
            case "response.completed" | "response.incomplete" | "response.failed" as kind:
                yield from self._close(kind, as_dict(event.get("response")))
            case "response.output_text.delta" if delta:
                yield Delta(self._said(delta))
                self._begun = self._has_text = True
            case "response.refusal.delta" if delta:
                self._begun = self._has_text = True
                yield Delta(refusal=delta)
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" if delta:
                yield Delta(thought=len(delta))
            case "response.output_item.added" if item.get("type") == "function_call":
                yield self._call(item, place)
            case "response.output_item.added" if isinstance(item.get("phase"), str):
                yield Delta(kept={"phase": item["phase"]})
            case "response.function_call_arguments.delta" if delta:
                call = self._calls.read(event.get("item_id"), place, arguments=delta)
                yield Delta(call=call)
            case "response.function_call_arguments.done":
                arguments = event.get("arguments")
                if whole := self._calls.whole(event.get("item_id"), place, arguments=arguments):
                    yield Delta(call=whole)
            case "response.output_item.done":
                yield from self._whole(item, place)

    def _call(self, item: dict[str, Any], place: object) -> Delta:
        self._begun = True
        call_id, name = item.get("call_id"), item.get("name")
        return Delta(call=self._calls.read(item.get("id"), place, call_id=call_id, name=name))

    def _whole(self, item: dict[str, Any], place: object) -> Iterator[Delta]:
        """Read what a complete item holds and has not arrived in pieces."""
        arguments, at = item.get("arguments"), (item.get("id"), place)
        match item.get("type"):
            case "reasoning" if item.get("encrypted_content") or item.get("content"):
                # the API takes no `status` back
                yield Delta(kept={k: v for k, v in item.items() if k != "status"})
            case "function_call":
                if not self._calls.knows(*at):
                    yield self._call(item, place)
                if whole := self._calls.whole(*at, arguments=arguments):
                    yield Delta(call=whole)
            case "message" if not self._has_text:
                parts = [as_dict(part) for part in as_list(item.get("content"))]
                refusal = as_text([part.get("refusal") for part in parts])
                yield Delta(self._said(text) if (text := as_text(parts)) else "", refusal=refusal)
                self._had_text |= bool(text)
            case _:
                self._had_text, self._has_text = self._had_text or self._has_text, False
                return
        self._begun, self._has_text = True, False

    def _said(self, text: str) -> str:
        """Begin each message as a new paragraph."""
        return "\n\n" * (self._had_text and not self._has_text) + text

    def _close(self, kind: str, response: dict[str, Any]) -> Iterator[Delta]:
        """Read the complete reply, which the last event holds."""
        if usage := _usage(as_dict(response.get("usage"))):
            yield Delta(usage=usage)
        status = response.get("status")
        if kind == "response.failed" or status in ("failed", "cancelled") or response.get("error"):
            raise StreamError(response.get("error"))
        if not self._begun:
            for place, item in enumerate(as_list(response.get("output"))):
                yield from self._whole(as_dict(item), place)
        why = as_dict(response.get("incomplete_details")).get("reason")
        short = "incomplete" in (kind.removeprefix("response."), status)
        if short or (usage and usage.completion >= self._most):
            yield from self._end(str(why or "max_output_tokens"))
        else:
            yield from self._end("")  # a normal end has no reason

    def _end(self, why: str) -> Iterator[Delta]:
        if not self._ended:
            self._ended = True
            yield Delta(end=why)


def _items(message: Message, by: str) -> Iterator[dict[str, Any]]:
    """Translate a message into input items."""
    content = message["content"]
    if message["role"] == "tool":
        call = message["tool_call_id"]
        yield {"type": "function_call_output", "call_id": call, "output": content}
        return
    phase = {}
    for item in _reasoning_items(message.get("kept"), by):
        if "phase" in item:
            phase = item
        else:
            yield item
    begin = {"type": "message", "role": message["role"]}  # some servers need it
    if not isinstance(content, str):
        yield {**begin, "content": [_part(part) for part in content]}
    elif content:
        yield {**begin, "content": content, **phase}
    for made in message.get("tool_calls", ()):
        yield from (item for item in _reasoning_items(made.get("kept"), by) if "phase" not in item)
        yield {"type": "function_call", "call_id": made["id"], **made["function"]}


def _reasoning_items(kept: Kept | None, by: str) -> list[dict[str, Any]]:
    """Return the fields that this model wants back; a foreign notebook may hold others."""
    items = kept["items"] if kept and kept["by"] == by else []
    return [item for item in items if item.get("type") == "reasoning" or item.keys() == {"phase"}]


def _part(part: Any) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": "input_text", "text": part["text"]}
    return {"type": "input_image", "image_url": part["image_url"]["url"], "detail": "auto"}


def _usage(usage: dict[str, Any]) -> Usage | None:
    details = as_dict(usage.get("input_tokens_details"))
    counts = (usage.get("input_tokens"), usage.get("output_tokens"), details.get("cached_tokens"))
    told = Usage.told(*counts, usage.get("cost"))
    return told if told.total or told.cost else None
