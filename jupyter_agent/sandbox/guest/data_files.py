"""Say what data files look like, so that a model need not look first.

It runs in the sandbox, with packages that are installed there: pandas reads tables, and without it
only the first lines are told. Of a large file the beginning is read, and its rows are estimated.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import itertools
import json
import os
import platform
import re
import sqlite3
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree as ET

from jupyter_agent.sandbox.guest.child import results_of
from jupyter_agent.sandbox.guest.table_text import (
    MAX_COLUMNS,
    columns,
    columns_about,
    in_words,
    one_by_one,
    repeated_rows,
    some_rows,
    words_of,
)

MAX_FILES = 5  # that are described
MAX_LATER = 20  # of the others that are named
MAX_FEW = 3  # data files that are described though the task names none
MAX_LOOKED_AT = 500  # entries of a shared folder
MAX_SECONDS = 3.0  # for all files; the later ones are only named then
MAX_WAIT = 8.0  # for the process that describes them
MORE_MEMORY = 2 << 30  # bytes of addresses that it may need
TOO_LITTLE = "there was too little time or memory to look at it"
WHOLE = 16 << 20  # bytes of a text table that is read whole
BEGINNING = 1 << 20  # bytes of a larger one
SAMPLE = 1 << 16  # characters in which the separator is looked for
LINES = 30  # rows in which it is
LOOKED_AT = 200  # rows in which decimal commas and leading zeros are looked for
COUNTED = 2 << 30  # bytes whose lines are counted
EXCEL = 1 << 20  # bytes of a workbook whose first sheet is read whole
EXCEL_ROWS = 200  # of a larger one
ARROW_ROWS = 1000  # that are read of any Parquet or Feather file
ARROW_CELLS = 1_000_000  # that are read of a small one
MAX_SHEETS = 10
MAX_LINES = 5  # of a text
MAX_LINE = 200  # characters
MAX_TOLD = 20_000  # characters of a line or a beginning; the host takes less
MAX_PARSED = 4 << 20  # bytes of a JSON file

# the data packages whose versions a model should know
PACKAGES = (
    "numpy pandas polars pyarrow scipy scikit-learn statsmodels matplotlib seaborn plotly altair "
    "xgboost lightgbm torch tensorflow transformers duckdb sqlalchemy openpyxl pillow "
    "networkx geopandas xarray sympy nltk"
).split()
EXPECTED = "numpy pandas scipy scikit-learn statsmodels matplotlib".split()

_NUMBER = re.compile(r"\s*[-+]?[\d.,]+\s*")


class Description(NamedTuple):
    """What is told of a file: a line, and its beginning."""

    line: str
    beginning: str = ""


class Table(NamedTuple):
    """What was read of a file: a table of pandas, or its beginning."""

    kind: str
    table: Any
    rows: str = ""  # in all, if the table is not known to be whole
    above: str = ""  # lines that stand above its header


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """Describe the data files that a task is about, and the packages that are installed.

    The first rows are told only of a file that the task names. Of more files than `MAX_FILES` that
    it names the others are told when a later task names them.

    Parameters
    ----------
    request
        ``task``: the task's text; ``listed``: the names of what is shared, folders with a slash at
        the end; ``told``: the state of each file that was described before, by name.
    """
    files = _data_files(request["listed"])
    named = _named(request["task"], files)
    states = {name: [*_state(name), int(bool(named))] for name in named or _few(files)}
    new = [name for name, state in states.items() if _is_new(state, request["told"].get(name))]
    now, later = new[:MAX_FILES], new[MAX_FILES:]
    described = _all_described({name: states[name][0] for name in now}, words_of(request["task"]))
    found = [
        [name, states[name], line, beginning if named else ""]
        for name, (line, beginning) in zip(now, described, strict=True)
    ]
    return {"files": found, "later": later[:MAX_LATER], "packages": _packages()}


def _state(name: str) -> list[int]:
    facts = Path(name).stat()
    return [facts.st_size, facts.st_mtime_ns]


def _is_new(state: list[int], told: list[int] | None) -> bool:
    """Tell whether a file has changed, or has been told without its rows, which are told now."""
    return told is None or state[:-1] != told[:-1] or state > told


def _all_described(sizes: dict[str, int], words: set[str]) -> list[Description]:
    """Describe files of these sizes; those for which there is no time by their first lines.

    Parameters
    ----------
    words
        Those of the task, by which columns of a wide table are chosen.
    """
    deadline = time.monotonic() + MAX_SECONDS
    order = sorted(sizes, key=lambda name: sizes[name])  # a large one may take all the time

    def work() -> Iterator[list[str]]:
        for name in order:
            found = _describe(name, sizes[name], words, deadline)
            yield [text[:MAX_TOLD] for text in found]

    results = []
    if sizes:
        with contextlib.suppress(OSError):  # no process can be started
            results = results_of(work, seconds=MAX_WAIT, more_memory=MORE_MEMORY)
    found = dict(zip(order, results, strict=False))
    return [
        Description(*found[name])
        if name in found
        else Description(f"{_size(size)}, {TOO_LITTLE}", _first_lines(name))
        for name, size in sizes.items()
    ]


def _packages() -> str:
    """Name Python and the data packages with their versions."""
    versions = {name: _version(name) for name in PACKAGES}
    found = [f"{name} {version}" for name, version in versions.items() if version]
    lacking = [name for name in EXPECTED if not versions[name]]
    told = ", ".join([f"Python {platform.python_version()}", *found])
    return f"{told}; not {', '.join(lacking)}" if lacking else told


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


# -- which files


def _data_files(listed: list[str]) -> list[str]:
    """Name the data files among what is shared, and in the folders that are shared."""
    names: list[str] = []
    for name in listed:
        inside = _entries(name) if name.endswith("/") else [name]
        names += filter(_is_data, inside)
    return names


def _entries(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            few = itertools.islice(entries, MAX_LOOKED_AT)
            return sorted(folder + entry.name for entry in few)
    except OSError:
        return []


def _is_data(name: str) -> bool:
    if _kind(name) is None:
        return False
    try:
        return stat.S_ISREG(Path(name).stat().st_mode)
    except OSError:
        return False


def _named(task: str, files: list[str]) -> list[str]:
    """Find the files that a task names, by their path, their name, or their name's stem."""
    words = {word.lower() for word in re.findall(r"[\w-]+", task)}
    named = [name for name in files if _stands_in(task, Path(name).name)]
    return named or [name for name in files if Path(name).name.partition(".")[0].lower() in words]


