"""Model strings, scripted replies, and what is asked before a run starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jupyter_agent.errors import ModelError, NoModel, UsageError
from jupyter_agent.models import choose_model, load_model
from jupyter_agent.models.chat_completions import HUB_DEFAULT
from jupyter_agent.models.scripted import ScriptedModel


def test_the_model_asked_for_wins_then_the_environment_then_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert choose_model() == HUB_DEFAULT
    monkeypatch.setenv("JUPYTER_AGENT_MODEL", "ollama:a")
    assert choose_model() == "ollama:a"
    assert choose_model("openai:b") == "openai:b"
    assert choose_model(used=["ollama:c"]) == "ollama:a"


def test_the_last_model_used_wins_over_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")  # who asked a model here wants nothing sent there
    assert choose_model(used=["ollama:c", "ollama:d"]) == "ollama:c"


def test_without_any_model_the_ways_to_get_one_are_named() -> None:
    with pytest.raises(NoModel, match=r"-m MODEL.*JUPYTER_AGENT_MODEL.*%agent models.*lists"):
        choose_model()


@pytest.mark.usefixtures("no_ollama")
@pytest.mark.parametrize("name", ["gpt", "hf:", "foo:bar", "scripted:", "local:", "", "local-x"])
def test_an_unknown_model_string_names_the_forms(name: str) -> None:
    with pytest.raises(UsageError, match=f"unknown model '{name}': use one of hf:ORG/NAME"):
        load_model(name)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("hf:a/b", "hf auth login"),
        ("openai:x", "set OPENAI_API_KEY"),
        ("http://127.0.0.1:1/v1", "names no model"),
        ("http:///v1#x", "is not a server's URL"),
    ],
)
def test_a_missing_key_or_name_is_one_line(name: str, remedy: str) -> None:
    with pytest.raises(UsageError, match=remedy) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


async def test_a_script_is_played_reply_by_reply(tmp_path: Path) -> None:
    script = tmp_path / "s.md"
    script.write_text("one\n\n```python\n1\n```\n<!-- next reply -->\ntwo\nlines\n")
    model = ScriptedModel.load(str(script))
    assert "".join([d.text async for d in model.stream([])]) == "one\n\n```python\n1\n```"
    assert "".join([d.text async for d in model.stream([])]) == "two\nlines"
    with pytest.raises(ModelError, match="has 2 replies and was asked for one more"):
        await anext(model.stream([]))


@pytest.mark.parametrize("name", ["fifo", "/dev/zero", "."])
def test_a_script_that_may_never_end_is_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match="cannot read the script '.*': it is no regular file"):
        ScriptedModel.load(str(tmp_path / name))


@pytest.mark.parametrize("text", ["", "do\n\n```python\n1\n```\n", "a\n<!-- next reply -->\n"])
def test_a_script_that_must_run_out_is_refused_before_the_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.md").write_text(text)
    with pytest.raises(UsageError, match="has too few replies"):
        ScriptedModel.load(str(tmp_path / "s.md"))


def test_a_script_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the script .*gone.md': No such file"):
        ScriptedModel.load(str(tmp_path / "gone.md"))
    (tmp_path / "s.md").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot read the script"):
        ScriptedModel.load(str(tmp_path / "s.md"))
