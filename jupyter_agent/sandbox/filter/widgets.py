"""Messages of ipywidgets: keep known widgets and known keys only.

A widget is drawn by code in the page from a *state* that the guest writes (Jupyter Widget Messaging
Protocol 2.1). Only models of ipywidgets' own three modules pass, only keys of theirs, and each text
for what the page makes of it: HTML is rebuilt by the filter of outputs, CSS is kept from fetching.
Left out are what plays or fetches (Audio, Video), reads a device (Controller), or carries a value
from one widget to the next inside the page, where no filter stands (Link).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jupyter_agent._nbformat import NotebookNode
from jupyter_agent.sandbox.filter.fields import JSON, as_json, as_list, as_object, as_text
from jupyter_agent.sandbox.filter.formulas import harmless_tex
from jupyter_agent.sandbox.filter.outputs import WIDGET_VIEW as VIEW
from jupyter_agent.sandbox.filter.outputs import read_output

__all__ = ["PROTOCOL", "TARGET", "VIEW", "Widgets"]

TARGET = "jupyter.widget"
PROTOCOL = {"version": "2.1.0"}  # the metadata of a comm_open
MAX_WIDGETS = 1000  # open at the same time
MAX_CHILDREN = 4000  # of all widgets together
MAX_VIEWS = 1000  # in one widget, including those in its children
MAX_DEPTH = 30  # levels of widgets in widgets
MAX_STATE = 4 << 20  # characters of one message
MAX_PICTURE = 16 << 20  # bytes
MAX_IN_ALL = 64 << 20  # characters and bytes of all widgets' last messages
MAX_REQUESTS = 256  # requests whose outputs an Output widget may still collect

_BASE, _CONTROLS, _OUTPUT = (f"@jupyter-widgets/{name}" for name in ("base", "controls", "output"))
_VERSIONS = {_BASE: "2.0.0", _CONTROLS: "2.0.0", _OUTPUT: "1.0.0"}
_MODELS = set(
    "Accordion BoundedFloatText BoundedIntText Box Button ButtonStyle Checkbox CheckboxStyle "
    "ColorPicker Combobox DatePicker Datetime DescriptionStyle Dropdown FileUpload FloatLogSlider "
    "FloatProgress FloatRangeSlider FloatSlider FloatText GridBox HBox HTML HTMLMath HTMLMathStyle "
    "HTMLStyle Image IntProgress IntRangeSlider IntSlider IntText Label LabelStyle Layout "
    "NaiveDatetime Output Password Play ProgressStyle RadioButtons Select SelectMultiple "
    "SelectionRangeSlider SelectionSlider SliderStyle Stack Tab Text TextStyle Textarea Time "
    "ToggleButton ToggleButtonStyle ToggleButtons ToggleButtonsStyle VBox Valid".split()
)
_VIEWS = {
    "BoundedFloatText": "FloatText",
    "BoundedIntText": "IntText",
    "FloatProgress": "Progress",
    "IntProgress": "Progress",
    "NaiveDatetime": "Datetime",
}
_KEYS = set(
    "_dom_classes _options_labels accept background bar_color bar_style base "
    "behavior box_style button_color button_style button_width children concise continuous_update "
    "description description_allow_html description_width disabled ensure_option error font_family "
    "font_size font_style font_variant font_weight format handle_color height icon icons indent "
    "index interval layout max min msg_id multiple options orientation outputs placeholder playing "
    "readout readout_format repeat rows selected_index show_repeat step style tabbable text_color "
    "text_decoration titles tooltip tooltips value width "
    "align_content align_items align_self border_bottom border_left border_right border_top bottom "
    "display flex flex_flow grid_area grid_auto_columns grid_auto_flow grid_auto_rows grid_column "
    "grid_gap grid_row grid_template_areas grid_template_columns grid_template_rows "
    "justify_content justify_items left margin max_height max_width min_height min_width "
    "object_fit object_position order overflow padding right top visibility".split()
)
_REFERENCE = "IPY_MODEL_"
_ID = re.compile(r"[0-9a-f]{32}")
_CSS = re.compile(r"[\w\s#%.,()\"'/+*-]{0,500}")
_FETCHES = re.compile(r"url|image|src|expression", re.IGNORECASE)  # a style that may fetch
_ICON = re.compile(r"[a-z0-9-]{0,50}")
_COLOURS = ("", "primary", "success", "info", "warning", "danger")
_PICTURES = ("png", "jpeg", "jpg", "gif")


@dataclass(slots=True)
class _Widget:
    """An open widget."""

    model: str
    facts: dict[str, JSON]  # its model and view
    children: list[str] = field(default_factory=list)
    size: int = 0
    msg_id: str = ""  # the request whose outputs it collects


class Widgets:
    """The widgets of one kernel that a page knows."""

    def __init__(self) -> None:
        self._open: dict[str, _Widget] = {}
        self._requests: dict[str, str] = {}  # a client's ids, by the guest's

    def __contains__(self, comm_id: object) -> bool:
        return comm_id in self._open

    def ids(self) -> list[str]:
        """Return the ids of the open widgets."""
        return list(self._open)

    def asked(self, guests: str, clients: str) -> None:
        """Remember which id the guest uses for a client's request."""
        self._requests[guests] = clients
        for old in list(self._requests)[:-MAX_REQUESTS]:
            del self._requests[old]

    def close(self, comm_id: str) -> None:
        """Forget a widget."""
        self._open.pop(comm_id, None)

    def read(self, kind: str, content: object, buffers: Sequence[memoryview]) -> NotebookNode:
        """Turn a comm message from the guest into one that a page may read.

        Raises
        ------
        ValueError
            It is malformed, of no widget that is known, or not to be shown.
        """
        fields = as_object(content)
        comm_id = fields.get("comm_id")
        if not isinstance(comm_id, str) or not _ID.fullmatch(comm_id):
            raise ValueError("a comm without a valid id")
        match kind, fields.get("data"):
            case "comm_open", {"state": dict(state)} if fields.get("target_name") == TARGET:
                return self._begin(comm_id, state, buffers)
            case "comm_msg", {"method": "update" | "echo_update" as method, "state": dict(state)}:
                data = self._update(comm_id, state, buffers)
                return _message(kind, comm_id, {"method": method, **data}, buffers)
            case "comm_close", _ if comm_id in self._open:
                self.close(comm_id)
                return NotebookNode(output_type=kind, comm_id=comm_id, data={}, buffers=[])
        raise ValueError(f"a {kind} that belongs to no widget")

    def view(self, value: object, msg_id: str) -> dict[str, JSON]:
        """Read the place where a widget is drawn, in the outputs of a client's request.

        Raises
        ------
        ValueError
            The page knows no such widget, or it would be drawn inside itself.
        """
        comm_id = as_object(value).get("model_id")
        if not isinstance(comm_id, str) or comm_id not in self._open:
            raise ValueError("no widget that may be shown")
        for widget in self._open.values():
            if widget.msg_id == msg_id:
                self._put_into(widget, [*widget.children, comm_id])
        return {"version_major": 2, "version_minor": 0, "model_id": comm_id}

    # -- messages

    def _begin(
        self, comm_id: str, state: dict[str, object], buffers: Sequence[memoryview]
    ) -> NotebookNode:
        if comm_id in self._open or len(self._open) >= MAX_WIDGETS:
            raise ValueError(f"more than {MAX_WIDGETS:,} widgets, or one twice")
        self._open[comm_id] = _Widget(*_facts(state))
        try:
            data = self._update(comm_id, state, buffers)
        except ValueError:
            self.close(comm_id)
            raise
        return _message("comm_open", comm_id, data, buffers)

    def _update(
        self, comm_id: str, state: dict[str, object], buffers: Sequence[memoryview]
    ) -> dict[str, JSON]:
        widget = self._open.get(comm_id)
        if widget is None:
            raise ValueError("a message of no widget that is open")
        kept = {
            key: self._value(widget, key, value) for key, value in state.items() if key in _KEYS
        }
        kept = {key: value for key, value in kept.items() if value is not _LEFT_OUT}
        if "_model_name" in state:  # a complete state, with which a page makes a model
            kept |= widget.facts
        data: dict[str, JSON] = {"state": kept}
        data["buffer_paths"] = [["value"]] if widget.model == "Image" and buffers else []
        pixels = buffers[0].nbytes if data["buffer_paths"] else 0
        size = len(json.dumps(data))
        if size > MAX_STATE or pixels > MAX_PICTURE:
            raise ValueError(f"a state of {size:,} characters and {pixels:,} bytes")
        widget.size = size + pixels
        if sum(each.size for each in self._open.values()) > MAX_IN_ALL:
            raise ValueError(f"widgets of more than {MAX_IN_ALL >> 20} MiB")
        return data

    def _value(self, widget: _Widget, key: str, value: object) -> JSON:
        """Read one value of a state."""
        if widget.model == "Layout" or widget.model.endswith("Style"):
            return _css(value)
        match key:
            case "value":
                return _VALUES.get(widget.model, as_json)(value)
            case "layout" | "style":
                known = self._referred([value])
                fits = [one for one in known if self._open[one].model.endswith(key.capitalize())]
                return _REFERENCE + fits[0] if fits else _LEFT_OUT
            case "children":
                self._put_into(widget, self._referred(value))
                return [_REFERENCE + child for child in widget.children]
            case "outputs":
                outputs = [_output(one) for one in as_list(value, MAX_CHILDREN)]
                shown = [o.data[VIEW] for o in outputs if VIEW in o.get("data", {})]
                self._put_into(widget, [str(as_object(view).get("model_id")) for view in shown])
                return list[JSON](outputs)
            case "msg_id":
                widget.msg_id = self._requests.get(str(value), "")
                return widget.msg_id
        return _READERS.get(key, _label)(value)

    def _referred(self, value: object) -> list[str]:
        """Find the widgets that a list names, without those that the page does not know."""
        names = [as_text(name).removeprefix(_REFERENCE) for name in as_list(value, MAX_CHILDREN)]
        return [name for name in names if name in self._open]

    def _put_into(self, widget: _Widget, children: list[str]) -> None:
        """Check that a page can draw a widget with these children; it draws each at every place."""
        before, widget.children = widget.children, [c for c in children if c in self._open]
        try:
            if sum(len(each.children) for each in self._open.values()) > MAX_CHILDREN:
                raise ValueError("more children than a page can draw")
            counts: dict[str, int] = {}
            for comm_id in self._open:
                self._count(comm_id, counts, 0)
        except ValueError:
            widget.children = before
            raise

    def _count(self, comm_id: str, counts: dict[str, int], depth: int) -> int:
        if comm_id not in counts:
            if depth > MAX_DEPTH:
                raise ValueError("a widget inside itself, or nested too deep")
            children = [child for child in self._open[comm_id].children if child in self._open]
            count = 1 + sum(self._count(child, counts, depth + 1) for child in children)
            if count > MAX_VIEWS:
                raise ValueError("a widget with more parts than a page can draw")
            counts[comm_id] = count
        return counts[comm_id]


