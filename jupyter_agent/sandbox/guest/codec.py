"""Encode values as bytes and decode them, without pickle; used on both sides.

A value becomes a tree, which is JSON, and buffers beside it. Numbers in arrays and columns go as
they lie in RAM, text in columns and Arrow's own types as an Arrow stream. What is read decides on
no class and runs no code: nothing is unpickled, Arrow's metadata and extension types are refused.
Both sides read with the same care; only the host's needs it.

Standard library; numpy, pandas, polars, pyarrow, PIL only where a value is one of theirs.
"""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
import json
import math
import re
import struct
import sys
import time
import uuid
import zoneinfo
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

Buffer: TypeAlias = "bytes | bytearray | memoryview"

MAX_DEPTH = 100
MAX_TREE = 32 << 20  # bytes of JSON
MAX_COST = 256 << 20  # bytes of memory that the tree may become
MAX_ELEMENTS = 16 << 20  # that may be said in few bytes, beside one for each bit that came
TABLE = 1 << 12  # elements that a table counts as: it takes memory itself
LONG_TEXT = 1000  # characters; what is longer is no part of the tree
MAX_DIGITS = 1 << 16  # of one number
PIECE = 8 << 20  # bytes of one message
CAN = (
    "numbers, text, bytes, dates, lists and dicts of them, numpy arrays, pandas, polars and Arrow "
    "tables, pictures and figures can"
)
HINTS = {
    "generator": "make it a list",
    "map": "make it a list",
    "filter": "make it a list",
    "zip": "make it a list",
    "dict_keys": "make it a list",
    "dict_values": "make it a list",
    "LazyFrame": "collect() it",
    "Tensor": "its .numpy() can",
    "MaskedArray": "its .filled() can",
    "csr_matrix": "its .toarray() can",
    "OrderedDict": "make it a dict",
    "defaultdict": "make it a dict",
    "Counter": "make it a dict",
    "PosixPath": "make it a str",
}


class Unfit(TypeError):
    """A value that cannot cross: which part of it, and why."""

    def __init__(self, why: str, where: str = "") -> None:
        super().__init__(why, where)
        self.why, self.where = why, where

    def __str__(self) -> str:
        return f"{self.where}: {self.why}" if self.where else self.why


@contextmanager
def _inside(step: str) -> Iterator[None]:
    """Name the part of a value that is being looked at."""
    try:
        yield
    except Unfit as unfit:
        raise Unfit(unfit.why, step + unfit.where) from None


def encode(value: object) -> list[Buffer]:
    """Turn a value into bytes: its tree, then its buffers.

    Raises
    ------
    Unfit
        A part of it cannot cross.
    """
    writer = _Writer()
    tree = json.dumps(writer.node(value), allow_nan=False, separators=(",", ":")).encode()
    if len(tree) > MAX_TREE or costs_more(tree, MAX_COST):
        raise Unfit("it is too much for a list or a dict; an array or a table can cross")
    return [tree, *writer.buffers]


def decode(parts: Sequence[Buffer], until: float = math.inf) -> Any:
    """Turn bytes back into the value.

    Parameters
    ----------
    until
        When to give up, in seconds of `time.monotonic`: keys can be chosen so that a dict of them
        takes the square of their number.

    Raises
    ------
    ValueError
        They are not what `encode` makes. ImportError: a package that the value needs is missing.
    """
    if not parts or len(parts[0]) > MAX_TREE:
        raise ValueError(f"a value described in more than {MAX_TREE >> 20} MiB, or in none")
    tree = bytes(parts[0])
    if costs_more(tree, MAX_COST):
        raise ValueError("a value of too many parts")
    try:
        room = MAX_ELEMENTS + 8 * sum(memoryview(part).nbytes for part in parts)
        return _Reader(parts[1:], room, until).value(json.loads(tree))
    except ImportError:
        raise
    except Exception as error:  # numpy, pandas and Arrow raise what they like
        raise ValueError(f"{type(error).__name__}: {str(error)[:300]}") from None


# what CPython takes for each at most, with the texts between them and the room that lists keep
_COSTS = {b",": 96, b"[": 96, b"{": 256}
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def costs_more(text: bytes | bytearray, most: int) -> bool:
    """Tell whether JSON may take more bytes of memory, once read, beside those of its text."""
    if _cost(text, 0, len(text)) <= most:
        return False
    end = 0
    for string in _STRING.finditer(text):  # what stands in a text is no part
        most -= 64 + _cost(text, end, string.start())
        if most < 0:
            return True
        end = string.end()
    return _cost(text, end, len(text)) > most


def _cost(text: bytes | bytearray, start: int, end: int) -> int:
    return sum(each * text.count(mark, start, end) for mark, each in _COSTS.items())


def _loaded(module: str, name: str) -> Any:
    """Return a class of a package if that is imported; no value can be one of it else."""
    return getattr(sys.modules.get(module), name, ())


