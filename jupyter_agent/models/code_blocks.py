"""Find code blocks in Markdown, and tell whether they hold Python."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

__all__ = [
    "Fence",
    "ends_in_string",
    "is_language",
    "is_python",
    "is_statement",
    "label",
    "last_fence",
    "may_be_fence",
    "parses",
    "typed",
]

MAX_NESTING = 48  # levels of tokens
MAX_JUDGED = 20_000  # characters of a text that is parsed to see whether it is Python

_PYTHON = frozenset("python python3 py py3 ipython ipython3 jupyter tool_code".split())
_FORMATS = frozenset("plaintext plain txt csv tsv log math latex mermaid python-repl".split())
_LABEL = re.compile(r"[{\s.]*([\w+#-]*)")
_ATTRIBUTES = re.compile(r"(?:[\w.:-]+(?:=(?:\"[^\"]*\"|\S*))?(?:[\s,]+|$))+")
# behind marks of quotes and lists only, of which real text has fewer
_MAY_BE_FENCE = re.compile(r"[ \t>*+\-\d.)]{0,100}(?:`{3}|~{3})")
_DEEP = re.compile(rf"[ \t]*(?:(?:>|[-+*]|\d{{1,9}}[.)])[ \t]*){{{MAX_NESTING // 2}}}")


@dataclass(slots=True)
class Fence:
    """A fenced block, as Markdown's parser finds it."""

    info: str
    markup: str  # the characters of its fence
    content: str
    first: int  # the line that opens it
    end: int  # the line after it
    level: int  # above 0 in lists and quotes
    closed: bool  # whether it has a closing fence


def label(info: str) -> str:
    """Read the language of a block, as in ``python``, ``{.python}`` and ``python:main.py``."""
    found = _LABEL.match(info)
    return found[1].lower() if found else ""


def is_python(info: str) -> bool:
    """Tell by the text behind its fence whether a block is Python."""
    return label(info) in _PYTHON


@functools.cache
def is_language(language: str) -> bool:
    """Tell whether a label names a language or format."""
    from pygments.lexers import find_lexer_class_by_name  # type: ignore[import-untyped]

    try:
        find_lexer_class_by_name(language)
    except ValueError:
        return language in _FORMATS
    return True


def may_be_fence(line: str) -> bool:
    """Tell whether a line can open or close a block; the parser is run only for these."""
    return _MAY_BE_FENCE.match(line) is not None


def last_fence(lines: Sequence[str]) -> tuple[int, Fence | None]:
    """Find the line at which the last block of a text begins, and the last fence in it."""
    text = "\n".join("x" if _DEEP.match(line) else line for line in lines) + "\n"
    tokens = _parser().parse(text)
    tops = [token.map[0] for token in tokens if token.level == 0 and token.map]
    for token in reversed(tokens):
        if token.type == "fence" and token.map and token.map[0] >= tops[-1]:
            first, end = token.map
            closed = token.content.count("\n") == end - first - 2
            return tops[-1], Fence(
                token.info, token.markup, token.content, first, end, token.level, closed
            )
    return (tops[-1] if tops else 0), None


@functools.cache
def _parser() -> MarkdownIt:
    """Parse blocks only, as the notebook shows them: HTML is text there."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_NESTING})
    parser.disable(["html_block", "reference"])
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


def typed(code: str, info: str = "") -> str:
    """Return the code in a block: all of it, or what follows the prompts of a session.

    Parameters
    ----------
    info
        What stands behind the fence; some write the first line of code there.
    """
    first = re.sub(r"^\s*(\{[^{}]*\}|\S+)\s*", "", info)
    if first and _is_code(first, code):
        code = f"{first}\n{code}"
    code = code.rstrip().lstrip("\n")
    if not code.lstrip().startswith((">>> ", ">>>\n")):
        return code
    import doctest

    try:
        examples = doctest.DocTestParser().get_examples(code)
    except ValueError:
        return ""
    return "".join(example.source for example in examples).rstrip()


def _is_code(first: str, code: str) -> bool:
    """Tell whether the text behind a label is code, and not an option of some tool."""
    if is_statement(first) or first.endswith(":"):
        return parses(f"{first}\n{code}")
    return not _ATTRIBUTES.fullmatch(first) and parses(first)


def parses(code: str) -> bool:
    """Tell whether text is Python; a single word is enough."""
    return _parse(code) is not None


def is_statement(text: str) -> bool:
    """Tell whether text is Python that does something, not only a value or a word."""
    tree = _parse(text)
    does = (ast.Call, ast.Import, ast.ImportFrom, ast.FunctionDef, ast.For, ast.While, ast.With)
    return tree is not None and any(isinstance(node, does) for node in ast.walk(tree))


def _parse(code: str) -> ast.Module | None:
    if len(code) > MAX_JUDGED or not code.strip():
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # about unknown escapes
            return ast.parse(code)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def ends_in_string(code: str) -> bool:
    """Tell whether code ends inside a triple-quoted string, where a fence is text."""
    try:
        for _ in tokenize.generate_tokens(io.StringIO(code).readline):
            pass
    except tokenize.TokenError as error:
        return "multi-line string" in error.args[0] or "triple-quoted" in error.args[0]
    except SyntaxError:
        pass
    return False
