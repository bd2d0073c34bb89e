"""Have libraries show their objects without scripts and widgets.

It runs inside the sandbox, and only for a host that filters: in the kernel ``python3-sandboxed``,
whose outputs go to a page as they are, libraries show what they always do.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from IPython.core.getipython import get_ipython

from jupyter_agent.sandbox.guest.table_text import MAX_COLUMNS, WIDTH

MAX_NAMED = 200  # characters of an address


def install() -> None:
    """Adapt libraries when they are imported."""
    hooks = {
        "altair": _draw_charts_as_pictures,
        "itables.javascript": _show_tables_as_they_are,
        "pandas": _show_wide_tables,
        "polars": _show_wide_tables_of_polars,
        "tqdm.notebook": _draw_bars_as_text,
    }
    sys.meta_path.insert(0, _AfterImport(hooks))
    _describe_displays(get_ipython())


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls a function with a module once it has been imported."""

    def __init__(self, hooks: dict[str, Callable[[Any], None]]) -> None:
        self._hooks = hooks

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        hook = self._hooks.pop(fullname, None)
        spec = importlib.util.find_spec(fullname) if hook else None
        if hook is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_adapt(module: ModuleType) -> None:
            execute(module)
            hook(module)

        spec.loader.exec_module = execute_and_adapt  # type: ignore[method-assign]
        return spec


# -- what a model reads


_SAYS_NOTHING = re.compile(r"\bat 0x[0-9a-f]+>|^<[\w.]+ object>$")
_PLOTLY = "application/vnd.plotly.v1+json"
_BLOCKS = set("br div h1 h2 h3 h4 h5 h6 hr li ol p pre section table tr ul".split())
_UNSEEN = {"audio", "head", "iframe", "script", "style", "svg", "template", "video"}
_NAMED = {"audio", "iframe", "img", "svg", "video"}  # by where they come from
_ASKS_FOR_TRUST = re.compile("(?i)trust.{0,20}notebook|notebook.{0,20}trust")  # is no content
MAX_READ = 100_000  # characters of HTML, or of text
MAX_TRACES = 20


