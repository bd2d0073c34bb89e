"""Show rows as a table: HTML where a page draws it, aligned text elsewhere."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from html import escape

from jupyter_agent._unicode import visible

__all__ = ["Bundle", "table"]

Bundle = dict[str, str]  # what to show, by mime type
WIDTH = 110  # characters of a line of text
NARROW = 24  # characters that the last column gets at least
_FIXED = "\N{NO-BREAK SPACE}"  # within code, while its text is wrapped
_LEFT = ' style="text-align: left"'
_LAST = ' style="text-align: left; overflow-wrap: anywhere"'  # paths fit a narrow page


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Bundle:
    """Return a table as HTML and as text; what stands between backticks is shown as code."""
    shown = [[visible(value).replace("\n", " ") for value in row] for row in rows]
    return {"text/plain": _as_text(head, shown), "text/html": _as_html(head, shown)}


def _as_html(head: Sequence[str], rows: list[list[str]]) -> str:
    titles = "".join(f"<th{_LEFT}>{escape(title)}</th>" for title in head)
    above = f"<thead><tr>{titles}</tr></thead>" if any(head) else ""
    lines = [
        "<tr>"
        + "".join(f"<td{_LEFT}>{_marked(value)}</td>" for value in row[:-1])
        + f"<td{_LAST}>{_marked(row[-1])}</td></tr>"
        for row in rows
    ]
    return f"<table>{above}<tbody>{''.join(lines)}</tbody></table>"


def _marked(value: str) -> str:
    """Escape a text; put what stands between backticks, where MathJax reads nothing, into code."""
    parts = escape(value).split("`")
    return "".join(
        f"<code>{part}</code>" if place % 2 and place < len(parts) - 1 else part
        for place, part in enumerate(parts)
    )


def _as_text(head: Sequence[str], rows: list[list[str]]) -> str:
    lines = [list(head), *rows] if any(head) else rows
    *columns, _ = zip(*[[value.replace("`", "") for value in row] for row in lines], strict=True)
    widths = [max(map(len, column)) for column in columns]
    last = max(NARROW, WIDTH - sum(widths) - 2 * len(widths))
    return "\n".join(line for row in lines for line in _text_lines(row, widths, last))


def _text_lines(row: list[str], widths: list[int], last: int) -> list[str]:
    """Write a row; the text of its last column goes on below, but code stays on one line."""
    first = [value.replace("`", "") for value in row[:-1]]
    text = re.sub("`[^`]*`", lambda code: code[0].replace(" ", _FIXED).strip("`"), row[-1])
    found = textwrap.wrap(text, last, break_long_words=False, break_on_hyphens=False)
    wrapped = [line.replace(_FIXED, " ") for line in found] or [""]
    begin = "".join(f"{value:<{width}}  " for value, width in zip(first, widths, strict=True))
    blank = " " * len(begin)
    return [(begin + wrapped[0]).rstrip(), *(blank + more for more in wrapped[1:])]
