"""What tests share: folders with data, a chat server, sandboxes of both tiers."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from traitlets.config import Config

from jupyter_agent.models import available
from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.filter import cleaning

from .servers import ChatServer, descendants

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

    from .lab import Lab

ROOT = Path(__file__).parent.parent
PENGUINS = ROOT / "notebooks" / "data" / "penguins.csv"
TOKEN = "hf_decoy"
TIERS = ["bubblewrap", "landlock"]
OLDER_LAB = os.environ.get("JUPYTER_AGENT_LAB42")  # an environment: see `make front-ends`

# test files run side by side: threads of numpy's that wait for one another would hold them up
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


# files that take longest: whoever runs files side by side begins with them
LONGEST = """test_live_cells test_escape test_lab_saved_notebook test_live_bar test_client
test_agent_kernel test_host_memory test_fuzz_markdown test_lab test_saved_notebook test_confinement
test_lab_agent_kernel test_cli test_settings test_notebooks test_sandboxed_kernel test_values
test_models_faults test_magics test_sandbox_libraries test_path_policy test_models_local
test_end_to_end test_same_notebook test_memory_watch""".split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, and skip what needs root where nobody is root.

    `.ci/run` runs what needs root in a pass of its own.
    """
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    if os.geteuid() != 0:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason="needs root"))


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over the tests themselves, which stay to the end."""
    gc.collect()
    gc.freeze()


@contextmanager
def counted_turns() -> Iterator[Callable[[], int]]:
    """Count how often the event loop comes round meanwhile."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.get_running_loop().create_task(count())
    try:
        yield lambda: turns
    finally:
        counting.cancel()


@pytest.fixture(autouse=True)
def bare_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No key and no default of this machine's decides a test."""
    vendors = ("HF_", "OPENAI_", "ANTHROPIC_", "OLLAMA_", "JUPYTER_AGENT_")
    for name in [name for name in os.environ if name.startswith(vendors)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN_PATH", "/nonexistent/token")
    home = tmp_path_factory.mktemp("config")
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(home / name.lower()))


@pytest.fixture(autouse=True)
def rested_cleaner() -> None:
    """What tests before have had cleaned costs this one nothing."""
    cleaning._cleaners._credit = cleaning.BURST


@pytest.fixture
def fresh_cleaner() -> Iterator[None]:
    """A cleaner that has done nothing, and is gone afterwards."""
    cleaning.end()
    yield
    cleaning.end()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a user has it: data, and secrets beside them."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(PENGUINS, folder)
    (folder / ".env").write_text("OPENAI_API_KEY=sk-secret-in-a-file\n")
    (folder / "deep").mkdir()
    (folder / "deep" / "numbers.txt").write_text("1 2 3\n")
    (folder / "deep" / "server.key").write_text("sk-secret-in-a-key\n")
    return folder


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """A chat server without replies yet."""
    server = ChatServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatServer]:
    """A chat server for all tests of a file; each of them takes its replies away."""
    server = ChatServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    """Chromium, in which a file's tests open their pages."""
    from .lab import browsing

    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module", params=["lab", *(["notebook", "lab42"] if OLDER_LAB else [])])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab with our extension; with an older environment also its front ends."""
    from .lab import FrontEnd, serving

    python = f"{OLDER_LAB}/bin/python" if request.param == "lab42" else sys.executable
    folder, home = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("home")
    with serving(folder, home, FrontEnd(request.param, python)) as lab:
        yield lab


@pytest.fixture
def everywhere(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> ChatServer:
    """A server at which every model string ends up, with keys, and a token that is not for it."""
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{name}_BASE_URL", server.url)
        monkeypatch.setenv(f"{name}_API_KEY", f"sk-{name.lower()}")
    monkeypatch.setenv("OLLAMA_HOST", server.url.removesuffix("/v1"))
    monkeypatch.setenv("HF_INFERENCE_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("JUPYTER_AGENT_MODEL", server.model)
    return server


@pytest.fixture
def no_ollama(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No Ollama of this machine's, no list that an earlier test has asked for."""
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    available._questions.clear()
    yield
    available._questions.clear()


@pytest.fixture(params=TIERS)
async def sandbox(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Sandbox]:
    """A sandbox of each tier in turn, which reads the folder."""
    config = Config({"SandboxProvisioner": {"isolation": request.param}})
    async with Sandbox(folder, config=config) as sandbox:
        yield sandbox


@pytest.fixture
def new_processes() -> Callable[[], list[int]]:
    """Return a function that names the processes which this test has started.

    A model's server, or the process that cleans HTML, may be there for other tests.
    """
    before = descendants(os.getpid())
    return lambda: [pid for pid in descendants(os.getpid()) if pid not in before]
