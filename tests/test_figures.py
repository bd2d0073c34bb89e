"""The filter of figures: what draws passes, what fetches or computes does not."""

from __future__ import annotations

import json
import re
import tracemalloc
from typing import Any

import pytest

from jupyter_agent.sandbox.filter.figures import PLOTLY, read_plotly
from jupyter_agent.sandbox.filter.outputs import read_output

EVIL = "https://evil/?d=1"


def shown(mime: str, figure: object) -> dict[str, Any]:
    content = {"data": {mime: figure, "text/html": "<div><script>draw()</script></div>"}}
    output = read_output("display_data", content)
    assert output is not None
    return dict(output.data)


def test_an_ordinary_plotly_figure_passes_unchanged_and_alone() -> None:
    figure = {
        "data": [
            {"type": "scatter", "x": [1, 2], "y": {"dtype": "f8", "bdata": "AAAAAAAA8D8="}},
            {"type": "sankey", "link": {"source": [0], "target": [1], "value": [2]}},
            {"type": "heatmap", "z": [[1, 2]], "hovertemplate": "<b>%{z}</b><extra></extra>"},
        ],
        "layout": {
            "title": {"text": "a < b"},
            "xaxis": {"type": "log"},
            "updatemenus": [{"buttons": [{"method": "animate", "args": [None, {"mode": "x"}]}]}],
            "template": {"data": {"scatter": [{"type": "scatter"}]}},
        },
    }
    data = shown(PLOTLY, figure)
    assert data[PLOTLY] == figure
    assert "text/html" not in data


def test_plotlys_own_template_passes_without_its_maps() -> None:
    template = {
        "data": {"scattergeo": [{"type": "scattergeo"}], "bar": [{"type": "bar"}]},
        "layout": {"geo": {"bgcolor": "white"}, "mapbox": {"style": "light"}, "font": {"size": 9}},
    }
    figure = {"data": [{"type": "bar", "y": [1]}], "layout": {"template": template}}
    kept = shown(PLOTLY, figure)[PLOTLY]["layout"]["template"]
    assert kept == {"data": {"bar": [{"type": "bar"}]}, "layout": {"font": {"size": 9}}}


@pytest.mark.parametrize(
    "layout",
    [
        {"images": [{"source": EVIL}]},
        {"template": {"layout": {"images": [{"source": EVIL}]}}},
        {"images[0].source": EVIL},
        {"mapbox": {"style": EVIL}, "map2": {"style": EVIL}, "geo": {"x": EVIL}},
        {
            "updatemenus": [
                {"buttons": [{"method": "relayout", "args": ["images[0].source", EVIL]}]}
            ]
        },
        {"sliders": [{"steps": [{"args2": ["images", [{"source": EVIL}]]}]}]},
        {"updatemenus": [{"buttons": [{"args": [{"images[0].source": EVIL}]}]}]},
        *(
            {
                "updatemenus": [
                    {"buttons": [{"args": [{f"updatemenus[1].buttons[0].{args}": EVIL}]}]}
                ]
            }
            for args in ("args[0]", "args[1]", "args2[0]", "args[-1]", "args[]", "args.0", "args")
        ),
    ],
)
def test_what_would_make_plotly_fetch_is_left_out(layout: dict[str, Any]) -> None:
    kept = shown(PLOTLY, {"data": [{"type": "image", "source": EVIL}], "layout": layout})[PLOTLY]
    assert "evil" not in json.dumps(kept)


def test_plotlys_texts_keep_plain_tags_alone() -> None:
    text = f"<b>x</b><a href='{EVIL}'>y</a><span style='fill:url({EVIL})'>z</span><br>"
    figure = {"data": [{"type": "bar", "text": [text]}], "layout": {"title": {"text": text}}}
    kept = json.dumps(shown(PLOTLY, figure), ensure_ascii=False)
    assert "<b>x</b>" in kept
    assert "<a" not in kept
    assert "<span" not in kept


def test_plotlys_settings_that_name_servers_are_left_out() -> None:
    config = {"topojsonURL": EVIL, "plotlyServerURL": EVIL, "responsive": True, "staticPlot": EVIL}
    kept = shown(PLOTLY, {"data": [], "config": config})[PLOTLY]
    assert kept["config"] == {"responsive": True}


