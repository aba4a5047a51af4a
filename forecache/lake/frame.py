"""Rows with their origin, for Python and notebooks; and rows of pandas, polars or Arrow, or dicts, as Arrow."""

import importlib
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import pyarrow as pa

from forecache.base.display import rows_html, value_text
from forecache.base.errors import InputError, UnavailableError

_SHOWN_ROWS = 10
_WIDEST = 24


class Frame:
    """Rows of a table at one version, of a query, or of a computation.

    Polars, DuckDB and all else that reads Arrow's C interface take it as it is.

    Attributes:
        table: The table of the lake that was read; "" if the rows are of no single one.
        version: The Delta version of that table; None without a table.
        date: The as-of date of all rows; None if they are not of one date.
    """

    def __init__(
        self, rows: pa.Table, *, table: str = "", version: int | None = None, date: "date | None" = None
    ) -> None:
        self._rows = rows
        self.table, self.version, self.date = table, version, date

    def to_arrow(self) -> pa.Table:
        return self._rows

    def to_pandas(self) -> Any:
        """The rows as a pandas DataFrame; UnavailableError if pandas is not installed."""
        _import_library("pandas")
        return self._rows.to_pandas()

    def to_polars(self) -> Any:
        """The rows as a polars DataFrame; UnavailableError if polars is not installed."""
        return _import_library("polars").from_arrow(self._rows)

    @property
    def columns(self) -> list[str]:
        return list(self._rows.column_names)

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._rows.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        lines = [self.columns, *([value_text(value) for value in row] for row in self._first_rows())]
        widths = [min(_WIDEST, max(map(len, column))) for column in zip(*lines, strict=True)]
        cells = ([text[:width].ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines)
        return "\n".join([self._describe(), *("  ".join(line).rstrip() for line in cells)])

    def _repr_html_(self) -> str:
        return rows_html(self.columns, self._first_rows(), caption=self._describe())

    def _first_rows(self) -> list[list[Any]]:
        columns = [column.to_pylist() for column in self._rows.slice(0, _SHOWN_ROWS).columns]
        return [list(row) for row in zip(*columns, strict=True)]

    def _describe(self) -> str:
        count = f"{len(self):,} row{'' if len(self) == 1 else 's'}"
        count += f", the first {_SHOWN_ROWS} shown" if len(self) > _SHOWN_ROWS else ""
        origin = f"{self.table} at version {self.version}" if self.table else ""
        return ", ".join(filter(None, [origin, f"as of {self.date}" if self.date else "", count]))


def read_frame(rows: Any, *, what: str) -> pa.Table:
    """Rows of pandas, polars or Arrow, a `Frame` or a list of dicts as an Arrow table.

    Of a pandas frame the index is left out. A dict may lack a column, which is null there.

    Args:
        what: The rows in a message, such as "The frame to score".

    Raises:
        InputError: They are nothing of these, or a column has values of several types.
    """
    try:
        if isinstance(rows, (Frame, pa.Table)):
            return rows.to_arrow() if isinstance(rows, Frame) else rows
        if isinstance(rows, pa.RecordBatch):
            return pa.Table.from_batches([rows])
        if _is_of(rows, "pandas") and hasattr(rows, "columns"):
            return pa.Table.from_pandas(rows, preserve_index=False)
        if _is_of(rows, "polars") and hasattr(rows, "to_arrow"):
            return rows.to_arrow()
        if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
            names = dict.fromkeys(name for row in rows for name in row)
            return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
        if hasattr(rows, "__arrow_c_stream__"):
            return pa.table(rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{what} cannot be read: {error}.", remedy="Give each column values of one type.") from None
    raise InputError(
        f"{what} is a {type(rows).__name__}.", remedy="Give a frame of pandas, polars or Arrow, or a list of dicts."
    )


def add_columns(rows: Any, columns: Mapping[str, pa.ChunkedArray]) -> Any:
    """The rows, of a kind that `read_frame` takes, with further columns, in their own kind and order.

    A column of the same name is replaced, and the index of a pandas frame is kept.
    """
    if _is_of(rows, "pandas"):
        pandas = _import_library("pandas")
        added = {name: pandas.Series(column.to_pandas().array, index=rows.index) for name, column in columns.items()}
        return rows.assign(**added)
    if _is_of(rows, "polars"):
        polars = _import_library("polars")
        return rows.with_columns([polars.from_arrow(column).alias(name) for name, column in columns.items()])
    table = read_frame(rows, what="The frame")
    for name, column in columns.items():
        place = table.schema.get_field_index(name)
        table = table.append_column(name, column) if place < 0 else table.set_column(place, name, column)
    if isinstance(rows, Frame):
        return Frame(table)
    if isinstance(rows, pa.RecordBatch):
        return table.combine_chunks().to_batches()[0] if table.num_rows else rows
    return table.to_pylist() if isinstance(rows, Sequence) else table


def _is_of(rows: Any, library: str) -> bool:
    return type(rows).__module__.partition(".")[0] == library


def _import_library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise UnavailableError(f"{name} is not installed here.", remedy=f"pip install {name}") from None
