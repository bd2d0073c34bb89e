"""Every fault of a server, for every adapter, through the real clients: what is left of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from jupyter_agent.agent.loop import Agent
from jupyter_agent.agent.retries import Retries
from jupyter_agent.errors import LimitReached, ModelError
from jupyter_agent.models import load_model
from jupyter_agent.models.protocol import Form
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Transcript
from jupyter_agent.transcript.usage import TotalUsage

from .conftest import ROOT, TOKEN
from .faults import FAULTS, FORMS, Fault, refusal, reply
from .servers import ChatServer, Reply
from .test_agent import Echo, roles

RESULTS = ROOT / "tests" / "screenshots" / "faults.json"  # benchmarks/fault_table.py reads it


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, dict[str, Any]]]:
    """What was found of each fault, by adapter."""
    found: dict[str, dict[str, Any]] = {}
    yield found
    if len(found) == len(FAULTS):
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=1))


def agent_for(
    name: str, server: ChatServer, form: Form | None = None, *, options: Any = None, **limits: Any
) -> Agent:
    model = load_model(name.replace("http://URL/v1", server.url), form=form, options=options)
    settings = {"retry_wait": 0.0, "retries": 1} | limits
    return Agent(model, Echo(), Transcript(), **settings)


async def run(agent: Agent, task: str = "Do it") -> list[str]:
    """Carry out a task; return what was shown while it waited."""
    waits = []
    async with aclosing(agent.run(task)) as changes:
        async for change in changes:
            if change.cell.metadata[KEY]["role"] == "wait" and change.cell.source:
                waits.append(change.cell.source)
    return waits


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_is_told_in_one_line_and_runs_nothing(
    everywhere: ChatServer, results: dict[str, dict[str, Any]], fault: Fault, name: str
) -> None:
    form = FORMS[name]
    everywhere.replies = [fault.reply(form), fault.reply(form)]
    agent = agent_for(name, everywhere, form, **fault.limits)  # type: ignore[arg-type]
    with pytest.raises(ModelError) as caught:
        await run(agent)
    error = caught.value
    assert fault.said in str(error)
    assert "\n" not in str(error)
    assert agent.model.name in str(error)
    assert error.kind == fault.kind
    assert error.window == (8192 if error.kind == "context" else None)
    assert len(everywhere.requests) == 1 + fault.again + fault.anew
    assert roles(agent) == ["task", "end"]
    line, _, kept = agent.transcript.cells[-1].source.partition("\n\n")
    assert line == f"*Stopped: {error}{'' if str(error).endswith('?') else '.'}*"
    assert kept == "" or kept.startswith("*The reply was not finished, and nothing of it was run:*")
    assert agent.sandbox.ran == []  # type: ignore[attr-defined]
    if fault.facts.get("fault") in ("slow", "stall", "endless"):
        assert await asyncio.to_thread(everywhere.hung_up.wait, 10)
    sent = [str(request.headers) + str(request.raw) for request in everywhere.requests]
    assert [TOKEN in each for each in sent] == [name.startswith("hf:")] * len(sent)
    text = str(error).removeprefix(agent.model.name).removeprefix(":").strip()
    results.setdefault(fault.name, {})[name] = {
        "kind": error.kind,
        "text": text,
        "again": fault.again,
    }


@pytest.mark.parametrize("name", ["openai:x", "anthropic:x", "hf:org/x"])
@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if fault.again], ids=lambda fault: fault.name
)
async def test_a_fault_that_passes_is_waited_out_in_sight(
    everywhere: ChatServer, fault: Fault, name: str
) -> None:
    form = FORMS[name]
    everywhere.replies = [fault.reply(form), Reply("Done.")]
    agent = agent_for(name, everywhere, form, **fault.limits)  # type: ignore[arg-type]
    [wait] = await run(agent)
    assert fault.said in wait
    assert wait.startswith("*Asking again in 0 s. ")
    assert roles(agent) == ["task", "prose"]
    assert agent.transcript.answer == "Done."
    assert agent.sandbox.ran == []  # type: ignore[attr-defined]
    first, second = everywhere.requests
    assert first.raw == second.raw


@pytest.mark.parametrize("name", FORMS)
async def test_characters_may_be_cut_across_writes(everywhere: ChatServer, name: str) -> None:
    everywhere.replies = [Reply("Grüße aus Köln 🌍", fault="split")]
    agent = agent_for(name, everywhere)
    await run(agent)
    assert agent.transcript.answer == "Grüße aus Köln 🌍"
    assert len(everywhere.requests) == 1


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("status", [400, 422])
async def test_a_field_refused_by_name_is_left_out_from_then_on(
    everywhere: ChatServer, name: str, status: int
) -> None:
    said = "Unsupported parameter: 'temperature' is not supported with this model"
    everywhere.replies = [Reply(**refusal(status, said)), Reply("One."), Reply("Two.")]
    options = {"temperature": 0.5, "top_p": 0.9}
    name = f"{name}-{status}"  # what is learnt is learnt for one model of one server
    for answer in ("One.", "Two."):
        agent = agent_for(name, everywhere, options=options)
        assert await run(agent) == []
        assert agent.transcript.answer == answer
    sent = [request.body.get("temperature") for request in everywhere.requests]
    assert sent == [0.5, None, None]
    assert all(request.body["top_p"] == 0.9 for request in everywhere.requests)


@pytest.mark.parametrize("name", FORMS)
async def test_where_tools_are_refused_the_model_is_asked_for_text(
    everywhere: ChatServer, name: str
) -> None:
    everywhere.replies = [
        Reply(**refusal(400, "org/x does not support tools")),
        reply("text"),
        Reply("Done."),
    ]
    agent = agent_for(f"{name}-toolless", everywhere, "tool")
    await run(agent)
    assert agent.sandbox.ran == ["boom()"]  # type: ignore[attr-defined]
    with_tools, *without = everywhere.requests
    assert "tools" in with_tools.body
    assert all("tools" not in request.body for request in without)
    assert b"```python" not in with_tools.raw
    assert b"```python" in without[0].raw


async def test_anthropics_limit_is_learnt_from_its_refusal(everywhere: ChatServer) -> None:
    said = "max_tokens: 16000 > 4096, which is the maximum allowed number of output tokens for x"
    everywhere.replies = [Reply(**refusal(400, said)), Reply("Done.")]
    await run(agent_for("anthropic:x", everywhere))
    assert [request.body["max_tokens"] for request in everywhere.requests] == [16000, 4096]


async def test_a_wait_ends_at_once_when_the_run_is_stopped(everywhere: ChatServer) -> None:
    everywhere.replies = [Reply(**refusal(429, "later", **{"retry-after": "60"}))]
    agent = agent_for("hf:org/x", everywhere)
    changes = agent.run("Do it")
    async for change in changes:
        if change.cell.metadata[KEY]["role"] == "wait":
            break
    assert "Asking again in 6" in change.cell.source
    step = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    step.cancel()
    async with asyncio.timeout(10):
        assert (await step).cell is change.cell
        assert change.cell.source == ""
        assert (await anext(changes)).cell.source == "*Stopped: interrupted.*"
        with pytest.raises(asyncio.CancelledError):
            await anext(changes)


async def test_waits_grow_and_never_outlast_their_limit(everywhere: ChatServer) -> None:
    later = refusal(500, **{"retry-after": "4000"})
    everywhere.replies = [Reply(**refusal(500)), Reply(**later), Reply("too late")]
    retries = Retries(20, seconds=3600, first_wait=0.01)
    for tried in range(20):
        seconds = retries.next_wait(ModelError("", kind="server"))
        assert seconds
        assert min(0.01 * 2**tried, 30) / 2 <= seconds <= min(0.01 * 2**tried, 30)
    assert retries.next_wait(ModelError("", kind="server")) is None
    agent = agent_for("hf:org/x", everywhere, retry_wait=0.01, retries=8, retry_seconds=3600)
    shown = 0
    with pytest.raises(ModelError):
        shown = len(await run(agent))
    assert len(everywhere.requests) == 2
    assert shown == 0


async def test_replies_that_broke_off_count_in_the_budget(everywhere: ChatServer) -> None:
    everywhere.replies = [reply("text", "no end mark") for _ in range(9)]
    first = agent_for("hf:org/x", everywhere, retries=0)
    with pytest.raises(ModelError):
        await run(first)
    assert first.budget.used.tokens > 100
    everywhere.requests.clear()
    agent = agent_for(
        "hf:org/x", everywhere, retries=7, token_budget=first.budget.used.tokens * 5 // 2
    )
    with pytest.raises(LimitReached, match="tokens are used"):
        await run(agent)
    assert len(everywhere.requests) == 2


@pytest.mark.parametrize("name", FORMS)
async def test_tries_that_failed_are_on_the_bill(everywhere: ChatServer, name: str) -> None:
    form: Form = FORMS[name]  # type: ignore[assignment]  # it is one of the two
    broken = reply(form, "no end mark")
    counted = {"prompt_tokens": 700, "completion_tokens": 5, "total_tokens": 705}
    everywhere.replies = [broken, broken, Reply("Done.", usage=counted)]
    agent = agent_for(name, everywhere, form, retries=2)
    await run(agent)
    facts = agent.transcript.cells[-1].metadata[KEY]
    assert facts["usage"]["prompt"] == 700
    assert [try_["estimated"] for try_ in facts["failed"]] == [True, True]
    usage = agent.transcript.total_usage
    assert usage.tokens == agent.budget.used.tokens > 705 + 2 * 100
    assert usage.estimated

    everywhere.replies = [broken, broken]
    agent = agent_for(name, everywhere, form)
    with pytest.raises(ModelError):
        await run(agent)
    assert roles(agent) == ["task", "end"]
    assert agent.transcript.total_usage.tokens == agent.budget.used.tokens > 2 * 100


async def test_what_was_counted_of_a_reply_that_broke_off_is_believed(
    everywhere: ChatServer,
) -> None:
    counted = {"prompt_tokens": 700, "completion_tokens": 5, "total_tokens": 705}
    text = "word " * 100
    everywhere.replies = [Reply(text, usage=counted, fault="no end mark")]
    agent = agent_for("anthropic:x", everywhere, retries=0)  # it counts the prompt at the start
    with pytest.raises(ModelError):
        await run(agent)
    assert agent.transcript.total_usage == TotalUsage(
        700, len(text) // 4, estimated=True, unpriced=True
    )


@pytest.mark.parametrize("form", ["text", "tool"])
@pytest.mark.parametrize("name", FORMS)
async def test_breaking_off_stops_the_servers_generation(
    everywhere: ChatServer, name: str, form: Form
) -> None:
    everywhere.replies = [Reply("start", fault="endless")]
    agent = agent_for(name, everywhere, form)
    async with aclosing(agent.run("Do it")) as changes:
        async for change in changes:
            if change.cell.metadata[KEY]["role"] == "prose":
                break
    assert await asyncio.to_thread(everywhere.hung_up.wait, 10)
    assert roles(agent) == ["task", "end"]
