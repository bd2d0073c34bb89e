"""SVG as an image that neither runs scripts nor fetches (SVG 2, section 2.2.6).

It is read by an XML parser without entities, and written anew from drawing elements alone. Two
kilobytes of ``<use>`` in each other are a billion shapes and stop a page, so what is drawn is
counted first.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import XMLGenerator

__all__ = ["BadDrawingError", "EmptyDrawingError", "as_url", "clean_svg", "from_url", "reaches"]

MAX_DRAWN = 200_000  # elements, each with what it refers to
MAX_DEPTH = 200
_NAMESPACES = {"xmlns": "http://www.w3.org/2000/svg", "xmlns:xlink": "http://www.w3.org/1999/xlink"}
_ELEMENTS = frozenset(
    "svg g defs symbol use path rect circle ellipse line polyline polygon text tspan textPath "
    "title desc linearGradient radialGradient stop pattern clipPath mask marker image style switch "
    "a animate animateTransform animateMotion mpath set".split()
)
_PICTURES = ("data:image/png;", "data:image/jpeg;", "data:image/gif;")
_SHAPES = frozenset("path rect circle ellipse line polyline polygon text image".split())
_HIDDEN = frozenset(
    "defs symbol linearGradient radialGradient pattern clipPath mask marker".split()
)
_REFERENCE = re.compile(r"url\(\s*[\"']?\s*#([^)\"']*)[\"']?\s*\)", re.IGNORECASE)
# functions allowed in styles: not image-set(), src() or future ones
_FUNCTIONS = frozenset(
    "rgb rgba hsl hsla hwb lab lch oklab oklch color-mix var calc min max clamp linear-gradient "
    "radial-gradient conic-gradient repeating-linear-gradient repeating-radial-gradient "
    "translate translatex translatey rotate scale scalex scaley skewx skewy matrix".split()
)
_FUNCTION = re.compile(r"([\w-]*)\(")
_POINTS = re.compile(r"[A-Za-z,\s-]+")
# custom properties, used by var(): what they refer to could not be counted
_VARIABLE = re.compile(r"--[\w-]*\s*:[^;}]*url\(", re.IGNORECASE)
# what an animation may not change or refer to: it would change what is drawn
_NOT_ANIMATED = frozenset("class href id style xlink:href".split())
_ANIMATIONS = frozenset("animate set".split())


class BadDrawingError(ValueError):
    """An SVG that cannot be shown; the message says why."""


class EmptyDrawingError(BadDrawingError):
    """An SVG that draws nothing: it only defines parts for other drawings, or refers to theirs."""


@dataclass(slots=True)
class _Element:
    name: str
    attributes: dict[str, str]
    children: list[_Element | str] = field(default_factory=list)


def reaches(style: str) -> bool:
    """Tell whether a style, or an attribute that holds one, may fetch."""
    if "@" in style or "\\" in style:
        return True
    return any(name and name.lower() not in _FUNCTIONS for name in _FUNCTION.findall(style))


def clean_svg(text: str) -> str:
    """Rewrite an SVG from its drawing elements only.

    Raises
    ------
    BadDrawingError
        It is no well-formed XML, or draws too much, or nothing.
    """
    root = _read(text)
    if root.name != "svg":
        raise BadDrawingError("a drawing that is not SVG")
    if not _draws(root, {each.attributes.get("id") for each in _all(root)}):
        raise EmptyDrawingError("a drawing of nothing")
    if _Drawn(root).total() > MAX_DRAWN:
        raise BadDrawingError(f"a drawing of more than {MAX_DRAWN:,} parts")
    root.attributes |= _NAMESPACES
    written = io.StringIO()
    _write(root, XMLGenerator(written, encoding="utf-8", short_empty_elements=True))
    return written.getvalue()


def as_url(svg: str) -> str:
    """Write an SVG as a ``data:`` URL."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def from_url(url: str) -> str:
    """Read a ``data:`` URL of an SVG, from `as_url` or elsewhere.

    Raises
    ------
    BadDrawingError
        It is not base64.
    """
    try:
        data = base64.b64decode(url.partition(",")[2])
    except ValueError:
        raise BadDrawingError("a drawing that is not base64") from None
    return data.decode("utf-8", "replace")