def _describe_displays(shell: Any) -> None:
    """Let the plain text of what is shown say what is in it, and not at which address it is."""
    formatted, publish = shell.display_formatter.format, shell.display_pub.publish

    def format_with_text(*args: Any, **kwargs: Any) -> tuple[dict[str, Any], Any]:
        data, metadata = formatted(*args, **kwargs)
        return _with_text(data, *args[:1]), metadata

    def publish_with_text(data: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        publish(_with_text(data), *args, **kwargs)

    shell.display_formatter.format = format_with_text
    shell.display_pub.publish = publish_with_text


def _with_text(data: dict[str, Any], shown: object = None) -> dict[str, Any]:
    if not data or not _SAYS_NOTHING.search(data.get("text/plain", "at 0x0>")):
        return data
    with contextlib.suppress(Exception):  # of what is no text, or no figure
        text = data.get("text/markdown") or data.get("text/latex")
        if _PLOTLY in data:
            text = _read_figure(data[_PLOTLY])
        if "application/json" in data:
            text = json.dumps(data["application/json"], default=str)
        page = data.get("text/html") or data.get("image/svg+xml", "")
        text = text or _read_html(page)
        if not text and type(shown).__str__ is not object.__str__:  # such as a graph's
            text = str(shown)
        if text:
            return {**data, "text/plain": text[:MAX_READ]}
    return data


def _read_figure(figure: dict[str, Any]) -> str:
    traces = [
        f"{trace.get('type', 'scatter')} {trace.get('name', '')}".strip()
        for trace in figure["data"][:MAX_TRACES]
    ]
    title = figure.get("layout", {}).get("title", {}).get("text", "")
    named = f" {title!r}" if title else ""
    return f"[a Plotly figure{named} of {len(figure['data'])} traces: {', '.join(traces)}]"


class _TextReader(HTMLParser):
    """Reads HTML as text: a line for each row or block, cells divided by bars."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _NAMED and not self._unseen:
            source = dict(attrs).get("src") or "data:"
            where = "" if source.startswith("data:") else f" {source[:MAX_NAMED]}"
            self.text += f"[{tag}{where}]"
        self._unseen += tag in _UNSEEN
        self.text += "\n" if tag in _BLOCKS else " | " if tag in ("td", "th") else ""

    def handle_endtag(self, tag: str) -> None:
        self._unseen -= tag in _UNSEEN and self._unseen > 0
        self.text += "\n" if tag in _BLOCKS else ""

    def handle_data(self, data: str) -> None:
        if not (self._unseen or _ASKS_FOR_TRUST.search(data)):
            self.text += re.sub(r"\s+", " ", data)


def _read_html(html: str) -> str:
    reader = _TextReader()
    reader.feed(html[:MAX_READ])
    lines = (" ".join(line.split()).removeprefix("| ") for line in reader.text.split("\n"))
    return "\n".join(filter(None, lines))


# -- pandas and polars


def _show_wide_tables(pandas: Any) -> None:
    """Print tables as wide as a page shows them."""
    pandas.set_option("display.width", WIDTH, "display.max_columns", MAX_COLUMNS)


def _show_wide_tables_of_polars(polars: Any) -> None:
    polars.Config.set_tbl_cols(MAX_COLUMNS).set_tbl_width_chars(WIDTH)


# -- tqdm


def _draw_bars_as_text(notebook: Any) -> None:
    """Let tqdm's bars of widgets be the ones that it draws on a terminal.

    ``tqdm.auto``, and so pandas' and Hugging Face's bars, takes those of this module where there is
    a kernel.
    """
    from tqdm import std

    class TextBar(std.tqdm):  # type: ignore[misc,unused-ignore]  # tqdm has no types
        """A bar of text that takes what a bar of widgets takes."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = kwargs.get("disable", False) or not kwargs.pop("display", True)
            super().__init__(*args, **kwargs)

    def text_range(*args: Any, **kwargs: Any) -> TextBar:
        return TextBar(range(*args), **kwargs)

    notebook.tqdm = notebook.tqdm_notebook = TextBar
    notebook.trange = notebook.tnrange = text_range
    notebook.IProgress = notebook.IProgress or TextBar  # else it asks for ipywidgets


# -- itables


def _show_tables_as_they_are(javascript: Any) -> None:
    """Let tables be pandas' and polars' own, which need no script to show what is in them."""
    from IPython.display import display

    def init_notebook_mode(*_: object, **__: object) -> None:
        pass

    def show(table: object, *_: object, **__: object) -> None:
        display(table)

    javascript.init_notebook_mode, javascript.show = init_notebook_mode, show


# -- Altair


_DRAWN_BY_NO_PAGE = {"png", "svg", "json"}  # of Altair's renderers


def _draw_charts_as_pictures(altair: Any) -> None:
    """Let Altair's charts be pictures where its own renderers leave them to scripts of the page."""
    for name in {*altair.renderers.names()} - _DRAWN_BY_NO_PAGE:
        altair.renderers.register(name, _draw_chart)
    altair.renderers.enable(altair.renderers.active)  # it is the one that was registered before


def _draw_chart(chart: dict[str, Any], **options: Any) -> Any:  # noqa: ARG001  # of a page
    """Draw a chart, or say in a line why not and what to do."""
    import altair as alt

    renderers: Any = alt.renderers
    if address := next(_addresses(chart), None):  # else it would be drawn without its data
        where = f"its data is at {address[:MAX_NAMED]!r}"
        return _no_chart(f"{where}, and nothing is fetched here; read it into a table first")
    if importlib.util.find_spec("vl_convert") is None:
        why = "pip install vl-convert-python where Jupyter runs, then %agent reset"
        return _no_chart(f"it needs a package that makes pictures of charts: {why}")
    with renderers.enable("png"):
        return renderers.get()(chart)


def _no_chart(why: str) -> dict[str, str]:
    return {"text/plain": f"[an Altair chart that is not drawn: {why}]"}


def _addresses(spec: object) -> Iterator[str]:
    """Find where a chart's data is, if it is not in it."""
    match spec:
        case {"data": {"url": str(address)}} if not address.startswith("data:"):
            yield address
    values = spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ()
    for value in values:
        yield from _addresses(value)
