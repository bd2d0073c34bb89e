"""Check every message that leaves the sandbox: types, sizes, mime types.

Types are checked, sizes capped, mime types taken from a white list, HTML rebuilt by nh3 (the Rust
library ammonia), and nothing is kept that makes a browser fetch: the browser is a way out of a
sandbox without network.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Set

from jupyter_agent._nbformat import NotebookNode, from_dict
from jupyter_agent.sandbox.filter.cleaning import cleaned
from jupyter_agent.sandbox.filter.fields import JSON, as_json, as_object, as_text
from jupyter_agent.sandbox.filter.figures import PLOTLY, NotShown, read_plotly
from jupyter_agent.sandbox.filter.formulas import MAX_TEX, harmless_tex

__all__ = ["WIDGET_VIEW", "read_output", "weight"]

MAX_CHARACTERS = 16 << 20  # of one value in a mime bundle
MAX_TRACEBACK = 1 << 20  # characters of an error
MAX_NAMED = 20  # dropped mime types that a message names
MAX_PIXELS = 100_000  # width or height at which a picture is shown
_KINDS = {"stream", "display_data", "update_display_data", "execute_result", "error"}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def read_output(
    kind: str, content: object, *, admit: Set[str] = frozenset()
) -> NotebookNode | None:
    """Turn a message from the guest into an nbformat output; None if it is not an output.

    Mime types in ``admit`` pass as they are. A ``update_display_data`` keeps that name, and the
    guest's display id stands at ``output.transient.display_id``, for whoever keeps the notebook to
    find the display it updates.

    Raises
    ------
    ValueError
        The message is malformed.
    """
    if kind not in _KINDS:
        return None
    fields = as_object(content)
    match kind:
        case "stream":
            name = fields.get("name")
            if name not in ("stdout", "stderr"):
                raise ValueError(f"a stream called {name!r}")
            return _output("stream", name=name, text=_text(fields.get("text")))
        case "error":
            name, value = _text(fields.get("ename"))[:200], _text(fields.get("evalue"))
            kept, room = [], MAX_TRACEBACK
            traceback = fields.get("traceback")
            for line in traceback if isinstance(traceback, list) else ():
                kept.append(_text(line))
                room -= len(kept[-1]) + 1
                if room < 0:
                    kept = [f"{name}: {value[:2000]} [its traceback was too long]"]
                    break
            short = _shortened(value, MAX_TRACEBACK)
            return _output("error", ename=name, evalue=short, traceback=kept)
    data = as_object(fields.get("data"))
    output = _output(kind, data=_bundle(data, admit), metadata=_sizes(fields, data))
    if kind == "execute_result":
        count = fields.get("execution_count")
        output.execution_count = count if type(count) is int and 0 <= count < 1 << 31 else None
    display_id = as_object(fields.get("transient", {})).get("display_id")
    if isinstance(display_id, str):
        output.transient = NotebookNode(display_id=_text(display_id)[:200])
    return output


def _output(kind: str, **fields: object) -> NotebookNode:
    """Make an output without nbformat's own check, which takes 40 ms for a mebibyte."""
    output: NotebookNode = from_dict({"output_type": kind, **fields})
    return output


def _text(value: object) -> str:
    return as_text(_shortened(value, MAX_CHARACTERS) if isinstance(value, str) else value)


def _shortened(text: str, max_characters: int) -> str:
    if len(text) <= max_characters:
        return text
    return f"{text[:max_characters]}\n[cut: {len(text):,} characters in all]"


def _bundle(data: dict[str, object], admit: Set[str]) -> dict[str, JSON]:
    """Keep allowed mime types; name the dropped ones in the plain text."""
    kept: dict[str, JSON] = {}
    dropped: dict[str, str] = {}
    for mime, value in data.items():
        if isinstance(value, str) and len(value) > MAX_CHARACTERS:
            dropped[mime] = f"is longer than {MAX_CHARACTERS:,} characters"
        elif mime in admit:
            kept[mime] = as_json(value, _text)
        elif reader := _READERS.get(mime):
            try:
                kept[mime] = reader(value)
            except NotShown as error:
                dropped[mime] = f"{_STAYS} ({error})"
        else:
            dropped[mime] = _STAYS
    if "image/svg+xml" in dropped and kept.keys() <= {"text/plain"}:
        try:
            kept["text/html"] = _drawing(data["image/svg+xml"])
            del dropped["image/svg+xml"]
        except NotShown as error:
            dropped["image/svg+xml"] = f"{_STAYS} ({error})"
    if PLOTLY in kept and "text/html" not in admit:
        kept.pop("text/html", None)  # the rest of a page that needs the dropped part
    if dropped and set(kept) <= {"text/plain"}:
        kept["text/plain"] = f"{kept.get('text/plain', '')}\n{_note(dropped)}".strip()
    kept.setdefault("text/plain", "<display>")
    return kept


_STAYS = "may not leave the sandbox"
# It has a language of expressions, whose interpreters have been broken out of (CVE-2025-59840), and
# styles that fetch: no list of what to refuse would be complete.
_VEGA = re.compile(r"application/vnd\.vega(lite)?\.v\d+\+json")
_SCRIPTS = re.compile(r"(application/vnd\.\w+)_(load|exec)\.v0\+json")  # bokeh's, HoloViews'


