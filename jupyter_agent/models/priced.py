"""A model whose replies have the price that the user has set."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace

from jupyter_agent.errors import UsageError
from jupyter_agent.models.protocol import Delta, Form, Message, Model, Usage, number

__all__ = ["PricedModel", "with_price"]

_MILLION = 1e6


class PricedModel:
    """A model, with the price of its tokens where its server names none.

    Parameters
    ----------
    read, written, cached
        US dollars for a million tokens.
    """

    def __init__(self, model: Model, *, read: float, written: float, cached: float) -> None:
        self._model = model
        self._read, self._written, self._cached = read, written, cached
        self.name = model.name
        self.window = model.window

    @property
    def form(self) -> Form:
        """The form in which the model is asked to reply."""
        return self._model.form

    async def check(self) -> None:
        """Raise UsageError if it is certain that no reply will come."""
        await self._model.check()
        self.window = self._model.window

    async def stream(self, messages: list[Message]) -> AsyncGenerator[Delta, None]:
        """Yield the reply to ``messages`` piece by piece."""
        async with aclosing(self._model.stream(messages)) as deltas:
            async for delta in deltas:
                self.window = self._model.window
                usage = delta.usage
                if usage and usage.cost is None:
                    delta = replace(delta, usage=replace(usage, cost=self._cost(usage)))
                yield delta

    def _cost(self, usage: Usage) -> float:
        cached = min(usage.cached, usage.prompt)
        read = (usage.prompt - cached) * self._read + cached * self._cached
        return (read + usage.completion * self._written) / _MILLION


def with_price(model: Model, name: str, prices: Mapping[str, object]) -> Model:
    """Give a model the price that the user has set for its name, if there is one.

    Raises
    ------
    UsageError
        The price is not two or three numbers.
    """
    if name not in prices:
        return model
    price = prices[name]
    numbers = [number(each) for each in price] if isinstance(price, list | tuple) else []
    match numbers:
        case [float() | int() as read, float() | int() as written]:
            cached = read
        case [float() | int() as read, float() | int() as written, float() | int() as cached]:
            pass
        case _:
            raise UsageError(
                f"c.Session.prices: {price!r} for {name!r} is no price; write [IN, OUT] or "
                "[IN, OUT, CACHED], in US dollars for a million tokens"
            )
    return PricedModel(model, read=read, written=written, cached=cached)
