"""Ends of replies: which of them make a reply whole."""

from __future__ import annotations

import pytest

from jupyter_agent.models.stop_reasons import unfinished


@pytest.mark.parametrize(
    "end", ["stop", "STOP", "end_turn", "tool_calls", "tool_use", "eos_token", "stop_sequence"]
)
@pytest.mark.parametrize("is_open", [False, True])
def test_a_good_reason_makes_a_reply_whole(end: str, is_open: bool) -> None:
    assert unfinished("m", end, is_open=is_open) is None


@pytest.mark.parametrize("end", ["", None])
def test_an_end_without_a_reason_makes_whole_what_is_not_open(end: str | None) -> None:
    assert unfinished("m", end) is None
    problem = unfinished("m", end, is_open=True)
    assert problem
    assert problem.kind == "truncated"
    assert problem.passing


@pytest.mark.parametrize("end", ["error", "insufficient_system_resource", "pause_turn", "x\x1b"])
def test_an_unknown_end_makes_no_reply_whole(end: str) -> None:
    problem = unfinished("m", end)
    assert problem
    assert problem.kind == "truncated"
    assert problem.passing
    assert str(problem).isprintable()


@pytest.mark.parametrize("end", ["length", "max_tokens", "model_length"])
def test_a_limit_is_not_reached_twice(end: str) -> None:
    problem = unfinished("m", end)
    assert problem
    assert problem.kind == "truncated"
    assert not problem.passing
    assert "limit" in str(problem)


@pytest.mark.parametrize(
    ("end", "refusal", "said"),
    [
        ("refusal", "", "m refused to reply; rephrase"),
        (
            "stop",
            "I can't help\nwith that.",
            "m refused to reply: I can't help with that; rephrase",
        ),
        ("stop", "\x1b[2JNo\u202e.", "m refused to reply: [2JNo; rephrase"),
        (
            "content_filter",
            "",
            "a filter of m's service stopped the reply (content_filter); rephrase",
        ),
    ],
)
def test_a_refusal_is_said_and_not_asked_again(end: str, refusal: str, said: str) -> None:
    problem = unfinished("m", end, refusal=refusal)
    assert problem
    assert problem.kind == "refused"
    assert not problem.passing
    assert str(problem).startswith(said)
