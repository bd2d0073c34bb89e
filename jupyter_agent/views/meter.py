"""Measure what a run has used, with the reply that is on its way."""

from __future__ import annotations

from typing import Any, Protocol

from jupyter_agent.transcript.usage import TotalUsage

__all__ = ["Spending", "usage_facts"]


class Spending(Protocol):
    """What a run has used, and estimates of the request and the reply that go on."""

    used: TotalUsage
    limit: int
    asked: int
    written: int


def usage_facts(used: TotalUsage, spending: Spending | None) -> dict[str, Any]:
    """Return the tokens and the money of a run, for its header.

    Parameters
    ----------
    used
        As the cells of the run record it: all that is known of a run that is replayed.
    """
    asked, written, limit = 0, 0, 0
    if spending:
        used = spending.used
        asked, written, limit = spending.asked, spending.written, spending.limit
    return {
        "tokens": used.tokens + asked + written,
        "tokens_in": used.prompt + asked,
        "tokens_out": used.completion + written,
        "estimated": used.estimated or asked > 0,
        "cost": used.cost,
        "unpriced": used.unpriced,
        "limit": limit,
    }
