"""The HTML sanitiser: rebuild HTML from harmless tags with nh3 (the Rust library ammonia).

What nests takes it the square of its length or worse, so `cleaning` runs this in a process that can
be ended. Nothing is imported here but what that needs.
"""

from __future__ import annotations

import json
import re
from html import escape
from html.parser import HTMLParser

from jupyter_agent.sandbox.filter.formulas import harmless_tex
from jupyter_agent.sandbox.filter.svg import (
    BadDrawingError,
    EmptyDrawingError,
    as_url,
    clean_svg,
    from_url,
    reaches,
)

__all__ = ["clean_drawing", "clean_html", "clean_plain_html"]

MAX_LOOKED_AT = 100_000  # characters; longer HTML counts as visible without a look
_PICTURES = ("data:image/png;", "data:image/jpeg;", "data:image/gif;")
_DRAWING = "data:image/svg+xml;base64,"
_TAGS = set(
    "a abbr article aside b blockquote br caption center code col colgroup dd del details div dl "
    "dt em figcaption figure footer h1 h2 h3 h4 h5 h6 header hr i img ins kbd label li main mark "
    "meter nav ol p pre progress q s samp section small span strong sub summary sup table tbody td "
    "tfoot th thead tr tt u ul var wbr".split()
)
# removed with their contents: words of a page for readers who lack what it needs
_WITH_CONTENT = set(
    "audio canvas iframe noscript object script select style template textarea title video".split()
)
_LEFT_OUT = {
    "script": "a script",
    "iframe": "a page in a frame",
    "video": "a video",
    "audio": "a sound",
    "canvas": "what a script draws",
    "object": "an object",
    "embed": "an object",
    "svg": "a drawing",
    "input": "a form",
    "button": "a form",
    "select": "a form",
    "textarea": "a form",
    "img": "a picture that is elsewhere",
    "style": "a style sheet, which has nothing here to act on",
    "link": "a style sheet, which has nothing here to act on",
}
_ATTRIBUTES = {
    "*": {"style", "title", "align", "valign", "dir", "lang"},
    "a": {"href"},
    "col": {"span"},
    "details": {"open"},
    "img": {"src", "alt", "width", "height"},
    "meter": {"value", "min", "max", "low", "high", "optimum"},
    "ol": {"start"},
    "progress": {"value", "max"},
    "table": {"border", "class"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan", "scope"},
}
_STYLES = set(
    "background background-color border border-bottom border-bottom-color border-bottom-style "
    "border-bottom-width border-collapse border-color border-left border-left-color "
    "border-left-style border-left-width border-radius border-right border-right-color "
    "border-right-style border-right-width border-spacing border-style border-top "
    "border-top-color border-top-style border-top-width border-width box-sizing caption-side "
    "color display empty-cells font font-family font-size font-style font-variant "
    "font-variant-numeric font-weight height letter-spacing line-height list-style-type margin "
    "margin-bottom margin-left margin-right margin-top max-height max-width min-height min-width "
    "opacity overflow overflow-x overflow-y padding padding-bottom padding-left padding-right "
    "padding-top table-layout text-align text-decoration text-indent text-transform "
    "vertical-align white-space width word-break".split()
)


def clean_html(html: str) -> str:
    """Rebuild HTML with its style sheets and drawings; see `_clean`."""
    return _clean(_drawings_as_images(_inline_styles(html)), html)


def clean_plain_html(html: str) -> str:
    """Rebuild HTML without its style sheets and drawings, which may take long."""
    return _clean(html, html)


def clean_drawing(svg: str) -> str:
    """Put SVG into an ``<img>``, where it neither runs nor fetches; or say why not, as JSON."""
    try:
        return json.dumps({"html": _image(clean_svg(svg))})
    except BadDrawingError as error:
        return json.dumps({"why": str(error)})


def _clean(html: str, source: str) -> str:
    """Rebuild HTML from allowed tags and attributes only.

    Returns
    -------
    str
        As JSON: ``html``; ``shows``, whether anything of it can be seen; and if not, ``left_out``:
        what was there that cannot be shown.
    """
    import nh3

    cleaned = nh3.clean(
        html,
        tags=_TAGS,
        clean_content_tags=_WITH_CONTENT,
        attributes=_ATTRIBUTES,
        attribute_filter=_attribute,
        filter_style_properties=_STYLES,
        set_tag_attribute_values={"a": {"target": "_blank"}},
        url_schemes={"data", "http", "https"},
        link_rel="noopener noreferrer",
    )
    cleaned = _TRUST.sub("", _NO_PICTURE.sub("[picture not shown]", cleaned))
    shows = _shows(cleaned)
    left_out = [] if shows else _left_out(source)
    cleaned = harmless_tex(cleaned)
    page = {"html": cleaned, "shows": shows, "left_out": left_out}
    return json.dumps(page, ensure_ascii=False)


_SHEET = re.compile(r"<style\b[^<]*", re.IGNORECASE)
_CHECKED = re.compile(r":checked\b")  # a checkbox that opens what is below it, in its first state


def _inline_styles(html: str) -> str:
    """Move the rules of style sheets into their elements, where nh3 checks them."""
    if not re.search("<(style|svg)", html, re.IGNORECASE):
        return html
    import css_inline

    html = _SHEET.sub(lambda sheet: _CHECKED.sub("[checked]", sheet[0]), html)
    inliner = css_inline.CSSInliner(load_remote_stylesheets=False)
    try:
        return inliner.inline(html)
    except css_inline.InlineError:
        return html


class _DrawingFinder(HTMLParser):
    """Find the drawings in HTML that `css_inline` has written."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[tuple[int, int, str]] = []  # start, end, style
        self._lines = [0]
        for end in re.finditer("\n", html):
            self._lines.append(end.end())
        self._open: list[tuple[int, str]] = []
        self.feed(html)

    def _place(self) -> int:
        line, column = self.getpos()
        return self._lines[line - 1] + column

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "svg":
            self._open.append((self._place(), dict(attrs).get("style") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Skip it: an empty element draws nothing."""

    def handle_endtag(self, tag: str) -> None:
        if tag == "svg" and self._open:
            start, style = self._open.pop()
            if not self._open:
                self.found.append((start, self._place() + len("</svg>"), style))


def _drawings_as_images(html: str) -> str:
    """Put each drawing into an ``<img>``; a reason replaces one that cannot be shown."""
    if "<svg" not in html:
        return html
    pieces, place = [], 0
    for start, end, style in _DrawingFinder(html).found:
        pieces.append(html[place:start])
        place = end
        try:
            # entities of HTML that XML does not have
            pieces.append(_image(clean_svg(html[start:end].replace("&nbsp;", "&#160;")), style))
        except EmptyDrawingError:
            continue
        except BadDrawingError as error:
            pieces.append(f"<span>[{escape(str(error))} is not shown]</span>")
    return "".join([*pieces, html[place:]])


def _image(svg: str, style: str = "") -> str:
    return f'<img alt="drawing" style="{escape(style)}" src="{as_url(svg)}">'.replace(
        ' style=""', ""
    )


_NO_PICTURE = re.compile(r'<img(?! src=)(?: (?!src=)[a-z]+="[^"]*")*>')  # its source was dropped


# what a page asks for when its script cannot run; to follow it would change nothing
_TRUST = re.compile(
    r"(?<=>)[^<>]*\b(?:trust[^<>]{0,20}notebook|notebook[^<>]{0,20}trust)[^<>]*(?=<)",
    re.IGNORECASE,
)


def _attribute(tag: str, name: str, value: str) -> str | None:
    """Allow pictures in the page itself, links to the web, and the classes of pandas.

    A link is followed by a click only. A picture that is a drawing is read as one.
    """
    match name:
        case "src":
            return _source(value)
        case "href":
            return value if tag == "a" and re.match(r"https?://[^/\s]", value) else None
        case "class":
            return value if value == "dataframe" else None
        case "style":
            return ";".join(part for part in value.split(";") if not reaches(part)) or None
    return value


def _source(value: str) -> str | None:
    if value.startswith(_PICTURES):
        return value
    if not value.startswith(_DRAWING):
        return None
    try:
        return as_url(clean_svg(from_url(value)))
    except BadDrawingError:
        return None


_VOID = {"br", "col", "hr", "img", "wbr"}


class _ContentFinder(HTMLParser):
    """Look for visible content in HTML that nh3 has written."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.shows = False
        self._hidden: list[bool] = [False]
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        hidden = self._hidden[-1] or "display:none" in (dict(attrs).get("style") or "")
        self.shows |= not hidden and tag in ("img", "progress", "meter")
        if tag not in _VOID:
            self._hidden.append(hidden)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID and len(self._hidden) > 1:
            self._hidden.pop()

    def handle_data(self, data: str) -> None:
        self.shows |= not self._hidden[-1] and bool(data.strip())


def _shows(cleaned: str) -> bool:
    """Tell whether anything can be seen."""
    return len(cleaned) > MAX_LOOKED_AT or _ContentFinder(cleaned).shows


def _left_out(html: str) -> list[str]:
    """Name the parts of HTML that are not shown; the same parser removes them."""
    import nh3

    kept = nh3.clean(html, tags=set(_LEFT_OUT), clean_content_tags=set(), attributes={})
    found = set(re.findall(r"<([a-z]+)>", kept))
    found -= {"style", "link"} if found - {"style", "link"} else set()  # of what is left out
    return list(dict.fromkeys(_LEFT_OUT[tag] for tag in _LEFT_OUT if tag in found))
