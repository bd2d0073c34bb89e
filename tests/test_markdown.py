"""Markdown that is written anew: what it looks like, and what is left of what would act."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from jupyter_agent.sandbox.filter.formulas import harmless_tex, read_formula
from jupyter_agent.sandbox.filter.markdown import (
    MAX_BRACKETS,
    MAX_CHARACTERS,
    as_read,
    clean_markdown,
    code_block,
    one_line,
)
from jupyter_agent.sandbox.filter.outputs import read_output

from .fuzz_markdown import KNOWN, PAYLOADS, TEX, documents

JOINER = "\u2060"


def drawn(source: str) -> list[Token]:
    """Read Markdown as a renderer does that lets HTML through."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(source)
    return [*tokens, *(child for token in tokens for child in token.children or ())]


def acts(source: str) -> list[str]:
    """Find what would fetch or run."""
    tokens = drawn(source)
    found = [t.type for t in tokens if t.type in ("image", "html_block", "html_inline")]
    links = [str(t.attrGet("href")) for t in tokens if t.type == "link_open"]
    return found + [link for link in links if not re.match("https?://|mailto:", link)]


@pytest.mark.parametrize(
    "source",
    [
        "# Title\n\nText in two\nlines, **bold**, *em*, `code`, snake_case, $x^2 + y_1$.",
        "- one\n- two\n  - three\n    continued\n  - four\n- [ ] open\n- [x] done",
        "1. one\n2. two\n   1. three",
        "> quoted **text**\n> goes on\n>\n> - in a list",
        "| a | b |\n| :-- | --: |\n| `x` | $y$ |\n| [l](https://a.b/c?d=e&f=g#h) | 2 |",
        "```python\nx = '<b>![x](y)</b>'  # `$` \\begin{x} ~~~\n\n\tprint(x)\n```",
        "````text\n```\n````",
        "Text:\n\n$$\\int_0^1 f(x) \\, dx = \\frac{1}{2}$$\n\nMore",
        "See https://example.com/a_b?x=1 and [there](https://example.com), me@example.com",
        "a\n\n***\n\nb (c) [1, 2] x[0] 100 % \\alpha C:\\Users\\me 2 > 1 \"q\" 'q' … é 中 😀",
        "hard\\\nbreak, ~~gone~~",
        "It costs \\$5.",
        "From \\\\$1.2M to \\\\$1.5M",
        "p < 0.05 & q <= 3",
    ],
)
def test_ordinary_markdown_stays_as_it_is(source: str) -> None:
    assert clean_markdown(source) == source


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ("Setext\n===\n\n* a\n+ b", "# Setext\n\n- a\n\n- b"),
        ("~~~ python\nx\n~~~", "```python\nx\n```"),
        ("    indented", "```\nindented\n```"),
        ("__b__ and _e_", "**b** and *e*"),
        ("from $1.2M to $1.5M", "from \\\\$1.2M to \\\\$1.5M"),
        ("I owe $5 and $ 6, not 7$", "I owe \\\\$5 and \\\\$ 6, not 7\\\\$"),
        ("costs $5", "costs \\$5"),
        (r"\(a_1\) and \[b^2\]", "$a_1$ and $$b^2$$"),
        ("$$\na\n= b\n- c\n$$", "$$a = b - c$$"),
        ("\\begin{align}\na &= b \\\\\nc &= d\n\\end{align}", "$$\\begin{align} a & = b \\\\ c & = d \\end{align}$$"),
        ("[a][b]\n\n[b]: http://c 'title'", "[a](http://c)"),
        ("<http://a.b/c>", "http://a.b/c"),
        ("[file](report.html)", "file (report.html)"),
        ("![plot](http://evil/?d=1)", "[image not shown: plot]"),
        ("<b>x</b>", "&lt;b>x&lt;/b>"),
        ("1. a\n   ```python\n   b\n   ```\n2. c", "1. a\n\n```python\nb\n```\n\n2. c"),
        ("> a\n> ```\n> b\n> ```", "> a\n\n```\nb\n```"),
        ("use `\\begin{x}` and `$$`", f"use `\\{JOINER}begin{{x}}` and `${JOINER}$`"),
        ("a\u2028b\x0cc\rd", "a\nb\nc\nd"),
        ("```mermaid\ngraph TD\n```", "```text\ngraph TD\n```"),
        ("---\ntitle: x\n---\n", "***\n\n## title: x"),
        ("`` a`b ``", "a&#96;b"),
        ("~~gone~~ `code`", "gone `code`"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_can_be_written_in_many_ways_is_written_in_one(source: str, written: str) -> None:
    assert clean_markdown(source) == written


@pytest.mark.parametrize(
    "text",
    [
        "It grew from $1.2M to $1.5M, or 25 %",
        "US$5, A$6 and C$7.50",
        "$5-$10, $5/$10",
        "$100k to $200k, $1,234.56 → $2,345.67 (+90%)",
        "$HOME and $PATH, $HOME/my_bin:$PATH, ${A_B}:${C}",
        "between $5_000 and $6_000; 3 * $5 = $15",
        "$AAPL and $MSFT, a $(cat x_1) and $(ls)",
        "list$a$b and df$col, $A$1:$B$2, $A:$C, $x/$y",
        "$5 - 6$, $5 or \\$6 (7$)",
    ],
)
def test_money_and_names_of_variables_are_no_mathematics(text: str) -> None:
    written = clean_markdown(text)
    assert not re.search(r"(?<!\\)\$", written), written
    assert as_read(written) == text.replace("\\$", "$")


@pytest.mark.parametrize(
    "text",
    [
        "the $n$th of $x_1$",
        "$k$-means, $k = 3$",
        "$x^2$ for $5 each",
        "$p < 0.05$",
        "$3 + 4 = 7$",
        "$10 - 3 = 7$",
        "$12 > 5$",
        "H$_2$O",
    ],
)
def test_formulas_beside_them_are(text: str) -> None:
    assert re.search(r"(?<!\\)\$[^$\\]+\$", clean_markdown(text))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (r"10 % of $\$5$", r"10 % of $\$5$"),
        (r"$\$1.2M$ to $\$1.5M$", r"$\$1.2M$ to $\$1.5M$"),
        (r"$\text{cost} = 5\$$", r"$\text{cost} = 5\${}$"),
        (r"\(2 \times \$5\)", r"$2 \times \$5$"),
        ("$$\n2 \\times \\$5\n= \\$10\n$$", r"$$2 \times \$5 = \$10$$"),
        (r"\begin{align}a &= \$5\end{align}", r"$$\begin{align}a & = \$5\end{align}$$"),
    ],
)
def test_money_within_a_formula_is_read_as_that(text: str, written: str) -> None:
    assert clean_markdown(text) == written
    assert clean_markdown(written) == written


