"""Describe tables to a model: their columns, types and missing values, and their first rows.

It runs on both sides: on the host for the user's variables, in the sandbox for the user's files.
"""

from __future__ import annotations

import warnings
from typing import Any

MAX_COLUMNS = 30  # that are named, or shown
MAX_NAME = 100  # characters of a column's name
MAX_ROWS_TEXT = 1000  # characters of the first rows
MAX_CELLS = 200_000_000  # of a table whose missing values are counted
FIRST_ROWS = 2
WIDTH = 200  # columns of text

Columns = list[tuple[str, str, int]]  # name as Python writes it, dtype, number of missing values


def columns(table: Any) -> Columns | None:
    """Return what is known of each column; None if the value is not a table."""
    match type(table).__module__.partition(".")[0], type(table).__name__:
        case "pandas", "DataFrame":
            kinds, missing = table.dtypes.tolist(), _missing_in_pandas(table)
            return _named(table.columns.tolist(), kinds, missing)
        case "polars", "DataFrame":
            return _named(table.columns, table.dtypes, table.null_count().row(0))
        case "pyarrow", "Table" | "RecordBatch":
            missing = [column.null_count for column in table.columns]
            return _named(table.schema.names, table.schema.types, missing)
    return None


def _missing_in_pandas(table: Any) -> list[int]:
    if table.size > MAX_CELLS:
        return [0] * table.shape[1]
    return [int(table.iloc[:, index].isna().sum()) for index in range(table.shape[1])]


def _named(names: Any, kinds: Any, missing: Any) -> Columns:
    return [
        (_short(repr(name)), str(kind), int(few))
        for name, kind, few in zip(names, kinds, missing, strict=True)
    ]


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…{name[0]}"


def in_words(found: Columns, *, rows: str, of: str = "") -> str:
    """Write the size of a table and its columns in one line.

    Parameters
    ----------
    rows
        The number of rows.
    of
        What the missing values were counted in, if not in all of the table.
    """
    named = ", ".join(_column(each) for each in found[:MAX_COLUMNS])
    more = len(found) - MAX_COLUMNS
    counted = f" (missing values counted in {of})" if of and any(few for *_, few in found) else ""
    beyond = f" and {more:,} more" if more > 0 else ""
    return f"{rows} rows x {len(found):,} columns: {named}{beyond}{counted}"


def _column(column: tuple[str, str, int]) -> str:
    name, kind, missing = column
    return f"{name} ({kind}, {missing:,} missing)" if missing else f"{name} ({kind})"


def first_rows(table: Any) -> str:
    """Show the first rows of a table, as they print."""
    rows = table.slice(0, FIRST_ROWS) if hasattr(table, "slice") else table.head(FIRST_ROWS)
    rows = rows.to_pandas() if type(table).__module__.startswith("pyarrow") else rows
    with warnings.catch_warnings(action="ignore"):  # from pandas, about numbers that are too large
        text = _wide(rows) if type(rows).__module__.startswith("pandas") else str(rows)
    return text[:MAX_ROWS_TEXT]


def _wide(rows: Any) -> str:
    """Print a table of pandas without wrapping its rows."""
    return str(
        rows.to_string(
            max_cols=MAX_COLUMNS, line_width=WIDTH * 10, show_dimensions=False, max_colwidth=60
        )
    )
