"""What services say when they refuse, in their own words: what is made of each, asked once or again."""

from __future__ import annotations

import gzip
import json
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from jupyter_agent.errors import ModelError
from jupyter_agent.models import load_model
from jupyter_agent.models.faults import StreamError, fault
from jupyter_agent.models.http import _fitted

from .faults import FORMS, refusal
from .servers import ChatServer, Reply
from .test_models_faults import agent_for, run

# as services send them: status, text
NO_QUOTA = [
    (402, "Insufficient Balance"),
    (402, "You have exceeded your monthly included credits for Inference Providers."),
    (429, '{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'),
    (429, '{"error": {"message": "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day", "code": 429, "metadata": {"headers": {"X-RateLimit-Remaining": "0"}}}}'),
    (429, '[{"error": {"code": 429, "message": "You exceeded your current quota. Please retry in 5.2s.", "details": [{"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}]}}]'),
    (429, '{"error": {"type": "exceeded_current_quota_error", "message": "Your account is suspended"}}'),
    (400, '{"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low to access the Anthropic API."}}'),
    (403, '{"error": "Your team has either used all available credits or reached its monthly spending limit."}'),
]  # fmt: skip
PASSING = [
    (429, "Rate limit exceeded: free-models-per-min"),
    (429, '{"error": {"message": "Rate limit reached on tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443. Please try again in 0.07s. Upgrade at https://console.example/settings/billing", "code": "rate_limit_exceeded"}}'),
    (429, '[{"error": {"code": 429, "message": "You exceeded your current quota. Please retry in 0.02s.", "details": [{"violations": [{"quotaId": "GenerateContentInputTokensPerModelPerMinute-FreeTier"}]}]}}]'),
    (429, "Too many tokens, please wait before trying again."),
    (500, "upstream billing service timeout"),
]  # fmt: skip
REFUSED = [
    (500, '{"error": "model requires more system memory (5.6 GiB) than is available (3.1 GiB)"}'),
    (400, '{"error": {"message": "max_tokens is too large: 99999. This model supports at most 4096 completion tokens"}}'),
    (413, "Request Entity Too Large"),
]  # fmt: skip
TOO_LONG = [  # status, text, the window that it tells
    (400, "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.", 8192),
    (400, '{"error": {"message": "Your input exceeds the context window of this model.", "code": "context_length_exceeded"}}', None),
    (400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096.", 4096),
    (400, "Requested token count exceeds the model's maximum context length of 4,096 tokens. You requested 5,000", 4096),
    (400, "The input (5000 tokens) is longer than the model's context length (4096 tokens).", 4096),
    (400, '{"error": {"code": 400, "message": "request (9000 tokens) exceeds the available context size (8192 tokens), try increasing it", "type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 8192}}', 8192),
    (400, '{"error": {"code": 400, "message": "the request exceeds the available context size", "type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 8192}}', 8192),
    (500, '{"error": "prompt too long; exceeded max context length by 1234 tokens"}', None),
    (400, "This model's maximum prompt length is 131072 but the request contains 537812 tokens.", 131072),
    (422, '{"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and 512 `max_new_tokens`", "error_type": "validation"}', 4096),
    (422, "Input validation error: `inputs` must have less than 2048 tokens. Given: 3000", 2048),
    (400, "Invalid request: Your request exceeded model token limit: 8192 (requested: 9000)", 8192),
    (400, "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length", 32768),
    (400, "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000.", 4081),
    (400, "too many tokens: size limit exceeded by 1000 tokens. The limit for this model is 128000 tokens.", 128000),
    (400, "Input is too long for requested model.", None),
    (400, "prompt is too long: 213462 tokens > 200000 maximum", 200000),
    (400, "input length and `max_tokens` exceed context limit: 190000 + 16000 > 200000, decrease input length", 200000),
    (400, "The input token count (1196265) exceeds the maximum number of tokens allowed (1048576).", 1048576),
    (400, "The prompt is too long: 140000, model maximum context length: 131071", 131071),
    (400, '{"message": "Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192", "code": "context_length_exceeded"}', 8192),
    (400, "prompt token count of 9000 exceeds the limit of 8192", 8192),
    (400, "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens", 4096),
    (400, "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]", 30720),
    (400, "invalid params, context window exceeds limit (2013)", None),
    (413, '{"error": {"code": "tokens_limit_reached", "message": "Request body too large for gpt-4o model. Max size: 8000 tokens."}}', 8000),
    (413, "Request too large for model `x` in organization `o` service tier `on_demand` on tokens per minute (TPM): Limit 12000, Requested 14137, please reduce your message size", 12000),
    (429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 342389. The input or output tokens must be reduced", 30000),
    (400, '{"error": {"message": "Provider returned error", "metadata": {"raw": "{\\"error\\": {\\"message\\": \\"maximum context length is 4096 tokens\\"}}", "provider_name": "P"}}}', 4096),
]  # fmt: skip


def say(status: int, text: str, *, chunked: bool = True, end: bool = True) -> Any:
    """Answer with an error whose length nobody says, as most services do."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        data = text.encode()
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) + b"0\r\n\r\n" * end)

    return answer


async def refuse(server: ChatServer, name: str, status: int, text: str) -> ModelError:
    """Have a model asked that refuses; return what is made of it."""
    server.answer = say(status, text)
    with pytest.raises(ModelError) as caught:
        await run(agent_for(name, server, retries=2))
    return caught.value


@pytest.mark.parametrize("name", FORMS)
async def test_an_error_of_unknown_length_is_read(everywhere: ChatServer, name: str) -> None:
    error = await refuse(everywhere, name, 400, '{"error": {"message": "no such field: x"}}')
    assert "(400: no such field: x)" in str(error)


async def test_of_an_error_without_end_is_read_what_comes(
    everywhere: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    everywhere.answer = say(429, '{"error": "insufficient_quota"}', end=False)
    with pytest.raises(ModelError, match=r"429: insufficient_quota") as caught:
        await run(agent_for("hf:org/x", everywhere))
    assert caught.value.kind == "quota"


@pytest.mark.parametrize("name", FORMS)
async def test_the_status_of_a_packed_error_is_enough(everywhere: ChatServer, name: str) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(402)
        handler.send_header("content-encoding", "gzip")
        handler.end_headers()
        handler.wfile.write(gzip.compress(bytes(1 << 26)))

    everywhere.answer = answer
    with pytest.raises(ModelError) as caught:
        await run(agent_for(name, everywhere))
    assert caught.value.kind == "quota"
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("status", "text"), NO_QUOTA)
async def test_an_empty_account_is_told_once(
    everywhere: ChatServer, status: int, text: str
) -> None:
    error = await refuse(everywhere, "hf:org/x", status, text)
    assert error.kind == "quota"
    assert "no quota or credit is left (" in str(error)
    assert "key" not in str(error)
    assert len(everywhere.requests) == 1
    if status != 402:  # in a stream there is no status
        assert (await fault("m", StreamError(json.loads(text)))).kind == "quota"


@pytest.mark.parametrize(("status", "text"), PASSING)
async def test_what_passes_is_asked_again(everywhere: ChatServer, status: int, text: str) -> None:
    error = await refuse(everywhere, "hf:org/x", status, text)
    assert error.kind in ("rate_limit", "server")
    assert len(everywhere.requests) == 3


async def test_a_call_that_the_server_could_not_read_is_asked_for_again(
    everywhere: ChatServer,
) -> None:
    said = "Failed to call a function. Please adjust your prompt. See 'failed_generation'"
    body = {"message": said, "type": "invalid_request_error", "code": "tool_use_failed"}
    error = await refuse(everywhere, "hf:org/x", 400, json.dumps({"error": body}))
    assert error.kind == "protocol"
    assert f"could not read (400: {said})" in str(error)
    assert len(everywhere.requests) == 3


async def test_a_wait_is_read_where_it_stands_in_words(everywhere: ChatServer) -> None:
    error = await refuse(everywhere, "hf:org/x", 429, "slow down; Please try again in 14m24.5s.")
    assert error.retry_after == 864.5
    assert len(everywhere.requests) == 1


@pytest.mark.parametrize(("status", "text"), REFUSED)
async def test_what_cannot_be_served_is_told_once(
    everywhere: ChatServer, status: int, text: str
) -> None:
    error = await refuse(everywhere, "hf:org/x", status, text)
    assert error.kind == "bad_request"
    assert len(everywhere.requests) == 1 + (status == 400)  # without what nobody asked for


@pytest.mark.parametrize(("status", "text", "window"), TOO_LONG)
async def test_a_run_that_is_too_long_is_known_and_its_window_learnt(
    everywhere: ChatServer, status: int, text: str, window: int | None
) -> None:
    error = await refuse(everywhere, "hf:org/x", status, text)
    assert (error.kind, error.window) == ("context", window)
    if status not in (413, 429):
        told = await fault("m", StreamError(text))
        assert (told.kind, told.window) == ("context", window)


async def test_a_window_below_what_has_fitted_is_none(server: ChatServer) -> None:
    _fitted.clear()
    counted = {"prompt_tokens": 5000, "completion_tokens": 100, "total_tokens": 5100}
    too_long = "the context length of 4096 tokens"
    server.replies = [Reply("ok", usage=counted), Reply(too_long, status=400)]
    model = load_model(server.model)
    async for _ in model.stream([{"role": "user", "content": "hello"}]):
        pass
    with pytest.raises(ModelError) as caught:
        await anext(model.stream([{"role": "user", "content": "hello"}]))
    assert (caught.value.kind, caught.value.window) == ("context", None)


@pytest.mark.parametrize("field", ["stream_options", "tools"])
async def test_fields_that_we_add_are_left_out_where_an_error_of_unknown_length_names_them(
    everywhere: ChatServer, field: str
) -> None:
    said = {"detail": [{"type": "extra_forbidden", "loc": ["body", field], "msg": "Extra inputs"}]}
    sent = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        sent.append(everywhere.requests[-1].body)
        if field in sent[-1]:
            say(422, json.dumps(said))(handler)
        else:
            events = [{"choices": [{"delta": {"content": "Done."}, "finish_reason": "stop"}]}]
            stream(handler, events)

    everywhere.answer = answer
    for _ in range(2):
        agent = agent_for(f"hf:org/{field}", everywhere, "tool")
        await run(agent)
        assert agent.transcript.answer == "Done."
    assert [field in body for body in sent] == [True, False, False]


@pytest.mark.parametrize(
    ("name", "field"),
    [("hf:org/x", "stream_options"), ("openai:x", "include"), ("anthropic:x", "cache_control")],
)
async def test_what_nobody_asked_for_is_left_out_where_a_first_refusal_names_nothing(
    everywhere: ChatServer, name: str, field: str
) -> None:
    everywhere.replies = [Reply(**refusal(400, "bad JSON")), Reply("Done."), Reply("Done.")]
    for _ in range(2):
        agent = agent_for(name, everywhere, retries=0)
        await run(agent)
        assert agent.transcript.answer == "Done."
    assert [field in request.body for request in everywhere.requests] == [True, False, False]


async def test_a_field_that_was_not_the_cause_is_sent_again(everywhere: ChatServer) -> None:
    bad = Reply(**refusal(400, "bad JSON"))
    everywhere.replies = [bad, bad, Reply("Done."), bad]
    for said in ("bad JSON", "", "bad JSON"):
        agent = agent_for("hf:org/x", everywhere, retries=0)
        if said:
            with pytest.raises(ModelError, match=said):
                await run(agent)
        else:
            await run(agent)
    sent = ["stream_options" in request.body for request in everywhere.requests]
    assert sent == [True, False, True, True]  # once it was taken, it is not the cause


def stream(
    handler: BaseHTTPRequestHandler, events: list[Any], end: str = "data: [DONE]\n\n"
) -> None:
    """Answer with a stream of events."""
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.end_headers()
    for event in events:
        text = event if isinstance(event, str) else f"data: {json.dumps(event)}\n\n"
        handler.wfile.write(text.encode())
    handler.wfile.write(end.encode())


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ({"error": {"message": "model 'x' not found", "code": 404}}, "bad_request", "no such model or path (model 'x' not found)"),
        ({"error": "model 'x' not found, try pulling it first"}, "bad_request", "no such model or path"),
        ({"error": {"message": "bad key", "type": "authentication_error"}}, "auth", "the key was refused (bad key)"),
        ({"error": {"message": "no", "type": "invalid_request_error"}}, "bad_request", "(no)"),
        ({"error": {"message": "slow", "code": "rate_limit_exceeded"}}, "rate_limit", "(slow)"),
        ({"error": {"message": "full", "type": "overloaded_error"}}, "server", "(full)"),
        ({"error": {"message": "pay", "code": "402"}}, "quota", "(pay)"),
        ({"error": {"message": "Provider returned error", "metadata": {"raw": "the GPU is on fire"}}}, "server", "(Provider returned error: the GPU is on fire)"),
        ({"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}, "quota", "(insufficient balance)"),
        ({"detail": "Not here"}, "server", "(Not here)"),
        ({"error": None}, "server", ""),
        ({"error": {"message": "\x1b[31mred\nline\u202e"}}, "server", "([31mred line)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("as_event", [True, False])
async def test_an_error_where_a_reply_was_to_come_is_read(
    everywhere: ChatServer, body: dict[str, Any], kind: str, said: str, as_event: bool
) -> None:
    everywhere.answer = lambda handler: stream(
        handler, [body if as_event else json.dumps(body, indent=1)], end=""
    )
    with pytest.raises(ModelError) as caught:
        await run(agent_for("hf:org/x", everywhere, retries=0))
    assert caught.value.kind == kind
    assert said in str(caught.value)
    assert str(caught.value).isprintable()