def _stands_in(task: str, name: str) -> bool:
    """Tell whether a task has a name, and not only a longer one that ends or begins with it."""
    return bool(re.search(rf"(?<![A-Za-z0-9_-]){re.escape(name)}(?![A-Za-z0-9_])", task))


def _few(files: list[str]) -> list[str]:
    """Return the files of tables, if they are few."""
    tables = [name for name in files if _kind(name) not in (_text, _image)]
    return tables if len(tables) <= MAX_FEW else []


# -- what they hold


def _describe(name: str, size: int, words: set[str], deadline: float) -> Description:
    kind = _kind(name)
    if kind is None or time.monotonic() > deadline:
        return Description(_size(size))
    try:
        read = kind(name, size)
        found = _in_words(read, words) if isinstance(read, Table) else read
    except Exception as error:  # from any reader, about any file
        found = Description(_problem(error), _first_lines(name))
    return found._replace(line=f"{_size(size)}, {found.line}")


def _problem(error: Exception) -> str:
    return f"it cannot be read as such: {type(error).__name__}: {error}"[:300]


def _size(size: int) -> str:
    amount, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{size:,} bytes" if unit == "bytes" else f"{amount:.1f} {unit}"


def _separated(name: str, size: int) -> Table | Description:
    """Read a file of values that are separated by commas, semicolons, tabs or bars."""
    block = _beginning(name)
    encoding = _encoding(block)
    if b"\0" in block and encoding != "utf-16":
        return Description("it holds bytes that are no text")
    text = block.decode(encoding, "replace")
    separator, before, ends = _layout(text)
    options: dict[str, Any] = {"sep": separator} if separator != "," else {}
    options |= {"skiprows": before} if before else {}
    options |= {"index_col": False} if ends else {}
    options |= {"encoding": encoding} if encoding != "utf-8" else {}
    if not _has("pandas"):
        return Description(_as_options(options), _first_lines(name))
    import pandas as pd

    if separator == ";" and _has_decimal_commas(name, options):
        options["decimal"] = ","
    if padded := _with_leading_zeros(name, options):
        options["dtype"] = dict.fromkeys(padded, "str")
    kind, above = _as_options(options), _lines_of(text, before)
    options["low_memory"] = False
    try:
        if not _is_large(name, size):
            return Table(kind, pd.read_csv(name, **options), above=above)
    except ValueError as error:  # ParserError is one
        return Description(f"{kind}; {_problem(error)}", _first_lines(name))
    rows = _rows_in(text, separator) - before
    table = pd.read_csv(name, nrows=max(1, rows - 2), **options)
    in_all = _count_rows(name, size, block, rows) or _more_than(table)
    return Table(kind, table, in_all, above)


