"""``%agent models``, ``use`` and ``status``, in a session whose sandbox need not start."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jupyter_core.paths import jupyter_config_dir

from jupyter_agent import settings
from jupyter_agent.errors import UsageError
from jupyter_agent.frontends.commands import carry_out
from jupyter_agent.frontends.completion import known_models
from jupyter_agent.session import Session
from jupyter_agent.views.tables import table

from .servers import ChatServer

pytestmark = pytest.mark.usefixtures("no_ollama")


@pytest.fixture
def session(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.chdir(folder)
    (folder / "s.md").write_text("Done.\n")
    return Session(folder)


async def said(session: Session, command: str) -> str:
    return (await carry_out(session, command))["text/plain"]


async def test_the_status_is_a_table_for_pages_and_for_terminals(session: Session) -> None:
    shown = await carry_out(session, "status")
    assert "model     none yet; %agent models lists" in shown["text/plain"]
    assert "sandbox   starts with the next run" in shown["text/plain"]
    assert re.search(r">sandbox</td><td style=[^>]+>starts with", shown["text/html"])


async def test_a_command_with_words_after_it_is_said_to_take_none(session: Session) -> None:
    with pytest.raises(UsageError, match="write it as: %agent status; nothing stands after it"):
        await carry_out(session, "status now")


async def test_the_models_are_a_table_with_a_line_to_copy(
    session: Session, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", server.url.removesuffix("/v1"))
    server.listed = [{"id": "qwen3"}]
    shown = await carry_out(session, "models")
    assert "%agent use ollama:qwen3" in shown["text/plain"].splitlines()[1]
    assert "<code>%agent use ollama:qwen3</code>" in shown["text/html"]
    assert "model: %agent use http://127.0.0.1:8000/v1#NAME" in " ".join(
        shown["text/plain"].split()
    )
    assert "set OPENAI_API_KEY" in shown["text/plain"]


async def test_a_model_that_is_chosen_is_that_of_the_next_runs(
    session: Session, folder: Path
) -> None:
    assert await said(session, "use scripted:s.md") == "The next runs use scripted:s.md."
    assert session.status()["model"] == "scripted:s.md"
    assert session.model == ""
    assert not Path(jupyter_config_dir()).exists()


async def test_a_model_that_cannot_be_used_is_refused_and_changes_nothing(
    session: Session,
) -> None:
    await said(session, "use ollama:x")
    for model, why in {"gpt-5": "is it openai:gpt-5", "openai:x": "set OPENAI_API_KEY"}.items():
        with pytest.raises(UsageError, match=why):
            await carry_out(session, f"use {model} --save")
    assert session.chosen == "ollama:x"
    for words in ("use", "use a b", "use --save"):
        with pytest.raises(UsageError, match="write it as: %agent use MODEL"):
            await carry_out(session, words)
    assert settings.read().files == ()


async def test_a_model_that_its_server_does_not_list_is_chosen_with_a_warning(
    session: Session, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", server.url.removesuffix("/v1"))
    server.listed = [{"id": "qwen3:latest"}]
    assert await said(session, "use ollama:qwen3") == "The next runs use ollama:qwen3."
    warning = "Its server does not list it: it has qwen3:latest."
    for model in ("ollama:nosuch", f"{server.url}#nosuch"):
        assert await said(session, f"use {model}") == f"The next runs use {model}. {warning}"


async def test_save_keeps_all_else_in_the_users_file(session: Session) -> None:
    path = Path(jupyter_config_dir(), "jupyter_agent_config.json")
    path.parent.mkdir()
    before: dict[str, dict[str, object]] = {
        "Session": {"ask": "always"},
        "Agent": {"max_steps": 3},
    }
    path.write_text(json.dumps(before))
    shown = await said(session, "use ollama:x --save")
    assert str(path) in shown
    before["Session"]["model"] = "ollama:x"
    assert json.loads(path.read_text()) == before
    assert Session().status()["model"] == "ollama:x"


async def test_a_file_that_is_chosen_for_good_is_found_from_elsewhere(
    session: Session, folder: Path
) -> None:
    await said(session, "use scripted:s.md --save")
    assert session.model == f"scripted:{folder / 's.md'}"


async def test_a_file_that_cannot_be_read_is_left_alone(session: Session) -> None:
    path = Path(jupyter_config_dir(), "jupyter_agent_config.json")
    path.parent.mkdir()
    path.write_text("{broken")
    with pytest.raises(UsageError, match="cannot use the settings in"):
        await carry_out(session, "use ollama:x --save")
    assert path.read_text() == "{broken"
    assert session.chosen == ""


async def test_models_that_were_used_are_offered_again(session: Session, folder: Path) -> None:
    (folder / "t.md").write_text("Done too.\n")
    try:
        for model in ("scripted:s.md", "scripted:t.md", "scripted:s.md"):
            async for _ in session.run("Go.", model=model):
                pass
    finally:
        await session.close()
    await said(session, "use ollama:x")
    assert session.used == ["scripted:s.md", "scripted:t.md"]
    offered = known_models(session, "openai:y")
    assert offered == ("ollama:x", "openai:y", "scripted:s.md", "scripted:t.md")


async def test_a_chosen_server_gets_no_key_that_is_for_another(
    session: Session, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_AGENT_API_KEY", "sk-ours")
    monkeypatch.setenv("JUPYTER_AGENT_MODEL", "http://127.0.0.1:9/v1#mine")
    await said(session, f"use {server.model}")
    url, headers = session._model("").list_request()  # type: ignore[attr-defined]
    assert (url, headers) == (f"{server.url}/models", {})


def test_a_table_shows_text_as_text() -> None:
    shown = table(["a", "b"], [["<b>&", "run `x $y$` now"], ["long", "`one line to copy` " * 1]])
    assert "&lt;b&gt;&amp;</td>" in shown["text/html"]
    assert "run <code>x $y$</code> now</td>" in shown["text/html"]
    assert shown["text/plain"].splitlines()[1] == "<b>&  run x $y$ now"


def test_a_line_to_copy_stays_on_one_line() -> None:
    line = f"%agent use local:{'/folder' * 30}/file.gguf"
    shown = table(["a", "b"], [["x", f"`{line}`"], ["y", "word " * 40]])["text/plain"]
    assert shown.splitlines()[1] == f"x  {line}"
    assert max(map(len, shown.splitlines()[2:])) <= 110


def test_code_within_a_text_stays_on_one_line() -> None:
    lines = table(["a", "b"], [["x", f"{'word ' * 20}`jupyter run -m x`, then"]])["text/plain"]
    assert "jupyter run -m x, then" in [line.strip() for line in lines.splitlines()]
