"""Values that are copied: round trips of every kind, and guests that send something else."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import fractions
import json
import math
import os
import pickle
import subprocess
import sys
import zoneinfo
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.figure import Figure
from nbconvert.preprocessors import ClearOutputPreprocessor
from PIL import Image
from traitlets.config import Config

from jupyter_agent.errors import AgentError, ResultError, SandboxError, UsageError
from jupyter_agent.exchange.tools import Tools
from jupyter_agent.exchange.values import Inputs, describe, preview, read, unpack
from jupyter_agent.exchange.workspace import Workspace
from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.guest.codec import decode, encode
from jupyter_agent.sandbox.guest.nodes import CannotCopyError
from jupyter_agent.session import Session
from jupyter_agent.transcript.metadata import KEY
from jupyter_agent.transcript.notebook import Transcript

from .conftest import TIERS

F = "```"
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def copied(value: object) -> Any:
    """What arrives on the other side."""
    return decode([bytes(part) for part in encode(value)])


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same in type and content, NaN included."""
    if type(one) is not type(other):
        return False
    match one:
        case float():
            return one == other or (math.isnan(one) and math.isnan(other))
        case complex():
            return same(one.real, other.real) and same(one.imag, other.imag)
        case list() | tuple():
            return len(one) == len(other) and all(map(same, one, other))
        case dict():
            return same(list(one), list(other)) and same(list(one.values()), list(other.values()))
        case dt.datetime() | dt.time():
            return bool(one == other) and one.tzinfo == other.tzinfo and one.fold == other.fold
        case np.ndarray():
            return (
                one.dtype == other.dtype
                and one.shape == other.shape
                and (same(one.tolist(), other.tolist()))
            )
    return bool(one == other) or (one != one and other != other)


# -- round trips, in one process

zones = st.sampled_from([None, dt.UTC, BERLIN, dt.timezone(dt.timedelta(hours=5, minutes=45))])
atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**900), 2**900)
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters())
    | st.binary()
    | st.dates()
    | st.timedeltas()
    | st.datetimes(timezones=zones)
    | st.times(timezones=st.sampled_from([None, dt.UTC]))
    | st.decimals(allow_nan=False)
    | st.uuids()
)
keys = st.text() | st.integers() | st.booleans() | st.tuples(st.text(), st.integers())
plain = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(keys, inner, max_size=5)
        | st.lists(inner, max_size=3).map(tuple)
        | st.frozensets(st.integers() | st.text(), max_size=4)
        | st.sets(st.binary(), max_size=4)
    ),
    max_leaves=20,
)
dtypes = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?")
    | hnp.complex_number_dtypes()
    | hnp.unicode_string_dtypes(max_len=5)
    | hnp.byte_string_dtypes(max_len=5)
    | hnp.datetime64_dtypes()
    | hnp.timedelta64_dtypes()
)
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


@given(plain)
def test_plain_values_survive(value: object) -> None:
    assert same(copied(value), value)


@given(arrays, st.booleans())
def test_arrays_survive_and_can_be_written(array: Any, turned: bool) -> None:
    array = array.T if turned else array
    other = copied(array)
    assert other.dtype == array.dtype
    assert other.shape == array.shape
    assert other.tobytes() == array.tobytes()
    assert other.flags.writeable


@given(dtypes.flatmap(lambda dtype: hnp.arrays(dtype, 1)))
def test_numbers_of_numpy_survive(array: Any) -> None:
    other = copied(array[0])
    assert type(other) is type(array[0])
    assert other.tobytes() == array[0].tobytes()


def test_arrays_of_objects_survive() -> None:
    objects = np.array([[None, "x"], [1.5, {"a": 1}]], object)
    assert same(copied(objects), objects)


