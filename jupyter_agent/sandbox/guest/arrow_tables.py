"""Write tables of Arrow and polars as Arrow streams; check them in full when they are read."""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa
import pyarrow.types as t

from jupyter_agent.sandbox.guest.nodes import TABLE, CannotCopyError, Node, Reader, Writer, unknown


def write(writer: Writer, value: Any) -> Node:
    """Write a table, or a Series of polars'."""
    if type(value) is pa.Table:
        return _write_stream(writer, value)
    if type(value).__module__.partition(".")[0] == "polars":
        return _write_polars(writer, value)
    raise unknown(value)


def read(reader: Reader, node: Node) -> Any:
    """Read a table, or a Series of polars'."""
    if node["is"] == "pyarrow stream":
        return _claim_stream(reader, node)
    import polars as pl

    if node["is"] == "polars series":
        return reader.expect(node["frame"], "polars frame").to_series(0)
    frame: Any = pl.from_arrow(reader.expect(node["data"], "pyarrow stream"))
    enums = reader.expect(node["enums"], "dict")
    return frame.with_columns(pl.col(c).cast(pl.Enum(enums[c])) for c in enums)


def write_column(writer: Writer, column: Any) -> Node:
    """Write an array of Arrow's as the one column of a table."""
    return _write_stream(writer, pa.table([column], names=["0"]))


def write_texts(writer: Writer, values: Any) -> Node | None:
    """Write text as a column; None where it is no Unicode."""
    try:
        column = pa.array(values, type=pa.large_string(), from_pandas=True)
    except (UnicodeError, pa.ArrowException):
        return None
    return write_column(writer, column)


def read_column(reader: Reader, node: Node) -> Any:
    """Read what `write_column` wrote."""
    table = reader.expect(node, "pyarrow stream")
    if table.num_columns != 1:
        raise ValueError(f"{table.num_columns} columns where one belongs")
    return table.column(0)


def read_texts(reader: Reader, node: Node) -> Any:
    """Read what `write_texts` wrote."""
    column = read_column(reader, node)
    if column.type != pa.large_string():
        raise ValueError(f"a column of {column.type} where text belongs")
    return column


def _write_polars(writer: Writer, value: Any) -> Node:
    import polars as pl

    if isinstance(value, pl.Series):
        return {"is": "polars series", "frame": _write_polars(writer, value.to_frame())}
    if not isinstance(value, pl.DataFrame):
        raise unknown(value)
    enums = {}
    for name, dtype in value.schema.items():
        if isinstance(dtype, pl.Enum):
            enums[name] = dtype.categories.to_list()
        elif "Enum(" in str(dtype) or "Object" in str(dtype):
            raise CannotCopyError(f"polars' {dtype} cannot be copied; cast it", f"[{name!r:.60}]")
    table = value.to_arrow(compat_level=pl.CompatLevel.oldest())
    return {"is": "polars frame", "data": _write_stream(writer, table), "enums": writer.node(enums)}


def _write_stream(writer: Writer, table: Any) -> Node:
    for field in table.schema:
        if why := _unsafe_type(field.type):
            raise CannotCopyError(
                f"Arrow's {why} cannot be copied; cast it", f"[{field.name!r:.60}]"
            )
    bare = pa.schema([pa.field(field.name, field.type, field.nullable) for field in table.schema])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, bare) as out:
        out.write_table(table.cast(bare))
    return {"is": "pyarrow stream", "data": writer.buffer(sink.getvalue())}


def _claim_stream(reader: Reader, node: Node) -> Any:
    reader.claim(TABLE)
    table = _read_stream(reader.bytes_of(node))
    empty = sum(str(field.type) == "null" for field in table.schema)
    reader.claim(table.num_rows * (1 + empty))
    return table


def _read_stream(data: Any) -> Any:
    """Read a stream, and refuse what `_write_stream` never writes."""
    buffer = pa.py_buffer(data)
    for message in pa.ipc.MessageReader.open_stream(buffer):
        metadata = message.metadata.to_pybytes()
        if message.type == "schema" and b"ARROW:extension:" in metadata:
            raise ValueError("an Arrow stream with extension types")
        # as Arrow wrote it before its format had a field for it; still read
        old = b"ARROW:experimental_compression" in metadata
        if old or (message.type != "schema" and _is_compressed(metadata, message.type)):
            raise ValueError("an Arrow stream that is compressed")
    with pa.ipc.open_stream(buffer) as reader:
        if any(_unsafe_type(field.type) for field in reader.schema):
            raise ValueError(f"Arrow's types {reader.schema.types!r:.60} may not be copied")
        table = reader.read_all()
    table.validate()
    if _nominal_bytes(table) > 2 * len(data) + (1 << 20):
        raise ValueError("an Arrow stream that uses bytes more than once")
    table.validate(full=True)
    return table.replace_schema_metadata(None)


def _is_compressed(metadata: bytes, kind: str) -> bool:
    """Tell whether a batch is compressed: a few bytes may then fill the memory.

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


def _unsafe_type(dtype: Any, top: bool = True) -> str:
    """Name the type, or the part of it, that may not be copied; empty if all of it may.

    It may where each element has bits of its own: not views and unions, which may show the same
    bits many times over, and no type of no width.
    """
    fitting = [
        *(t.is_null, t.is_boolean, t.is_integer, t.is_floating, t.is_decimal, t.is_temporal),
        *(t.is_string, t.is_large_string, t.is_binary, t.is_large_binary, t.is_fixed_size_binary),
        *(t.is_list, t.is_large_list, t.is_fixed_size_list, t.is_struct, t.is_map),
        t.is_dictionary,
    ]
    if (
        not any(fits(dtype) for fits in fitting)
        or (not top and (t.is_null(dtype) or t.is_dictionary(dtype)))
        or (t.is_dictionary(dtype) and dtype.value_type.num_fields)
        or (t.is_fixed_size_list(dtype) and dtype.list_size == 0)
        or (t.is_struct(dtype) and dtype.num_fields == 0)
        or (t.is_fixed_size_binary(dtype) and dtype.byte_width == 0)
    ):
        return str(dtype)
    parts = [dtype.field(index).type for index in range(dtype.num_fields)]
    parts += [dtype.value_type] if t.is_dictionary(dtype) else []
    return next(filter(None, (_unsafe_type(part, top=False) for part in parts)), "")
