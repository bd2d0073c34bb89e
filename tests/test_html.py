"""HTML and SVG of outputs: what keeps its looks, and what is said where nothing of it is left."""

from __future__ import annotations

import base64
import re
from xml.etree import ElementTree as ET

import pytest

from jupyter_agent.sandbox.filter.outputs import read_output
from jupyter_agent.sandbox.filter.svg import BadDrawingError, EmptyDrawingError, clean_svg


def bundle(**data: str) -> dict[str, str]:
    content = {"data": {k.replace("_", "/", 1): v for k, v in data.items()}}
    output = read_output("display_data", content)
    assert output is not None
    return dict(output.data)


def html(source: str) -> str:
    return bundle(text_html=source).get("text/html", "")


def drawings(source: str) -> list[str]:
    """The SVG in HTML, as it was cleaned."""
    found = re.findall(r'<img [^>]*src="data:image/svg\+xml;base64,([^"]*)">', source)
    return [base64.b64decode(each).decode() for each in found]


# -- sheets of styles

STYLER = """<style type="text/css">
#T_a1 th { color: url(//evil) }
#T_a1_row0_col0, #T_a1_row1_col0 { background-color: yellow; background-image: url(//evil); }
#T_a1_row0_col1 { width: 10em; background: linear-gradient(90deg, #5fba7d 50.0%, transparent 50.0%); }
</style><table id="T_a1"><tr>
<td id="T_a1_row0_col0" class="data row0 col0">1</td><td id="T_a1_row0_col1">2</td></tr></table>"""


def test_a_styler_keeps_its_colours_and_its_bars() -> None:
    cleaned = html(STYLER)
    assert '<td style="background-color:yellow">1</td>' in cleaned
    bar = "width:10em;background:linear-gradient(90deg, #5fba7d 50.0%, transparent 50.0%)"
    assert f'<td style="{bar}">2</td>' in cleaned
    assert not re.search("evil|id=|<style", cleaned)


def test_rules_are_for_what_their_selectors_say() -> None:
    cleaned = html(
        "<style>.a > b {color: red} i {color: blue !important}</style><p class=a><b>x</b><i>y</i>"
    )
    assert '<b style="color:red">x</b>' in cleaned
    assert '<i style="color:blue ! important">y</i>' in cleaned


def test_what_a_sheet_hides_is_hidden() -> None:
    cleaned = html("<style>.x {display: none}</style><p class=x>fallback</p><p>shown</p>")
    assert '<p style="display:none">fallback</p>' in cleaned


@pytest.mark.parametrize(
    "source",
    [
        "<style" * 500_000,
        "<style>" * 500_000,
        "<style>" + ("#T_a" + " " * 20) * 40 + "</style>",
        "<style>" + "#T_a" * 500_000 + "</style>",
        "<style>" + "#T_a{color:red}" * 200_000 + '</style><td id="T_a">',
    ],
    ids=["half open", "open", "blanks", "names", "rules"],
)
def test_a_sheet_of_styles_takes_no_longer_than_it_is_long(source: str) -> None:
    assert "T_a" not in html(source)


@pytest.mark.usefixtures("fresh_cleaner")
def test_html_whose_sheet_takes_too_much_is_shown_without_it() -> None:
    sheet = f"<style>b {{font-family:{'x' * 1_000_000}}}</style>"
    assert html(sheet + "<b>x</b>" * 1000) == "<b>x</b>" * 1000


def test_what_a_checked_box_opens_is_open() -> None:
    """As in xarray's datasets."""
    sheet = "<style>.more {display: none} .box:checked ~ .more {display: block}</style>"
    boxes = "<input class=box type=checkbox checked><p class=more>open</p>"
    assert (
        html(f"{sheet}{boxes}<i>:checked</i>") == '<p style="display:block">open</p><i>:checked</i>'
    )


# -- drawings


def test_a_drawing_inside_html_is_an_image() -> None:
    cleaned = html(
        "<p>Palette</p><svg width=55 height='55'><rect width=55 style='fill:#4c72b0'></svg>"
    )
    (drawing,) = drawings(cleaned)
    root = ET.fromstring(drawing)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root[0].attrib == {"width": "55", "style": "fill:#4c72b0"}
    assert "<p>Palette</p>" in cleaned


def test_a_drawing_alone_is_an_image_too() -> None:
    (drawing,) = drawings(bundle(**{"image_svg+xml": "<svg><circle r='3'/></svg>"})["text/html"])
    assert '<circle r="3"/>' in drawing


def test_a_drawing_comes_without_what_acts_or_reaches_out() -> None:
    (drawing,) = drawings(
        html(
            "<svg onload=alert(1)><script>alert(1)</script><a href='javascript:alert(1)'><path d='M0 0'/></a>"
            "<image href='http://evil'/><use xlink:href='http://evil#x'/><foreignObject><p>x</p></foreignObject>"
            "<rect fill='url(http://evil)' style='fill:url(//evil)' filter='url(#f)' xml:base='http://evil'/></svg>"
        )
    )
    assert not re.search("(?i)alert|evil|script|onload|foreign", drawing)
    assert 'filter="url(#f)"' in drawing