def _as_options(options: dict[str, Any]) -> str:
    """Write what pandas has to be told to read a file."""
    return ", ".join(["CSV", *(f"{name}={value!r}" for name, value in options.items())])


def _with_leading_zeros(name: str, options: dict[str, Any]) -> list[str]:
    """Name the columns of digits whose leading zeros a number would lose, such as zip codes."""
    import pandas as pd

    with contextlib.suppress(ValueError):
        table = pd.read_csv(name, nrows=LOOKED_AT, dtype="str", **options)
        texts = {column: table[column].dropna().str for column in table.columns[:MAX_COLUMNS]}
        return [
            column
            for column, text in texts.items()
            if text.fullmatch(r"\d+").all() and text.fullmatch(r"0\d+").any()
        ]
    return []


def _has_decimal_commas(name: str, options: dict[str, Any]) -> bool:
    """Tell whether more columns are numbers if a comma is taken for the decimal point."""
    import pandas as pd

    def numbers(**more: Any) -> int:
        with contextlib.suppress(ValueError):
            table = pd.read_csv(name, nrows=LOOKED_AT, **options, **more)
            return table.select_dtypes("number").shape[1]
        return 0

    return numbers(decimal=",") > numbers()


def _rows_in(text: str, separator: str) -> int:
    """Count the rows of a text; a value in quotes may be several lines."""
    try:
        return sum(map(bool, csv.reader(io.StringIO(text, newline=""), delimiter=separator)))
    except csv.Error:
        return text.count("\n")


def _count_rows(name: str, size: int, block: bytes, rows: int, *, header: int = 1) -> str:
    """Count the rows of a large file, or estimate them from its beginning of so many rows."""
    if name.lower().endswith(_PACKED):
        return ""
    lines = block.count(b"\n") + (not block.endswith(b"\n"))
    if size <= COUNTED and rows == lines:
        return f"{_count_lines(name) - header:,}"
    return f"about {int(round(size / len(block) * rows, -2)):,}"


def _more_than(table: Any) -> str:
    return f"more than {len(table):,}"


def _count_lines(name: str) -> int:
    count, last = 0, b"\n"
    with Path(name).open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def _beginning(name: str) -> bytes:
    """Read the first lines of a file, packed or not, up to `BEGINNING`."""
    with _opened(name) as file:
        block: bytes = file.read(BEGINNING)
    return block[: block.rfind(b"\n") + 1] if len(block) == BEGINNING else block


