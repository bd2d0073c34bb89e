"""Real services, each skipped without its key: ``make live`` lists them and asks those it can."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_output

from jupyter_agent.agent.loop import Agent
from jupyter_agent.models import load_model
from jupyter_agent.models.chat_completions import HUB_DEFAULT
from jupyter_agent.models.protocol import Form
from jupyter_agent.transcript.metadata import KEY

from .test_agent import Echo

# before any fixture: the tests' environment has no keys
_ENVIRONMENT = dict(os.environ)
SERVICES = {  # what is asked, and what it needs in the environment
    os.environ.get("LIVE_HUB", HUB_DEFAULT): "HF_TOKEN",
    os.environ.get("LIVE_OPENAI", "openai:gpt-5-mini"): "OPENAI_API_KEY",
    os.environ.get("LIVE_ANTHROPIC", "anthropic:claude-sonnet-4-5"): "ANTHROPIC_API_KEY",
    os.environ.get("LIVE_URL", "http://HOST/v1#NAME"): "LIVE_URL",
    os.environ.get("LIVE_OLLAMA", "ollama:NAME"): "LIVE_OLLAMA",
}


class Shell(Echo):
    """A kernel that says what the right code would put out."""

    async def execute(self, code: str) -> AsyncGenerator[NotebookNode, None]:
        self.ran.append(code)
        yield new_output("stream", name="stdout", text="391\n")


@pytest.mark.live
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SERVICES)
async def test_a_service_carries_a_task_to_its_answer(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = SERVICES[name]
    if not _ENVIRONMENT.get(key):
        pytest.skip(f"set {key} to try {name}")
    for variable, value in _ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    forms: list[Form] = ["text", "tool"]
    for form in forms:
        await carry_out(name, form)


async def carry_out(name: str, form: Form) -> None:
    model = load_model(name, form=form)
    await model.check()
    agent = Agent(model, Shell())
    async with aclosing(agent.run("Compute 17 * 23 with Python, then tell me.")) as changes:
        async for _ in changes:
            pass
    assert agent.sandbox.ran  # type: ignore[attr-defined]
    assert "391" in agent.transcript.answer
    usage = agent.transcript.cells[-1].metadata[KEY]["usage"]
    print(f"{name} as {model.form}: window {model.window}, last reply {usage}")
