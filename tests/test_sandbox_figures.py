"""Figures at the border: what draws passes, what fetches or computes does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jupyter_agent.sandbox.figures import PLOTLY
from jupyter_agent.sandbox.outputs import read_output

VEGA_LITE = "application/vnd.vegalite.v5+json"
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


def chart(**more: Any) -> dict[str, Any]:
    rows = [{"a": 1, "url": "x", "expr": "y", "image": EVIL}]
    return {"mark": "bar", "data": {"values": rows}, "encoding": {"x": {"field": "a"}}} | more


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"mark": {"type": "point", "filled": True}},
        {"transform": [{"filter": {"field": "a", "oneOf": [1]}}]},
        {"data": {"name": "d"}, "datasets": {"d": [{"url": "x"}]}},
        {"params": [{"name": "p", "select": {"type": "interval", "on": "drag"}, "bind": "scales"}]},
        {"encoding": {"color": {"condition": {"test": {"param": "p"}, "value": "red"}}}},
    ],
)
def test_a_chart_that_holds_its_data_passes_unchanged(more: dict[str, Any]) -> None:
    assert shown(VEGA_LITE, chart(**more))[VEGA_LITE] == chart(**more)


def test_a_chart_loses_its_tooltips_and_its_settings() -> None:
    given = chart(
        usermeta={"embedOptions": {"loader": {"baseURL": EVIL}}},
        encoding={"x": {"field": "a"}, "tooltip": [{"field": "image", "title": "image"}]},
    )
    kept = shown(VEGA_LITE, given)[VEGA_LITE]
    assert kept == chart()


@pytest.mark.parametrize(
    "more",
    [
        {"data": {"url": EVIL}},
        {"mark": "image"},
        {"mark": {"type": "image"}},
        {"encoding": {"url": {"field": "image"}}},
        {"encoding": {"href": {"field": "image"}}},
        {"transform": [{"calculate": "window.alert(1)", "as": "x"}]},
        {"transform": [{"filter": "alert(1)"}]},
        {
            "transform": [{"filter": {"and": ["alert(1)"]}}],
        },
        {"transform": [{"lookup": "a", "from": {"data": {"url": EVIL}}}]},
        {"encoding": {"x": {"field": "a", "axis": {"labelExpr": "alert(1)"}}}},
        {"encoding": {"x": {"field": "a", "axis": {"values": {"expr": "alert(1)"}}}}},
        {"encoding": {"color": {"condition": {"test": "alert(1)", "value": "red"}}}},
        {"width": {"signal": "alert(1)"}},
        {"params": [{"name": "p", "expr": "alert(1)"}]},
        {"params": [{"name": "p", "bind": {"input": "range", "element": "#x"}}]},
        {"params": [{"name": "p", "select": {"type": "point", "on": "click[alert(1)]"}}]},
        {"hconcat": [{"mark": {"type": "image"}}]},
        {"data": {"values": {"url": EVIL}}},
    ],
)
def test_a_chart_that_fetches_or_computes_is_refused(more: dict[str, Any]) -> None:
    data = shown(VEGA_LITE, chart(**more))
    assert VEGA_LITE not in data


def test_full_vega_is_not_on_the_list() -> None:
    data = shown("application/vnd.vega.v5+json", {"marks": []})
    assert set(data) == {"text/plain", "text/html"}
