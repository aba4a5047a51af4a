"""Digests of the data files of a partition."""

from collections.abc import Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from deltalake import DeltaTable


def partition_files(table: DeltaTable, column: str, value: date) -> pa.Table:
    """The add actions (columns `path`, `num_records`) of a partition at the version that the table is open at.

    Args:
        column: Partition column (date).
    """
    return _of_partition(pa.table(table.get_add_actions(flatten=True)), column, value)


def _of_partition(actions: pa.Table, column: str, value: date) -> pa.Table:
    return actions.filter(pc.equal(actions[f"partition.{column}"].cast(pa.date32()), value))


def files_digest(files: pa.Table) -> str:
    """Digest of the names of data files, 32 hex digits; equal digests mean equal rows."""
    return xxhash.xxh3_128_hexdigest("\n".join(sorted(files["path"].to_pylist())).encode())


def partition_digests(table: DeltaTable, column: str, values: Sequence[date]) -> dict[date, str]:
    """The digest of each partition at the version that the table is open at; see `files_digest`."""
    actions = pa.table(table.get_add_actions(flatten=True))
    return {value: files_digest(_of_partition(actions, column, value)) for value in values}