def _arrow(what: str) -> Any:
    try:
        import pyarrow as pa
    except ImportError:
        raise Unfit(
            f'{what} needs pyarrow to cross; pip install "jupyter-agent-kernel[arrow]"'
        ) from None
    return pa


# -- writing

_PLAIN = {type(None), bool}


class _Writer:
    """Takes a value apart."""

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self._depth = 0

    def buffer(self, data: Any) -> int:
        view = memoryview(data)
        self.buffers.append(view.cast("B") if view.nbytes else b"")
        return len(self.buffers) - 1

    def node(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN or (kind is str and len(value) <= LONG_TEXT):
            return value
        if kind is str:
            return {"is": "text", "data": self.buffer(value.encode("utf-8", "surrogatepass"))}
        if kind is int:
            return value if abs(value) < 1 << 63 else {"is": "int", "hex": _digits(hex(value))}
        if kind is float:
            return value if math.isfinite(value) else {"is": "float", "text": repr(value)}
        if self._depth >= MAX_DEPTH:
            raise Unfit(f"it is nested deeper than {MAX_DEPTH}, or holds itself")
        self._depth += 1
        try:
            write = _WRITERS.get(kind)
            return write(self, value) if write else self._foreign(value)
        finally:
            self._depth -= 1

    def nodes(self, values: Any) -> list[Any]:
        nodes = []
        for index, value in enumerate(values):
            if type(value) is str and len(value) <= LONG_TEXT:
                nodes.append(value)
                continue
            with _inside(f"[{index}]"):
                nodes.append(self.node(value))
        return nodes

    def _dict(self, value: dict[Any, Any]) -> Any:
        keys, values = self.nodes(value.keys()), []
        for key, item in value.items():
            with _inside(f"[{key!r:.60}]"):
                values.append(self.node(item))
        return {"is": "dict", "keys": keys, "values": values}

    def _foreign(self, value: Any) -> Any:
        """Write what is of no built-in type."""
        for module, name, write in _FOREIGN:
            if isinstance(value, _loaded(module, name)):
                node = write(self, value)
                if node is not None:
                    return node
        name = type(value).__name__
        hint = HINTS.get(name)
        if hint is None and hasattr(value, "savefig"):
            hint = "its .figure can"
        raise Unfit(f"a {name} cannot cross; {hint or CAN}")

    # -- numpy

    def array(self, array: Any) -> Any:
        import numpy as np

        if type(array) is not np.ndarray:
            return None
        if array.dtype.kind == "O":
            shape = list(array.shape)
            return {"is": "objects", "shape": shape, "items": self.nodes(array.reshape(-1))}
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        if array.dtype.itemsize == 0:
            array = array.astype(f"{array.dtype.kind}1")
        flat = np.ascontiguousarray(array.T if fortran else array).reshape(-1)
        return {
            "is": "array",
            "dtype": self._dtype(array.dtype),
            "shape": list(array.shape),
            "fortran": fortran,
            "data": self.buffer(flat.view(np.uint8) if flat.size else b""),
        }

    def _dtype(self, dtype: Any) -> Any:
        if dtype.fields is None:
            if not _DTYPE.fullmatch(dtype.str):
                raise Unfit(f"numpy's {dtype} cannot cross; .astype(object) of it may")
            return dtype.str
        fields = [dtype.fields[name] for name in dtype.names]
        return {
            "names": list(dtype.names),
            "formats": [self._dtype(field[0]) for field in fields],
            "offsets": [field[1] for field in fields],
            "itemsize": dtype.itemsize,
        }

    def _scalar(self, value: Any) -> Any:
        import numpy as np

        return {"is": "scalar", "array": self.array(np.asarray(value))}

    # -- pandas

    def _frame(self, frame: Any) -> Any:
        _exactly(frame, "DataFrame")
        data = []
        for place, name in enumerate(frame.columns):
            with _inside(f"[{name!r:.60}]"):
                data.append(self.column(frame.iloc[:, place]))
        index, columns = self.index(frame.index), self.index(frame.columns)
        return {"is": "frame", "index": index, "columns": columns, "data": data}

    def _series(self, series: Any) -> Any:
        _exactly(series, "Series")
        data, name = self.column(series), self.node(series.name)
        return {"is": "series", "index": self.index(series.index), "data": data, "name": name}

    def index(self, index: Any) -> Any:
        import pandas as pd

        name = self.node(index.name)
        match index:
            case pd.RangeIndex():
                bounds = [index.start, index.stop, index.step]
                return {"is": "steps", "bounds": bounds, "name": name}
            case pd.MultiIndex():
                levels = [self.index(level) for level in index.levels]
                codes = [self.array(code.astype("int64")) for code in map(_numpy, index.codes)]
                names = self.nodes(index.names)
                return {"is": "levels", "levels": levels, "codes": codes, "names": names}
        freq = getattr(index, "freqstr", None) if index.dtype.kind in "mM" else None
        return {"is": "index", "data": self.column(index), "name": name, "freq": freq}

    def column(self, column: Any) -> Any:
        """Write a Series, an Index or an array of pandas' without its labels."""
        import numpy as np
        import pandas as pd

        dtype = column.dtype
        if isinstance(dtype, np.dtype) or type(dtype).__name__ == "NumpyEADtype":
            values = column.to_numpy()
            dtype = values.dtype
            return self._objects(values) if dtype.kind == "O" else self.array(values)
        values = getattr(column, "array", column)
        match dtype:
            case pd.CategoricalDtype():
                codes, categories = self.array(values.codes), self.index(dtype.categories)
                facts = {"codes": codes, "categories": categories, "ordered": dtype.ordered}
                return {"is": "category", **facts}
            case pd.DatetimeTZDtype():
                naive = values.tz_convert("UTC").tz_localize(None).to_numpy()
                return {"is": "zoned", "tz": _zone(dtype.tz), "data": self.array(naive)}
            case pd.StringDtype():
                na = "NA" if getattr(dtype, "na_value", pd.NA) is pd.NA else "nan"
                facts = {"storage": dtype.storage, "na": na}
                return {"is": "strings", **facts, "data": self._text(values)}
            case pd.ArrowDtype():
                return {"is": "arrows", "data": self._stream(values.__arrow_array__())}
            case pd.PeriodDtype():
                index = pd.PeriodIndex(values)
                return {"is": "periods", "freq": index.freqstr, "data": self.array(index.asi8)}
            case pd.IntervalDtype():
                sides = [self.index(pd.Index(side)) for side in (values.left, values.right)]
                return {"is": "intervals", "sides": sides, "closed": dtype.closed}
        if type(dtype).__name__.removesuffix("Dtype") not in _MASKED:
            raise Unfit(f"a column of {dtype} cannot cross; another dtype may")
        mask = np.asarray(values.isna())
        data = values.to_numpy(dtype=dtype.numpy_dtype, na_value=0)
        kind = type(dtype).__name__.removesuffix("Dtype")
        return {"is": "masked", "kind": kind, "data": self.array(data), "mask": self.array(mask)}

    def _objects(self, values: Any) -> Any:
        """Write a column of objects; one of nothing but text is worth a stream."""
        import pandas as pd

        text = pd.api.types.infer_dtype(values, skipna=False) == "string"
        if text and all(type(value) is str for value in values):
            node = self._text(values)
            if node["is"] == "stream":
                return {"is": "texts", "data": node}
        return self.array(values)

    def _text(self, values: Any) -> Any:
        """Write text as a stream, or one by one where Arrow is missing or text is no Unicode."""
        try:
            import pyarrow as pa
        except ImportError:
            return self.array(values.astype(object))
        try:
            return self._stream(pa.array(values, type=pa.large_string(), from_pandas=True))
        except (UnicodeError, pa.ArrowException):
            return self.array(values.astype(object))

    def _item(self, value: Any) -> Any:
        """Write one of pandas' scalars as an index of one."""
        import pandas as pd

        return {"is": "item", "index": self.index(pd.Index([value]))}

    # -- Arrow

    def _stream(self, columns: Any) -> Any:
        """Write Arrow's arrays as the column of a table."""
        return self._table(_arrow("it").table([columns], names=["0"]))

    def _table(self, table: Any) -> Any:
        pa = _arrow("a table")
        for field in table.schema:
            if why := _unfit_type(field.type):
                raise Unfit(f"Arrow's {why} cannot cross; cast it", f"[{field.name!r:.60}]")
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, _bare(table.schema)) as out:
            out.write_table(table.cast(_bare(table.schema)))
        return {"is": "stream", "data": self.buffer(sink.getvalue())}

    def _arrow_table(self, table: Any) -> Any:
        return {"is": "table", "stream": self._table(table)}

    def _arrow_batch(self, batch: Any) -> Any:
        table = _arrow("a batch").Table.from_batches([batch])
        return {"is": "batch", "stream": self._table(table)}

    def _arrow_array(self, array: Any) -> Any:
        chunked = type(array).__name__ == "ChunkedArray"
        return {"is": "chunks" if chunked else "arrow", "stream": self._stream(array)}

    # -- polars, pictures

    def _polars(self, frame: Any) -> Any:
        import polars as pl

        _arrow("a polars frame")
        enums = {}
        for name, dtype in frame.schema.items():
            if isinstance(dtype, pl.Enum):
                enums[name] = dtype.categories.to_list()
            elif "Enum(" in str(dtype) or "Object" in str(dtype):
                raise Unfit(f"polars' {dtype} cannot cross; cast it", f"[{name!r:.60}]")
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        return {"is": "polars", "stream": self._table(table), "enums": self.node(enums)}

    def _polars_series(self, series: Any) -> Any:
        node = self._polars(series.to_frame().rename({series.name: "0"}))
        return {"is": "polars series", "frame": node, "name": series.name}

    def _picture(self, image: Any) -> Any:
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        if image.mode not in _MODES:
            raise Unfit(f"a picture of mode {image.mode} cannot cross; convert it to RGB")
        palette = image.getpalette() if image.mode == "P" else None
        facts = {"mode": image.mode, "size": list(image.size), "palette": palette}
        return {"is": "picture", **facts, "data": self.buffer(image.tobytes())}

    def _figure(self, figure: Any) -> Any:
        """Write a figure of matplotlib's as the picture that it shows."""
        import io

        from PIL import Image

        file = io.BytesIO()
        figure.savefig(file, format="png", bbox_inches="tight")
        return self._picture(Image.open(file).convert("RGBA"))


