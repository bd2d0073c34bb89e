"""Tell from a server's stop reason whether a reply is complete."""

from __future__ import annotations

from jupyter_agent.errors import ModelError
from jupyter_agent.models.faults import cut_short, tidy

__all__ = ["unfinished"]

_WHOLE = frozenset(
    "stop end_turn stop_sequence eos_token eos end complete completed done "
    "tool_calls tool_call tool_use function_call".split()
)
_LIMITS = frozenset(
    "length max_tokens max_output_tokens max_completion_tokens model_length "
    "model_context_window_exceeded".split()
)
_REFUSALS = frozenset(
    "refusal content_filter content_filtered safety blocklist prohibited_content recitation spii "
    "guardrail_intervened".split()
)


def unfinished(
    name: str, end: str | None, *, refusal: str = "", is_open: bool = False
) -> ModelError | None:
    """Return the error about an incomplete reply; None if it is complete.

    Parameters
    ----------
    name
        The model.
    end
        The server's stop reason; empty or None if there is none.
    refusal
        The text with which the model declined.
    is_open
        Whether a block of code is not closed; then a good stop reason is needed.
    """
    word = (end or "").strip().lower()
    if refusal.strip() or word in _REFUSALS:
        return _refused(name, refusal, word)
    if word in _LIMITS:
        return cut_short(name)
    if word in _WHOLE or (not word and not is_open):
        return None
    how = (
        f"ended its reply with {word[:40]!a}"
        if word
        else "ended its reply in the middle of a block"
    )
    return ModelError(f"{name} {how}, so it may not be complete; try again", kind="truncated")


def _refused(name: str, refusal: str, word: str) -> ModelError:
    words = tidy(refusal)
    who = (
        f"{name} refused to reply"
        if words or word == "refusal"
        else (f"a filter of {name}'s service stopped the reply ({word})")
    )
    because = f": {words.rstrip('.')}" if words else ""
    return ModelError(f"{who}{because}; rephrase the task, or use another model", kind="refused")