def _is_large(name: str, size: int) -> bool:
    return size > (WHOLE // 8 if name.lower().endswith(_PACKED) else WHOLE)


def _opened(name: str) -> Any:
    import bz2
    import gzip
    import lzma

    readers: dict[str, Callable[..., Any]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
    return readers.get(name.lower().rpartition(".")[2], open)(name, "rb")


def _encoding(block: bytes) -> str:
    if block.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    likely = ["utf-8-sig" if block.startswith(b"\xef\xbb\xbf") else "utf-8"]
    if re.search(rb"[\x80-\x9f]", block):  # controls in Latin 1, signs such as € in Windows
        likely.append("cp1252")
    for encoding in likely:
        with contextlib.suppress(UnicodeDecodeError):
            block.decode(encoding)
            return encoding
    return "latin-1"


def _layout(text: str) -> tuple[str, int, bool]:
    """Find what separates the values, and how many lines stand before the header.

    The separator is the one that gives all rows from the header on as many values, and more than
    one, with the fewest lines before the header. These are counted as pandas counts what it skips:
    a value in quotes may have breaks. The last fact is whether the rows end with a separator, and
    their header does not.
    """
    whole = text[:SAMPLE].rpartition("\n")[0] if len(text) > SAMPLE else text
    found = []
    for separator in ",;\t|":
        with contextlib.suppress(csv.Error):
            reader = csv.reader(io.StringIO(whole, newline=""), delimiter=separator)
            lines = enumerate(itertools.islice(reader, LINES))
            rows = [(row, line) for line, row in lines if row]
            widths = [len(row) for row, _ in rows] or [0]
            width, before = widths[-1], widths.index(widths[-1])
            table = rows[before:]
            if width < 2 or before >= len(table) or set(widths[before:]) != {width}:
                continue
            while len(table) > 2 and 2 * sum(map(bool, table[0][0])) < width:
                del table[0]  # a title that a spreadsheet has filled up with empty values
            (first, line), ends = table[0], False
            if before and _is_header(rows[before - 1][0], below=first):
                line = rows[before - 1][1]
                empty = not any(row[-1].strip() for row, _ in table)
                ends = empty and widths[before - 1] < width
            found.append((line, separator, ends))
    if not found:
        return ("\t" if "\t" in text.partition("\n")[0] else ","), 0, False
    before_header, separator, ends = min(found, key=lambda each: each[0])
    return separator, before_header, ends


def _is_header(names: list[str], *, below: list[str]) -> bool:
    """Tell whether a line is a header, though the row below has one value more or less."""
    numbers = [any(map(_NUMBER.fullmatch, each)) for each in (names, below)]
    return (
        abs(len(names) - len(below)) == 1 < len(names) and all(names) and numbers == [False, True]
    )


def _json_lines(name: str, size: int) -> Table:
    import pandas as pd

    if not _is_large(name, size):
        return Table("JSON lines", pd.read_json(name, lines=True))
    block = _beginning(name)
    table = pd.read_json(name, lines=True, nrows=max(1, block.count(b"\n")))
    rows = _count_rows(name, size, block, block.count(b"\n"), header=0)
    return Table("JSON lines", table, rows=rows or _more_than(table))


def _json(name: str, size: int) -> Description:
    """Describe a JSON file: the names and kinds of what is at its top."""
    if size > MAX_PARSED:
        return Description("JSON", _first_lines(name))
    value = json.loads(Path(name).read_bytes())
    text = json.dumps(value, ensure_ascii=False)[: MAX_LINE * 2]
    match value:
        case [{}, *_]:
            keys = ", ".join(map(repr, itertools.islice(value[0], MAX_COLUMNS)))
            return Description(
                f"JSON, a list of {len(value):,}; the first is an object with {keys}", text
            )
        case list():
            return Description(f"JSON, a list of {len(value):,}", text)
        case dict():
            few = itertools.islice(value.items(), MAX_COLUMNS)
            keys = ", ".join(f"{key!r} ({type(each).__name__})" for key, each in few)
            return Description(f"JSON, an object of {len(value):,}: {keys}", text)
    return Description("JSON", text)


def _parquet(name: str, size: int) -> Table:
    from pyarrow import parquet

    file = parquet.ParquetFile(name)
    count = _arrow_rows(size, file.metadata.num_columns)
    batch = next(file.iter_batches(batch_size=count), None)
    rows = f"{file.metadata.num_rows:,}"
    return Table("Parquet", (batch or file.schema_arrow.empty_table()).to_pandas(), rows=rows)


def _feather(name: str, size: int) -> Table:
    from pyarrow import feather

    table = feather.read_table(name, memory_map=True)
    part = table.slice(0, _arrow_rows(size, table.num_columns))
    return Table("Feather", part.to_pandas(), rows=f"{table.num_rows:,}")


def _arrow_rows(size: int, width: int) -> int:
    """Return how many rows are read of a file of this size with so many columns."""
    return max(ARROW_ROWS, 0 if size > WHOLE else ARROW_CELLS // max(1, width))


def _excel(name: str, size: int) -> Table | Description:
    if size > WHOLE:
        return Description(f"Excel, sheets {', '.join(map(repr, _sheets_in(name)))}")
    import pandas as pd

    with pd.ExcelFile(name) as book:
        sheets = [str(sheet) for sheet in book.sheet_names]
        large = size > EXCEL
        table = book.parse(0, nrows=EXCEL_ROWS if large else None)
    kind = f"Excel, sheets {', '.join(map(repr, sheets[:MAX_SHEETS]))}; the first one"
    return Table(kind, table, rows=_more_than(table) if large else "")


def _sheets_in(name: str) -> list[str]:
    """Name the sheets of a large workbook, without what is in them."""
    with zipfile.ZipFile(name) as packed, packed.open("xl/workbook.xml") as book:
        found = [each for _, each in ET.iterparse(book) if each.tag.endswith("}sheet")]
    return [each.get("name", "") for each in found[:MAX_SHEETS]]


def _sqlite(name: str, size: int) -> Description:
    """Describe a database of SQLite's: its tables and their columns."""
    place = f"file:{quote(str(Path(name).absolute()))}?mode=ro&immutable=1"
    database = sqlite3.connect(place, uri=True)
    try:
        listed = "select name, type from sqlite_master where type in ('table', 'view')"
        found = [each for each in database.execute(listed) if not each[0].startswith("sqlite_")]
        told = "; ".join(
            _database_table(database, each, is_counted=kind == "table" and size < WHOLE)
            for each, kind in found[:MAX_SHEETS]
        )
    finally:
        database.close()
    more = f" and {len(found) - MAX_SHEETS} more" if len(found) > MAX_SHEETS else ""
    log = Path(f"{name}-wal")  # of changes that are not in the file yet
    if log.exists() and log.stat().st_size:
        more += f"; without what stands in {log.name!r}"
    return Description(f"SQLite, {len(found):,} tables: {told}{more}")


def _database_table(database: sqlite3.Connection, name: str, *, is_counted: bool) -> str:
    """Describe a table, or a view, whose rows may have no end and are not counted."""
    quoted = '"' + name.replace('"', '""') + '"'
    try:
        found = database.execute(f"pragma table_info({quoted})").fetchall()
        count = database.execute(f"select count(*) from {quoted}").fetchone() if is_counted else ()
    except sqlite3.Error as error:  # as of a view of a table that is gone
        return f"{name!r}, {_problem(error)}"
    named = ", ".join(
        f"{column!r} ({kind or 'any'})" for _, column, kind, *_ in found[:MAX_COLUMNS]
    )
    return f"{name!r}, {f'{count[0]:,} rows with ' if count else ''}{named}"


def _numpy(name: str, _: int) -> Description:
    import numpy as np

    if name.endswith(".npz"):
        with np.load(name, allow_pickle=False) as arrays:
            return Description(f"NumPy, arrays {', '.join(map(repr, arrays.files[:MAX_COLUMNS]))}")
    array = np.load(name, mmap_mode="r", allow_pickle=False)
    return Description(f"NumPy, {array.dtype}, {' x '.join(map(str, array.shape))}")


def _image(name: str, _: int) -> Description:
    from PIL import Image

    with Image.open(name) as image:
        shape = f"{image.width} x {image.height} px, {image.mode}"
        return Description(f"an image, {image.format}, {shape}")


def _text(name: str, _: int) -> Description:
    return Description("text", _first_lines(name))


def _first_lines(name: str) -> str:
    try:
        with _opened(name) as file:
            block: bytes = file.read(MAX_LINE * MAX_LINES * 4)
    except Exception:  # from any reader of packed files
        return ""
    if b"\0" in block:
        return ""
    return _lines_of(block.decode("utf-8", "replace"), MAX_LINES)


def _lines_of(text: str, count: int) -> str:
    lines = text[: MAX_LINE * MAX_LINES * 4].splitlines()[: min(count, MAX_LINES)]
    return "\n".join(line[:MAX_LINE] for line in lines)


def _in_words(read: Table, words: set[str]) -> Description:
    """Describe a table; of a wide one most is told of the columns that the task may be about."""
    kind, table, rows, above = read
    whole = not rows or rows == f"{table.shape[0]:,}"
    part = "" if whole else f"the first {table.shape[0]:,} rows"
    line = in_words(columns(table) or [], rows=rows or f"{table.shape[0]:,}", of=part)
    about = columns_about(table, words)
    line += f"; of these {one_by_one(columns(table.iloc[:, about]) or [])}" if about else ""
    if whole and (again := repeated_rows(table)) is not None:
        line += f"; {f'repeated rows: {again:,}' if again else 'no repeated rows'}"
    beginning = some_rows(table, whole=whole, about=about)
    above = f"{above}\n(above its header)\n" if above else ""
    return Description(f"{kind}, {line}", above + beginning)


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


_Reader = Callable[[str, int], Table | Description]
_PACKED = (".gz", ".bz2", ".xz")
_KINDS: dict[str, _Reader] = {
    **dict.fromkeys(("csv", "tsv", "tab"), _separated),
    **dict.fromkeys(("jsonl", "ndjson"), _json_lines),
    **dict.fromkeys(("parquet", "pq"), _parquet),
    **dict.fromkeys(("xlsx", "xls", "xlsm", "ods"), _excel),
    **dict.fromkeys(("sqlite", "sqlite3", "db"), _sqlite),
    **dict.fromkeys(("npy", "npz"), _numpy),
    **dict.fromkeys(("png", "jpg", "jpeg", "gif", "webp", "bmp", "tif", "tiff"), _image),
    **dict.fromkeys(("txt", "md", "log", "yaml", "yml", "toml", "xml", "html"), _text),
    "feather": _feather,
    "json": _json,
}


def _kind(name: str) -> _Reader | None:
    """Return what describes a file of this name; None if it is not one of data."""
    plain = name.lower()
    for ending in _PACKED:
        plain = plain.removesuffix(ending)
    return _KINDS.get(plain.rpartition(".")[2]) if "." in Path(plain).name else None