@pytest.mark.parametrize("shape", [*KNOWN, "{}"])
def test_known_disguises_show_nothing_that_acts(shape: str) -> None:
    for payload in [*PAYLOADS, *TEX]:
        source = shape.replace("{{", "{").replace("}}", "}").replace("{}", payload)
        assert acts(clean_markdown(source)) == []


def test_the_three_ways_past_a_pattern_are_closed() -> None:
    payload = "<img src=x onerror=alert(1)>"
    for source, line in [
        (f"```x\nabc\r```\r{payload}\n```", "&lt;img src=x onerror=alert(1)>"),
        (f"\\begin{{x}}\n```\n\\end{{x}}\n{payload}\n```", f"\\end{{x}}\n{payload}\n```"),
        (f"[a]:\n```\n'\n{payload}\n```", f"```\n'\n{payload}\n```"),
    ]:
        cleaned = clean_markdown(source)
        assert line in cleaned
        assert f"\\{JOINER}begin" in cleaned or "\\begin" not in cleaned


@settings(deadline=None)
@given(st.integers(0, 1 << 30))
def test_what_was_cleaned_stays_as_it_is(seed: int) -> None:
    for text in itertools.islice(documents(seed), 2):
        cleaned = clean_markdown(text)
        assert clean_markdown(cleaned) == cleaned
        assert acts(cleaned) == []


@settings(deadline=None)
@given(st.text(alphabet="`~\n\r -> a!<[]()x$\\*_|#1.&;:{}\t"))
def test_any_text_stays_as_it_is_once_it_was_cleaned(text: str) -> None:
    cleaned = clean_markdown(f"{text}![x](http://evil/x.png) <img src=x> {text}\n{text}")
    assert clean_markdown(cleaned) == cleaned
    assert acts(cleaned) == []


@settings(deadline=None)
@given(st.text(), st.sampled_from(["", "python", "html"]))
def test_code_in_a_fence_stays_byte_for_byte(code: str, label: str) -> None:
    code = re.sub("@@|[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ufeff]", "", code)
    block = code_block(code, label)
    assert clean_markdown(block) == block
    (fence,) = [token for token in drawn(block) if token.type == "fence"]
    assert fence.content == f"{code}\n"


def test_a_reply_is_shown_sensibly_while_it_streams() -> None:
    reply = (
        "Let me **look** at `df`: $x^2$ [here](http://a)\n\n1. a\n\n```python\nprint('<b>')\n```\n"
    )
    for length in range(len(reply) + 1):
        cleaned = clean_markdown(reply[:length])
        assert acts(cleaned) == []
        assert clean_markdown(cleaned) == cleaned
    assert clean_markdown(reply[:-5]).endswith("```python\nprint('<b>')\n```")