COLUMNS: dict[str, Any] = {
    "int": np.array([1, 2, 3], "int32"),
    "half": np.array([1, 2, np.nan], "float16"),
    "float": [1.5, np.nan, -0.0],
    "complex": [1j, 2, 3],
    "bool": [True, False, True],
    "text": ["a", None, "ü"],
    "text of python's": pd.array(["a", None, "b"], dtype="string[python]"),
    "text with NA": pd.array(["a", None, "b"], dtype=pd.StringDtype("pyarrow")),
    "old text": pd.Series(["a", "b", "c"], dtype=object),
    "broken text": pd.Series(["a", "\ud800", "c"], dtype=object),
    "mixed": pd.Series([1, "x", None], dtype=object),
    "lists": pd.Series([[1], [2, [3]], None], dtype=object),
    "dates": pd.Series([dt.date(2020, 1, 1)] * 3, dtype=object),
    "category": pd.Categorical(["x", "y", None], categories=["y", "x", "z"], ordered=True),
    "category of numbers": pd.Categorical([2, 1, 2]),
    "naive": pd.to_datetime(["2020", None, "2021"]).as_unit("s"),
    "zoned": pd.to_datetime(["2020", None, "2021"]).tz_localize(BERLIN),
    "utc": pd.to_datetime(["2020", None, "2021"], utc=True),
    "offset": pd.to_datetime(["2020-01-01T00:00+05:45"] * 3),
    "delta": pd.to_timedelta([1, None, 3], unit="s"),
    "nullable": pd.array([2**60 + 1, None, 3], dtype="Int64"),
    "unsigned": pd.array([1, None, 3], dtype="UInt8"),
    "nullable float": pd.array([1.5, None, 3], dtype="Float32"),
    "nullable bool": pd.array([True, None, False], dtype="boolean"),
    "period": pd.period_range("2020-01", periods=3, freq="M"),
    "interval": pd.interval_range(0, 3, closed="left"),
    "arrow": pd.array([[1], [2, 3], None], dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_survives_in_frame_series_and_index(kind: str) -> None:
    series = pd.Series(COLUMNS[kind], name=("a", 1))
    pd.testing.assert_series_equal(copied(series), series)
    frame = pd.DataFrame({"x": series, "y": range(3)})
    pd.testing.assert_frame_equal(copied(frame), frame)
    pd.testing.assert_frame_equal(copied(frame.iloc[:0]), frame.iloc[:0])
    if kind not in ("half", "lists"):  # pandas has no such index
        indexed = frame.set_index("x")
        pd.testing.assert_frame_equal(copied(indexed), indexed)
        if kind not in ("broken text", "arrow"):
            both = frame.set_index(["x", "y"])
            pd.testing.assert_frame_equal(copied(both), both)


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), max_size=20),
    st.lists(st.text(st.characters()) | st.none(), max_size=20),
    st.lists(st.floats(), max_size=20),
)
def test_columns_of_any_content_survive(
    numbers: list[int | None], texts: list[str | None], floats: list[float]
) -> None:
    for series in (
        pd.Series(numbers, dtype="Int64"),
        pd.Series(texts, dtype=object),
        pd.Series(floats, dtype="float64"),
    ):
        pd.testing.assert_series_equal(copied(series), series)


def test_labels_of_frames_survive() -> None:
    frame = pd.DataFrame(np.arange(6).reshape(3, 2), columns=["a", "a"])
    for odd in (
        frame,
        frame.T,
        frame[[]],
        pd.DataFrame(),
        frame.set_axis(pd.date_range("2020", periods=3, freq="h"), axis=0),
        frame.set_axis(pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", None]), axis=1),
        frame.rename_axis("rows").rename_axis("sides", axis=1),
    ):
        other = copied(odd)
        pd.testing.assert_frame_equal(other, odd, check_freq=True)
        assert type(other.index) is type(odd.index)


@pytest.mark.parametrize(
    "value",
    [
        pd.Timestamp("2020-01-02", tz=BERLIN),
        pd.Timestamp("2020-01-02T03:04:05.000000006"),
        pd.Timedelta("1s"),
        pd.NaT,
        pd.NA,
    ],
    ids=str,
)
def test_scalars_of_pandas_survive(value: Any) -> None:
    other = copied(value)
    assert type(other) is type(value)
    assert other is value or other == value
    assert getattr(other, "unit", None) == getattr(value, "unit", None)


def test_tables_of_arrow_survive() -> None:
    table = pa.table(
        {
            "i": pa.array([1, 2, None], "int8"),
            "s": ["a", "ü", None],
            "d": pa.array(["x", "y", "x"]).dictionary_encode(),
            "l": [[1], [], None],
            "r": [{"a": 1}, None, {"a": 2}],
            "m": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int8())),
            "t": pa.array([1, 2, None], pa.timestamp("us", "Europe/Berlin")),
            "n": pa.nulls(3),
            "x": pa.array([decimal.Decimal("1.10"), None, None]),
        }
    )
    for value in (table, table.slice(1, 1), pa.table({})):
        assert copied(value).equals(value)


def test_frames_of_polars_survive() -> None:
    frame = pl.DataFrame(
        {
            "a": [1, None],
            "s": ["x", None],
            "c": pl.Series(["a", "b"], dtype=pl.Categorical),
            "e": pl.Series(["u", "v"], dtype=pl.Enum(["v", "u"])),
            "t": pl.Series([dt.datetime(2020, 1, 1)] * 2, dtype=pl.Datetime("ms", "Asia/Tokyo")),
            "l": [[1], [2, 3]],
            "d": [decimal.Decimal("1.1")] * 2,
            "f": [math.nan, None],
        }
    )
    for value in (frame, frame.clear(), pl.DataFrame()):
        assert copied(value).schema == value.schema
        assert copied(value).equals(value)
    assert copied(frame["e"]).equals(frame["e"])
    assert copied(frame["e"]).name == "e"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16"])
def test_pictures_survive(mode: str) -> None:
    image = Image.new(mode, (5, 3), 1)
    other = copied(image)
    assert (other.mode, other.size, other.tobytes()) == (mode, (5, 3), image.tobytes())
    assert other.getpalette() == image.getpalette()


