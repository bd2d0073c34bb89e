"""Describe tables to a model: columns, types, what is missing or odd, and a few rows and values.

It runs on both sides: on the host for the user's variables, in the sandbox for the user's files.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_COLUMNS = 30  # that are described one by one, or shown
MAX_NAMES = 120  # of a wider table, grouped by type
MAX_NAME = 100  # characters of a column's name
MAX_ROWS_TEXT = 1000  # characters of the rows
MAX_CELLS = 50_000_000  # of a table that is looked through
MAX_LOOKED_AT = 100_000  # rows in which the values of a column are looked for
LOOKED_AT_FIRST = 200  # of them
MAX_VALUES = 8  # of a column that are listed
MAX_SPELLINGS = 32  # of these values
MAX_FORMS_IN = 10_000  # values whose forms are looked at
MAX_VALUE = 40  # characters of one that is
SHORTEST_WORD = 3  # characters of one by which a column is found
FIRST_ROWS = 2
WIDTH = 200  # columns of text


@dataclass(frozen=True, slots=True)
class Column:
    """What is known of a column."""

    name: str  # as Python writes it
    kind: str  # its dtype
    missing: int = 0
    odd: int = 0  # values that are no numbers, in a column of text that holds mostly numbers
    odd_in: str = ""  # where these were looked for, if not in all rows
    commas: bool = False  # whether numbers in a column of text are written with commas


def columns(table: Any) -> list[Column] | None:
    """Return what is known of each column; None if the value is not a table."""
    match type(table).__module__.partition(".")[0], type(table).__name__:
        case "pandas", "DataFrame":
            return _pandas_columns(table)
        case "polars", "DataFrame":
            missing = table.null_count().row(0)
            return _named(zip(table.columns, table.dtypes, missing, strict=True))
        case "pyarrow", "Table" | "RecordBatch":
            missing = [column.null_count for column in table.columns]
            return _named(zip(table.schema.names, table.schema.types, missing, strict=True))
    return None


def _named(found: Any) -> list[Column]:
    return [Column(_short(repr(name)), str(kind), int(missing)) for name, kind, missing in found]


def _pandas_columns(table: Any) -> list[Column]:
    if table.size > MAX_CELLS or table.shape[1] > MAX_COLUMNS:  # only names and types are told
        return _named((name, kind, 0) for name, kind in table.dtypes.items())
    found = []
    for index, (name, kind) in enumerate(table.dtypes.items()):
        column = table.iloc[:, index]
        missing = int(column.isna().sum())
        odd, commas = _not_numbers(column)
        found.append(
            Column(_short(repr(name)), str(kind), missing, len(odd), _in_first(table), commas)
        )
    return found


def _in_first(table: Any) -> str:
    return f" in the first {MAX_LOOKED_AT:,} rows" if len(table) > MAX_LOOKED_AT else ""


def _is_text(column: Any) -> bool:
    return str(column.dtype) in ("object", "str", "string")


def _not_numbers(column: Any) -> tuple[Any, bool]:
    """Return the values of a column of text that are no numbers, if most are numbers.

    The second value tells whether these are written with commas.
    """
    filled = column.iloc[:MAX_LOOKED_AT].dropna() if _is_text(column) else []
    with contextlib.suppress(Exception):  # from values of any kind
        for commas in (False, True):
            few = filled[:LOOKED_AT_FIRST]
            if 2 * _are_numbers(few, commas=commas).sum() > len(few):
                numbers = _are_numbers(filled, commas=commas)
                return (
                    (filled[~numbers], commas) if 2 * numbers.sum() > len(filled) else ([], False)
                )
    return [], False


def _are_numbers(values: Any, *, commas: bool) -> Any:
    import pandas as pd

    texts = values.str.replace(",", ".", regex=False) if commas else values
    return pd.to_numeric(texts, errors="coerce").notna()


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…{name[0]}"


def in_words(found: list[Column], *, rows: str, of: str = "") -> str:
    """Write the size of a table and its columns in one line.

    Parameters
    ----------
    rows
        The number of rows.
    of
        What is known of the columns is of this part, if not of all of the table.
    """
    where = f" (as in {of})" if of else ""
    named = _grouped(found) if len(found) > MAX_COLUMNS else one_by_one(found)
    return f"{rows} rows x {len(found):,} columns: {named}{where}"


def one_by_one(found: list[Column]) -> str:
    """Write what is known of each column."""
    return ", ".join(map(_column, found))


def _column(column: Column) -> str:
    notes = [f"{column.missing:,} missing"] if column.missing else []
    notes += [f"{column.odd:,} not numbers{column.odd_in}, the others are"] if column.odd else []
    notes += ["numbers with commas"] if column.commas else []
    return f"{column.name} ({', '.join([column.kind, *notes])})"


def _grouped(found: list[Column]) -> str:
    """Name the columns of a wide table by their types."""
    few = sorted(found[:MAX_NAMES], key=lambda column: column.kind)
    groups = [
        f"{kind}: {', '.join(each.name for each in group)}"
        for kind, group in itertools.groupby(few, key=lambda column: column.kind)
    ]
    more = f" and {len(found) - MAX_NAMES:,} more" if len(found) > MAX_NAMES else ""
    return "; ".join(groups) + more


def columns_about(table: Any, words: set[str]) -> list[int]:
    """Return the positions of the columns of a wide table whose names have one of the words."""
    if table.shape[1] <= MAX_COLUMNS:
        return []
    names = enumerate(map(str, table.columns))
    return [at for at, name in names if words & words_of(name)][:MAX_COLUMNS]


def words_of(text: str) -> set[str]:
    """Return the words of a text or a name in the singular, without the shortest."""
    found = re.findall(r"[^\W_]+", text.casefold())
    return {word.removesuffix("s") for word in found if len(word) >= SHORTEST_WORD}


def some_rows(table: Any, *, whole: bool = True, about: Sequence[int] = ()) -> str:
    """Show the first rows of a table, the last one if it is whole, and values of its columns.

    Parameters
    ----------
    about
        Positions of columns, in a table of pandas, that are shown before others.
    """
    if about:
        others = (at for at in range(MAX_COLUMNS) if at not in about)
        table = table.iloc[:, [*about, *others][:MAX_COLUMNS]]
    kind = type(table).__module__.partition(".")[0]
    rows = table.slice(0, FIRST_ROWS) if hasattr(table, "slice") else table.head(FIRST_ROWS)
    rows = rows.to_pandas() if kind == "pyarrow" else rows
    if kind == "pandas" and whole and len(table) > FIRST_ROWS:
        rows = table.iloc[[*range(FIRST_ROWS), -1]]
    with warnings.catch_warnings(action="ignore"):  # from pandas, about numbers that are too large
        text = str(rows) if kind == "polars" else _wide(rows)
    values = _values(table) if kind == "pandas" and len(table) > FIRST_ROWS else []
    part = [] if whole or not values else [f"In the first {len(table):,} rows:"]
    return "\n".join([_cut(text), *part, *values])


def _cut(text: str) -> str:
    return text if len(text) <= MAX_ROWS_TEXT else f"{text[:MAX_ROWS_TEXT]}…"


def _wide(rows: Any) -> str:
    """Print a table of pandas without wrapping its rows."""
    return str(
        rows.to_string(
            max_cols=MAX_COLUMNS, line_width=WIDTH * 10, show_dimensions=False, max_colwidth=60
        )
    )


def _values(table: Any) -> list[str]:
    """Say how the texts of each column are written, and between what its numbers and times lie."""
    lines, ranges = [], []
    for index in range(min(table.shape[1], MAX_COLUMNS)):
        column, name = table.iloc[:, index], _short(repr(table.columns[index]))
        with contextlib.suppress(Exception):  # from values of any kind
            if _is_text(column):
                line = _texts(column.iloc[:MAX_LOOKED_AT])
                lines += [f"{name} {line}{_in_first(table)}"] if line else []
            elif column.dtype.kind in "iufM" and column.count() and table.size <= MAX_CELLS:
                ranges.append(f"{name} {_plain(column.min())} to {_plain(column.max())}")
    if ranges:
        text = ", ".join(ranges)
        if len(text) > MAX_ROWS_TEXT:  # cut between two of them
            text = f"{text[:MAX_ROWS_TEXT].rpartition(', ')[0]}, …"
        lines.append(f"From the least to the greatest: {text}")
    return lines


def _plain(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _texts(column: Any) -> str:
    """List the values of a column of text; one of each form if they are many."""
    unique = column.dropna().unique().astype("object")  # read much faster than from Arrow
    values = [value for value in unique if isinstance(value, str)]
    few = _values_of(values)
    if few:
        return f"has {few}{' and values that are no text' * (len(values) < len(unique))}"
    odd, _ = _not_numbers(column)
    forms = _forms([*odd, *values[:MAX_FORMS_IN]])
    if len(forms) > 1 or (forms and column.iloc[:FIRST_ROWS].isna().all()):
        return f"is written like {', '.join(map(repr, forms))}"
    others = [*_forms([*odd], whole=False)]
    return f"has {', '.join(map(repr, others))} among its numbers" if others else ""


def _forms(values: list[str], *, whole: bool = True) -> list[str]:
    """Return a value of each form, which is a text whatever its digits; none for too many forms.

    Parameters
    ----------
    whole
        Whether too many forms are none; otherwise only the first are returned.
    """
    forms: dict[str, str] = {}
    for value in values:
        forms.setdefault(re.sub(r"\d+", "0", value), value)
        if len(forms) > MAX_VALUES or len(value) > MAX_VALUE:
            return [] if whole else [*forms.values()][:MAX_VALUES]
    return [*forms.values()]


def _values_of(texts: list[str]) -> str:
    """List texts if they are few, apart from case and blanks."""
    plain = set[str]()
    for text in texts:
        plain.add(text.strip().casefold())
        if len(plain) > MAX_VALUES or len(text) > MAX_VALUE:
            return ""
    listed = ", ".join(map(repr, texts[:MAX_SPELLINGS]))
    if len(plain) == len(texts):
        return listed
    more = " ..." if len(texts) > MAX_SPELLINGS else ""
    return f"{len(texts)} values, {len(plain)} apart from case and blanks: {listed}{more}"


def repeated_rows(table: Any) -> int | None:
    """Count the rows of a table of pandas that repeat an earlier one; None if that is not known."""
    with contextlib.suppress(Exception):  # from values that cannot be compared
        return int(table.duplicated().sum()) if table.size <= MAX_CELLS else None
    return None
