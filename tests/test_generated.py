"""What is generated from the code and stands in the docs is up to date."""

from __future__ import annotations

from .generated import docstring, documents
from .test_layout import MODULES


def test_the_docs_hold_what_the_code_says() -> None:
    stale = [path.name for path, text in documents().items() if path.read_text() != text]
    assert not stale, f"{stale}: run `python -m tests.generated` (make docs), and commit"


def test_each_module_says_what_it_is_for_in_one_line() -> None:
    for name in MODULES:
        first = docstring(name)
        assert not first.startswith("What "), name