def _facts(state: dict[str, object]) -> tuple[str, dict[str, JSON]]:
    """Name a widget's model and what draws it: nothing else than belongs to it, or nothing.

    Raises
    ------
    ValueError
        It is no model that may be shown, or says something else of itself.
    """
    name = str(state.get("_model_name")).removesuffix("Model")
    if name not in _MODELS:
        raise ValueError(f"widgets called {name[:60]!r}")
    module = {"Layout": _BASE, "Output": _OUTPUT}.get(name, _CONTROLS)
    drawn = _BASE if name.endswith("Style") else module
    view = "Style" if name.endswith("Style") else _VIEWS.get(name, name)
    facts: dict[str, JSON] = {
        "_model_module": module,
        "_model_module_version": _VERSIONS[module],
        "_model_name": f"{name}Model",
        "_view_module": drawn,
        "_view_module_version": _VERSIONS[drawn],
        "_view_name": f"{view}View",
    }
    if state.get("_view_name") is None:
        facts["_view_name"] = None
    for fact, value in facts.items():
        if state.get(fact) != value:
            raise ValueError(f"a {name} whose {fact} is {str(state.get(fact))[:60]!r}")
    return name, facts


def _message(
    kind: str, comm_id: str, data: dict[str, JSON], buffers: Sequence[memoryview]
) -> NotebookNode:
    kept = list(buffers[:1]) if data["buffer_paths"] else []
    target = {"target_name": TARGET} if kind == "comm_open" else {}
    return NotebookNode(output_type=kind, comm_id=comm_id, data=data, buffers=kept, **target)


