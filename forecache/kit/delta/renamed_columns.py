"""Columns of small tables that earlier versions named otherwise: every read gives them today's names.

The first commit to a table of an earlier version rewrites it with today's columns; until then, and if a process of an
earlier version adds rows once more, the log has the old names.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from forecache.base.settings import Settings
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

RENAMED: Mapping[str, Mapping[str, str]] = {
    "stage_ledger": {"night": "as_of"},
    "monitoring": {"night": "run_date"},
}
"""By table, today's name of each column that had another one."""


def old_columns(name: str, columns: Iterable[str]) -> dict[str, str]:
    """Those columns of a table that are named otherwise today, with today's names."""
    there = set(columns)
    return {old: new for old, new in RENAMED.get(name, {}).items() if old in there}


def stored_columns(name: str, columns: Iterable[str]) -> dict[str, str]:
    """By today's name, the columns of a table or file with all values of it; without those whose values are in two."""
    found = {column: column for column in columns}
    for old, new in old_columns(name, found).items():
        del found[old]
        if found.pop(new, None) is None:
            found[new] = old
    return found


def rename_columns(rows: pa.Table, name: str) -> pa.Table:
    """Give rows of a table today's names of columns; of a column and its old name, each row has a value in one."""
    for old, new in old_columns(name, rows.column_names).items():
        if new in rows.column_names:
            both = pc.coalesce(rows[new], rows[old])
            rows = rows.set_column(rows.column_names.index(new), new, both).drop_columns([old])
        else:
            rows = rows.rename_columns({old: new})
    return rows


def open_rows(settings: Settings, name: str) -> "Dataset":
    """Open any table at its newest version for Arrow or DuckDB, with today's names of columns."""
    from pyarrow import dataset

    found = open_dataset(open_table(settings, name))
    return dataset.dataset(rename_columns(found.to_table(), name)) if old_columns(name, found.schema.names) else found
