"""Replies in the shapes in which services really stream them, and in shapes that nobody has seen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_agent.errors import ModelError
from jupyter_agent.models import anthropic_messages, chat_completions, openai_responses
from jupyter_agent.models.event_stream import DONE, events
from jupyter_agent.models.faults import NoEventsError, StreamError, fault
from jupyter_agent.models.native_calls import Calls
from jupyter_agent.models.protocol import Delta, Usage

from .faults import FORMS
from .servers import ChatServer, Reply
from .test_agent import roles
from .test_models_faults import agent_for, run
from .test_models_refusals import stream

CODE = '{"code": "1 + 1"}'


async def read(*pieces: bytes) -> list[Any]:
    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return [event async for event in events(body())]


# -- events


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('data: {"a": 1}\n\ndata: {"b": 2}\n\n', [{"a": 1}, {"b": 2}]),
        ('data:{"a": 1}\r\n\r\ndata:[DONE]', [{"a": 1}, DONE]),
        ('data: {"a": 1}\rdata: {"b": 2}\r', [{"a": 1}, {"b": 2}]),
        ('data: {"a": 1}\ndata: {"b": 2}\n', [{"a": 1}, {"b": 2}]),
        ('data: {"a":\ndata: {}\ndata: }\n\n', [{"a": {}}]),
        (': ping\n\nid: 7\nretry: 5\ndata: {"a": "x\u2028y\x85"}\n\n', [{"a": "x\u2028y\x85"}]),
        ('data: {"a": 1}\n\ndata: null\n\ndata: [1]\n\ndata: "x"\n\ndata: 7\n\n', [{"a": 1}]),
        ('data: {"a": 1}\n\ndata: [DONE]\n\ndata: {"a": 2}\n\n', [{"a": 1}, DONE]),
        ('{"choices": [{"message": {"content": "x"}}]}', [{"choices": [{"message": {"content": "x"}}]}]),
        ('{\n "choices": [\n  {}\n ]\n}\n', [{"choices": [{}]}]),
        ('data: {"a": 1}\n\nwhat else\n', [{"a": 1}]),
        ('\ufeffdata: {"a": 1}\n\n', [{"a": 1}]),
        ('\ufeff{"choices": [{}]}', [{"choices": [{}]}]),
    ],
)  # fmt: skip
async def test_events_are_read_however_they_are_cut(body: str, said: list[Any]) -> None:
    data = body.encode()
    for size in (1, 2, 3, 7, len(data)):
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert await read(*pieces) == said
    assert (await read(data))[-1] is DONE or DONE not in said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('event: error\ndata: {"x": 1}\n\n', {"x": 1}),
        ("event: error\ndata: too much\ndata: to do\n\n", "too much\nto do"),
        ('data: {"choices": [], "error": {"message": "no"}}\n\n', {"choices": [], "error": {"message": "no"}}),
        ('data: {"a": 1}\n\nerror: {"code": 500}\n\n', {"code": 500}),
        ('data: {"a": 1}\n\n{"error": "gone"}\n', {"error": "gone"}),
        ('{"error": "gone"}', {"error": "gone"}),
        ('{\n"detail": "gone"\n}', {"detail": "gone"}),
        ('[{"error": {"code": 400}}]', [{"error": {"code": 400}}]),
    ],
)  # fmt: skip
async def test_an_error_is_read_wherever_it_stands(body: str, said: object) -> None:
    with pytest.raises(StreamError) as caught:
        await read(body.encode())
    assert caught.value.body == said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "the server sent an empty reply; try again"),
        (": ping\n\n", "the server sent an empty reply; try again"),
        ("data: [DONE]\n\n", "the server sent an empty reply; try again"),
        ("<html>\n<p>Log in", "the server sent no reply; is that the right URL? It sent a page"),
        ("data: 5\n\n", "the server sent no reply; is that the right URL? It sent '5'"),
        (
            "upstream\x1b failed",
            "the server sent no reply; is that the right URL? It sent 'upstream\\x1b failed'",
        ),
    ],
)
async def test_what_is_no_stream_is_named(body: str, said: str) -> None:
    with pytest.raises(NoEventsError) as caught:
        await read(body.encode())
    assert str(caught.value).startswith(said)


# -- calls


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        ([(0, "a", "python", ""), (0, "", "", '{"code": '), (0, "", "", '"x"}')], ['{"code": "x"}']),
        ([(None, "a", "python", CODE), (None, "b", "python", CODE)], [CODE, CODE]),
        ([(0, "a", "python", CODE), (0, "b", "python", CODE)], [CODE, CODE]),
        ([(0, "a", "python", ""), (0, "b", "python", ""), (0, None, None, CODE)], ["", CODE]),
        ([(None, None, "python", CODE), (None, None, "python", CODE)], [CODE, CODE]),
        ([(0, "a", "python", '{"code"'), (0, "a", "python", ': "x"}')], ['{"code": "x"}']),
        ([(0, "a", "python", ""), (0, "b", None, '{"code"'), (0, "c", None, ": 1}")], ['{"code": 1}']),
        ([(0, "a", "python", '{"code": '), (1, "b", "python", CODE), (0, "", "", '"x"}')], ['{"code": "x"}', CODE]),
        ([(1, "", "python", {"code": "1 + 1"})], [CODE]),
        ([(0, "a", "python", None), (0, "a", None, CODE)], [CODE]),
        ([([], {}, 5, 7)], [""]),
    ],
)  # fmt: skip
def test_calls_are_told_apart_as_servers_tell_them(pieces: list[Any], calls: list[str]) -> None:
    reader, found = Calls(), dict[int, str]()
    for place, call_id, name, arguments in pieces:
        call = reader.read(place, call_id=call_id, name=name, arguments=arguments)
        found[call.index] = found.get(call.index, "") + call.arguments
    assert [found[index] for index in sorted(found)] == calls


# -- replies of chat completions


def chunk(delta: object, reason: object = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def call(arguments: object, **more: Any) -> dict[str, Any]:
    return {"tool_calls": [{"id": "c", "function": {"name": "python", "arguments": arguments}, **more}]}  # fmt: skip


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


STOP = chunk({}, "stop")
CHATS: dict[str, tuple[list[Any], str]] = {
    "content in parts": ([chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Do"}]}), chunk({"content": ["ne."]}), STOP], "Done."),
    "content as an object": ([chunk({"content": {"type": "text", "text": "Done."}}), STOP], "Done."),
    "no finish reason": ([chunk({"content": "Done."}), chunk({})], "Done."),
    "an empty reason": ([chunk({"content": "Done."}, ""), chunk({}, "")], "Done."),
    "several choices": ([{"choices": [{"index": 1, "delta": {"content": "Or"}}, {"index": 0, "delta": {"content": "Done."}}]}, {"choices": [{"index": 1, "delta": {"content": "not"}, "finish_reason": "length"}]}, STOP], "Done."),
    "no index": ([{"choices": [{"delta": {"content": "Done."}, "finish_reason": "stop"}, {"delta": {"content": "Or"}}]}], "Done."),
    "null in every place": ([chunk({"content": "Done.", "tool_calls": None, "reasoning": None}, usage=None), {"choices": None}, chunk(None), STOP], "Done."),
    "a reply in one piece": ([{"choices": [{"message": {"role": "assistant", "content": "Done."}, "finish_reason": "stop"}]}], "Done."),
    "words before the first choice": ([{"type": "ping"}, {"choices": [], "prompt_filter_results": []}, chunk({"content": "Done."}), STOP], "Done."),
}  # fmt: skip


@pytest.mark.parametrize("shape", CHATS)
async def test_text_is_read_in_the_shapes_of_real_services(
    everywhere: ChatServer, shape: str
) -> None:
    sent, answer = CHATS[shape]
    everywhere.answer = lambda handler: stream(handler, sent)
    agent = agent_for("hf:org/x", everywhere, retries=0)
    await run(agent)
    assert agent.transcript.answer == answer


CALLS: dict[str, list[Any]] = {
    "arguments as an object": [chunk(call({"code": "1 + 1"}), "tool_calls")],
    "arguments null, then whole": [chunk(call(None)), chunk(call(CODE)), STOP],
    "calls as an object": [chunk({"tool_calls": call(CODE)["tool_calls"][0]}), STOP],
    "an empty call and list beside it": [chunk({"tool_calls": []}), chunk({"tool_calls": [None, {}]}), chunk(call(CODE)), STOP],
    "the old form": [chunk({"function_call": {"name": "python", "arguments": '{"code": '}}), chunk({"function_call": {"arguments": '"1 + 1"}'}}), chunk({}, "function_call")],
    "no end but the mark": [chunk(call(CODE))],
    "in one piece": [{"choices": [{"message": call(CODE), "finish_reason": "tool_calls"}]}],
}  # fmt: skip


@pytest.mark.parametrize("shape", CALLS)
async def test_calls_are_read_in_the_shapes_of_real_services(
    everywhere: ChatServer, shape: str
) -> None:
    replies = [CALLS[shape], [chunk({"content": "Done."}), STOP]]
    everywhere.answer = lambda handler: stream(handler, replies.pop(0))
    agent = agent_for("hf:org/x", everywhere, "tool", retries=0)
    await run(agent)
    assert agent.sandbox.ran == ["1 + 1"]  # type: ignore[attr-defined]
    assert roles(agent) == ["task", "code", "prose"]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([{"choices": [], "prompt_filter_results": []}], "broke off in the middle of its reply"),
        ([{"choices": None, "base_resp": {"status_msg": "no such model"}}], "(no such model)"),
        ([chunk({"content": "x"}), {"choices": None, "x": 1}], "broke off in the middle of its"),
    ],
)
async def test_a_reply_without_an_end_is_told_by_what_came(
    everywhere: ChatServer, sent: list[Any], said: str
) -> None:
    everywhere.answer = lambda handler: stream(handler, sent, end="")
    with pytest.raises(ModelError) as caught:
        await run(agent_for("hf:org/x", everywhere, retries=0))
    assert said in str(caught.value)


async def test_two_calls_without_a_place_both_run(everywhere: ChatServer) -> None:
    twice = [chunk(call(CODE)), chunk(call(CODE.replace("1", "2"), id="d", index=0)), STOP]
    replies = [twice, [chunk({"content": "Done."}), STOP]]
    everywhere.answer = lambda handler: stream(handler, replies.pop(0))
    agent = agent_for("hf:org/x", everywhere, "tool", retries=0)
    await run(agent)
    assert agent.sandbox.ran == ["1 + 1", "2 + 2"]  # type: ignore[attr-defined]


async def test_an_event_may_come_in_thousands_of_pieces(everywhere: ChatServer) -> None:
    def answer(handler: Any) -> None:
        stream(handler, [], end="data: ")
        for letter in json.dumps(chunk({"content": "x" * 9_000}, "stop")):
            handler.wfile.write(letter.encode())
            handler.wfile.flush()

    everywhere.answer = answer
    agent = agent_for("hf:org/x", everywhere, retries=0)
    await run(agent)
    assert agent.transcript.answer == "x" * 9_000


# -- counts and thoughts

COUNT = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}


@pytest.mark.parametrize(
    ("sent", "usage"),
    [
        ([STOP, {"choices": [], "usage": COUNT}], Usage(11, 5)),
        ([STOP, {"choices": [], "x_groq": {"id": "r", "usage": COUNT}}], Usage(11, 5)),
        ([{"choices": [{"delta": {}, "finish_reason": "stop", "usage": COUNT}]}], Usage(11, 5)),
        ([chunk({}, "length"), {"choices": [], "usage": COUNT}], Usage(11, 5)),
        ([chunk({}, usage={**COUNT, "completion_tokens": 1, "total_tokens": 12}), STOP, {"choices": [], "usage": COUNT}], Usage(11, 5)),
        ([STOP, {"choices": [], "usage": {**COUNT, "total_tokens": 66}}], Usage(11, 55)),  # thoughts
        ([STOP, {"choices": [], "usage": {**COUNT, "prompt_cache_hit_tokens": 8}}], Usage(11, 5, 8)),
        ([STOP, {"choices": [], "usage": COUNT}, {"choices": [], "usage": {"prompt_tokens": 0}}], Usage(11, 5)),
    ],
)  # fmt: skip
async def test_what_the_server_counts_is_what_is_told(
    everywhere: ChatServer, sent: list[Any], usage: Usage
) -> None:
    everywhere.answer = lambda handler: stream(handler, [chunk({"content": "Done."}), *sent])
    agent = agent_for("hf:org/x", everywhere, retries=0)
    if any("length" in str(each) for each in sent):
        with pytest.raises(ModelError, match="length limit"):
            await run(agent)
    else:
        await run(agent)
    total = agent.transcript.total_usage
    assert (total.prompt, total.completion, total.cached) == (usage.prompt, usage.completion, usage.cached)  # fmt: skip


def deltas_of(reader: Any, *sent: Any) -> list[Delta]:
    return [delta for each in sent for delta in reader.read(each)]


@pytest.mark.parametrize(
    ("delta", "kept"),
    [
        ({"reasoning": "hm"}, {"reasoning": "hmhm"}),
        ({"reasoning_content": "hm"}, {"reasoning_content": "hmhm"}),
        ({"reasoning": "hm", "reasoning_content": "hm"}, {"reasoning_content": "hmhm"}),
        (
            {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm", "index": 0}]},
            {"reasoning_details": [{"type": "reasoning.text", "text": "hmhm", "index": 0}]},
        ),
        ({"content": [{"type": "thinking", "thinking": "hm"}]}, None),
    ],
)  # fmt: skip
def test_thoughts_are_counted_once_and_kept(delta: Any, kept: Any) -> None:
    deltas = deltas_of(chat_completions._ChatReply(), chunk(delta), chunk(delta), chunk(call(CODE)))
    assert sum(each.thought for each in deltas) == 4
    assert [each.kept for each in deltas if each.kept] == ([kept] if kept else [])
    assert text_of(deltas) == ""


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_thoughts_go_back_and_are_left_out_where_they_are_refused(
    everywhere: ChatServer, field: str
) -> None:
    refusal = {"error": {"message": f"'messages.2' : property '{field}' is unsupported"}}
    sent: list[str] = []

    def answer(handler: Any) -> None:
        sent.append(json.dumps(everywhere.requests[-1].messages))
        if len(sent) == 1:
            stream(handler, [chunk({field: "deep"}), chunk(call(CODE)), STOP])
        elif f'"{field}": "deep"' in sent[-1]:
            handler.send_response(400)
            handler.end_headers()
            handler.wfile.write(json.dumps(refusal).encode())
        else:
            stream(handler, [chunk({"content": "Done."}), STOP])

    everywhere.answer = answer
    agent = agent_for(f"hf:org/{field}", everywhere, "tool", retries=0)
    await run(agent)
    assert agent.transcript.answer == "Done."
    assert ['"deep"' in each for each in sent] == [False, True, False]


# -- refusals


@pytest.mark.parametrize(
    ("name", "sent", "said"),
    [
        ("hf:org/x", [chunk({"refusal": "I must not."}), STOP], "refused to reply: I must not"),
        ("hf:org/x", [chunk({}, "content_filter")], "filter"),
        ("anthropic:x", [{"type": "message_delta", "delta": {"stop_reason": "refusal"}}, {"type": "message_stop"}], "refused to reply"),
        ("anthropic:x", [{"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_details": {"category": "cyber", "explanation": "No exploits."}}}], "refused to reply: No exploits"),
        ("openai:x", [{"type": "response.refusal.delta", "delta": "I must not."}, {"type": "response.completed", "response": {}}], "refused to reply: I must not"),
        ("openai:x", [{"type": "response.completed", "response": {"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "I must not."}]}]}}], "refused to reply: I must not"),
        ("openai:x", [{"type": "response.incomplete", "response": {"incomplete_details": {"reason": "content_filter"}}}], "filter"),
    ],
)  # fmt: skip
async def test_a_refusal_is_told_once_and_as_what_it_is(
    everywhere: ChatServer, name: str, sent: list[Any], said: str
) -> None:
    everywhere.answer = lambda handler: stream(handler, sent)
    with pytest.raises(ModelError) as caught:
        await run(agent_for(name, everywhere, retries=2))
    assert caught.value.kind == "refused"
    assert said in str(caught.value)
    assert len(everywhere.requests) == 1


# -- Responses


def responses(*sent: Any) -> list[Delta]:
    return deltas_of(openai_responses._ResponsesReply(), *sent)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_reply_that_its_status_calls_failed_is_not_whole(status: str) -> None:
    with pytest.raises(StreamError):
        responses({"type": "response.completed", "response": {"status": status, "error": None}})


@pytest.mark.parametrize("code", ["bio_policy", "image_too_large", "data_residency_mismatch"])
async def test_what_a_policy_refuses_is_asked_once(everywhere: ChatServer, code: str) -> None:
    error = {"code": code, "message": "No."}
    failed = {"type": "response.failed", "response": {"error": error}}
    everywhere.answer = lambda handler: stream(handler, [failed])
    with pytest.raises(ModelError, match="refused the request"):
        await run(agent_for("openai:x", everywhere, retries=2))
    assert len(everywhere.requests) == 1


def test_messages_of_one_reply_are_paragraphs() -> None:
    def message(text: str) -> dict[str, Any]:
        return {"type": "message", "content": [{"type": "output_text", "text": text}]}

    def piece(text: str) -> dict[str, Any]:
        return {"type": "response.output_text.delta", "delta": text}

    def over(text: str) -> dict[str, Any]:
        return {"type": "response.output_item.done", "item": message(text)}

    end = {
        "type": "response.completed",
        "response": {"output": [message("I look."), message("Done.")]},
    }
    streamed = [
        piece("I "),
        piece("look."),
        over("I look."),
        piece("Do"),
        piece("ne."),
        over("Done."),
    ]
    for sent in ([*streamed, end], [over("I look."), over("Done."), end], [end]):
        assert text_of(responses(*sent)) == "I look.\n\nDone."


# -- Messages


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    begin = {"type": "content_block_start", "index": index, "content_block": start}
    pieces = [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
    return [begin, *pieces, {"type": "content_block_stop", "index": index}]


def spoken(index: int, *texts: str) -> list[dict[str, Any]]:
    deltas = [{"type": "text_delta", "text": text} for text in texts]
    return block(index, {"type": "text", "text": ""}, *deltas)


def thinking(index: int, *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return block(index, {"type": "thinking", "thinking": "", "signature": ""}, *deltas)


def test_a_signature_is_kept_where_the_thought_is_not_told() -> None:
    signed = [{"type": "signature_delta", "signature": part} for part in ("ab", "c")]
    redacted = {"type": "redacted_thinking", "data": "xyz"}
    sent = [*thinking(0, *signed), *block(1, redacted)]
    kept = [
        each.kept for each in deltas_of(anthropic_messages._AnthropicReply(), *sent) if each.kept
    ]
    assert kept == [{"type": "thinking", "thinking": "", "signature": "abc"}, redacted]


def test_what_a_servers_own_tool_is_given_is_no_call_of_ours() -> None:
    use = {"type": "server_tool_use", "id": "s", "name": "code_execution", "input": {}}
    pieces = [{"type": "input_json_delta", "partial_json": part} for part in (CODE[:5], CODE[5:])]
    result = {"type": "code_execution_tool_result", "tool_use_id": "s", "content": {}}
    sent = [
        *spoken(0, "I look."),
        *block(1, use, *pieces),
        *block(2, result),
        *spoken(3, "Do", "ne."),
    ]
    deltas = deltas_of(
        anthropic_messages._AnthropicReply(), *sent, {"type": "ping"}, {"type": "new_event"}
    )
    assert [each.call for each in deltas if each.call] == []
    assert text_of(deltas) == "I look.\n\nDone."


def test_blocks_of_text_are_one_sentence_and_others_part_them() -> None:
    sent = [*spoken(0, "It is "), *spoken(1, "42."), *thinking(2), *spoken(3, "So", ".")]
    assert text_of(deltas_of(anthropic_messages._AnthropicReply(), *sent)) == "It is 42.\n\nSo."


# -- Responses' calls


def test_arguments_that_come_only_when_the_call_is_whole_are_read() -> None:
    item = {"type": "function_call", "id": "f", "call_id": "c", "name": "python", "arguments": ""}
    added = {"type": "response.output_item.added", "output_index": 0, "item": item}
    done = {"type": "response.function_call_arguments.done", "item_id": "f", "output_index": 0}
    done |= {"arguments": CODE}
    over = {"type": "response.output_item.done", "output_index": 0, "item": item | {"arguments": CODE}}  # fmt: skip
    end = {"type": "response.completed", "response": {"output": [item | {"arguments": CODE}]}}
    pieces = [
        {"type": "response.function_call_arguments.delta", "item_id": "f", "delta": half}
        for half in (CODE[:5], CODE[5:])
    ]
    for sent in ([added, done, over, end], [added, over, end], [over, end], [end], [added, *pieces, done, over, end]):  # fmt: skip
        calls = [delta.call for delta in responses(*sent) if delta.call]
        assert "".join(call.arguments for call in calls) == CODE
        assert {call.index for call in calls} == {0}
        assert [call.id for call in calls if call.id] == ["c"]


def test_text_that_comes_only_when_it_is_whole_is_read_once() -> None:
    message = {"type": "message", "content": [{"type": "output_text", "text": "Done."}]}
    piece = {"type": "response.output_text.delta", "delta": "Done."}
    over = {"type": "response.output_item.done", "item": message}
    end = {"type": "response.completed", "response": {"output": [message]}}
    for sent in ([piece, over, end], [over, end], [end], [piece, end]):
        assert text_of(responses(*sent)) == "Done."


def test_a_reply_that_is_as_long_as_it_may_be_is_not_whole_whatever_its_end_is_called() -> None:
    """llama.cpp says ``completed`` of a reply that it has cut off."""
    end = {"type": "response.completed", "response": {"usage": {"output_tokens": 20}}}
    ends = [
        deltas_of(openai_responses._ResponsesReply(most), end)[-1].end for most in (20, 21, None)
    ]
    assert ends == ["max_output_tokens", "", ""]
    short = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    assert (
        responses({"type": "response.completed", "response": short})[-1].end == "max_output_tokens"
    )


@pytest.mark.parametrize("error", [None, {}, {"message": None}, "gone"])
async def test_a_failure_without_a_reason_is_a_failure(
    everywhere: ChatServer, error: object
) -> None:
    failed = {"type": "response.failed", "response": {"error": error, "usage": {"input_tokens": 9}}}
    everywhere.answer = lambda handler: stream(handler, [failed])
    agent = agent_for("openai:x", everywhere, retries=0)
    with pytest.raises(ModelError, match="the server failed"):
        await run(agent)
    assert agent.transcript.total_usage.prompt == 9


def test_thoughts_that_nobody_can_read_again_are_not_sent_again() -> None:
    thought: dict[str, Any] = {
        "type": "reasoning",
        "id": "r",
        "summary": [],
        "encrypted_content": None,
    }
    assert responses({"type": "response.output_item.done", "item": thought}) == []


@pytest.mark.parametrize("name", FORMS)
async def test_a_name_that_is_no_utf8_keeps_no_request_from_being_sent(
    everywhere: ChatServer, name: str
) -> None:
    everywhere.replies = [Reply("Done.")]
    agent = agent_for(name, everywhere, retries=0)
    await run(agent, "Read K\udcf6ln.csv")
    assert agent.transcript.answer == "Done."
    assert "Read K?ln.csv" in str(everywhere.requests[0].body)


# -- whatever a server sends

WORDS = """choices delta message content text thinking reasoning reasoning_details tool_calls function
name arguments id index finish_reason usage prompt_tokens x_groq error type item output response
output_index item_id encrypted_content summary call_id partial_json stop_reason stop_details status
incomplete_details refusal code metadata raw detail loc msg prompt_tokens_details signature""".split()
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner),
    max_leaves=8,
)
WHOLE: dict[str, list[Any]] = {
    "hf:org/x": [
        chunk({"content": "x", "reasoning": "y", "reasoning_details": [{"type": "t", "text": "z"}]}),
        chunk(call(CODE, extra_content={"a": 1}), index=0),
        {**STOP, "usage": {**COUNT, "prompt_tokens_details": {"cached_tokens": 1}, "cost": 1.0}},
        {"choices": [], "x_groq": {"usage": COUNT}},
    ],
    "openai:x": [
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "function_call", "id": "f", "call_id": "c", "name": "python", "phase": "p"}},
        {"type": "response.output_text.delta", "delta": "x"},
        {"type": "response.function_call_arguments.delta", "item_id": "f", "output_index": 0, "delta": CODE},
        {"type": "response.function_call_arguments.done", "item_id": "f", "arguments": CODE},
        {"type": "response.output_item.done", "item": {"type": "reasoning", "id": "r", "encrypted_content": "e", "content": []}},
        {"type": "response.output_item.done", "item": {"type": "message", "content": [{"text": "x", "refusal": "y"}]}},
        {"type": "response.completed", "response": {"status": "completed", "error": None, "output": [{"type": "message", "content": []}], "incomplete_details": {"reason": "r"}, "usage": {"input_tokens": 1, "input_tokens_details": {"cached_tokens": 1}}}},
    ],
    "anthropic:x": [
        {"type": "message_start", "message": {"usage": {"input_tokens": 1, "cache_read_input_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "c", "name": "python", "input": {"code": "1"}}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": CODE}},
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_details": {"explanation": "x"}}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ],
}  # fmt: skip
LINES = [b"data: ", b"data:{}", b"event: error", b"\n", b"\r\n", b"\r", b"error:", b"[DONE]", b"{", b"}", b'"', b":"]  # fmt: skip
READERS = {
    "hf:org/x": chat_completions._ChatReply,
    "openai:x": openai_responses._ResponsesReply,
    "anthropic:x": anthropic_messages._AnthropicReply,
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every place of a value."""
    yield path
    inner = enumerate(value) if isinstance(value, list) else ()
    for key, each in value.items() if isinstance(value, dict) else inner:
        yield from places(each, (*path, key))


