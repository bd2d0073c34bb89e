"""Write and read pictures of PIL; write figures of matplotlib as pictures."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from jupyter_agent.sandbox.guest.nodes import (
    CannotCopyError,
    Node,
    Reader,
    Writer,
    as_count,
    as_list,
    unknown,
)

_MODES = {  # bits for each point
    **{"1": 1, "L": 8, "P": 8, "LA": 16, "I;16": 16},
    **{"RGB": 24, "RGBA": 32, "CMYK": 32, "I": 32, "F": 32},
}


def write(writer: Writer, value: Any) -> Node:
    """Write a picture or a figure."""
    if hasattr(value, "savefig"):
        file = io.BytesIO()
        value.savefig(file, format="png", bbox_inches="tight")
        value = Image.open(file).convert("RGBA")
    if not isinstance(value, Image.Image):
        raise unknown(value)
    if value.mode == "P" and "transparency" in value.info:
        value = value.convert("RGBA")
    if value.mode not in _MODES:
        raise CannotCopyError(f"a picture of mode {value.mode} cannot be copied; convert it to RGB")
    palette = value.getpalette() if value.mode == "P" else None
    facts = {"mode": value.mode, "size": list(value.size), "palette": palette}
    return {"is": "PIL picture", **facts, "data": writer.buffer(value.tobytes())}


def read(reader: Reader, node: Node) -> Image.Image:
    """Read a picture."""
    mode, (width, height) = node["mode"], map(as_count, as_list(node["size"]))
    data = reader.bytes_of(node)
    if mode not in _MODES or not width or not height:
        raise ValueError(f"no kind of picture: {mode!r:.20} of {width} x {height}")
    if (width * _MODES[mode] + 7) // 8 * height != len(data):
        raise ValueError(f"{len(data):,} bytes for a picture of {width} x {height}")
    image = Image.frombytes(mode, (width, height), bytes(data))
    if mode == "P":
        image.putpalette(bytes(as_list(node["palette"])))
    return image