def _exactly(value: Any, name: str) -> None:
    if type(value).__module__.partition(".")[0] != "pandas":
        raise Unfit(f"a {type(value).__name__} cannot cross; pandas.{name} of it can")


def _numpy(values: Any) -> Any:
    import numpy as np

    return np.asarray(values)


def _digits(text: str) -> str:
    """Return a number's digits, if they are not so many that to reckon with them takes long."""
    if len(text) > MAX_DIGITS:
        raise Unfit(f"a number of {len(text):,} digits cannot cross; one of {MAX_DIGITS:,} can")
    return text


def _zone(tz: Any) -> Any:
    """Write a time zone: its name, or its seconds from UTC."""
    match tz:
        case None:
            return None
        case dt.timezone():
            return tz.utcoffset(None).total_seconds()
    name = getattr(tz, "key", None) or getattr(tz, "zone", None)
    if not isinstance(name, str):
        raise Unfit(f"the time zone {tz!r:.60} cannot cross; one of zoneinfo's can")
    return name


def _bare(schema: Any) -> Any:
    """Leave out what a schema says beside names and types."""
    import pyarrow as pa

    return pa.schema([pa.field(field.name, field.type, field.nullable) for field in schema])


_WRITERS: dict[type, Callable[[_Writer, Any], Any]] = {
    list: _Writer.nodes,
    dict: _Writer._dict,
    tuple: lambda w, v: {"is": "tuple", "items": w.nodes(v)},
    set: lambda w, v: {"is": "set", "items": w.nodes(v)},
    frozenset: lambda w, v: {"is": "frozenset", "items": w.nodes(v)},
    range: lambda _, v: {"is": "range", "bounds": [v.start, v.stop, v.step]},
    bytes: lambda w, v: {"is": "bytes", "data": w.buffer(v)},
    bytearray: lambda w, v: {"is": "bytearray", "data": w.buffer(v)},
    memoryview: lambda w, v: {"is": "view", "data": w.buffer(v)},
    complex: lambda w, v: {"is": "complex", "parts": [w.node(v.real), w.node(v.imag)]},
    dt.datetime: lambda _, v: {
        "is": "datetime",
        "iso": v.replace(tzinfo=None).isoformat(),
        "tz": _zone(v.tzinfo),
        "fold": v.fold,
    },
    dt.date: lambda _, v: {"is": "date", "iso": v.isoformat()},
    dt.time: lambda _, v: {
        "is": "time",
        "iso": v.replace(tzinfo=None).isoformat(),
        "tz": _zone(v.tzinfo),
        "fold": v.fold,
    },
    dt.timedelta: lambda _, v: {
        "is": "timedelta",
        "parts": [v.days, v.seconds, v.microseconds],
    },
    decimal.Decimal: lambda _, v: {"is": "decimal", "text": _digits(str(v))},
    fractions.Fraction: lambda w, v: {
        "is": "fraction",
        "parts": [w.node(v.numerator), w.node(v.denominator)],
    },
    uuid.UUID: lambda _, v: {"is": "uuid", "text": str(v)},
}
_FOREIGN: list[tuple[str, str, Callable[[_Writer, Any], Any]]] = [
    ("pandas", "DataFrame", _Writer._frame),
    ("pandas", "Series", _Writer._series),
    ("pandas", "Index", lambda w, v: w.index(v)),
    ("pandas.api.extensions", "ExtensionArray", lambda w, v: {"is": "cells", "data": w.column(v)}),
    ("pandas", "Timestamp", _Writer._item),
    ("pandas", "Timedelta", _Writer._item),
    ("pandas", "Period", _Writer._item),
    ("pandas", "Interval", _Writer._item),
    ("pandas._libs.tslibs.nattype", "NaTType", lambda *_: {"is": "NaT"}),
    ("pandas._libs.missing", "NAType", lambda *_: {"is": "NA"}),
    ("numpy", "ndarray", _Writer.array),
    ("numpy", "generic", _Writer._scalar),
    ("pyarrow", "Table", _Writer._arrow_table),
    ("pyarrow", "RecordBatch", _Writer._arrow_batch),
    ("pyarrow", "Array", _Writer._arrow_array),
    ("pyarrow", "ChunkedArray", _Writer._arrow_array),
    ("polars", "DataFrame", _Writer._polars),
    ("polars", "Series", _Writer._polars_series),
    ("PIL.Image", "Image", _Writer._picture),
    ("matplotlib.figure", "Figure", _Writer._figure),
]