# -- values

_LEFT_OUT: JSON = {"left": "out"}  # compared by identity


def _label(value: object) -> JSON:
    """Read text that is shown where MathJax looks for TeX."""
    return as_json(value, lambda text: harmless_tex(as_text(text)))


def _html(value: object) -> JSON:
    """Rebuild HTML: the page uses it unchanged."""
    shown = read_output("display_data", {"data": {"text/html": as_text(value)}})
    assert shown is not None
    return str(shown.data.get("text/html", ""))


def _css(value: object) -> JSON:
    if value is None or type(value) in (int, float):
        return value  # type: ignore[return-value]  # a number
    text = as_text(value)
    return text if _CSS.fullmatch(text) and not _FETCHES.search(text) else None


def _output(value: object) -> NotebookNode:
    fields = as_object(value)
    output = read_output(str(fields.get("output_type")), fields, admit={VIEW})
    if output is None:
        raise ValueError("an output of an unknown kind")
    output.pop("transient", None)
    return output


def _one_of(*words: str) -> Callable[[object], JSON]:
    def read(value: object) -> JSON:
        if value not in words:
            raise ValueError(f"{str(value)[:40]!r} where one of {words} belongs")
        return str(value)

    return read


def _icon(value: object) -> JSON:
    text = as_text(value)
    return text if _ICON.fullmatch(text) else ""


_READERS: dict[str, Callable[[object], JSON]] = {
    "_dom_classes": lambda names: ["widget-interact"] if names == ["widget-interact"] else [],
    "bar_style": lambda value: _one_of(*_COLOURS)(value or ""),
    "box_style": lambda value: _one_of(*_COLOURS)(value or ""),
    "button_style": lambda value: _one_of(*_COLOURS)(value or ""),
    "description_allow_html": lambda _: False,
    "format": _one_of(*_PICTURES),
    "icon": _icon,
    "icons": lambda names: [_icon(name) for name in as_list(names, MAX_CHILDREN)],
    "interval": lambda value: max(20, value) if type(value) is int else 100,  # milliseconds
}
_VALUES: dict[str, Callable[[object], JSON]] = {
    "FileUpload": lambda _: [],  # the page has read the file and sent it
    "HTML": _html,
    "HTMLMath": _html,
    "Image": lambda _: _LEFT_OUT,  # it comes as bytes
    "Label": _label,
}
