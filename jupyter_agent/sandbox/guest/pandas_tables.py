"""Write and read tables, columns and labels of pandas."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from jupyter_agent.sandbox.guest.nodes import (
    TABLE,
    CannotCopyError,
    Node,
    Reader,
    Writer,
    as_list,
    inside,
    read_zone,
    unknown,
    write_zone,
)

_arrow: Any = None  # text is written as JSON then
with suppress(ImportError):
    from jupyter_agent.sandbox.guest import arrow_tables as _arrow

_EXTENSIONS = tuple(
    f"pandas {kind}"
    for kind in "category zoned strings texts arrows periods intervals masked".split()
)
_INDEXES = ("pandas steps", "pandas levels", "pandas index")
_BY_ARROW = ("pandas strings", "pandas texts", "pandas arrows")
_MASKED = set("Int8 Int16 Int32 Int64 UInt8 UInt16 UInt32 UInt64 Float32 Float64 Boolean".split())


def write(writer: Writer, value: Any) -> Node:
    """Write a table, a column, labels or a scalar."""
    match value:
        case pd.DataFrame() | pd.Series() if type(value).__module__.split(".")[0] != "pandas":
            raise CannotCopyError(
                f"a value of type {type(value).__name__} cannot be copied; pandas' own of it can"
            )
        case pd.DataFrame():
            return _write_frame(writer, value)
        case pd.Series():
            facts = {"name": writer.node(value.name), "index": writer.node(value.index)}
            return {"is": "pandas series", **facts, "data": _write_column(writer, value)}
        case pd.Index():
            return _write_index(writer, value)
        case pd.Timestamp() | pd.Timedelta():
            return {"is": "pandas item", "index": _write_index(writer, pd.Index([value]))}
    if value is pd.NaT or value is pd.NA:
        return {"is": "pandas missing", "name": type(value).__name__}
    raise unknown(value)


def read(reader: Reader, node: Node) -> Any:
    """Read a table, a column, labels or a scalar."""
    match node["is"]:
        case "pandas frame":
            return _read_frame(reader, node)
        case "pandas series":
            reader.claim(TABLE)
            data, index = _read_column(reader, node["data"]), _read_labels(reader, node["index"])
            return pd.Series(data, index=index, name=reader.value(node["name"]), dtype=data.dtype)
        case "pandas item":
            return reader.expect(node["index"], "pandas index")[0]
        case "pandas missing":
            return {"NaTType": pd.NaT, "NAType": pd.NA}[node["name"]]
        case kind if kind in _INDEXES:
            return _read_index(reader, node)
    return _read_extension(reader, node)


def _write_frame(writer: Writer, frame: Any) -> Node:
    data = []
    for place, name in enumerate(frame.columns):
        with inside(name):
            data.append(_write_column(writer, frame.iloc[:, place]))
    index, columns = writer.node(frame.index), writer.node(frame.columns)
    return {"is": "pandas frame", "index": index, "columns": columns, "data": data}


def _read_frame(reader: Reader, node: Node) -> Any:
    reader.claim(TABLE)
    index, columns = _read_labels(reader, node["index"]), _read_labels(reader, node["columns"])
    reader.claim(len(index) + len(columns))
    data = {}
    for place, item in enumerate(as_list(node["data"])):
        column = _read_column(reader, item)  # a Series, or pandas guesses at the dtype of objects
        data[place] = pd.Series(column, index=index, dtype=column.dtype)
    frame = pd.DataFrame(data, index=index)
    frame.columns = columns
    return frame


# -- labels


def _write_index(writer: Writer, index: Any) -> Node:
    name = writer.node(index.name)
    match index:
        case pd.RangeIndex():
            bounds = [index.start, index.stop, index.step]
            return {"is": "pandas steps", "bounds": bounds, "name": name}
        case pd.MultiIndex():
            levels = [writer.node(level) for level in index.levels]
            codes = [writer.node(np.asarray(code, "int64")) for code in index.codes]
            names = writer.nodes(index.names)
            return {"is": "pandas levels", "levels": levels, "codes": codes, "names": names}
    freq = getattr(index, "freqstr", None) if index.dtype.kind in "mM" else None
    data = _write_column(writer, index)
    return {"is": "pandas index", "data": data, "name": name, "freq": freq}


def _read_index(reader: Reader, node: Node) -> Any:
    if node["is"] == "pandas levels":
        levels = [_read_whole_labels(reader, level) for level in as_list(node["levels"])]
        codes = [reader.expect(code, "numpy array") for code in as_list(node["codes"])]
        return pd.MultiIndex(levels, codes, names=reader.values(node["names"]))
    name = reader.value(node["name"])
    if node["is"] == "pandas steps":
        bounds = as_list(node["bounds"])
        if len(bounds) != 3 or any(type(bound) is not int for bound in bounds):
            raise ValueError(f"{bounds!r:.60} where start, stop and step belong")
        if any(abs(bound) >= 1 << 63 for bound in bounds):  # its len() would raise
            raise ValueError(f"{bounds!r:.60} are steps beyond 64 bits")
        return pd.RangeIndex(*bounds, name=name)
    data = _read_column(reader, node["data"])
    index = pd.Index(data, name=name, dtype=data.dtype)
    if node["freq"] is not None:
        index.freq = _frequency(node["freq"])
    return index


def _read_labels(reader: Reader, node: Node) -> Any:
    return reader.expect(node, *_INDEXES)


def _read_whole_labels(reader: Reader, node: Node) -> Any:
    """Read labels that pandas writes out, even where they are steps."""
    index = _read_labels(reader, node)
    reader.claim(64 * len(index))
    return index


def _frequency(node: Node) -> str:
    if not isinstance(node, str) or not re.fullmatch(r"[A-Za-z0-9-]{1,24}", node):
        raise ValueError(f"no frequency: {node!r:.60}")
    return node


# -- columns


def _write_column(writer: Writer, column: Any) -> Node:
    """Write a Series or an Index without its labels."""
    dtype, values = column.dtype, column.array
    kind = type(dtype).__name__.removesuffix("Dtype")
    if isinstance(dtype, np.dtype):
        return _write_numpy_column(writer, column.to_numpy())
    match dtype:
        case pd.CategoricalDtype():
            codes, categories = writer.node(values.codes), writer.node(dtype.categories)
            facts = {"codes": codes, "categories": categories, "ordered": dtype.ordered}
            return {"is": "pandas category", **facts}
        case pd.DatetimeTZDtype():
            data = writer.node(values.tz_convert("UTC").tz_localize(None).to_numpy())
            return {"is": "pandas zoned", "zone": write_zone(dtype.tz), "data": data}
        case pd.StringDtype():
            na = "NA" if getattr(dtype, "na_value", pd.NA) is pd.NA else "nan"
            data = _write_texts(writer, values) or writer.node(values.astype(object))
            return {"is": "pandas strings", "storage": dtype.storage, "na": na, "data": data}
        case pd.ArrowDtype():
            column = _arrow.write_column(writer, values.__arrow_array__())
            return {"is": "pandas arrows", "data": column}
        case pd.PeriodDtype():
            data = writer.node(values.asi8)
            return {"is": "pandas periods", "freq": pd.PeriodIndex(values).freqstr, "data": data}
        case pd.IntervalDtype():
            sides = [writer.node(pd.Index(side)) for side in (values.left, values.right)]
            return {"is": "pandas intervals", "sides": sides, "closed": dtype.closed}
    if kind not in _MASKED:
        raise CannotCopyError(f"a column of {dtype} cannot be copied; another dtype may")
    mask = writer.node(np.asarray(values.isna()))
    data = writer.node(values.to_numpy(dtype=dtype.numpy_dtype, na_value=0))
    return {"is": "pandas masked", "kind": kind, "data": data, "mask": mask}


def _write_numpy_column(writer: Writer, values: Any) -> Node:
    """Write numbers and objects; objects that all are text as a stream."""
    if (
        values.dtype.kind == "O"
        and pd.api.types.infer_dtype(values, skipna=False) == "string"
        and all(type(value) is str for value in values)
        and (data := _write_texts(writer, values))
    ):
        return {"is": "pandas texts", "data": data}
    return writer.node(values)


def _write_texts(writer: Writer, values: Any) -> Node | None:
    return None if _arrow is None else _arrow.write_texts(writer, values)


def _read_column(reader: Reader, node: Node) -> Any:
    """Read a column."""
    column = reader.expect(node, "numpy array", "numpy objects", *_EXTENSIONS)
    if column.ndim != 1:  # pandas would repeat a single one for all rows
        raise ValueError(f"a column of {column.ndim} dimensions")
    return column


def _read_extension(reader: Reader, node: Node) -> Any:
    """Read a column of a dtype that numpy does not have, or of text."""
    if node["is"] == "pandas intervals":
        left, right = (_read_whole_labels(reader, side) for side in as_list(node["sides"]))
        return pd.IntervalIndex.from_arrays(left, right, closed=node["closed"]).array
    if node["is"] == "pandas category":
        codes = reader.expect(node["codes"], "numpy array")
        categories = _read_whole_labels(reader, node["categories"])
        return pd.Categorical.from_codes(codes, categories, ordered=bool(node["ordered"]))
    if node["is"] in _BY_ARROW and node["data"]["is"] == "pyarrow stream":
        return _read_stream(reader, node)
    if node["is"] == "pandas strings":
        data = reader.expect(node["data"], "numpy objects")
        return pd.array(data, dtype=_read_string_dtype(node))
    data = reader.expect(node["data"], "numpy array")
    match node["is"]:
        case "pandas zoned" if data.dtype.kind == "M":
            zone = read_zone(node["zone"])
            return pd.DatetimeIndex(data).tz_localize("UTC").tz_convert(zone).array
        case "pandas periods":
            return pd.PeriodIndex.from_ordinals(data, freq=_frequency(node["freq"])).array
        case "pandas masked":
            return _read_masked(data, reader.expect(node["mask"], "numpy array"), node["kind"])
    raise ValueError(f"no column: {node!r:.60}")


def _read_stream(reader: Reader, node: Node) -> Any:
    from jupyter_agent.sandbox.guest import arrow_tables  # or say what is missing

    if node["is"] == "pandas arrows":
        return pd.arrays.ArrowExtensionArray(arrow_tables.read_column(reader, node["data"]))
    column = arrow_tables.read_texts(reader, node["data"])
    if node["is"] == "pandas texts":
        return column.to_numpy()
    return _read_string_dtype(node).__from_arrow__(column)


def _read_string_dtype(node: Node) -> Any:
    storage, na = node["storage"], node["na"]
    if storage not in ("python", "pyarrow") or na not in ("NA", "nan"):
        raise ValueError(f"no kind of text: {storage!r:.20}, {na!r:.20}")
    return pd.StringDtype(storage, **({} if na == "NA" else {"na_value": np.nan}))


def _read_masked(data: Any, mask: Any, kind: str) -> Any:
    if kind not in _MASKED or data.dtype != getattr(pd, f"{kind}Dtype")().numpy_dtype:
        raise ValueError(f"{kind!r:.20} made of {data.dtype}")
    name = "Boolean" if kind == "Boolean" else "Floating" if "Float" in kind else "Integer"
    return getattr(pd.arrays, f"{name}Array")(data, mask)