def test_a_figure_becomes_a_picture() -> None:
    figure = Figure(figsize=(2, 1), dpi=50)
    figure.subplots().plot([1, 2])
    picture = copied(figure)
    assert isinstance(picture, Image.Image)
    assert len(picture.getcolors() or []) > 2


# -- what cannot be copied

NOT: dict[str, tuple[Callable[[], object], str]] = {
    "function": (
        lambda: len,
        "a value of type builtin_function_or_method cannot be copied; numbers, text",
    ),
    "generator": (
        lambda: (n for n in "x"),
        "a value of type generator cannot be copied; make it a list",
    ),
    "deep": (
        lambda: {"a": [1, {"b": open}]},
        r"\['a'\]\[1\]\['b'\]: a value of type builtin_function_or_method cannot be copied",
    ),
    "cell": (
        lambda: pd.DataFrame({"z": [1, open]}, dtype=object),
        r"\['z'\]\[1\]: a value of type builtin_function_or_method cannot",
    ),
    "sparse": (
        lambda: pd.Series([1, 0], dtype="Sparse[int]"),
        r"a column of Sparse.* another dtype may",
    ),
    "list of millions": (lambda: [0.1234567890123] * 3_000_000, "it is too much for a list"),
    "number of millions": (lambda: 1 << 9_000_000, "a number of 2,250,003 digits cannot be copied"),
    "lazy": (
        lambda: pl.DataFrame().lazy(),
        r"a value of type LazyFrame cannot be copied; collect\(\) it",
    ),
    "masked": (
        lambda: np.ma.array([1]),
        r"a value of type MaskedArray cannot be copied; its .filled\(\) can",
    ),
    "fraction": (
        lambda: fractions.Fraction(1, 3),
        "a value of type Fraction cannot be copied; make it a float",
    ),
    "period": (
        lambda: pd.Period("2020"),
        "a value of type Period cannot be copied; its .start_time can",
    ),
    "interval": (
        lambda: pd.Interval(1, 2),
        "a value of type Interval cannot be copied; its .left and .right can",
    ),
    "records": (
        lambda: np.zeros(1, "i4,U3"),
        "an array with named fields cannot be copied; a DataFrame of it can",
    ),
    "categories": (
        lambda: pd.Categorical(["a"]),
        "a value of type Categorical cannot be copied; pandas.Series of it",
    ),
    "batch": (
        lambda: pa.record_batch({"a": [1]}),
        "a value of type RecordBatch cannot be copied; pyarrow.table of",
    ),
    "column": (
        lambda: pa.chunked_array([[1]]),
        "a value of type ChunkedArray cannot be copied; pyarrow.table of it",
    ),
    "void": (lambda: np.zeros(1, "V3"), "numpy's .V3 cannot be copied"),
    "extension": (
        lambda: pa.table({"u": pa.array([b"0" * 16], pa.uuid())}),
        r"\['u'\]: Arrow's extension<arrow.uuid> cannot be copied",
    ),
    "axes": (lambda: Figure().subplots(), "a value of type Axes cannot be copied"),
}


@pytest.mark.parametrize("case", NOT)
def test_what_cannot_be_copied_says_what_why_and_what_could(case: str) -> None:
    make, message = NOT[case]
    with pytest.raises(UsageError, match=f"^x(: )?{message}"):
        Inputs({"x": make()})


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(CannotCopyError, match="nested deeper than 100, or holds itself"):
        encode(loop)


def test_without_arrow_arrays_and_text_cross_and_tables_name_the_extra() -> None:
    code = (
        "import sys\nsys.modules['pyarrow'] = None\nimport pandas as pd\nimport polars as pl\n"
        "from jupyter_agent.sandbox.guest.codec import decode, encode\n"
        "frame = pd.DataFrame({'s': ['a', None], 'o': pd.Series(['x', 'y'], dtype=object), 'n': 1})\n"
        "pd.testing.assert_frame_equal(decode(encode(frame)), frame)\n"
        "try:\n    encode(pl.DataFrame({'a': [1]}))\nexcept TypeError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == (
        'a value of type DataFrame cannot be copied without pyarrow; pip install "jupyter-agent-kernel[arrow]"\n'
    ), done.stderr


# -- bytes of a hostile guest, in one process


def parts(tree: object, *buffers: bytes) -> list[bytes]:
    return [json.dumps(tree).encode(), *buffers]


def array(dtype: object, shape: object, data: bytes = b"", **more: object) -> list[bytes]:
    tree = {"is": "numpy array", "dtype": dtype, "shape": shape, "data": 0, **more}
    return parts(tree, data)


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_table(table)
    made: bytes = sink.getvalue().to_pybytes()
    return made


def arrow(data: bytes) -> list[bytes]:
    return parts({"is": "pyarrow stream", "data": 0}, data)


def bent_offsets() -> bytes:
    """A column of text whose offsets lead far out of its bytes."""
    offsets = pa.py_buffer(np.array([0, 1 << 40, 4], "int64").tobytes())
    return stream(
        pa.table(
            [pa.Array.from_buffers(pa.large_string(), 2, [None, offsets, pa.py_buffer(b"abcd")])],
            ["0"],
        )
    )