def put(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    """Return a value with another one at a place."""
    if not path:
        return other
    key, *rest = path
    copy = value.copy()
    copy[key] = put(value[key], tuple(rest), other)
    return copy


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_shape_at_any_place_raises_nothing_but_what_the_server_said(
    name: str, data: st.DataObject
) -> None:
    sent = WHOLE[name]
    for _ in range(data.draw(st.integers(1, 3))):
        sent = put(sent, data.draw(st.sampled_from([*places(sent)][1:])), data.draw(JSON))
    reader: Any = READERS[name]()
    try:
        deltas = deltas_of(reader, *[each for each in sent if isinstance(each, dict)])
    except StreamError:
        return
    for delta in deltas:
        assert isinstance(delta.text, str)
        assert isinstance(delta.refusal, str)
        assert isinstance(delta.thought, int)
        assert delta.end is None or isinstance(delta.end, str)
        assert delta.call is None or isinstance(delta.call.arguments + delta.call.id, str)
        assert json.dumps(delta.kept).encode()


@given(pieces=st.lists(st.binary(max_size=9) | st.sampled_from(LINES), max_size=9))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_events_or_an_error_of_ours(pieces: list[bytes]) -> None:
    with suppress(StreamError, NoEventsError, json.JSONDecodeError):
        assert all(isinstance(event, dict) for event in asyncio.run(read(*pieces)))


async def test_what_no_file_can_hold_is_not_kept(everywhere: ChatServer, tmp_path: Any) -> None:
    odd = {"reasoning_details": [{"type": "\ud800", "a": float("nan"), "b": 1e999}]}
    text = json.dumps(chunk(odd)).replace("Infinity", "1e999")
    shaped = call(CODE, extra_content={"c": "\udfff"})
    shaped["tool_calls"][0]["id"] = "\ud8ff" + "x" * 9_999
    replies: list[list[Any]] = [
        [f"data: {text}\n\n", chunk(shaped), STOP],
        [chunk({"content": "Done."}), STOP],
    ]
    everywhere.answer = lambda handler: stream(handler, replies.pop(0))
    agent = agent_for("hf:org/x", everywhere, "tool", retries=0)
    agent.transcript.path = tmp_path / "run.ipynb"
    await run(agent)
    assert agent.transcript.answer == "Done."
    details = everywhere.requests[-1].messages[2]["reasoning_details"]
    assert details == [{"type": "?", "a": None, "b": None}]


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_whatever_is_said_to_be_wrong_is_one_line(name: str, data: st.DataObject) -> None:
    error = asyncio.run(fault(name, StreamError(data.draw(JSON))))
    assert str(error).isprintable()
    assert len(str(error)) < 500
