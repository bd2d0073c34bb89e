"""One scripted run through every adapter and both forms of reply: the same notebook."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

from jupyter_agent.frontends.cli import main

from .faults import F
from .servers import ChatServer, Reply
from .test_end_to_end import timeless
from .test_transcript import PIXEL

STEPS = [
    ("I look.", "rows = open('penguins.csv').read().splitlines()\nprint(len(rows) - 1)\nrows[0]"),
    ("", "1 / 0"),
    (
        "I draw.",
        f"import base64\nfrom IPython.display import Image\nImage(base64.b64decode('{PIXEL}'))",
    ),
]
ANSWER = "There are **344** penguins."
MODELS = ["openai:x", "anthropic:x", "hf:org/x", "http://URL/v1#x", "ollama:x"]


def replies(form: str) -> list[Reply]:
    written = []
    for prose, code in STEPS:
        if form == "tool":
            written.append(Reply(prose, calls=[json.dumps({"code": code})], thought="hm"))
        else:
            written.append(Reply(f"{prose}\n\n{F}python\n{code}\n{F}\n"))
    return [*written, Reply(ANSWER)]


def cells(path: Path) -> list[dict[str, Any]]:
    """The cells without what differs by the model: its name, its ids and what it counted."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    plain = timeless(notebook)
    for cell in plain:
        for fact in ("model", "usage", "call", "kept"):
            cell["metadata"]["jupyter_agent"].pop(fact, None)
    return plain


@pytest.mark.timeout(300)
def test_every_model_and_form_makes_the_same_notebook(
    everywhere: ChatServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    found = {}
    for name in MODELS:
        for form in ("text", "tool"):
            everywhere.replies = replies(form)
            everywhere.requests.clear()
            model = name.replace("http://URL/v1", everywhere.url)
            words = ["run", "How many?", "-m", model, "-o", "run.ipynb", "-q"]
            assert main([*words, f"--Session.reply_form={form}"]) == 0
            assert len(everywhere.requests) == 4
            assert all(("tools" in r.body) == (form == "tool") for r in everywhere.requests)
            assert PIXEL.encode() in everywhere.requests[-1].raw
            found[name, form] = cells(folder / "run.ipynb")
            (folder / "run.ipynb").unlink()
    first = found["openai:x", "text"]
    for each, notebook in found.items():
        assert notebook == first, each
    kinds = [cell["cell_type"] for cell in first]
    assert kinds == ["markdown", "markdown", "code", "code", "markdown", "code", "markdown"]
    assert first[2]["outputs"][0]["text"] == "344\n"
    assert first[3]["outputs"][0]["ename"] == "ZeroDivisionError"
    assert "image/png" in first[5]["outputs"][-1]["data"]
    assert first[6]["source"] == ANSWER