BOMB = "".join(f'<g id="a{n + 1}">{f"<use href=%#a{n}%/>" * 10}</g>' for n in range(12)).replace(
    "%", '"'
)
PATTERNS = "".join(
    f'<pattern id="a{n + 1}">{f"<path fill=%url(#a{n})%/>" * 10}</pattern>' for n in range(12)
).replace("%", '"')


def masks(**styles: str) -> str:
    """Draw masks in each other; ``styles``: what makes each of them refer to the one before."""
    name, value = next(iter(styles.items()))
    return "".join(
        f'<mask id="a{n + 1}">{f"<rect {name}=%{value.format(n)}%/>" * 10}</mask>'.replace("%", '"')
        for n in range(12)
    )


SHEET = "<style>{}</style>"
CLASSES = SHEET.format("".join(f"g > .c{n}, .x {{mask: url(#a{n})}}" for n in range(13)))
SELECTORS = SHEET.format("".join(f".c{n}[class] {{mask:url(#a{n})}}" for n in range(13)))
VARIABLES = ";".join(f"--a{n}:url(#a{n})" for n in range(13))
GROUPS = "".join(
    f'<g fill="url(#a{n})"><pattern id="a{n + 1}">{"<path/>" * 10}</pattern></g>' for n in range(12)
)


@pytest.mark.parametrize(
    "inside",
    [
        f'<path id="a0"/>{GROUPS}<g stroke="url(#a12)"><path/></g>',
        f'<path id="a0"/>{BOMB}',
        f'<path id="a0"/>{PATTERNS}<rect fill="url(#a12)"/>',
        '<g id="a"><path/><use href="#b"/></g><g id="b"><use href="#a"/></g>',
        '<marker id="m">'
        + "<path/>" * 500
        + '</marker><path marker-mid="url(#m)" d="'
        + "L1 1" * 500
        + '"/>',
        "<g>" * 500,
    ],
    ids=["inherited", "use", "pattern", "itself", "marker", "deep"],
)
def test_a_drawing_that_would_stop_a_page_is_left_out_and_said(inside: str) -> None:
    with pytest.raises(BadDrawingError):
        clean_svg(f"<svg>{inside}{'</g>' * inside.startswith('<g><g>') * 500}</svg>")
    assert not drawings(html(f"<svg>{inside}</svg><b>x</b>"))


@pytest.mark.parametrize("sheet", [CLASSES, SELECTORS], ids=["class", "selector"])
def test_a_sheet_of_styles_that_would_stop_a_page_is_noticed(sheet: str) -> None:
    drawing = f"{sheet}{masks(**{'class': 'c{}'})}<g><rect class='c12'/></g>"
    with pytest.raises(BadDrawingError):
        clean_svg(f"<svg>{drawing}</svg>")
    for image in drawings(html(f"<svg>{drawing}</svg><b>x</b>")):
        assert "mask:" not in image


def test_what_a_drawing_refers_to_is_not_changed_where_nobody_counts() -> None:
    variables = f"<g style='{VARIABLES}'>{masks(style='mask:var(--a{})')}<rect/></g>"
    assert "url(" not in clean_svg(f"<svg>{variables}</svg>")
    assert "url(" not in clean_svg(f"<svg><style>*{{{VARIABLES}}}</style>{variables}</svg>")
    for change in ("href' to='#a", "class' to='c1", "mask' values='url(#a);url(#b)"):
        animated = (
            f"<svg><use href='#b'><animate attributeName='{change}'/></use><path id='b'/></svg>"
        )
        assert "animate" not in clean_svg(animated)
    kept = "<svg><path><animate attributeName='opacity' values='0;1' dur='1s'/></path></svg>"
    assert "animate" in clean_svg(kept)


def test_what_looks_like_a_comment_in_a_sheet_hides_no_rule() -> None:
    sheet = "*{font-family:'/*'} *{mask:url(#m)} *{font-family:'*/'}"
    assert "url(" not in clean_svg(f"<svg><style>{sheet}</style><mask id='m'/><path/></svg>")


def test_a_sheet_may_refer_to_gradients_and_to_clips_of_its_own() -> None:
    sheet = ".a{fill:url(#g)} .b, path.c{clip-path:url(#c1)} *{stroke:url(#g)}"
    clips = "".join(f"<clipPath id='c{n}'><rect/></clipPath>" for n in range(40))
    sheet += "".join(f".d{n}{{clip-path:url(#c{n})}}" for n in range(40))
    gradient = "<linearGradient id='g'><stop class='a'/></linearGradient>"
    shapes = "".join(f"<path class='a c d{n}'/>" for n in range(40))
    drawing = f"<svg><style>{sheet}</style><defs>{gradient}{clips}</defs>{shapes}</svg>"
    assert ".d39{clip-path:url(#c39)}" in clean_svg(drawing)


