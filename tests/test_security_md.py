"""SECURITY.md: each test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

from .attacks import ATTACKS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "SECURITY.md").read_text()


def test_each_test_that_is_named_exists() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    names = set(re.findall(r"`(test_\w+)`", TEXT))
    missing = {name for name in names if not re.search(rf"def {name}\(", sources)}
    assert len(names) > 10
    assert not missing


def test_each_file_that_is_named_exists() -> None:
    paths = set(re.findall(r"`((?:tests|docs)/\w+\.\w+)`", TEXT))
    assert len(paths) > 5
    assert not {path for path in paths if not (ROOT / path).exists()}


def test_each_group_of_rows_that_is_named_exists() -> None:
    text = " ".join(TEXT.split())
    named = {
        name
        for rows in re.findall(r"[Rr]ows (\"[^.]*\")", text)
        for name in re.findall(r"\"([^\"]+)\"", rows)
    }
    assert len(named) > 5
    assert named <= {attack.group for attack in ATTACKS}


def test_each_promise_names_what_holds_it() -> None:
    promised = TEXT.partition("### What code")[2].partition("## The tiers")[0]
    bullets = re.split(r"\n- ", promised)[1:]
    bare = [each[:60] for each in bullets if not re.search(r"`test|tests/|[Rr]ows", each)]
    assert not bare
