"""Figures that a page draws from a description: plotly's JSON and Vega-Lite's.

Both can make the page fetch (maps, pictures, data by URL), and Vega has a language of expressions
whose interpreters have been broken out of (CVE-2025-59840). What draws without either passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

__all__ = ["PLOTLY", "VEGA_LITE", "NotShown", "read_plotly", "read_vega_lite"]

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

PLOTLY = "application/vnd.plotly.v1+json"
VEGA_LITE = re.compile(r"application/vnd\.vegalite\.v\d+\+json")

_CONFIG = {"displayModeBar", "responsive", "scrollZoom", "staticPlot"}
_MAPS = re.compile(r"choropleth|(density|scatter)(geo|map)")
# names may be paths, such as images[0].source
_FETCHING = re.compile(r"(^|[.\]])(geo\d*|images|map(box)?\d*)($|[.\[])")
# of the tags that plotly draws in texts, all but those without attributes
_TAG = re.compile(
    r"<(?=[A-Za-z/!?])(?!/?(?:b|i|em|strong|sub|sup|br|s|u|extra)\s*/?>)", re.IGNORECASE
)
_JOINER = "\u2060"  # takes no room, and keeps what it stands between from being read as one


class NotShown(ValueError):
    """What cannot be shown without fetching, computing or waiting for long."""


def read_plotly(value: JSON) -> JSON:
    """Keep of a plotly figure what draws without fetching; its texts keep plain tags.

    Raises
    ------
    NotShown
        It is no figure, or a map, whose outlines or tiles come from a server.
    """
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise NotShown("a plotly figure without data")
    kept: dict[str, JSON]
    kept = {name: _plotly(value[name]) for name in ("data", "layout", "frames") if name in value}
    if isinstance(config := value.get("config"), dict):
        kept["config"] = {
            name: config[name] for name in _CONFIG & config.keys() if config[name] in (True, False)
        }
    return kept


def _plotly(value: JSON) -> JSON:
    match value:
        case str():
            return _TAG.sub(f"<{_JOINER}", value)
        case list():
            return [_plotly(item) for item in value]
        case dict():
            return {name: _plotly(item) for name, item in value.items() if _draws(name, item)}
    return value


def _draws(name: str, value: JSON) -> bool:
    """Tell whether a property draws from what is in the figure; raise if it makes it a map."""
    match name.rpartition(".")[2]:
        case "type":
            if kinds := [kind for kind in _texts(value) if _MAPS.search(kind)]:
                raise NotShown(f"plotly's {kinds[0][:40]} fetches its map")
        case "source":  # of a picture; a sankey's is a list of numbers
            return not any(_texts(value))
        case "args" | "args2":  # what a button sets: by keys, which are looked at, not by a path
            return isinstance(value, list) and not any(isinstance(item, str) for item in value[:1])
    return not (_FETCHING.search(name) or _MAPS.search(name))


def _texts(value: JSON) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _texts(item)
        case dict():
            for item in value.values():
                yield from _texts(item)


_LEFT_OUT = {"$schema", "tooltip", "usermeta"}  # a tooltip fetches the picture it names
_NEVER = {"calculate", "events", "expr", "href", "signal", "signals", "src", "update", "url"}
_SELECTORS = {"clear", "on", "translate", "zoom"}  # texts whose brackets hold expressions


def read_vega_lite(value: JSON) -> JSON:
    """Keep a Vega-Lite chart that holds its data and computes nothing, less its tooltips.

    Raises
    ------
    NotShown
        It is no chart, or it fetches, or holds an expression.
    """
    if not isinstance(value, dict):
        raise NotShown("a Vega-Lite chart that is no object")
    return _vega_lite(value)


def _vega_lite(value: JSON) -> JSON:
    match value:
        case list():
            return [_vega_lite(item) for item in value]
        case dict():
            for name, item in value.items():
                _check_vega_lite(name, item)
            return {
                name: _data(name, item) for name, item in value.items() if name not in _LEFT_OUT
            }
    return value


def _data(name: str, value: JSON) -> JSON:
    """Pass rows of data as they are: what they are called or hold is never computed."""
    if name == "datasets":
        return value
    if name == "data" and isinstance(value, dict) and isinstance(value.get("values"), list):
        rest = _vega_lite({key: item for key, item in value.items() if key != "values"})
        assert isinstance(rest, dict)
        return rest | {"values": value["values"]}
    return _vega_lite(value)


def _check_vega_lite(name: str, value: JSON) -> None:
    """Raise if a property fetches or may hold an expression."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    computes = (
        name in _NEVER
        or name.endswith("Expr")
        or (name == "bind" and value not in ("scales", "legend"))
        or (
            name in ("filter", "test", "and", "or", "not")
            and any(isinstance(text, str) for text in texts)
        )
        or (name in _SELECTORS and isinstance(value, str) and not value.isalpha())
        or (name in _SELECTORS and isinstance(value, dict | list))
        or (name in ("mark", "type") and value == "image")
    )
    if computes:
        raise NotShown(f"Vega-Lite's {name[:40]!r} fetches or computes")
