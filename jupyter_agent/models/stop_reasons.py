"""Tell from a server's stop reason whether a reply is whole."""

from __future__ import annotations

from jupyter_agent.errors import ModelError
from jupyter_agent.models.faults import cut_short

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
    """Say why a reply is not whole; None if it is.

    Parameters
    ----------
    name
        The model.
    end
        Why the reply ended, as the server says; empty or None if it does not.
    refusal
        The words by which the model declined.
    is_open
        Whether a block of code is open, which only a good reason makes whole.
    """
    word = (end or "").strip().lower()
    if refusal.strip() or word in _REFUSALS:
        return _refused(name, refusal, word)
    if word in _LIMITS:
        return cut_short(name)
    if word in _WHOLE or (not word and not is_open):
        return None
    how = (
        f"ended its reply by {word[:40]!a}" if word else "ended its reply in the middle of a block"
    )
    return ModelError(f"{name} {how}, which makes it no whole one; try again", kind="truncated")


def _refused(name: str, refusal: str, word: str) -> ModelError:
    said = " ".join(refusal.split())
    words = f"{said[:200]}…" if len(said) > 200 else said
    who = (
        f"{name} refused to reply"
        if words or word == "refusal"
        else (f"a filter of {name}'s service stopped the reply ({word})")
    )
    because = f": {words.rstrip('.')}" if words else ""
    return ModelError(f"{who}{because}; ask in other words, or another model", kind="refused")