@pytest.mark.parametrize(
    "piece",
    ["[", "![", "[a](", "*a ", "**a*", ">", "> a\n", "- ", "|a", "|a|b|\n", "`", "`a`` ", "$", "$a ",
     "\\begin{align}", "\\(", "<a ", "&amp;", "[a](http://b) ", "\\", "_a_b", "~~a", "[a]: b\n", "# a\n",
     "```a\n", "1. a\n", "http://a_", "$$a\n", "a ", "[[a]", "&#42;", "```mermaid ", "`" * 50 + "\n"],
)  # fmt: skip
def test_no_markdown_takes_time_or_room_without_end(piece: str) -> None:
    """The timeout of a test is the bound."""
    for size in (MAX_CHARACTERS // 2, 1_000_000):
        text = piece * (size // len(piece))
        cleaned = clean_markdown(text)
        assert len(cleaned) <= 4 * size
    assert cleaned.startswith("`") or piece in ("- ", "[a]: b\n")


def test_text_that_is_too_long_or_too_deep_is_shown_as_it_is() -> None:
    long, deep = "x" * (MAX_CHARACTERS + 1), ">" * 30 + "x"
    for text in (long, deep, "[" * (MAX_BRACKETS + 1), "![" * (MAX_BRACKETS + 1)):
        assert clean_markdown(text) == f"```text\n{text}\n```"
        assert clean_markdown(clean_markdown(text)) == clean_markdown(text)


@pytest.mark.parametrize("tex", TEX[:19])
def test_tex_that_writes_html_or_fetches_is_no_formula(tex: str) -> None:
    assert read_formula(tex) is None
    output = read_output("display_data", {"data": {"text/latex": f"${tex}$"}})
    assert output is not None
    dangerous = (
        r"\\(unicode|style|href|class|cssId|data|require|def|csname|let|newcommand|bbox|ref|mml)"
    )
    assert not re.search(dangerous, output.data["text/latex"])
    assert "$" not in re.sub(r"\\+\$", "", clean_markdown(f"${tex}$"))


@pytest.mark.parametrize(
    "tex",
    [
        r"\frac{1}{2} \sqrt[3]{x} \text{if } x \in \mathbb{R}",
        r"\left[\begin{matrix}1 & 2\\ 3 & 4\end{matrix}\right]",
        r"\sum_{i=1}^n \alpha_i \leq \|x\|_2^2, \quad \{a\}",
        r"\displaystyle \int\limits_{0}^{\infty} e^{- x}\, dx",
        r"p < 0.05 \land é \approx 中",
    ],
)
def test_formulas_stay_formulas(tex: str) -> None:
    assert read_formula(tex) == tex
    assert harmless_tex(f"${tex}$") == f"${tex}$"


@pytest.mark.parametrize("before", ["", " ", "\n", "\ufeff", "<br>", "\u00a0"])
@pytest.mark.parametrize("command", ["cancel", "bcancel", "xcancel"])
def test_a_command_with_options_is_known_without_them_alone(command: str, before: str) -> None:
    tex = f"\\{command}{before}[background=url(http://evil/)]{{x}}"
    assert read_formula(tex) is None
    assert f"\\{command}" not in harmless_tex(f"$a$ \\({tex}\\)")
    for kind in ("text/latex", "text/html"):
        output = read_output("display_data", {"data": {kind: f"${tex}$"}})
        assert output is not None
        assert f"\\{command}" not in output.data[kind]
    plain = f"\\{command}{{x}}"
    assert read_formula(plain) == plain
    assert harmless_tex(f"${plain}$") == f"${plain}$"


def test_text_without_a_formula_keeps_its_backslashes() -> None:
    assert harmless_tex(r"C:\Users\style") == r"C:\Users\style"
    assert harmless_tex(r"$x$ C:\Users") == f"$x$ C:\\{JOINER}Users"


@pytest.mark.parametrize(
    "text", [*PAYLOADS, *(f"${tex}$ \\({tex}\\)" for tex in TEX), "a\n\n# b", "www.a`<b>`"]
)
def test_a_name_in_a_line_of_ours_is_shown_as_it_is(text: str) -> None:
    written = one_line(text)
    line = f"*agent: {written}*"
    assert "\n" not in line
    assert acts(line) == []
    (paragraph,) = [token for token in drawn(line) if token.type == "inline"]
    shown = "".join(token.content for token in paragraph.children or ())
    assert shown.startswith("agent: ")
    assert not re.search(r"\\[(\[]|(?<!\\)\$.*(?<!\\)\$", shown)  # what MathJax would read


@pytest.mark.parametrize("code", ["\\ref{", "\\eqref {", "\\ref", "\\begin{align}", "\\end {x"])
def test_code_in_a_line_begins_no_command_that_goes_on_beside_it(code: str) -> None:
    written = clean_markdown(f"$$a$$`{code}`}} $b$")
    assert f"`{code}`" not in written
    assert f"`\\\u2060{code[1:]}`" in written


@pytest.mark.parametrize(
    "text",
    [
        "42.",
        "It costs $5 and $6, or $7",
        "Use <b>x</b> & a*b_c [x] \\n",
        "1. a\n2. b",
        "```python\nx = '\\*' + '&#36;'\n```\n\nThen 3 * 4 < 5 & 6, `a\\*b`",
        "see https://example.org/a_b?c=d. Or C:\\Users\\x",
        "$x_1^2 \\{\\alpha\\}$ is **bold**, x~y~z, ~~gone~~",
        "a\nb",
    ],
)
def test_without_a_page_it_reads_as_it_was_typed(text: str) -> None:
    assert as_read(clean_markdown(text)).rstrip() == text
