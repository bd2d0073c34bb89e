"""HTML that may be shown: rebuilt by nh3 (the Rust library ammonia) from harmless tags alone.

What nests takes it the square of its length or worse, so `cleaning` runs this in a process that can
be ended. Nothing is imported here but what that needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from jupyter_agent.sandbox.tex import harmless_tex

__all__ = ["clean_html"]

MAX_STYLES = 16 << 20  # characters of a Styler's rules in the cells they are for
_PICTURES = ("data:image/png;", "data:image/jpeg;", "data:image/gif;")
_TAGS = set(
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption "
    "figure h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark ol p pre q s samp small span strong sub "
    "summary sup table tbody td tfoot th thead tr tt u ul var".split()
)
_ATTRIBUTES = {
    "*": {"style", "title", "align", "valign", "dir", "lang"},
    "col": {"span"},
    "details": {"open"},
    "img": {"src", "alt", "width", "height"},
    "ol": {"start"},
    "table": {"border", "class"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan", "scope"},
}
_STYLES = set(
    "background-color border border-bottom border-collapse border-color border-left border-right "
    "border-spacing border-style border-top border-width color display font-family font-size "
    "font-style font-weight height margin margin-bottom margin-left margin-right margin-top "
    "max-height max-width min-width overflow padding padding-bottom padding-left padding-right "
    "padding-top text-align text-decoration vertical-align white-space width".split()
)


def clean_html(html: str) -> str:
    """Rebuild HTML from allowed tags and attributes alone; what may not stay is left out."""
    import nh3

    cleaned = nh3.clean(
        _inline_styles(html),
        tags=_TAGS,
        clean_content_tags={"script", "style"},
        attributes=_ATTRIBUTES,
        attribute_filter=_attribute,
        filter_style_properties=_STYLES,
        url_schemes={"data"},
        link_rel=None,
    )
    return harmless_tex(_NO_PICTURE.sub("[picture not shown]", cleaned))


_REACHES = re.compile(r"url|image|expression|@|\\", re.IGNORECASE)  # of a style: out of the page
# pandas' Styler writes a sheet of rules for the ids of its cells
_SHEET = re.compile(r"<style\b[^<>]*>|</style>", re.IGNORECASE)
_STYLED = re.compile(r'\bid="(T_\w+)"')


def _inline_styles(html: str) -> str:
    """Put the rules of a Styler into the cells they are for; nh3 judges them there."""
    rules: dict[str, list[str]] = {}
    for sheet in _sheets(html):
        for rule in sheet.split("}"):
            selectors, _, style = rule.partition("{")
            parts = [part for part in style.split(";") if not _REACHES.search(part)]
            kept = ";".join(parts).replace('"', "'")
            for name in re.findall(r"#(T_\w+)\s*(?=,|$)", selectors):
                rules.setdefault(name, []).append(kept)
    room = MAX_STYLES

    def inlined(cell: re.Match[str]) -> str:
        nonlocal room
        kept = rules.pop(cell[1], [])  # an id is one cell's
        room -= sum(map(len, kept))
        return f'style="{";".join(kept)}"' if kept and room >= 0 else ""

    return _STYLED.sub(inlined, html)


def _sheets(html: str) -> Iterator[str]:
    start = None
    for tag in _SHEET.finditer(html):
        if tag[0].startswith("</") and start is not None:
            yield html[start : tag.start()]
            start = None
        elif start is None and not tag[0].startswith("</"):
            start = tag.end()


_NO_PICTURE = re.compile(r'<img(?! src=)(?: (?!src=)[a-z]+="[^"]*")*>')  # its source was dropped


def _attribute(_tag: str, name: str, value: str) -> str | None:
    """Let a picture come from nowhere but the page, and a class be pandas' own."""
    if name == "src":
        return value if value.startswith(_PICTURES) else None
    if name == "class":
        return value if value == "dataframe" else None
    if name == "style":
        return None if _REACHES.search(value) else value
    return value
