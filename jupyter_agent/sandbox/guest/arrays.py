"""Write and read arrays and scalars of numpy."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from jupyter_agent.sandbox.guest.nodes import (
    CannotCopyError,
    Node,
    Reader,
    Writer,
    as_count,
    as_list,
    unknown,
)

_DTYPE = re.compile(
    r"[<>|=](?:b1|[iu][1248]|f(?:2|4|8|16)|c(?:8|16|32)|[SU][1-9]\d{0,8}"
    r"|[mM]8(?:\[\d{0,9}(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?)"
)


def write(writer: Writer, value: Any) -> Node:
    """Write an array or a scalar."""
    if isinstance(value, np.generic):
        return {"is": "numpy scalar", "array": write(writer, np.asarray(value))}
    if type(value) is not np.ndarray:
        raise unknown(value)
    dtype, shape = value.dtype, list(value.shape)
    if dtype.kind == "O":
        return {"is": "numpy objects", "shape": shape, "items": writer.nodes(value.reshape(-1))}
    if dtype.fields:
        raise CannotCopyError("an array with named fields cannot be copied; a DataFrame of it can")
    if not _DTYPE.fullmatch(dtype.str):
        raise CannotCopyError(f"numpy's {dtype} cannot be copied; .astype(object) of it may")
    flat = np.ascontiguousarray(value).reshape(-1)
    data = writer.buffer(flat.view(np.uint8) if flat.size else b"")
    return {"is": "numpy array", "dtype": dtype.str, "shape": shape, "data": data}


def read(reader: Reader, node: Node) -> Any:
    """Read an array or a scalar."""
    if node["is"] == "numpy scalar":
        return reader.expect(node["array"], "numpy array")[()]
    shape = [as_count(side) for side in as_list(node["shape"])]
    if node["is"] == "numpy objects":
        items = reader.values(node["items"])
        array = np.empty(len(items), object)
        for index, item in enumerate(items):
            array[index] = item
        return array.reshape(shape)
    if not _DTYPE.fullmatch(node["dtype"]):
        raise ValueError(f"no dtype: {node['dtype']!r:.60}")
    dtype = np.dtype(node["dtype"])
    raw = np.frombuffer(reader.bytes_of(node), np.uint8)
    if math.prod(shape) * dtype.itemsize != raw.size:
        raise ValueError(f"{raw.size} bytes for an array of {shape} {dtype}")
    if not raw.size:
        return np.empty(shape, dtype)
    array = np.ndarray(shape, dtype, raw if raw.flags.writeable else raw.copy())
    _check_bits(array)
    return array


def _check_bits(array: Any) -> None:
    """Refuse bytes that are no bool or no character: numpy relies on it when it indexes."""
    if array.dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise ValueError("a bool that is neither true nor false")
    if array.dtype.kind == "U":
        points = np.frombuffer(array.tobytes(), array.dtype.newbyteorder("=").str[0] + "u4")
        points = points if array.dtype.isnative else points.byteswap()
        if (points > 0x10FFFF).any():
            raise ValueError("text that is no Unicode")
