"""Tab on the lines of ``%%agent`` and ``%agent``: by itself, in IPython and in both kernels."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

from jupyter_agent.frontends.completion import Sources, complete
from jupyter_agent.frontends.options import CELL_OPTIONS, VALUE_OPTIONS

from .servers import ChatServer

pytestmark = pytest.mark.usefixtures("no_ollama")


def price(item: str) -> float:
    return 1.0


class Shop:
    def order(self) -> None:
        pass

    @property
    def closed(self) -> None:
        raise AssertionError("no code of the user's runs")


NAMES: dict[str, Any] = {
    **{"rows": [1], "day": date(2026, 1, 1), "_hidden": 1, "price": price, "Shop": Shop},
    **{"shop": Shop(), "math": math, "lines": iter([]), "text": "x"},
}


@pytest.fixture
def sources(folder: Path) -> Sources:
    (folder / "my data.csv").touch()
    (folder / "big folder").mkdir()
    return Sources(
        [*CELL_OPTIONS, *VALUE_OPTIONS],
        folder,
        models=("ollama:used", "http://127.0.0.1:1/v1#here"),
        variables=NAMES,
        files=lambda: ["plot.png", "a b.csv"],
    )


def tab(typed: str, sources: Sources) -> list[str] | None:
    """What Tab makes of the text before the cursor, which is a bar."""
    place = typed.index("|")
    code = typed.replace("|", "")
    found = complete(code, place, sources)
    return None if found is None else [code[: found.start] + one.text for one in found.choices]


def words(typed: str, sources: Sources) -> list[str]:
    """The last words of what Tab offers."""
    return [line.rpartition(" ")[2] for line in tab(typed, sources) or []]


@pytest.mark.parametrize(
    "typed",
    ["x|", "%%agent|", "%%agents -|", "%%agent -m x\nHow m|", "%%agent\n%agent st|", "x %agent |"],
)
def test_elsewhere_than_on_our_lines_others_complete(typed: str, sources: Sources) -> None:
    assert tab(typed, sources) is None


def test_flags_come_from_the_options(sources: Sources) -> None:
    flags = [flag for names, _ in sources.options for flag in names]
    assert words("%%agent -|", sources) == flags
    assert words("\n  %%agent --|", sources) == [flag for flag in flags if flag.startswith("--")]
    assert words("%%agent --m|\nHow many?", sources) == ["--model", "--max-steps"]


def test_a_flag_that_is_given_is_offered_again_only_if_it_may_be(sources: Sources) -> None:
    offered = words("%%agent -q -m x -i rows --|", sources)
    assert not {"--quiet", "--model"} & {*offered}
    assert "--input" in offered


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("%%agent --ask |", ["always", "risky", "never"]),
        ("%%agent --ask=r|", ["--ask=risky"]),
        ("%%agent -n |", []),
        ("%%agent -c --sa|", ["--save"]),
        ("%%agent count|", []),
        ("%%agent -i |", ["rows", "day", "text"]),
        ("%%agent -i rows,|", ["rows,day", "rows,text"]),
        ("%%agent -o tex|", ["text"]),
        ("%%agent -t |", ["price", "math"]),
        ("%%agent -t price,math.sq|", ["price,math.sqrt"]),
        ("%%agent -t shop.|", ["shop.order"]),
    ],
)
def test_values_are_of_the_right_kind(typed: str, offered: list[str], sources: Sources) -> None:
    assert words(typed, sources) == offered


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("%%agent --data p|", ["%%agent --data penguins.csv"]),
        ("%%agent --data m|", ["%%agent --data 'my data.csv'"]),
        ("%%agent --data 'my d|'", ["%%agent --data 'my data.csv"]),
        ('%%agent --data "my d|', ['%%agent --data "my data.csv"']),
        (r"%%agent --data my\ d|", ["%%agent --data 'my data.csv'"]),
        ("%%agent --data b|", ["%%agent --data 'big folder/"]),
        ("%%agent --data deep/n|", ["%%agent --data deep/numbers.txt"]),
        ("%%agent --data x deep/s|", ["%%agent --data x deep/server.key"]),
        ("%%agent --data .e|", ["%%agent --data .env"]),
        ("%%agent --data nosuch/|", []),
        ("%%agent --save dee|", ["%%agent --save deep/"]),
        ("%%agent -m scripted:de|", ["%%agent -m scripted:deep/"]),
        ("%agent fetch |", ["%agent fetch plot.png", "%agent fetch 'a b.csv'"]),
        ("%agent fetch plot.png de|", ["%agent fetch plot.png deep/"]),
        ("%agent fetch plot.png --|", ["%agent fetch plot.png --force"]),
        ("x = 1\n%agent st|", ["x = 1\n%agent status", "x = 1\n%agent stop"]),
        ("%agent us|", ["%agent use"]),
        ("%agent fix it well --as|", ["%agent fix it well --ask"]),
        ("%agent use ollama:u|", ["%agent use ollama:used"]),
        ("%agent status |", []),
    ],
)
def test_paths_files_and_commands(typed: str, offered: list[str], sources: Sources) -> None:
    assert tab(typed, sources) == offered


def test_what_is_hidden_is_offered_only_after_a_dot(sources: Sources) -> None:
    assert "penguins.csv" in words("%%agent --data |", sources)
    assert ".env" not in words("%%agent --data |", sources)


def test_models_are_those_in_use_and_those_of_a_running_ollama(
    sources: Sources, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", server.url.removesuffix("/v1"))
    server.listed = [{"id": "qwen3"}, {"id": "x\n%agent"}, {"id": "it's"}]
    offered = words("%%agent -m |", sources)
    assert offered[:3] == ["ollama:used", "http://127.0.0.1:1/v1#here", "ollama:qwen3"]
    assert {"openai:", "hf:", "local"} < {*offered}
    assert words("%%agent -m ollama:q|", sources) == ["ollama:qwen3"]
    assert words("%%agent -m o|", sources) == ["ollama:used", "ollama:qwen3", "ollama:", "openai:"]


def test_only_servers_of_known_models_are_asked(sources: Sources, server: ChatServer) -> None:
    server.listed = [{"id": "small"}, {"id": "large"}]
    assert words(f"%%agent -m {server.url}#|", sources) == []
    known = Sources(sources.options, sources.folder, models=(f"{server.url}#large",))
    assert words(f"%%agent -m {server.url}#|", known) == [
        f"{server.url}#large",
        f"{server.url}#small",
    ]
    assert f"{server.url}#small" in words("%%agent -m |", known)


# -- in kernels


@pytest.fixture(scope="module", params=["python3", "no jedi", "jupyter-agent"])
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[types.SimpleNamespace]:
    folder = tmp_path_factory.mktemp("work")
    (folder / "my data.csv").touch()
    own = request.param != "jupyter-agent"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_HOST", "127.0.0.1:1")
        name = "python3" if own else request.param
        manager, client = start_new_kernel(kernel_name=name, cwd=str(folder))
    if own:
        setup = f"%config Completer.use_jedi = {request.param == 'python3'}"
        code = f"{setup}\n%load_ext jupyter_agent\ndaily = [1]"
        reply = client.execute_interactive(code, timeout=60, output_hook=lambda _: None)
        assert reply["content"]["status"] == "ok"
    yield types.SimpleNamespace(client=client, own=own)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def reply_of(client: BlockingKernelClient, typed: str) -> tuple[str, list[str]]:
    """What a kernel would replace, and by what."""
    place = typed.index("|")
    code = typed.replace("|", "")
    reply = client.complete(code, place, reply=True, timeout=30)["content"]
    assert (reply["status"], reply["cursor_end"]) == ("ok", place)
    return code[reply["cursor_start"] : place], reply["matches"]


def test_a_kernel_completes_our_lines_and_adds_none_of_pythons_names(
    client: types.SimpleNamespace,
) -> None:
    replaced, flags = reply_of(client.client, "%%agent --|\nHow many?")
    assert replaced == "--"
    assert "--model" in flags
    assert all(flag.startswith("--") for flag in flags)
    assert reply_of(client.client, "%%agent -n |") == ("", [])
    assert reply_of(client.client, "%%agent --data 'my|") == ("'my", ["'my data.csv'"])
    assert reply_of(client.client, "%%agent -m open|") == ("open", ["openai:"])
    assert reply_of(client.client, "%agent st|") == ("st", ["status", "stop"])
    assert "--model" in str(reply_of(client.client, "%%agent |")[1])


def test_a_kernel_completes_code_as_before(client: types.SimpleNamespace) -> None:
    assert "isinstance" in reply_of(client.client, "isinst|")[1]
    if client.own:
        assert reply_of(client.client, "%%agent -i dai|") == ("dai", ["daily"])
        assert reply_of(client.client, "dai|")[1] == ["daily"]
        assert "%%agent" in reply_of(client.client, "%%age|")[1]