def _note(dropped: dict[str, str]) -> str:
    """Say what was dropped, why, and how to allow it."""
    scripts = [found for mime in dropped if (found := _SCRIPTS.fullmatch(mime))]
    if any(found[2] == "load" for found in scripts):  # nothing to draw yet
        return "[scripts that prepare a page for figures are left out]"
    named = [(_text(mime)[:80], why) for mime, why in sorted(dropped.items())[:MAX_NAMED]]
    alike: dict[str, list[str]] = {}
    for mime, why in named:
        alike.setdefault(why, []).append(mime)
    lines = [f"[{', '.join(mimes)} {why}]" for why, mimes in alike.items()]
    if len(dropped) > len(named):
        lines.append(f"[and {len(dropped) - len(named):,} more]")
    if WIDGET_VIEW in dropped:
        lines.append("[widgets work in the kernel Python 3 (agent): c.AgentKernel.widgets = True]")
    if any(_VEGA.fullmatch(mime) for mime in dropped):
        lines.append("[as a picture it does: alt.renderers.enable('png'), with vl-convert-python]")
    if any("holoviews" in found[1] for found in scripts):
        lines.append("[as a picture it does: hv.extension('matplotlib'), then draw it again]")
    admitted = [mime for mime, why in named if why.startswith(_STAYS) and mime != WIDGET_VIEW]
    if "application/javascript" in admitted:  # scripts such as bokeh's draw into their own HTML
        admitted = sorted({*admitted, "text/html"})
    admitted += sorted(f"{found[1]}_load.v0+json" for found in scripts)
    if admitted:
        lines.append(
            f"[to let it pass as it is, and act in your browser: c.Sandbox.admit = {admitted}; "
            "a picture passes always]"
        )
    return "\n".join(lines)


def _sizes(fields: dict[str, object], data: dict[str, object]) -> dict[str, JSON]:
    """Keep only the size at which a picture is shown."""
    metadata = as_object(fields.get("metadata", {}))
    sizes: dict[str, JSON] = {}
    for mime in data.keys() & _READERS.keys():
        asked = metadata.get(mime)
        size: dict[str, JSON] = {
            side: value
            for side, value in (asked.items() if isinstance(asked, dict) else ())
            if side in ("width", "height")
            and type(value) in (int, float)
            and 0 <= value <= MAX_PIXELS
        }
        if size:
            sizes[mime] = size
    return sizes


def weight(output: NotebookNode) -> int:
    """Estimate the bytes of memory of an output."""
    match output.output_type:
        case "stream":
            return _weight(output.text)
        case "error":
            return _weight(output.evalue) + sum(map(_weight, output.traceback))
        case "clear_output":
            return 0
    return _weight(output.data)


def _weight(value: object) -> int:
    match value:
        case list():
            return sum(map(_weight, value)) + 64
        case dict():
            return sum(_weight(key) + _weight(item) for key, item in value.items()) + 320
    return sys.getsizeof(value)  # the widest character sets the width of all


_HAS_STYLES = re.compile("<(?:style|svg)", re.IGNORECASE)


def _html(value: object) -> str:
    """Rebuild HTML from allowed tags and attributes only."""
    text = _text(value)
    try:
        page = json.loads(cleaned("html", text))
    except NotShown:
        if not _HAS_STYLES.search(text):
            raise
        page = json.loads(cleaned("plain html", text))
    if page["left_out"] and not page["shows"]:
        raise NotShown(f"nothing shows of it without {' and '.join(page['left_out'])}")
    html: str = page["html"]
    return html


def _drawing(value: object) -> str:
    """Put SVG into an ``<img>``."""
    drawing: dict[str, str] = json.loads(cleaned("drawing", _text(value)))
    if why := drawing.get("why"):
        raise NotShown(why)
    return drawing["html"]


def _picture(value: object) -> str:
    text = _text(value)
    if re.fullmatch(r"[A-Za-z0-9+/=\s]*", text) is None:
        raise ValueError("a picture that is not base64")
    return text


_READ_AS_MARKDOWN = re.compile(r"[<!\]&](?=\S)")  # VS Code draws TeX with its Markdown renderer


def _latex(value: object) -> str:
    if isinstance(value, str) and len(value) > MAX_TEX:
        raise NotShown(f"TeX of {len(value):,} characters")
    text = harmless_tex(_text(value)).replace("`", "'")
    return _READ_AS_MARKDOWN.sub(r"\g<0> ", text)


def _markdown(value: object) -> str:
    return cleaned("markdown", _text(value))


_READERS: dict[str, Callable[[object], JSON]] = {
    "text/plain": _text,
    "text/html": _html,
    "text/markdown": _markdown,
    "text/latex": _latex,
    "image/png": _picture,
    "image/jpeg": _picture,
    "image/gif": _picture,
    "application/json": lambda value: as_json(value, _text),
    PLOTLY: lambda value: read_plotly(as_json(value, _text)),
}