@pytest.mark.parametrize(
    "figure",
    [
        {"data": [{"type": "scattergeo", "lon": [1], "lat": [2]}]},
        {"data": [{"type": "choroplethmapbox"}]},
        {"data": [], "frames": [{"data": [{"type": "densitymap"}]}]},
        {"data": [], "layout": {"sliders": [{"steps": [{"args": [{"type": ["choropleth"]}]}]}]}},
        {
            "data": [],
            "layout": {"updatemenus": [{"buttons": [{"args": [{"a.type": "scattermap"}]}]}]},
        },
        {"data": {}},
        "figure",
    ],
)
def test_maps_are_refused_and_the_note_says_why(figure: object) -> None:
    data = shown(PLOTLY, figure)
    assert PLOTLY not in data
    assert PLOTLY in data["text/plain"] or "text/html" in data


@pytest.mark.parametrize(
    "text",
    [
        "<%{meta[0]}",
        "<%{meta[0]}b>",
        "<b%{meta[0]}>",
        "%{text:<=9c}a href='https://evil/'>",
        "%{y:<>2}a href='https://evil/'>",
        "<\na href='https://evil/'>",
        "</%{meta[1]}>",
        "<b\u00a0style='x'>",
    ],
)
def test_plotlys_templates_build_no_tag(text: str) -> None:
    layout = {"meta": ["a href='https://evil/'>", "a"], "separators": ".<"}
    figure = {"data": [{"type": "bar", "hovertemplate": text, "ticksuffix": "<"}], "layout": layout}
    kept = shown(PLOTLY, figure)[PLOTLY]
    for string in (kept["data"][0]["hovertemplate"], kept["data"][0]["ticksuffix"]):
        assert all(part.startswith("\u2060") for part in string.split("<")[1:]), string
    assert kept["layout"]["separators"] == ".<\u2060"


LONG_TEXTS = {
    "tex": "$" + "\\a" * 1_000_000 + "\\href{x}",
    "tags": "<" * 1_000_000 + "<a href",
    "addresses": "UrL (" * 500_000,
}


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS.keys())
def test_a_long_text_of_plotlys_is_made_harmless_in_little_memory(text: str) -> None:
    tracemalloc.start()
    try:
        figure: Any = read_plotly({"data": [text]})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not re.search(r"\\[a-z]|<[^\u2060]|url ?\(", figure["data"][0], re.IGNORECASE)
    assert peak < 10 * len(text)
    figure = {"data": [{"y": {"dtype": "f8", "bdata": "AAAAurl+/=" * 100_000}}]}
    assert read_plotly(figure) == figure


def test_a_style_of_plotlys_names_no_address() -> None:
    figure = {"data": [{"type": "bar", "marker": {"color": "URL (https://evil/)"}}]}
    kept = json.dumps(shown(PLOTLY, figure)).lower()
    assert "url (" not in kept
    assert "url(" not in kept


VEGAS = ["application/vnd.vegalite.v5+json", "application/vnd.vega.v5+json"]
CHART = {"mark": "bar", "data": {"values": [{"a": 1}]}, "encoding": {"x": {"field": "a"}}}


@pytest.mark.parametrize("mime", VEGAS)
def test_a_vega_chart_is_not_drawn_and_the_note_says_what_to_do(mime: str) -> None:
    output = read_output("display_data", {"data": {mime: CHART, "text/plain": "alt.Chart(...)"}})
    assert output is not None
    assert set(output.data) == {"text/plain"}
    assert "alt.renderers.enable('png')" in output.data["text/plain"]
    assert f"c.Sandbox.admit = ['{mime}']" in output.data["text/plain"]


@pytest.mark.parametrize("mime", VEGAS)
def test_the_picture_of_a_vega_chart_is_shown(mime: str) -> None:
    for picture in ({"image/png": "iVBORw0="}, {"image/svg+xml": "<svg><path/></svg>"}):
        output = read_output("display_data", {"data": {mime: CHART, **picture}})
        assert output is not None
        assert {"image/png", "text/html"} & set(output.data)
        assert mime not in output.data


@pytest.mark.parametrize("mime", VEGAS)
def test_a_vega_chart_passes_where_the_user_lets_it(mime: str) -> None:
    output = read_output("display_data", {"data": {mime: CHART}}, admit={mime})
    assert output is not None
    assert output.data[mime] == CHART