def _read(text: str) -> _Element:
    """Read XML into a tree of drawing elements with harmless attributes only."""
    top = _Element("", {})
    stack: list[_Element] = [top]
    left_out = 0  # depth inside an element that is left out

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal left_out
        name = name.removeprefix("svg:")
        if left_out or name not in _ELEMENTS:
            left_out += 1
            return
        if len(stack) > MAX_DEPTH:
            raise BadDrawingError("a drawing that is nested too deep")
        element = _Element(name, dict(_harmless(attributes)))
        if name in _ANIMATIONS and _changes_references(element.attributes):
            left_out += 1
            return
        stack[-1].children.append(element)
        stack.append(element)

    def end(_name: str) -> None:
        nonlocal left_out
        if left_out:
            left_out -= 1
        else:
            stack.pop()

    def characters(text: str) -> None:
        if not left_out:
            stack[-1].children.append(text)

    def declared(*_: object) -> None:
        raise BadDrawingError("a drawing with entities")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.EntityDeclHandler = declared
    try:
        parser.Parse(text.encode("utf-8", "replace"), True)
    except expat.ExpatError as error:
        raise BadDrawingError(f"a drawing that is not XML ({error})") from None
    root = next((child for child in top.children if isinstance(child, _Element)), None)
    return root or top