@pytest.mark.parametrize(
    "source", ["<svg>", "<p/>", "x", '<!DOCTYPE x [<!ENTITY a "b">]><svg><path id="&a;"/></svg>']
)
def test_what_is_no_drawing_says_so(source: str) -> None:
    with pytest.raises(BadDrawingError):
        clean_svg(source)
    assert "a drawing" in bundle(**{"image_svg+xml": source})["text/plain"]


def test_definitions_for_other_drawings_of_a_page_show_nothing() -> None:
    with pytest.raises(EmptyDrawingError):
        clean_svg('<svg><defs><path id="icon"/></defs></svg>')
    icons = (
        '<svg style="width:0"><defs><path id="icon"/></defs></svg><svg><use href="#icon"/></svg>'
    )
    assert html(f"{icons}<b>x</b>") == "<b>x</b>"


def test_what_matplotlib_draws_is_kept() -> None:
    import io

    from matplotlib.figure import Figure

    figure, written = Figure(), io.StringIO()
    axes = figure.subplots()
    axes.scatter(range(2000), range(2000))
    axes.set_title("Größe & <Zahl>")
    figure.savefig(written, format="svg", metadata={"Date": None})
    cleaned = clean_svg(written.getvalue())
    assert cleaned.count("<use ") == written.getvalue().count("<use ")


# -- links, and what only looks like something


def test_links_to_the_web_open_by_a_click_in_a_page_of_their_own() -> None:
    cleaned = html("<a href='https://example.com/a?b=1#c' onclick='x()'>x</a>")
    assert set(re.findall(r'[a-z]+="[^"]*"', cleaned)) == {
        'href="https://example.com/a?b=1#c"',
        'target="_blank"',
        'rel="noopener noreferrer"',
    }


@pytest.mark.parametrize(
    "to",
    ["javascript:alert(1)", "//evil", "data:text/html,x", "file:///etc/passwd", "/lab", "#x", "x"],
)
def test_other_links_lead_nowhere(to: str) -> None:
    assert "href" not in html(f"<a href='{to}'>x</a>")


def test_a_progress_bar_is_shown() -> None:
    assert 'value="3"' in html("<progress max='10' value='3'></progress>")


def test_nobody_is_told_to_trust_the_notebook() -> None:
    folium = "<div><span>Make this Notebook Trusted to load map: File -> Trust Notebook</span><b>Map</b></div>"
    assert html(folium) == "<div><span></span><b>Map</b></div>"


# -- nothing is left


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("<div id='v'></div><script>draw()</script>", "a script"),
        ("<iframe src='https://example.com' width=300></iframe>", "a page in a frame"),
        ("<video src='x.mp4' controls>Your browser cannot play it</video>", "a video"),
        ("<audio src='data:audio/wav;base64,UklGRg=='></audio>", "a sound"),
        ("<canvas>no canvas</canvas>", "what a script draws"),
        ("<object data='x.pdf'>no PDF</object>", "an object"),
        ("<form><input type=submit></form>", "a form"),
        ("<style>.container {width: 100%}</style>", "a style sheet"),
        ("<style>p {display: none}</style><p>Hidden</p><script>draw()</script>", "a script"),
    ],
)
def test_where_nothing_is_left_the_text_stays_with_a_line_that_says_what_to_do(
    source: str, what: str
) -> None:
    data = bundle(text_html=source, text_plain="a chart")
    assert data.keys() == {"text/plain"}
    assert data["text/plain"].startswith(
        "a chart\n[text/html may not leave the sandbox (nothing shows of it without "
    )
    assert what in data["text/plain"]
    assert "c.Sandbox.admit = ['text/html']" in data["text/plain"]


@pytest.mark.parametrize("source", ["", "<p></p>", " \n"])
def test_html_that_was_empty_is_left_so(source: str) -> None:
    assert bundle(text_html=source)["text/html"] == source


def test_a_script_that_draws_is_let_in_with_what_it_draws_into() -> None:
    data = bundle(
        **{"application_javascript": "draw()", "application_vnd.bokehjs_exec.v0+json": ""}
    )
    assert (
        "c.Sandbox.admit = ['application/javascript', 'application/vnd.bokehjs_exec.v0+json', "
        "'text/html', 'application/vnd.bokehjs_load.v0+json']"
    ) in data["text/plain"]


def test_scripts_that_only_prepare_a_page_are_one_line() -> None:
    load = {"application_javascript": "load()", "application_vnd.bokehjs_load.v0+json": ""}
    assert bundle(**load) == {
        "text/plain": "[scripts that prepare a page for figures are left out]"
    }


def test_a_plot_of_holoviews_says_how_it_is_a_picture() -> None:
    data = bundle(**{"application_vnd.holoviews_exec.v0+json": "", "text_plain": ":Curve"})
    assert (
        "[as a picture it does: hv.extension('matplotlib'), then draw it again]"
        in (data["text/plain"])
    )
    assert "'application/vnd.holoviews_load.v0+json'" in data["text/plain"]
