"""What nobody sees is written out, and a program goes on meaning what it meant."""

from __future__ import annotations

import ast
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_agent._unicode import visible, visible_blanks, visible_prose

DECEITFUL = [
    "\u202e", "\u202a", "\u2066", "\u2069", "\u200e", "\u200f", "\u061c",  # bidirectional
    "\u200b", "\u200c", "\u200d", "\ufeff", "\xad", "\u2060", "\u2063", "\u034f", "\u3164",
    "\U000e0041", "\U000e0100", "\ufe0f", "\u2028", "\u2029", "\x85", "\x1b[8m", "\x08", "\x00",
    "\x0b", "\x0c", "\x1f", "\x7f", "\x9b8m",
]  # fmt: skip


@pytest.mark.parametrize("character", DECEITFUL, ids=ascii)
def test_what_nobody_sees_is_written_out_and_means_the_same(character: str) -> None:
    code = f"text = 'a{character}b'"
    shown = visible(code)
    assert shown != code
    assert shown.isascii()
    assert ast.literal_eval(shown.partition(" = ")[2]) == f"a{character}b"
    assert visible(shown) == shown


def test_outside_a_string_it_is_an_error_and_no_other_program() -> None:
    for code in ("admin\ufe0f = 1", "x = 1 # \u202e\nif x:\u2066 pass", "is\u200badmin = 1"):
        assert visible(code).isascii()
    for code in ("is\u200badmin = 1", "x\xa0= 1", "if x:\n\u3000y = 1"):
        for each in (code, visible(code), visible_blanks(code)):
            with pytest.raises(SyntaxError):
                ast.parse(each)


def test_a_line_end_of_any_kind_is_a_newline_as_python_reads_it() -> None:
    assert visible("a = 1\rb = 2\r\nc = 3\n") == "a = 1\nb = 2\nc = 3\n"


@pytest.mark.parametrize(
    "text", ["⚠️ watch out", "👩‍🚀", "❤️", "été", "naïve", "数据", "한국어", "\tif x:\n", "→ ✓"]
)
def test_what_can_be_seen_stays(text: str) -> None:
    assert visible(text) == text
    assert visible_prose(text) == text


def test_prose_keeps_the_joiners_that_words_are_written_with() -> None:
    words = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u0915\u094d\u200d\u0937"
    assert visible_prose(words) == words
    assert "\\u200c" in visible(words)
    assert visible_prose("pass\u200cword \u202e") == "pass\\u200cword \\u202e"


def test_blanks_that_languages_are_written_with_stay_but_where_somebody_decides() -> None:
    words = "Prix\xa0: 10\u202f€ \u6771\u4eac\u3000\u5927\u962a"
    assert visible_prose(words) == words
    assert visible(words) == words  # code: in data they are ordinary
    assert visible_blanks(words) == "Prix\\xa0: 10\\u202f€ \u6771\u4eac\\u3000\u5927\u962a"


def test_signs_that_a_selector_draws_stay_in_prose() -> None:
    for text in ("\u2139\ufe0f note", "1️⃣ first", "#️⃣", "™️ ©️ ‼️ 〰️"):
        assert visible_prose(text) == text
    assert visible("1️⃣") == "1️⃣"
    assert visible("\u2139\ufe0f = 1") == "\u2139\\ufe0f = 1"  # part of a name
    assert visible("x1\ufe0f = 1") == "x1\\ufe0f = 1"


@given(st.text())
def test_nothing_is_left_that_is_not_seen(text: str) -> None:
    shown = visible(text)
    left = [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")]
    # a joiner between pictographs draws one; the others are signs before Arabic and Syriac figures,
    # shorthand and hieroglyphs, which are drawn
    drawn = {*"\n\t\u200d\u06dd\u070f\u08e2", *map(chr, range(0x600, 0x606)), "\u0890", "\u0891"}
    drawn |= {"\U000110bd", "\U000110cd", *map(chr, range(0x13430, 0x13440))}
    assert set(left) <= drawn
    assert visible(shown) == shown
