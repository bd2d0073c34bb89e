"""A new user in JupyterLab: Tab on a ``%%agent`` line, and the tables of models and status."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, expect

from .conftest import PENGUINS
from .lab import Lab, opened, serving
from .servers import ChatServer

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("no_ollama")]


def test_tab_completes_a_models_name_and_a_table_says_what_there_is(
    tmp_path: Path,
    browser: BrowserContext,
    server: ChatServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.listed = [{"id": "qwen3"}, {"id": "llama3.2:3b"}]
    monkeypatch.setenv("OLLAMA_HOST", server.url.removesuffix("/v1"))
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copy(PENGUINS, folder / "my penguins.csv")
    with serving(folder, tmp_path / "home") as lab:
        first_contact(lab, browser)


def first_contact(lab: Lab, browser: BrowserContext) -> None:
    path = lab.write("first.ipynb", "%load_ext jupyter_agent", "%agent models", "", "%agent status")
    with opened(lab, browser, path) as notebook:
        notebook.run(0)
        notebook.run(1)
        notebook.run(3)
        for theme in ("Dark", "Light"):
            notebook.use_theme(f"JupyterLab {theme}")
            expect(notebook.page.locator("#jupyterlab-splash")).to_have_count(0)
            notebook.screenshot(f"first-contact-{theme.lower()}")
        row = notebook.outputs(1).locator("tr").filter(has_text="ollama:NAME")
        expect(row.locator("code").last).to_have_text("%agent use ollama:qwen3")
        expect(notebook.outputs(3).locator("td").first).to_have_text("model")
        keyboard, box = notebook.page.keyboard, notebook.page.locator(".jp-Completer")
        line = notebook.cells.nth(2).locator(".cm-line").first
        notebook.edit(2, "%%agent -m ollama:")
        keyboard.press("Tab")
        offered = box.locator(".jp-Completer-item .jp-Completer-match")
        expect(offered).to_have_text(["ollama:llama3.2:3b", "ollama:qwen3"])  # JupyterLab sorts
        notebook.screenshot("first-contact-tab")
        keyboard.press("ArrowDown")
        keyboard.press("Enter")
        expect(line).to_have_text("%%agent -m ollama:qwen3")
        keyboard.press("End")
        keyboard.insert_text(" --data 'my")
        keyboard.press("Tab")
        expect(box.get_by_text("'my penguins.csv'")).to_be_visible()
        keyboard.press("Enter")
        expect(line).to_have_text("%%agent -m ollama:qwen3 --data 'my penguins.csv'")
