"""The reply reader: prose, then one block, while text arrives in any pieces."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_agent.models.native_calls import CallReader
from jupyter_agent.models.parser import ReplyReader
from jupyter_agent.models.protocol import fenced

F = "```"
CASES = {
    "a block": (f"I add.\n{F}python\nprint(1)\n{F}\n", "I add.", "print(1)"),
    "no block": ("The answer is 391.", "The answer is 391.", None),
    "blanks after the label": (f"x\n{F}python  \nprint(1)\n{F}", "x", "print(1)"),
    "carriage returns": (f"x\r\n{F}py\r\nprint(1)\r\n{F}\r\n", "x", "print(1)"),
    "an unlabelled block in prose": (
        f"So:\n{F}\nno code\n{F}\n{F}python\nprint(2)\n{F}\n",
        f"So:\n{F}\nno code\n{F}",
        "print(2)",
    ),
    "another language": (f"{F}json\n{{}}\n{F}\nDone.", f"{F}json\n{{}}\n{F}\nDone.", None),
    "python shown in another block": (
        f"{F}{F}markdown\n{F}python\n1\n{F}\n{F}{F}\nDone.",
        f"{F}{F}markdown\n{F}python\n1\n{F}\n{F}{F}\nDone.",
        None,
    ),
    "a session": (f"{F}pycon\n>>> 1\n{F}\nDone", f"{F}pycon\n>>> 1\n{F}\nDone", None),
    "a fence in a string": (
        f'{F}python\ns = """\n{F}bash\nls\n{F}\n"""\nprint(s)\n{F}\n',
        "",
        f's = """\n{F}bash\nls\n{F}\n"""\nprint(s)',
    ),
    "backticks in a line": (
        f"Use {F} here.\n{F}python\nprint('{F} a {F}')\n{F}\n",
        f"Use {F} here.",
        f"print('{F} a {F}')",
    ),
    "a syntax error": (f"{F}python\nprint((\n{F}\n", "", "print(("),
    "magics": (f"{F}ipython\n%timeit x\n!ls 'a\n{F}\n", "", "%timeit x\n!ls 'a"),
    "a longer fence": (f"{F}`python\ns = '{F}'\n{F}\n1\n{F}`\n", "", f"s = '{F}'\n{F}\n1"),
    "tildes": ("~~~python\n1\n~~~\n", "", "1"),
    "a block left open": (f"{F}python\nprint(1)\nprint(2)", "", "print(1)\nprint(2)"),
    "a label in capitals": (f"{F}Python\n1\n{F}", "", "1"),
    "an empty reply": ("", "", None),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("case", CASES)
def test_a_reply_is_split_the_same_in_pieces_of_any_size(case: str, size: int) -> None:
    text, prose, code = CASES[case]
    reader = ReplyReader()
    for start in range(0, len(text), size):
        assert not reader.feed(text[start : start + size])
    reader.close()
    assert (reader.prose, reader.code) == (prose, code)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_what_follows_the_block_is_cut(size: int) -> None:
    text = f"{F}python\na\n{F}\n\nOutput: 3\n{F}python\nb\n{F}\n"
    reader = ReplyReader(look_ahead=0)
    over = [reader.feed(text[i : i + size]) for i in range(0, len(text), size)]
    reader.close()
    assert any(over)
    assert (reader.prose, reader.code) == ("", "a")


def test_blanks_after_the_block_do_not_end_the_stream_before_its_bill() -> None:
    reader = ReplyReader(look_ahead=0)
    assert not reader.feed(f"{F}python\na\n{F}\n")
    assert not reader.feed("\n  \n")
    assert reader.feed("more")


@given(st.text(alphabet="ab `~\n", max_size=60), st.integers(1, 5))
def test_a_growing_fence_never_leaks_into_prose(before: str, size: int) -> None:
    text = f"{before}\n\n{F}python\nx = 1\n{F}\n"
    final = ReplyReader()
    final.feed(text)
    final.close()
    reader = ReplyReader()
    for start in range(0, len(text), size):
        reader.feed(text[start : start + size])
        assert final.prose.startswith(reader.prose.rstrip()) or reader.prose in final.prose
        if final.code is not None and reader.code is not None:
            assert final.code.startswith(reader.code)


def test_code_appears_line_by_line_while_it_arrives() -> None:
    reader = ReplyReader()
    reader.feed(f"Say.\n{F}pyth")
    assert (reader.prose, reader.code) == ("Say.", None)
    reader.feed("on\nx = 1\ny =")
    assert (reader.prose, reader.code) == ("Say.", "x = 1\ny =")
    reader.feed(" 2\n``")
    assert reader.code == "x = 1\ny = 2"


def test_a_fence_is_longer_than_any_in_the_code() -> None:
    code = f"s = '''\n{F}{F}\n'''"
    reader = ReplyReader()
    reader.feed(fenced(code))
    reader.close()
    assert reader.code == code


# -- calls


def read_call(arguments: str, size: int = 1) -> tuple[CallReader, list[str]]:
    """Read a call in pieces; return what was shown of its code on the way too."""
    reader, shown = CallReader(), []
    for start in range(0, len(arguments), size):
        reader.feed(arguments[start : start + size])
        shown.append(reader.code)
    return reader, shown


CODES = st.one_of(
    st.text(max_size=40), st.text(alphabet='"\\/bnu{}:,d8 \n\u00e9\U0001f30d', max_size=40)
)


@settings(deadline=None)
@given(
    CODES,
    st.booleans(),
    st.sampled_from([None, 2]),
    st.dictionaries(st.text(max_size=5), CODES | st.integers() | st.booleans(), max_size=2),
)
def test_code_is_read_from_json_in_pieces_of_every_size(
    code: str, ascii_only: bool, indent: int | None, others: dict[str, object]
) -> None:
    others.pop("code", None)
    arguments = json.dumps({**others, "code": code}, ensure_ascii=ascii_only, indent=indent)
    for size in range(1, len(arguments) + 1):
        reader, shown = read_call(arguments, size)
        assert reader.close()
        assert reader.code == code
        assert all(code.startswith(each) for each in shown)


def test_code_appears_while_its_json_arrives() -> None:
    reader, shown = read_call('{"title": "t", "code": "a = 1\\nb = 2", "x": [1]}')
    assert "a = 1\nb" in shown
    assert reader.close()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ('{"code": "a\nb"}', "a\nb"),  # small models forget to escape line ends
        ('{"code": "a"', "a"),
        ('{"more": {"code": 1}, "code": "a"}', "a"),
        ('{"code": "\\ud83c\\udf0d"}', "\U0001f30d"),
    ],
)
def test_json_that_is_nearly_right_is_read(arguments: str, code: str) -> None:
    reader, _ = read_call(arguments)
    assert reader.close()
    assert reader.code == code


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "{}",
        "print(1)",
        '{"code": "a',
        '{"code": 1}',
        '{"cmd": "ls"}',
        '["a"]',
        '{"code": "a\\x"}',
        "{" * 99_999,
    ],
)
def test_a_call_without_whole_code_is_told(arguments: str) -> None:
    reader, _ = read_call(arguments, 50_000)
    assert not reader.close()


@given(st.text(alphabet='{}[]":,\\ codeu01x\n', max_size=60), st.integers(1, 5))
def test_no_arguments_are_too_odd(arguments: str, size: int) -> None:
    read_call(arguments, size)[0].close()


def test_fences_in_a_string_take_no_time_without_end() -> None:
    reader = ReplyReader()
    reader.feed("```python\ns = '''\n" + "```\n" * 50_000)
    reader.close()
    assert reader.code
    assert reader.code.startswith("s = '''\n```\n")