# -- reading

_DTYPE = re.compile(
    r"[<>|=](?:b1|[iu][1248]|f(?:2|4|8|16)|c(?:8|16|32)|[SU]\d{1,9}"
    r"|[mM]8(?:\[\d{0,9}(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?)"
)
_MASKED = set("Int8 Int16 Int32 Int64 UInt8 UInt16 UInt32 UInt64 Float32 Float64 Boolean".split())
_MODES = {  # of pictures: bits for each point
    **{"1": 1, "L": 8, "P": 8, "LA": 16, "I;16": 16, "RGB": 24, "YCbCr": 24, "HSV": 24},
    **{"RGBA": 32, "RGBX": 32, "CMYK": 32, "I": 32, "F": 32},
}
_FREQUENCY = re.compile(r"[A-Za-z0-9-]{1,24}")


class _Reader:
    """Puts a value together again, and believes nothing of what it is told."""

    def __init__(self, buffers: Sequence[Buffer], room: int, until: float) -> None:
        self._buffers: list[Buffer | None] = list(buffers)
        self._depth = 0
        self._until = until
        self._room = room

    def claim(self, elements: int) -> None:
        """Count elements that take memory but no bytes of their own.

        Raises
        ------
        ValueError
            They are too many for the bytes that came.
        """
        self._room -= elements
        if self._room < 0:
            raise ValueError("a value of more elements than bytes have come for")

    def hurry(self) -> None:
        """Give up when it takes too long."""
        if time.monotonic() > self._until:
            raise ValueError("it takes too long to read")

    def value(self, node: Any) -> Any:
        match node:
            case None | bool() | int() | float() | str():
                return node
            case {"is": str(kind)} if kind in _READERS:
                pass
            case list():
                kind = ""
            case _:
                raise ValueError(f"no kind of value: {node!r:.60}")
        self.hurry()
        self._depth += 1
        if self._depth > 2 * MAX_DEPTH:
            raise ValueError("a value that is nested too deep")
        value = _READERS[kind](self, node) if kind else [self.value(item) for item in node]
        self._depth -= 1
        return value

    def values(self, nodes: Any) -> list[Any]:
        return [self.value(node) for node in _list(nodes)]

    def bytes_of(self, node: dict[str, Any]) -> memoryview:
        index = _integer(node["data"])
        buffer, self._buffers[index] = self._buffers[index], None
        if buffer is None:
            raise ValueError("bytes that are used twice")
        return memoryview(buffer).cast("B")

    def _expect(self, node: Any, kinds: str) -> Any:
        if not isinstance(node, dict) or node.get("is") not in kinds.split():
            raise ValueError(f"{node!r:.60} where {kinds} belongs")
        return self.value(node)

    def _dict(self, node: Any) -> Any:
        made = {}
        for key, value in zip(self.values(node["keys"]), self.values(node["values"]), strict=True):
            made[key] = value
            self.hurry()
        return made

    def set_of(self, node: Any) -> set[Any]:
        made = set()
        for item in self.values(node["items"]):
            made.add(item)
            self.hurry()
        return made

    # -- numpy

    def array(self, node: Any) -> Any:
        import numpy as np

        dtype = _read_dtype(node["dtype"])
        shape = [_integer(side) for side in _list(node["shape"])]
        raw = np.frombuffer(self.bytes_of(node), np.uint8)
        count = math.prod(shape)
        if count * dtype.itemsize != raw.size or (count and not raw.size):
            raise ValueError(f"{raw.size} bytes for an array of {shape} {dtype}")
        if not raw.size:
            return np.empty(shape, dtype)
        raw = raw if raw.flags.writeable else raw.copy()
        array = np.ndarray(shape, dtype, raw, order="F" if node["fortran"] else "C")
        for name in dtype.names or ():
            self.claim(count)  # they may lie over one another
            self.hurry()
            _check_bits(array[name])
        if not dtype.names:
            _check_bits(array)
        return array

    def objects(self, node: Any) -> Any:
        import numpy as np

        items = self.values(node["items"])
        array = np.empty(len(items), object)
        for index, item in enumerate(items):
            array[index] = item
        return array.reshape([_integer(side) for side in _list(node["shape"])])

    # -- pandas

    def _frame(self, node: Any) -> Any:
        import pandas as pd

        self.claim(TABLE)
        index, columns = self._index(node["index"]), self._index(node["columns"])
        self.claim(len(index) + len(columns))
        data = {}
        for place, item in enumerate(_list(node["data"])):
            column = self.column(item)  # as a Series: pandas guesses at the dtype of objects else
            data[place] = pd.Series(column, index=index, dtype=column.dtype)
        frame = pd.DataFrame(data, index=index)
        frame.columns = columns
        return frame

    def _series(self, node: Any) -> Any:
        import pandas as pd

        self.claim(TABLE)
        data, index = self.column(node["data"]), self._index(node["index"])
        return pd.Series(data, index=index, name=self.value(node["name"]), dtype=data.dtype)

    def column(self, node: Any) -> Any:
        kinds = "array objects category zoned strings arrows periods intervals masked texts"
        column = self._expect(node, kinds)
        if column.ndim != 1:  # pandas would repeat a single one for all rows
            raise ValueError(f"a column of {column.ndim} dimensions")
        return column

    def _index(self, node: Any) -> Any:
        return self._expect(node, "steps levels index")

    def _written(self, node: Any) -> Any:
        """Read an index that pandas writes out, where it is one of steps."""
        index = self._index(node)
        self.claim(64 * len(index))
        return index

    def steps(self, node: Any) -> Any:
        import pandas as pd

        return pd.RangeIndex(*_bounds(node), name=self.value(node["name"]))

    def levels(self, node: Any) -> Any:
        import pandas as pd

        levels = [self._written(level) for level in _list(node["levels"])]
        codes = [self._expect(code, "array") for code in _list(node["codes"])]
        return pd.MultiIndex(levels, codes, names=self.values(node["names"]))

    def index(self, node: Any) -> Any:
        import pandas as pd

        data = self.column(node["data"])
        index = pd.Index(data, name=self.value(node["name"]), dtype=data.dtype)
        if node["freq"] is not None:
            index.freq = _frequency(node["freq"])
        return index

    def category(self, node: Any) -> Any:
        import pandas as pd

        codes = self._expect(node["codes"], "array")
        categories = self._written(node["categories"])
        return pd.Categorical.from_codes(codes, categories, ordered=bool(node["ordered"]))

    def zoned(self, node: Any) -> Any:
        import pandas as pd

        data, tz = self._expect(node["data"], "array"), _read_zone(node["tz"])
        if data.dtype.kind != "M":
            raise ValueError(f"points in time made of {data.dtype}")
        return pd.DatetimeIndex(data).tz_localize("UTC").tz_convert(tz).array

    def strings(self, node: Any) -> Any:
        import numpy as np
        import pandas as pd

        storage, na = node["storage"], node["na"]
        if storage not in ("python", "pyarrow") or na not in ("NA", "nan"):
            raise ValueError(f"no kind of text: {storage!r:.20}, {na!r:.20}")
        dtype = pd.StringDtype(storage, **({} if na == "NA" else {"na_value": np.nan}))
        data = self._expect(node["data"], "stream objects")
        if isinstance(data, np.ndarray):
            return pd.array(data, dtype=dtype)
        return dtype.__from_arrow__(_of_text(_only_column(data)))

    def texts(self, node: Any) -> Any:
        return _of_text(_only_column(self._expect(node["data"], "stream"))).to_numpy()

    def arrows(self, node: Any) -> Any:
        import pandas as pd

        column = _only_column(self._expect(node["data"], "stream"))
        return pd.arrays.ArrowExtensionArray(column)

    def periods(self, node: Any) -> Any:
        import pandas as pd

        data = self._expect(node["data"], "array")
        return pd.PeriodIndex.from_ordinals(data, freq=_frequency(node["freq"])).array

    def intervals(self, node: Any) -> Any:
        import pandas as pd

        left, right = (self._written(side) for side in _list(node["sides"]))
        return pd.IntervalIndex.from_arrays(left, right, closed=node["closed"]).array

    def masked(self, node: Any) -> Any:
        import pandas as pd

        data, mask = (self._expect(node[part], "array") for part in ("data", "mask"))
        kind = node["kind"]
        if kind not in _MASKED or data.dtype != getattr(pd, f"{kind}Dtype")().numpy_dtype:
            raise ValueError(f"{kind!r:.20} made of {data.dtype}")
        name = "Boolean" if kind == "Boolean" else "Floating" if "Float" in kind else "Integer"
        return getattr(pd.arrays, f"{name}Array")(data, mask)

    def item(self, node: Any) -> Any:
        return self._expect(node["index"], "index")[0]

    # -- Arrow, polars, pictures

    def stream(self, node: Any) -> Any:
        self.claim(TABLE)
        table = _read_stream(self.bytes_of(node))
        empty = sum(str(field.type) == "null" for field in table.schema)
        self.claim(table.num_rows * (1 + empty))
        return table

    def table(self, node: Any) -> Any:
        return self._expect(node["stream"], "stream")

    def batch(self, node: Any) -> Any:
        (batch,) = self.table(node).combine_chunks().to_batches()
        return batch

    def chunks(self, node: Any) -> Any:
        return _only_column(self.table(node))

    def arrow(self, node: Any) -> Any:
        chunks = self.chunks(node)
        return chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()

    def polars(self, node: Any) -> Any:
        import polars as pl

        frame: Any = pl.from_arrow(self.table(node))
        enums = self._expect(node["enums"], "dict")
        return frame.with_columns(pl.col(c).cast(pl.Enum(enums[c])) for c in enums)

    def polars_series(self, node: Any) -> Any:
        return self._expect(node["frame"], "polars").to_series(0).rename(str(node["name"]))

    def picture(self, node: Any) -> Any:
        from PIL import Image

        mode, (width, height) = node["mode"], map(_integer, _list(node["size"]))
        data = self.bytes_of(node)
        if not isinstance(mode, str) or mode not in _MODES or not width or not height:
            raise ValueError(f"no kind of picture: {mode!r:.20} of {width} x {height}")
        if (width * _MODES[mode] + 7) // 8 * height != len(data):
            raise ValueError(f"{len(data):,} bytes for a picture of {width} x {height}")
        image = Image.frombytes(mode, (width, height), bytes(data))
        if mode == "P":
            image.putpalette(bytes(_list(node["palette"])))
        return image


