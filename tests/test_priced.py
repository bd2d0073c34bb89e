"""What a reply costs where the user has set the price, and while it is on its way."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from jupyter_agent.errors import UsageError
from jupyter_agent.session import Session
from jupyter_agent.views.meter import usage_facts

from .servers import ChatServer, Reply

COUNTED = {"prompt_tokens": 1000, "completion_tokens": 20}
CACHED = {**COUNTED, "prompt_tokens_details": {"cached_tokens": 800}}


async def cost_of(
    folder: Path, server: ChatServer, prices: object, usage: dict[str, Any]
) -> float | None:
    server.replies = [Reply("It is 4.", usage=usage)]
    session = Session(folder, prices={server.model: prices})
    async with aclosing(session.run("Go", model=server.model)) as changes:
        async for _ in changes:
            pass
    await session.close()
    return session.transcript.total_usage.cost


@pytest.mark.parametrize(
    ("prices", "usage", "cost"),
    [
        ([2, 10], COUNTED, 0.0022),
        ([2, 10], CACHED, 0.0022),
        ([2, 10, 0.5], CACHED, 0.001),
        ([0, 0], COUNTED, 0),
        ([2, 10], {**COUNTED, "cost": 0.5}, 0.5),  # the service knows better
    ],
)
async def test_a_price_of_the_users_makes_money_of_tokens(
    folder: Path, server: ChatServer, prices: object, usage: dict[str, Any], cost: float
) -> None:
    assert await cost_of(folder, server, prices, usage) == pytest.approx(cost)


@pytest.mark.parametrize("prices", [3, "ab", [1], [1, "2"], [1, -2], [1, 2, 3, 4], [True, 1], None])
async def test_what_is_no_price_is_refused(
    folder: Path, server: ChatServer, prices: object
) -> None:
    with pytest.raises(UsageError, match=r"c\.Session\.prices: .* is no price; write \[IN, OUT\]"):
        await cost_of(folder, server, prices, COUNTED)
    assert server.requests == []


async def test_a_reply_is_counted_before_it_has_come(folder: Path, server: ChatServer) -> None:
    gate = threading.Event()
    server.replies = [Reply("It is 4.", gate=gate, usage=COUNTED)]
    session = Session(folder)

    async def work() -> None:
        async with aclosing(session.run("Go on " * 400, model=server.model, budget=50_000)) as run:
            async for _ in run:
                pass

    working = asyncio.create_task(work())
    while not (session.budget and session.budget.asked):  # the test's time is limited
        await asyncio.sleep(0.01)
    facts = usage_facts(session.transcript.total_usage, session.budget)
    gate.set()
    await working
    assert facts["tokens_in"] > 600
    assert (facts["tokens_out"], facts["estimated"], facts["limit"]) == (0, True, 50_000)
    facts = usage_facts(session.transcript.total_usage, session.budget)
    await session.close()
    assert (facts["tokens_in"], facts["tokens_out"], facts["estimated"]) == (1000, 20, False)