def compressed_of_old() -> bytes:
    """A batch that is compressed and says so as Arrow 0.17 did: 60 bytes here, a mebibyte there."""
    size = 1 << 20
    data = size.to_bytes(8, "little") + pa.Codec("zstd").compress(bytes(size), asbytes=True)
    batch = pa.record_batch([pa.array(np.frombuffer(data, np.int8))], names=["a"])
    options = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=options) as out:
        out.write_batch(batch, custom_metadata={"ARROW:experimental_compression": "zstd"})
    made: bytes = sink.getvalue().to_pybytes()
    assert pa.ipc.open_stream(made).read_all().column(0).chunk(0).buffers()[1].size == size
    return made


class Owned:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("owned",)


def pickled_extension() -> bytes:
    """The schema for which Arrow once unpickled (CVE-2023-47248)."""
    facts = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Owned()),
    }
    field = pa.field("a", pa.int8(), metadata=facts)
    return stream(pa.table([pa.array([1], "int8")], schema=pa.schema([field])))


TABLE = pa.table({"a": list(range(100)), "s": ["xyz"] * 100})
NULLS = pa.table([pa.Array.from_buffers(pa.null(), 1 << 40, [None])], ["n"])
HOSTILE: dict[str, list[bytes]] = {
    "nothing": [],
    "no JSON": [b"{"],
    "half a character": [b'"\xff"'],
    "deep JSON": [b"[" * 100_000],
    "deep tree": [b"[" * 900 + b"]" * 900],
    "long number": [b"9" * 5000],
    "longer number": parts({"is": "int", "text": "f" * 70_000}),
    "long decimal": parts({"is": "Decimal", "text": "9" * 70_000}),
    "unknown kind": parts({"is": "pickle", "data": 0}, pickle.dumps(Owned())),
    "no kind": parts({"a": 1}),
    "a method's name": parts({"is": "__init__"}),
    "steps beyond counting": parts({"is": "pandas steps", "bounds": [0, 1 << 64, 1], "name": None}),
    "kind of a kind": parts({"is": ["array"]}),
    "no such buffer": parts({"is": "bytes", "data": 7}),
    "buffer from the end": parts({"is": "bytes", "data": -1}, b"x"),
    "keys that are lists": parts({"is": "dict", "keys": [[1]], "values": [1]}),
    "too few values": parts({"is": "dict", "keys": [1, 2], "values": [1]}),
    "array of objects": array("|O", [1], pickle.dumps(Owned())),
    "array of fields": array(
        {"names": ["a"], "formats": ["|O"], "offsets": [0], "itemsize": 8}, [1], b"\0" * 8
    ),
    "array too short": array("<i8", [100], b"\0" * 8),
    "array too long": array("<i8", [1], b"\0" * 16),
    "array of the size of the world": array("<i8", [1 << 40, 1 << 40], b""),
    "array of nothing": array("|S0", [1 << 33]),
    "array of nothing, too large for any": array("|S0", [1 << 50]),
    "one number for a column": parts(
        {
            "is": "pandas series",
            "index": {"is": "pandas steps", "bounds": [0, 1 << 27, 1], "name": None},
            "data": json.loads(array("<i8", [])[0]),
            "name": None,
        },
        b"\0" * 8,
    ),
    "negative shape": array("<i8", [-1, -1], b"\0" * 8),
    "shape of floats": array("<i8", [1.0], b"\0" * 8),
    "bool that is none": array("|b1", [1], b"\2"),
    "no Unicode": array("<U1", [1], b"\xff\xff\xff\x7f"),
    "dtype with a comma": array("<i4,<i4", [1], b"\0" * 8),
    "zone by path": parts(
        {"is": "datetime", "text": "2020-01-01", "zone": "../../etc/passwd", "fold": 0}
    ),
    "zone of a day": parts({"is": "time", "text": "00:00", "zone": 10**9, "fold": 0}),
    "codes out of categories": parts(
        {
            "is": "pandas series",
            "name": None,
            "index": {"is": "pandas steps", "bounds": [0, 1, 1], "name": None},
            "data": {
                "is": "pandas category",
                "codes": json.loads(array("|i1", [1])[0]),
                "categories": {"is": "pandas steps", "bounds": [0, 1, 1], "name": None},
                "ordered": False,
            },
        },
        b"\5",
    ),
    "columns of different lengths": parts(
        {
            "is": "pandas frame",
            "index": {"is": "pandas steps", "bounds": [0, 2, 1], "name": None},
            "columns": {"is": "pandas steps", "bounds": [0, 1, 1], "name": None},
            "data": [json.loads(array("|i1", [1])[0])],
        },
        b"\5",
    ),
    "a frame's index that is a frame": parts(
        {"is": "pandas frame", "index": {"is": "pandas frame"}}
    ),
    "picture of the size of the world": parts(
        {
            "is": "PIL picture",
            "mode": "RGB",
            "size": [1 << 20, 1 << 20],
            "palette": None,
            "data": 0,
        },
        b"x",
    ),
    "picture of an odd mode": parts(
        {"is": "PIL picture", "mode": "P;16", "size": [1, 1], "palette": None, "data": 0}, b"xx"
    ),
    "arrow that is none": arrow(b"x" * 100),
    "arrow of nothing": arrow(b""),
    "compressed arrow": arrow(stream(TABLE, compression="zstd")),
    "compressed arrow of old": arrow(compressed_of_old()),
    "compressed dictionary": arrow(
        stream(pa.table({"d": pa.array(["x" * 99]).dictionary_encode()}), compression="lz4")
    ),
    "pickled extension": arrow(pickled_extension()),
    "extension": arrow(stream(pa.table({"u": pa.array([b"0" * 16], pa.uuid())}))),
    "run ends": arrow(stream(pa.table([pa.RunEndEncodedArray.from_arrays([1 << 30], [1])], ["r"]))),
    "rows of nothing": arrow(stream(NULLS, allow_64bit=True)),
    "bent offsets": arrow(bent_offsets()),
    "text that is a number": parts(
        {"is": "pandas texts", "data": {"is": "pyarrow stream", "data": 0}},
        stream(TABLE.select(["a"])),
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes_are_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError):  # noqa: PT011  # of many reasons
        decode(HOSTILE[case])
    assert not list(tmp_path.iterdir())


def test_no_room_is_made_for_a_picture_whose_bytes_are_not_there() -> None:
    tree = {"is": "PIL picture", "mode": "RGB", "size": [800, 100], "palette": None, "data": 0}
    with pytest.raises(ValueError, match="10,000 bytes for a picture of 800 x 100"):
        decode(parts(tree, b"x" * 10_000))


def test_truncated_arrow_is_refused_wherever_it_ends() -> None:
    whole = stream(TABLE)
    assert decode(arrow(whole)).num_rows == 100
    end = len(whole) - 8  # where a stream says that it ends, which it need not
    for length in range(0, end, 24):
        try:
            assert decode(arrow(whole[:length])).num_rows in (0, 100)
        except ValueError:
            continue


SEEDS = [
    encode([1, {"a": (2.5, "x")}, dt.datetime(2020, 1, 1, tzinfo=BERLIN)]),
    encode(pd.DataFrame({"a": [1, 2], "s": ["x", None], "c": pd.Categorical(["u", "v"])})),
    encode(pl.DataFrame({"a": [1], "e": pl.Series(["v"], dtype=pl.Enum(["v"]))})),
    encode(Image.new("P", (3, 3))),
    encode(np.array([True, False])),
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_bent_bytes_give_a_value_or_one_error(seed: list[bytes], data: st.DataObject) -> None:
    bent = [bytearray(part) for part in seed]
    for _ in range(data.draw(st.integers(1, 4))):
        part = data.draw(st.sampled_from([part for part in bent if part]))
        part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        repr(decode(bent))


async def test_a_reply_is_read_name_by_name() -> None:
    reply = encode({"a": encode(1), "b": [b"{"], "c": "why", "d": None, "owned": encode(2), "f": 5})
    values, faults = await unpack(reply, ["a", "b", "c", "d", "e", "f"])
    assert values == {"a": 1}
    assert [fault.split(":")[0] for fault in faults] == [
        "`b` cannot be read", "why", "`d` is not set", "`e` is not set", "`f` cannot be read",
    ]  # fmt: skip
    assert await unpack(encode([1]), ["a"]) == ({}, ["`a` is not set"])
    values, faults = await unpack([b"{"], ["a"])
    assert (values, faults[0][:30]) == ({}, "the results cannot be read: JS")


def colliding(count: int) -> list[dict[str, str]]:
    """Whole numbers of one hash: a dict compares each with all that are there."""
    return [{"is": "int", "text": hex(n * ((1 << 61) - 1))} for n in range(count)]


@pytest.mark.parametrize("kind", ["dict", "set", "frozenset"])
async def test_keys_that_collide_hold_nobody_up(kind: str) -> None:
    tree: dict[str, object] = {"is": kind, "items": colliding(300_000)}
    if kind == "dict":
        tree = {"is": kind, "keys": colliding(300_000), "values": [0] * 300_000}
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    heart = asyncio.create_task(beat())
    with pytest.raises(ValueError, match="too long to read"):
        await read(parts(tree), seconds=3)
    heart.cancel()
    assert beats > 10


async def test_a_value_of_too_many_parts_is_refused_before_it_takes_room() -> None:
    with pytest.raises(ValueError, match="too many parts"):
        await read([b"[" + b"[]," * (10 << 20) + b"1]"])
    with pytest.raises(CannotCopyError, match="too much for a list"):
        encode([[]] * (5 << 20))


def test_a_long_text_is_one_part_whatever_it_holds() -> None:
    text = "1,[2],{3}\ud800" * 1_000_000
    assert copied({"csv": text, "l": [text]}) == {"csv": text, "l": [text]}


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("nothing to say")


@pytest.mark.parametrize("value", [10**5000, pd.DataFrame({"a": [Mute()]})], ids=["int", "table"])
def test_what_cannot_be_printed_is_told_without_its_value(value: object) -> None:
    assert preview("v", value) == ""
    assert describe("v", value)


def test_the_model_is_told_shapes_and_a_little_of_each() -> None:
    frame = pd.DataFrame({"a": range(1000), "b": "x" * 500})
    told = describe("df", frame)
    assert "`df`: DataFrame, 1,000 rows x 2 columns: 'a' (int64), 'b' (str)" in told
    assert "x" * 20 not in told
    shown = preview("df", frame)
    assert shown.startswith("df begins:\n")
    assert "998" not in shown  # the first rows, and the last one
    assert len(shown) < 1500
    assert describe("X", np.zeros((3, 2))) == "- `X`: ndarray of float64, 3 x 2"
    assert describe("b", b"secret") == "- `b`: bytes, 6 bytes"
    assert describe("l", list(range(99))) == "- `l`: list, 99 in all"
    assert preview("l", list(range(99))) == "l = [0, 1, 2, 3, 4, ...]"
    assert "rows x 1 columns: 'a' (Int64)" in describe("p", pl.DataFrame({"a": [1]}))
    assert "rows x 1 columns: 'a' (int64)" in describe("p", pa.table({"a": [1]}))


# -- through real kernels

EVERYTHING = {
    "plain": {"a": [1, 2**70, math.nan, None, "ü", b"b", dt.date(2020, 1, 1)], ("t", 1): {1, 2}},
    "array": np.arange(6.0).reshape(2, 3),
    "frame": pd.DataFrame({name.replace(" ", "_"): column for name, column in COLUMNS.items()}),
    "polars": pl.DataFrame({"a": [1, None], "s": ["x", None]}),
    "table": pa.table({"l": [[1], None]}),
    "decimal": decimal.Decimal("1.10"),
    "picture": Image.new("RGB", (4, 4), "red"),
    "large": np.random.default_rng(0).bytes(20_000_000),
}


async def ran(sandbox: Sandbox, code: str) -> str:
    """What code prints, or its error."""
    async with aclosing(sandbox.execute(code)) as outputs:
        return "".join([o.get("text") or o.get("evalue", "") async for o in outputs])


async def test_values_go_in_and_come_out(sandbox: Sandbox) -> None:
    await sandbox.call("take", encode(Inputs(EVERYTHING).packed))
    assert await ran(sandbox, "print(frame.shape, type(polars).__name__, len(large))") == (
        f"(3, {len(COLUMNS)}) DataFrame 20000000\n"
    )
    assert sandbox.execution_count == 1  # ours are not counted
    values, faults = await unpack(await sandbox.call("give", encode([*EVERYTHING])), [*EVERYTHING])
    assert faults == []
    assert same(values["plain"], EVERYTHING["plain"])
    pd.testing.assert_frame_equal(values["frame"], EVERYTHING["frame"])
    for name in ("polars", "table"):
        assert values[name].equals(EVERYTHING[name])  # type: ignore[attr-defined]
    for name in ("picture", "large", "decimal"):
        assert values[name] == EVERYTHING[name]


REPLACE = """\
import jupyter_agent.sandbox.guest.calls as calls
honest = calls.serve
def serve(function):
    calls.serve = honest
    {body}
calls.serve = serve
"""
LIARS = {
    "calls._send({'data': 'much'}, [])": "its reply holds no value",
    "calls._send({'data': [-1]}, [])": "its reply holds no value",
    "calls._send({'data': [True]}, [])": "its reply holds no value",
    "calls._send({'data': [1 << 60]}, [])": "more than 1,024 MiB",
    "calls._send({'data': [0] * 600_000}, [])": "in 600,000 parts, more than",
    "calls._send({'data': [3]}, [b'1234'])": "larger than it announced",
    "calls._send({'data': [3]}, [b'123', b'4'])": "larger than it announced",
    "calls._send({'data': [3]}, [b'12'])": "no result",
    "calls._send({}, [])": "no result",
    "pass": "no result",
    "raise ValueError('\\x1b]0;title\\x07no')": "ValueError: no",
}


async def test_a_guest_that_sends_something_else_is_found_out(folder: Path) -> None:
    async with Sandbox(folder, config=Config({"Sandbox": {"value_timeout": 20}})) as sandbox:
        for body, why in LIARS.items():
            await ran(sandbox, REPLACE.format(body=body))
            with pytest.raises(SandboxError, match=why):
                await sandbox.call("give", encode(["x"]))
        # what another cell sends is not taken for an answer
        await ran(sandbox, "x = 5\ncalls._send({'data': [1]}, [b'1'])")
        assert await unpack(await sandbox.call("give", encode(["x"])), ["x"]) == ({"x": 5}, [])
        await ran(sandbox, REPLACE.format(body="import os; os._exit(3)"))
        with pytest.raises(SandboxError, match=r"died \(exit code 3\); nothing was handed over"):
            await sandbox.call("give", encode(["x"]))
        after = await ran(sandbox, "print('x' in globals())")
        assert after.endswith(
            "its variables and files are gone; this cell runs in a new one\nFalse\n"
        )


@pytest.fixture
def workspace(sandbox: Sandbox) -> Workspace:
    """Give a sandbox a table, and want two results of it."""
    inputs = Inputs({"df": pd.DataFrame({"a": np.arange(3_000_000)}), "n": 1})
    tools = Tools([], ask=None, max_calls=1)
    return Workspace(sandbox, tools, inputs=inputs, outputs=["df", "fig"])


KILL = "__import__('os').kill(__import__('os').getpid(), 9)"
DIED = r"the sandbox's kernel died \(exit code -?\d+\); nothing was handed over"


async def test_a_kernel_that_is_killed_in_a_transfer_says_what_was_lost(
    sandbox: Sandbox, workspace: Workspace
) -> None:
    calls = "import jupyter_agent.sandbox.guest.calls as calls\n"
    await ran(sandbox, f"{calls}calls.take = lambda _: {KILL}")
    with pytest.raises(SandboxError, match=f"^`df`, `n`: {DIED}$"):
        await workspace.prepare()
    await workspace.prepare()
    kill = f"{calls}def pieces(parts):\n    yield [memoryview(b'x')]\n    {KILL}\ncalls._pieces = pieces"
    assert (await ran(sandbox, kill)).endswith("this cell runs in a new one\n")
    with pytest.raises(SandboxError, match=f"^`df`, `fig`: {DIED}$"):
        await workspace.collect()
    await workspace.prepare()
    assert await workspace.collect() != ""
    assert len(workspace.results["df"]) == 3_000_000  # type: ignore[arg-type]


@pytest.mark.parametrize("tier", TIERS)
async def test_a_value_that_does_not_fit_in_there_is_named(folder: Path, tier: str) -> None:
    config = Config({"SandboxProvisioner": {"isolation": tier, "memory_mib": 300}})
    async with Sandbox(folder, config=config) as sandbox:
        inputs = Inputs({"huge": np.ones(40_000_000), "n": 2})
        workspace = Workspace(sandbox, Tools([], ask=None, max_calls=1), inputs=inputs, outputs=[])
        with pytest.raises(SandboxError, match="^`huge`, `n`: .*(died|memory|Memory)"):
            await workspace.prepare()
        assert (await ran(sandbox, "print(6 * 7)")).endswith("42\n")


async def test_a_guest_that_never_answers_is_given_up(folder: Path) -> None:
    async with Sandbox(folder, config=Config({"Sandbox": {"value_timeout": 1}})) as sandbox:
        await ran(sandbox, REPLACE.format(body="import time; time.sleep(60)"))
        with pytest.raises(SandboxError, match="took more than 1 s"):
            await sandbox.call("give", encode(["x"]))
        assert await ran(sandbox, "print('well')") == "well\n"


# -- runs


@pytest.fixture
async def session(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Session]:
    monkeypatch.chdir(folder)
    session = Session(folder)
    yield session
    await session.close()


def script(*replies: str) -> str:
    """Write a script whose replies are code, but for the last one of each run."""
    text = "\n<!-- next reply -->\n".join(
        reply[1:] if reply.startswith("!") else f"{F}python\n{reply}\n{F}" for reply in replies
    )
    Path("script.md").write_text(text)
    return "scripted:script.md"


async def run(session: Session, model: str, **options: Any) -> None:
    async with aclosing(session.run("Go", model=model, **options)) as changes:
        async for _ in changes:
            pass


def told(session: Session, role: str) -> list[str]:
    cells = session.transcript.cells
    return [c.source for c in cells if c.metadata[KEY]["role"] == role]


async def test_a_missing_result_is_asked_for_once(session: Session) -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    figure = "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([1])"
    model = script("fig = (n for n in 'x')", "!Done.", f"result = df * 2\n{figure}", "!Done now.")
    await run(session, model, inputs={"df": frame, "n": 3}, outputs=["result", "fig"])
    pd.testing.assert_frame_equal(session.results["result"], frame * 2)
    assert isinstance(session.results["fig"], Image.Image)
    (reminder,) = told(session, "reminder")
    assert (
        "`result` is not set; `fig`: a value of type generator cannot be copied; make it a list"
        in reminder
    )
    assert session.transcript.answer == "Done now."
    task, shown, *_ = session.transcript.cells
    assert shown.outputs[0].text == "df begins:\n   a\n0  1\n1  2\nn = 3\n"
    note = task.metadata[KEY]["note"]
    assert "`df`: DataFrame, 2 rows x 1 columns: 'a' (int64)" in note
    assert "- `n`: int" in note
    assert "must be set, for the user: `result`, `fig`" in note
    roles = [message["role"] for message in session.transcript.messages()]
    assert roles == ["user", "assistant"] * 4


async def test_a_result_that_stays_away_ends_the_run_with_an_error(session: Session) -> None:
    with pytest.raises(ResultError, match="without a result: `b` is not set"):
        await run(session, script("a = 1", "!Done.", "!No."), outputs=["a", "b"])
    assert session.results == {"a": 1}
    with pytest.raises(UsageError):
        await run(session, script("1", "!Done."), inputs={"f": len})
    assert session.results == {"a": 1}  # a call that is refused changes nothing


async def test_inputs_are_there_again_in_a_new_kernel(session: Session) -> None:
    model = script("import os; os._exit(1)", "print(n)", "!Done.")
    await run(session, model, inputs={"n": 42})
    assert session.transcript.cells[-2].outputs[0].text == "42\n"


async def test_who_clears_the_outputs_has_cleared_what_went_in(session: Session) -> None:
    inputs = {"df": pd.DataFrame({"a": ["SECRET"]}), "d": {"key": "SECRET"}}
    await run(session, script("!Done."), inputs=inputs, save="run.ipynb")
    path = session.folder / "run.ipynb"
    before = json.dumps(session.transcript.messages())
    assert before.count("SECRET") == 2
    assert json.dumps(Transcript.open(path).messages()) == before
    notebook, _ = ClearOutputPreprocessor().preprocess(nbformat.read(path, 4), {})
    assert "SECRET" not in nbformat.writes(notebook)


async def test_a_run_in_the_place_of_another_shows_what_went_in_once(session: Session) -> None:
    model = script("!One.", "!Two.")
    await run(session, model, inputs={"n": 42})
    task = session.transcript.cells[1]
    await run(session, model, inputs={"n": 43}, replaces=task)
    told = json.dumps(session.transcript.messages())
    assert "n = 43" in told
    assert "n = 42" not in told


async def test_what_cannot_go_in_starts_nothing(session: Session) -> None:
    for options in (
        {"inputs": {"f": len}},
        {"inputs": {"a b": 1}},
        {"outputs": ["a.b"]},
        {"outputs": ["class"]},
    ):
        with pytest.raises(UsageError):
            await run(session, script("1", "!Done."), **options)
    assert not session.sandbox.alive


# -- files


async def test_files_come_out_on_purpose_and_never_by_a_link(
    session: Session, folder: Path
) -> None:
    outside = folder.parent / "outside.txt"
    outside.write_text("kept")
    async for _ in session.execute(
        "import os\nos.makedirs('sub')\nopen('sub/new.txt', 'w').write('made')\n"
        "os.symlink('/etc/hostname', 'link.txt')\nos.mkfifo('pipe')\n"
        "os.truncate(os.open('huge', os.O_CREAT | os.O_WRONLY), 2 << 30)"
    ):
        pass
    assert await session.files() == [("huge", 2 << 30), ("sub/new.txt", 4)]
    path = await session.fetch("sub/new.txt")
    assert (path, path.read_text()) == (folder / "new.txt", "made")
    with pytest.raises(UsageError, match="exists already; choose another name, or add --force"):
        await session.fetch("sub/new.txt")
    with pytest.raises(UsageError, match="exists already"):
        await session.fetch("sub/new.txt", str(outside))
    (folder / "dangling").symlink_to(folder / "target")
    os.mkfifo(folder / "fifo")
    for place in ("dangling", "fifo", "/dev/full", "/dev/null"):
        for overwrite in (False, True):
            with pytest.raises(
                UsageError, match=f"{place}' is not a regular file; choose another name"
            ):
                await session.fetch("sub/new.txt", place, overwrite=overwrite)
    assert not (folder / "target").exists()
    with pytest.raises(UsageError, match="cannot write '.*nowhere/x': No such file or directory;"):
        await session.fetch("sub/new.txt", "nowhere/x")
    with pytest.raises(UsageError, match="cannot write '.*': File name too long;"):
        await session.fetch("sub/new.txt", "x" * 300)
    for place in ("~nosuchuser/x", "a\0b"):
        with pytest.raises(UsageError, match="is not a valid path: "):
            await session.fetch("sub/new.txt", place)
    outside.chmod(0o640)
    await session.fetch("sub/new.txt", str(outside), overwrite=True)
    assert (outside.read_text(), outside.stat().st_mode & 0o777) == ("made", 0o640)
    for name, why in {
        "link.txt": "symbolic links",
        "pipe": "not a regular file",
        "sub": "not a regular file",
        "gone": "No such file",
        "huge": "more than 1,073,741,824",
    }.items():
        with pytest.raises(AgentError, match=f"cannot fetch '{name}': .*{why}"):
            await session.fetch(name)


async def test_a_listing_that_is_none_is_refused(session: Session) -> None:
    for lie in ("{'a': 1}", "[('name', 'size')]", "[b'']", "'x'"):
        code = f"import jupyter_agent.sandbox.guest.calls as calls\ncalls.files = lambda _: {lie}"
        async for _ in session.execute(code):
            pass
        with pytest.raises(SandboxError, match="reply cannot be read"):
            await session.files()
