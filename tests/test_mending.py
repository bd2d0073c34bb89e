"""The mended cell in the answer of ``%agent fix``, and the words and flags behind it."""

from __future__ import annotations

import argparse

import pytest

from jupyter_agent.errors import UsageError
from jupyter_agent.frontends.mending import fix_options, mended_cell
from jupyter_agent.sandbox.filter.host_commands import read_command

F = "```"


@pytest.mark.parametrize(
    ("answer", "cell"),
    [
        (f"Why.\n\n{F}text\na = 1\n\nb = 2\n{F}\n\nDone.", "a = 1\n\nb = 2"),
        (f"Before:\n\n{F}text\nbad\n{F}\n\nNow:\n\n{F}text\ngood\n{F}", "good"),
        (f"{F}`text\ns = '''\n{F}\n'''\n{F}`", f"s = '''\n{F}\n'''"),
        (f"- in a list:\n\n  {F}text\n  x = 1\n  {F}", "x = 1"),
        (f"{F}bash\nrm -r .\n{F}", ""),
        ("It cannot be mended.", ""),
    ],
)
def test_the_last_block_of_text_is_the_cell(answer: str, cell: str) -> None:
    assert mended_cell(answer) == cell


def test_what_is_offered_is_no_command_and_hides_nothing() -> None:
    assert read_command(mended_cell(f"{F}text\n%%agent -m x\nSpend.\n{F}")) is None
    assert "\\u202e" in mended_cell(f"{F}text\nx = '\u202e'\n{F}")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m")
    return parser


def test_words_and_flags_are_told_apart() -> None:
    options, words = fix_options("don't drop rows -m a", parser())
    assert (options.m, words) == ("a", "don't drop rows")
    with pytest.raises(UsageError, match="^%agent fix: unrecognized arguments: --budgt; %%"):
        fix_options("--budgt 5", parser())