def _harmless(attributes: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in attributes.items():
        local = name.rpartition(":")[2].lower()
        if local == "href":
            if value.startswith(("#", *_PICTURES)):
                yield name, value
        elif local.startswith("on") or name.startswith("xmlns") or local == "base":
            continue
        elif not (reaches(_REFERENCE.sub("", value)) or _VARIABLE.search(value)):
            yield name, value


def _changes_references(attributes: dict[str, str]) -> bool:
    values = " ".join(attributes.values()).lower()
    return attributes.get("attributeName", "").strip() in _NOT_ANIMATED or "url(" in values


def _draws(element: _Element, names: set[str | None]) -> bool:
    if element.name == "use":
        targets = {value for name, value in element.attributes.items() if name.endswith("href")}
        return any(target.removeprefix("#") in names for target in targets)
    if element.name in _SHAPES:
        return True
    inside = [each for each in element.children if isinstance(each, _Element)]
    return element.name not in _HIDDEN and any(_draws(each, names) for each in inside)


_BEGUN = -1
_INHERITED = re.compile(r"fill|stroke|marker")  # properties that elements inherit
_LEAVES = _SHAPES | {"use", "tspan", "textPath"}
_NO_STYLE = frozenset("linearGradient radialGradient stop style title desc".split())
_RULE = re.compile(r"([^{}]*)\{([^{}]*)\}")
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_COMPOUND = re.compile(r"([\w-]*)((?:[.#][\w-]+)*)")

_Reference = tuple[str, str]  # a property, and the id of what it refers to


class _Drawn:
    """Count what is drawn: each element, and what it refers to each time it does.

    A style may stand in a sheet, or come from an element above; where it cannot be told which
    elements a rule is for, it is taken to be for all.
    """

    def __init__(self, root: _Element) -> None:
        self._root = root
        self._named: dict[str, _Element] = {}
        self._counted: dict[int, int] = {}
        self._sheet: dict[str, list[_Reference]] = {}  # by .class, #id, element or *
        self._inherited: dict[int, tuple[_Reference, ...]] = {}
        self._points = 2
        for element in _all(root):
            self._named.setdefault(element.attributes.get("id", ""), element)
            self._points = max(self._points, _points(element))
            if element.name == "style":
                self._read_sheet(_sheet(element))
        self._hand_down(root)

    def total(self) -> int:
        return self._count(self._root)

    def _read_sheet(self, text: str) -> None:
        plain = not set(_RULE.sub("", text)) & set("{}") and not set(text) & set("\"'[\\")
        for selectors, body in _RULE.findall(text) if plain else [("*", text)]:
            if found := list(_references(body)):
                for selector in selectors.split(","):
                    self._sheet.setdefault(_key(selector), []).extend(found)

    def _own(self, element: _Element) -> list[_Reference]:
        """Name what an element refers to by its attributes, its style or a style sheet."""
        found: list[_Reference] = []
        for name, value in element.attributes.items():
            if name == "style":
                found += _references(value)
            else:
                found += [(name, each.strip()) for each in _REFERENCE.findall(value)]
        if self._sheet and element.name not in _NO_STYLE:
            classes = element.attributes.get("class", "").split()
            keys = ["*", element.name, f"#{element.attributes.get('id')}"]
            for key in (*keys, *(f".{each}" for each in dict.fromkeys(classes))):
                found += self._sheet.get(key, ())
        return found

    def _hand_down(self, root: _Element) -> None:
        waiting: list[tuple[_Element, tuple[_Reference, ...]]] = [(root, ())]
        while waiting:
            element, above = waiting.pop()
            own = tuple(each for each in self._own(element) if _INHERITED.match(each[0]))
            handed = tuple(dict.fromkeys(above + own)) if own else above
            self._inherited[id(element)] = handed
            waiting += [(each, handed) for each in element.children if isinstance(each, _Element)]

    def _count(self, element: _Element) -> int:
        known = self._counted.get(id(element))
        if known == _BEGUN:
            raise BadDrawingError("a drawing that holds itself")
        if known is not None:
            return known
        self._counted[id(element)] = _BEGUN
        count = 1
        for name, value in element.attributes.items():
            if name.rpartition(":")[2] == "href" and value.startswith("#") and element.name != "a":
                count += self._of(value[1:])
        leaf, drawn = element.name in _LEAVES, count
        for name, target in self._inherited[id(element)] if leaf else ():
            points = self._points if element.name == "use" else _points(element)
            count += drawn * (points if name.startswith("marker") else 1) * self._of(target)
        for name, target in self._own(element):
            if not _INHERITED.match(name):
                count += self._of(target)
        count += sum(self._count(each) for each in element.children if isinstance(each, _Element))
        self._counted[id(element)] = count = min(count, MAX_DRAWN + 1)
        return count

    def _of(self, name: str) -> int:
        element = self._named.get(name)
        return self._count(element) if element else 0


def _references(style: str) -> Iterator[_Reference]:
    for declaration in style.split(";"):
        name = declaration.partition(":")[0].strip().lower()
        yield from ((name, each.strip()) for each in _REFERENCE.findall(declaration))


def _key(selector: str) -> str:
    """Name a part that every element has to which a selector applies."""
    *_, last = re.split(r"[\s>+~]+", selector.strip())
    found = _COMPOUND.fullmatch(last)
    if not found or not last:
        return "*"
    return re.findall(r"[.#][\w-]+", found[2])[-1] if found[2] else found[1]


def _points(element: _Element) -> int:
    """Count the places where a marker may be drawn."""
    shape = element.attributes.get("d", "") + element.attributes.get("points", "")
    return 2 + len(_POINTS.findall(shape))


def _all(element: _Element) -> Iterator[_Element]:
    waiting = [element]
    while waiting:
        yield (found := waiting.pop())
        waiting += [child for child in found.children if isinstance(child, _Element)]


def _sheet(element: _Element) -> str:
    """Return a style sheet without its comments; an empty one if it may fetch."""
    text = "".join(child for child in element.children if isinstance(child, str))
    text = _COMMENT.sub(" ", text)
    return "" if reaches(_REFERENCE.sub("", text)) or _VARIABLE.search(text) else text


def _write(element: _Element, into: XMLGenerator) -> None:
    if element.name == "style":  # exactly the text that was counted, without comments
        sheet = _sheet(element)
        element = _Element("style", {}, [sheet] if sheet else [])
    into.startElement(element.name, element.attributes)  # type: ignore[arg-type]  # any mapping
    for child in element.children:
        if isinstance(child, str):
            into.characters(child)
        else:
            _write(child, into)
    into.endElement(element.name)
