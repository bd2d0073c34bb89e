"""Pictures for the model: checked and made small; described in words where that fails.

Their bytes come out of the sandbox: none is decoded before its header has told how large it is,
and a bad one is a `ValueError`, whatever it makes a decoder raise. Pillow, which comes with
matplotlib, does the decoding; without it a picture goes as it is, if it is small and looks whole.
A few bytes can keep a decoder busy for minutes, so this runs in the process of `sandbox.cleaning`.
"""

from __future__ import annotations

import base64
import io
import json
import re
import struct
import warnings
from typing import TYPE_CHECKING, NotRequired, TypedDict

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MIMES", "Picture", "fit", "fit_url"]

MAX_SIDE = 1024  # px: what models see well; they scale more down themselves, and charge for it
MAX_PIXELS = 25_000_000  # to decode: 100 MB in RGBA
MAX_BYTES = 1 << 20  # of a picture that is sent; servers take 4 to 5 MB
MAX_SIDE_AS_IT_IS = 4096  # px, where nothing can make it smaller

_FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/gif": "GIF"}
MIMES = tuple(_FORMATS)

# how each begins and, where all do, its width and height; and what its end holds
_HEADS = {
    "image/png": (re.compile(rb"\x89PNG\r\n\x1a\n.{4}IHDR(.{8})", re.DOTALL), ">II"),
    "image/jpeg": (re.compile(rb"\xff\xd8\xff()"), ""),
    "image/gif": (re.compile(rb"GIF8[79]a(.{4})", re.DOTALL), "<HH"),
}
_ENDS = {"image/png": b"IEND", "image/jpeg": b"\xff\xd9", "image/gif": b";"}


class Picture(TypedDict):
    """How a model gets a picture; without ``data``, as it is."""

    mime: str
    size: NotRequired[list[int]]  # px, width and height
    data: NotRequired[str]  # base64


def fit_url(url: str) -> str:
    """Fit a picture that comes as a ``data:`` URL; return a `Picture` as JSON, or else why not."""
    mime, _, data = url.removeprefix("data:").partition(";base64,")
    try:
        return json.dumps(fit(mime, data))
    except ValueError as error:
        return json.dumps(str(error))


def fit(mime: str, data: str) -> Picture:
    """Check a picture in base64 and make it small enough for a model.

    Raises
    ------
    ValueError
        It cannot be shown; the message goes on after "a picture ".
    """
    raw = _decoded(data)
    size = _size(mime, raw)
    if size and size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"of {size[0]}x{size[1]} px, too large to be shown")
    try:
        import PIL  # noqa: F401
    except ImportError:
        return _as_it_is(mime, raw, size)
    try:
        with warnings.catch_warnings(action="ignore"):  # of its size too, which is counted here
            return _fitted(mime, raw)
    except _TooLargeError:
        raise
    except Exception as error:  # decoders raise whatever hostile bytes make them
        raise ValueError(f"that cannot be shown: its {mime} is broken") from error


class _TooLargeError(ValueError):
    """A picture whose header promises more pixels than are decoded."""


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except ValueError:
        raise ValueError("that cannot be shown: it is not base64") from None


def _size(mime: str, raw: bytes) -> list[int]:
    """Read width and height from the header; empty where they stand elsewhere, as in JPEG."""
    pattern, layout = _HEADS[mime]
    head = pattern.match(raw)
    if head is None:
        raise ValueError(f"that cannot be shown: it is called {mime} and is none")
    return list(struct.unpack(layout, head[1]))


def _as_it_is(mime: str, raw: bytes, size: list[int]) -> Picture:
    if len(raw) > MAX_BYTES or max(size, default=0) > MAX_SIDE_AS_IT_IS:
        about = f"of {size[0]}x{size[1]} px" if size else f"of {len(raw) >> 10:,} KiB"
        raise ValueError(f"{about}, too large to be shown without Pillow")
    if _ENDS[mime] not in raw[-64:]:
        raise ValueError(f"that cannot be shown: its {mime} is broken")
    return Picture(mime=mime, size=size) if size else Picture(mime=mime)


def _fitted(mime: str, raw: bytes) -> Picture:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(raw), formats=[_FORMATS[mime]])
    except Image.DecompressionBombError:
        raise _TooLargeError("of too many pixels to be shown") from None
    with image:
        size = list(image.size)
        if size[0] * size[1] > MAX_PIXELS:
            raise _TooLargeError(f"of {size[0]}x{size[1]} px, too large to be shown")
        animated = getattr(image, "is_animated", False)
        if not animated and max(size) <= MAX_SIDE and len(raw) <= MAX_BYTES:
            image.load()
            return Picture(mime=mime, size=size)
        mime, raw = _encoded(image, mime)
    return Picture(mime=mime, size=size, data=base64.b64encode(raw).decode())


def _encoded(image: Image, mime: str) -> tuple[str, bytes]:
    """Write a photograph as one again; the rest without loss, unless that is too large."""
    if image.mode == "P":  # colours of a palette cannot be mixed
        image = image.convert("RGBA")
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    if mime != "image/jpeg":
        whole = io.BytesIO()
        image.save(whole, "PNG")
        if whole.tell() <= MAX_BYTES:
            return "image/png", whole.getvalue()
    lossy = io.BytesIO()
    image.convert("RGB").save(lossy, "JPEG", quality=85)
    return "image/jpeg", lossy.getvalue()
