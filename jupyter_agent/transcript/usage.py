"""Add up what replies cost, in tokens and in money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jupyter_agent.models.protocol import number

__all__ = ["TotalUsage"]


@dataclass(slots=True)
class TotalUsage:
    """The sum of what replies cost, as their cells record it."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    cost: float | None = None  # US dollars; None while no server has named a price
    estimated: bool = False  # a server did not count
    unpriced: bool = False  # a server named no price

    def add(self, facts: Mapping[str, Any]) -> None:
        """Add the cost that a cell records: of its reply, and of the failed tries before it."""
        for usage in (facts.get("usage"), *facts.get("failed", ())):
            if isinstance(usage, Mapping):
                self._add(usage)

    def _add(self, usage: Mapping[str, object]) -> None:
        """Add the cost of a reply; values that are not numbers, in a forged file, count as 0."""
        tokens = [int(number(usage.get(name)) or 0) for name in ("prompt", "completion", "cached")]
        self.prompt += tokens[0]
        self.completion += tokens[1]
        self.cached += tokens[2]
        self.estimated |= bool(usage.get("estimated"))
        cost = number(usage.get("cost"))
        if cost is not None:
            self.cost = (self.cost or 0) + cost
        elif any(tokens):
            self.unpriced = True

    @property
    def tokens(self) -> int:
        """Tokens read and written."""
        return self.prompt + self.completion

    def __str__(self) -> str:
        about = "~" * self.estimated
        cached = f" ({self.cached:,} cached)" if self.cached else ""
        parts = [f"{about}{self.prompt:,} tokens in{cached}", f"{about}{self.completion:,} out"]
        if self.cost is not None:
            parts.append("at least " * self.unpriced + _price(self.cost))
        return ", ".join(parts)


def _price(dollars: float) -> str:
    return "< $0.0001" if 0 < dollars < 0.0001 else f"${dollars:,.4f}"
