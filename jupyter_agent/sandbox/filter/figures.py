"""Plotly figures: keep what a page can draw without fetching anything.

It can make the page fetch (maps, pictures by URL); what draws without that passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from jupyter_agent.sandbox.filter.fields import JSON
from jupyter_agent.sandbox.filter.formulas import JOINER, MAX_TEX, harmless_tex

__all__ = ["PLOTLY", "NotShown", "read_plotly"]

PLOTLY = "application/vnd.plotly.v1+json"

_CONFIG = {"displayModeBar", "responsive", "scrollZoom", "staticPlot"}
_MAPS = re.compile(r"choropleth|(density|scatter)(geo|map)")
# names may be paths, such as images[0].source
_FETCHING = re.compile(r"(^|[.\]])(geo\d*|images|map(box)?\d*)($|[.\[])")
# What may begin a tag, but for those that plotly draws and that have no attributes. Plotly fills in
# templates ("<%{meta[0]}") and number formats ("%{text:<=9c}" pads a text with "<") before it looks
# for tags, so every "<" is made inert that a blank or a digit does not make so.
_TAG = re.compile(r"<(?![ 0-9]|/?(?:b|i|em|strong|sub|sup|br|s|u|extra) ?/?>)", re.IGNORECASE)
_URL = re.compile(r"url(?=\s*\()", re.IGNORECASE)  # of a style


class NotShown(ValueError):
    """An output that cannot be shown without fetching, computing or a long wait."""


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
            return _harmless(value)
        case list():
            return [_plotly(item) for item in value]
        case dict():
            return {name: _plotly(item) for name, item in value.items() if _draws(name, item)}
    return value


def _harmless(text: str) -> str:
    """Take from a text the tags, addresses and commands that act; of a long one, all there are."""
    if len(text) > MAX_TEX:  # what is found one by one would take too much memory
        text = text.replace("<", f"<{JOINER}").replace("(", f"{JOINER}(")
    else:
        text = _URL.sub(rf"\g<0>{JOINER}", _TAG.sub(f"<{JOINER}", text))
    return harmless_tex(text)


_STEPS = re.compile(r"[.\[\]]+")  # of a path


def _draws(name: str, value: JSON) -> bool:
    """Tell whether a property draws from what is in the figure; raise if it makes it a map."""
    *_, last = [step for step in _STEPS.split(name) if step.lstrip("-0123456789")] or [""]
    match last:
        case "type":
            if kinds := [kind for kind in _texts(value) if _MAPS.search(kind)]:
                raise NotShown(f"plotly's {kinds[0][:40]} fetches its map")
        case "source":  # of a picture; a sankey's is a list of numbers
            return not any(_texts(value))
        case "args" | "args2":  # what a button sets: by keys, which are looked at, not by a path
            if not name.endswith(last):  # one of them
                return not isinstance(value, str)
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