def _list(node: Any) -> list[Any]:
    if not isinstance(node, list):
        raise ValueError(f"{node!r:.60} where a list belongs")
    return node


def _integer(node: Any) -> int:
    if type(node) is not int or node < 0:
        raise ValueError(f"{node!r:.60} where a whole number belongs")
    return node


def _bounds(node: Any) -> list[int]:
    bounds = _list(node["bounds"])
    if len(bounds) != 3 or any(type(bound) is not int for bound in bounds):
        raise ValueError(f"{bounds!r:.60} where start, stop and step belong")
    return bounds


def _read_dtype(node: Any) -> Any:
    import numpy as np

    if isinstance(node, dict):
        formats = [_read_dtype(field) for field in _list(node["formats"])]
        names, offsets = _list(node["names"]), _list(node["offsets"])
        itemsize = _integer(node["itemsize"])
        if any(field.fields for field in formats) or itemsize > 1 << 20:
            raise ValueError("fields within fields")
        facts = {"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize}
        made: Any = np.dtype
        return made(facts)
    if not isinstance(node, str) or not _DTYPE.fullmatch(node):
        raise ValueError(f"no dtype: {node!r:.60}")
    return np.dtype(node)


def _check_bits(array: Any) -> None:
    """Refuse what is no bool and no character: numpy counts on it when it indexes."""
    import numpy as np

    if array.dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise ValueError("a bool that is neither true nor false")
    if array.dtype.kind == "U":
        points = np.frombuffer(array.tobytes(), array.dtype.newbyteorder("=").str[0] + "u4")
        points = points if array.dtype.isnative else points.byteswap()
        if (points > 0x10FFFF).any():
            raise ValueError("text that is no Unicode")


def _read_zone(node: Any) -> Any:
    match node:
        case None:
            return None
        case int() | float():
            return dt.timezone(dt.timedelta(seconds=node))
        case str() if re.fullmatch(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,3}", node[:80]):
            return zoneinfo.ZoneInfo(node)
    raise ValueError(f"no time zone: {node!r:.60}")


def _frequency(node: Any) -> str:
    if not isinstance(node, str) or not _FREQUENCY.fullmatch(node):
        raise ValueError(f"no frequency: {node!r:.60}")
    return node


def _read_stream(data: Any) -> Any:
    """Read an Arrow stream of our own making, and check all of it."""
    import pyarrow as pa

    buffer = pa.py_buffer(data)
    for message in pa.ipc.MessageReader.open_stream(buffer):
        metadata = message.metadata.to_pybytes()
        if message.type == "schema" and b"ARROW:extension:" in metadata:
            raise ValueError("an Arrow stream with extension types")
        # as Arrow wrote it before its format had a field for it; still read
        old = b"ARROW:experimental_compression" in metadata
        if old or (message.type != "schema" and _compressed(metadata, message.type)):
            raise ValueError("an Arrow stream that is compressed")
    with pa.ipc.open_stream(buffer) as reader:
        if any(_unfit_type(field.type) for field in reader.schema):
            raise ValueError(f"Arrow's types {reader.schema.types!r:.60} may not cross")
        table = reader.read_all()
    table.validate()
    if _nominal_bytes(table) > 2 * len(data) + (1 << 20):
        raise ValueError("an Arrow stream that uses bytes more than once")
    table.validate(full=True)
    return table.replace_schema_metadata(None)


def _compressed(metadata: bytes, kind: str) -> bool:
    """Tell whether a batch is compressed: a few bytes may then stand for all there is of RAM.

    ``metadata`` is a flatbuffer (Arrow's format/Message.fbs): a table starts with the distance to
    its vtable, which holds two sizes and then the place of each field.
    """

    def follow(place: int) -> int:
        return place + struct.unpack_from("<I", metadata, place)[0]

    def field(table: int, number: int) -> int:
        vtable = table - struct.unpack_from("<i", metadata, table)[0]
        if 4 + 2 * number >= struct.unpack_from("<H", metadata, vtable)[0]:
            return 0
        offset: int = struct.unpack_from("<H", metadata, vtable + 4 + 2 * number)[0]
        return table + offset if offset else 0

    header = follow(field(follow(0), 2))
    batch = follow(field(header, 1)) if kind == "dictionary" else header
    return field(batch, 3) != 0


def _nominal_bytes(table: Any) -> int:
    """Count the bytes of a table's elements as if each column had its own."""
    size = 0
    dictionaries = {}
    for number, column in enumerate(table.columns):
        for chunk in column.chunks:
            if hasattr(chunk, "indices"):
                data = chunk.dictionary.buffers()[-1]  # the batches of a column share it
                place = number, data.address if data else 0
                dictionaries[place] = chunk.dictionary.nbytes
            size += getattr(chunk, "indices", chunk).nbytes
    return size + sum(dictionaries.values())


def _unfit_type(dtype: Any, top: bool = True) -> str:
    """Name the type, or the part of it, that may not cross; empty if all of it may.

    It may where each element has bits of its own: not views and unions, which may show the same
    ones many times over.
    """
    import pyarrow.types as t

    fitting = [
        *(t.is_null, t.is_boolean, t.is_integer, t.is_floating, t.is_decimal, t.is_temporal),
        *(t.is_string, t.is_large_string, t.is_binary, t.is_large_binary, t.is_fixed_size_binary),
        *(t.is_list, t.is_large_list, t.is_fixed_size_list, t.is_struct, t.is_map),
        t.is_dictionary,
    ]

    if not any(fits(dtype) for fits in fitting) or (
        not top and (t.is_null(dtype) or t.is_dictionary(dtype))
    ):
        return str(dtype)
    parts = [dtype.field(index).type for index in range(dtype.num_fields)]
    if t.is_dictionary(dtype):
        return _unfit_type(dtype.value_type, top=False) or (
            str(dtype) if dtype.value_type.num_fields else ""
        )
    if t.is_fixed_size_list(dtype) and dtype.list_size == 0:
        return str(dtype)
    if t.is_struct(dtype) and not parts:  # elements without a bit
        return str(dtype)
    if t.is_fixed_size_binary(dtype) and dtype.byte_width == 0:
        return str(dtype)
    return next(filter(None, (_unfit_type(part, top=False) for part in parts)), "")


def _only_column(table: Any) -> Any:
    if table.num_columns != 1:
        raise ValueError(f"{table.num_columns} columns where one belongs")
    return table.column(0)


def _of_text(column: Any) -> Any:
    import pyarrow as pa

    if column.type != pa.large_string():
        raise ValueError(f"a column of {column.type} where text belongs")
    return column


_READERS: dict[str, Callable[[_Reader, Any], Any]] = {
    "int": lambda _, n: int(_digits(n["hex"]), 16),
    "float": lambda _, n: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[n["text"]],
    "dict": _Reader._dict,
    "tuple": lambda r, n: tuple(r.values(n["items"])),
    "set": _Reader.set_of,
    "frozenset": lambda r, n: frozenset(r.set_of(n)),
    "range": lambda _, n: range(*_bounds(n)),
    "text": lambda r, n: bytes(r.bytes_of(n)).decode("utf-8", "surrogatepass"),
    "bytes": lambda r, n: bytes(r.bytes_of(n)),
    "bytearray": lambda r, n: bytearray(r.bytes_of(n)),
    "view": lambda r, n: r.bytes_of(n),
    "complex": lambda r, n: complex(*map(float, r.values(n["parts"]))),
    "datetime": lambda _, n: dt.datetime.fromisoformat(n["iso"]).replace(
        tzinfo=_read_zone(n["tz"]), fold=n["fold"]
    ),
    "date": lambda _, n: dt.date.fromisoformat(n["iso"]),
    "time": lambda _, n: dt.time.fromisoformat(n["iso"]).replace(
        tzinfo=_read_zone(n["tz"]), fold=n["fold"]
    ),
    "timedelta": lambda _, n: dt.timedelta(*map(int, _list(n["parts"]))),
    "decimal": lambda _, n: decimal.Decimal(_digits(n["text"])),
    "fraction": lambda r, n: fractions.Fraction(*map(int, r.values(n["parts"]))),
    "uuid": lambda _, n: uuid.UUID(n["text"]),
    "scalar": lambda r, n: r._expect(n["array"], "array")[()],
    "NaT": lambda *_: __import__("pandas").NaT,
    "NA": lambda *_: __import__("pandas").NA,
    "frame": _Reader._frame,
    "series": _Reader._series,
    "cells": lambda r, n: r.column(n["data"]),
    "polars series": _Reader.polars_series,
    **{
        name: getattr(_Reader, name)
        for name in "array objects steps levels index category zoned strings texts arrows periods "
        "intervals masked item stream table batch chunks arrow polars picture".split()
    },
}
