"""Small tables that grow by a few rows per commit, such as ledgers: read with filters, and compacted as they grow.

A process caches the log of each such table and the rows of its small files, which are immutable. Every read first
updates to the newest commit of any process. An append that finds many small files merges them in its own commit, sorted
by the columns that reads filter by.
"""

import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecache.base.settings import Settings
from forecache.kit.delta.commit import Change, TableState, Target, commit
from forecache.kit.delta.errors import damaged_file, open_data_file
from forecache.kit.delta.files import DataFile, place_of
from forecache.kit.delta.log import open_if_exists
from forecache.kit.delta.merge_files import MergePolicy, write_merged
from forecache.kit.delta.writers import write_rows
from forecache.kit.lease import Lease

if TYPE_CHECKING:
    from deltalake import DeltaTable

SORTED_BY: Mapping[str, tuple[str, ...]] = {
    "stage_ledger": ("subject", "stage", "night"),
    "promotion_ledger": ("pipeline",),
    "monitoring": ("pipeline", "night"),
    "ingested_files": ("source", "event_day"),
    "mail_ledger": ("mailing", "as_of"),
}
"""The small tables, and the columns that their compacted files are sorted by."""
MOST_SMALL_FILES = 200
"""An append to a table with at least so many small files merges them."""
_SMALL_FILE_ROWS = 16_384
_KEPT_FILE_ROWS = 1_024
_MERGED_ROWS = 1 << 17
_GROUP_ROWS = 2_048

_ARROW_TYPES = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    date: pa.date32(),
    datetime: pa.timestamp("us", tz="UTC"),
}

Filter = tuple[str, str, Any]


def read_small_table(settings: Settings, name: str, filters: Sequence[Filter]) -> list[dict[str, Any]]:
    """Read the rows of a small table that meet all filters, at the newest commit; empty if there is no table.

    A filter has a column, one of `=`, `in`, `>=` and `<=`, and a value that is not null.
    """
    options = tuple(sorted(settings.storage_options.items()))
    return _table_reader(os.getpid(), settings.table_uri(name), options).read(settings, name, filters)


def append_to_small_table(
    settings: Settings,
    name: str,
    schema: pa.Schema,
    rows_at: Callable[[int], list[dict[str, Any]]],
    *,
    fence: Lease | None = None,
) -> int:
    """Append rows in one commit, creating the table if needed; returns the Delta version.

    `rows_at` returns them for the table's newest version (-1: there is no table), and is called at each attempt.
    LeaseLostError if the lease `fence`, under which they were decided, is lost.
    """

    def decide(state: TableState) -> Change:
        return prepare_upsert(settings, name, state, pa.Table.from_pylist(rows_at(state.version), schema=schema))

    return commit(replace(small_table_target(settings, name, schema), fence=fence), decide)


def row_schema(kind: type, *, int32: Sequence[str] = ()) -> pa.Schema:
    """Arrow schema for the fields of a dataclass, those in `int32` in 32 bits; choices are text, mappings JSON text."""
    # Of `int | None` the first.
    hints = {name: get_args(h)[0] if isinstance(h, UnionType) else h for name, h in get_type_hints(kind).items()}
    types = {name: _ARROW_TYPES.get(hint, pa.string()) for name, hint in hints.items()}
    return pa.schema([(name, pa.int32() if name in int32 else kind) for name, kind in types.items()])


def small_table_target(settings: Settings, name: str, schema: pa.Schema) -> Target:
    """Commit target for a small table, whose old versions are not needed."""
    from deltalake import Schema

    return Target(settings, name, Schema.from_arrow(schema), keep_log=False)


def small_table_policy(name: str) -> MergePolicy:
    """Policy by which maintenance merges a small table: into one file, sorted by the columns that reads filter by."""
    parquet = {"group_rows": _GROUP_ROWS}
    return MergePolicy(math.inf, _MERGED_ROWS, math.inf, sorted_by=SORTED_BY[name], parquet=parquet)


def prepare_upsert(
    settings: Settings, name: str, state: TableState, rows: pa.Table, *, key: Sequence[str] = ()
) -> Change:
    """Write rows for a small table; returns the change that adds them in place of rows with the same `key` columns."""
    replaced, kept = _rewrite_without(settings, name, state, rows.select(key)) if key else ([], [])
    new = write_rows(pa.concat_tables([*(some.cast(rows.schema) for some in kept), rows]), settings, name)
    policy = replace(small_table_policy(name), small_rows=_SMALL_FILE_ROWS, least=MOST_SMALL_FILES)
    groups = policy.choose_groups([file for file in state.files if file not in replaced])
    merged = [write_merged(settings, name, state, group, policy) for group in groups]
    return Change([*new, *merged], [*replaced, *(file for group in groups for file in group)])


def _rewrite_without(
    settings: Settings, name: str, state: TableState, keys: pa.Table
) -> tuple[list[DataFile], list[pa.Table]]:
    """The files that have rows with these keys, and the other rows of these files."""
    if state.delta is None:
        return [], []
    wanted = set(zip(*keys.to_pydict().values(), strict=True))
    filesystem, replaced, kept = place_of(settings, name).open(), [], []
    actions = pa.table(state.delta.get_add_actions(flatten=True))
    filters = [(column, "in", keys[column].unique().to_pylist()) for column in keys.column_names]
    paths = {unquote(path) for path in actions.filter(_may_hold(actions, filters))["path"].to_pylist()}
    for file in state.files:
        rows = _concat_rows([_read_parquet(filesystem, name, file.path)], state.delta) if file.path in paths else None
        if rows is None:
            continue
        stays = [row not in wanted for row in zip(*rows.select(keys.column_names).to_pydict().values(), strict=True)]
        if not all(stays):
            replaced.append(file)
            kept.append(rows.filter(pa.array(stays, pa.bool_())))
    return replaced, kept


@cache
def _table_reader(process: int, uri: str, options: tuple[tuple[str, str], ...]) -> "_SmallTableReader":
    """The cached reader of a table; by process id, so that a fork gets its own."""
    return _SmallTableReader()


class _SmallTableReader:
    """Cache of a table's log, and of the rows of its small files by path."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._delta: DeltaTable | None = None
        self._entry: object = None
        self._kept: dict[str, pa.Table] = {}

    def read(self, settings: Settings, name: str, filters: Sequence[Filter]) -> list[dict[str, Any]]:
        filesystem = place_of(settings, name).open()
        with self._lock:
            delta = self._open_newest(settings, name, filesystem)
            if delta is None:
                return []
            files = pa.table(delta.get_add_actions(flatten=True))
            active = set(map(unquote, files["path"].to_pylist()))
            self._kept = {path: rows for path, rows in self._kept.items() if path in active}
            files = files.filter(_may_hold(files, filters)).select(["path", "num_records"])
            tables = [
                self._read_file(filesystem, name, unquote(file["path"]), file["num_records"], filters)
                for file in files.to_pylist()
            ]
            return _concat_rows(tables, delta).to_pylist()

    def _open_newest(self, settings: Settings, name: str, filesystem: Any) -> "DeltaTable | None":
        from deltalake.exceptions import DeltaError

        # If a table was deleted and created again, its log has a different entry under the last version seen.
        if self._delta is not None and self._entry == _entry_identity(filesystem, self._delta):
            seen = self._delta.version()
            try:
                self._delta.update_incremental()
            except DeltaError:
                self._delta = None
            else:
                if self._delta.version() != seen:
                    self._entry = _entry_identity(filesystem, self._delta)
                return self._delta
        self._delta, self._kept = open_if_exists(settings, name), {}
        self._entry = None if self._delta is None else _entry_identity(filesystem, self._delta)
        return self._delta

    def _read_file(
        self, filesystem: Any, name: str, path: str, num_rows: int | None, filters: Sequence[Filter]
    ) -> pa.Table:
        expression = pq.filters_to_expression([list(filters)]) if filters else None
        if num_rows is None or num_rows > _KEPT_FILE_ROWS:
            return _read_parquet(filesystem, name, path, expression)
        if path not in self._kept:
            self._kept[path] = _read_parquet(filesystem, name, path)
        rows = self._kept[path]
        return rows if expression is None else rows.filter(expression)


def _entry_identity(filesystem: Any, delta: "DeltaTable") -> object:
    """Type, size and time of the log's last entry, to recognize another entry of the same version."""
    info = filesystem.get_file_info(f"_delta_log/{delta.version():020d}.json")
    return info.type, info.size, info.mtime_ns


def _may_hold(files: pa.Table, filters: Sequence[Filter]) -> pa.ChunkedArray:
    """Mask of the files whose column bounds allow rows that meet the filters; true for a file without bounds."""
    found = pa.chunked_array([pa.array([True] * files.num_rows, pa.bool_())])
    for column, operator, value in filters:
        low, high = f"min.{column}", f"max.{column}"
        if low not in files.column_names or high not in files.column_names:
            continue
        within = pa.chunked_array([pa.array([False] * files.num_rows, pa.bool_())])
        for each in value if operator == "in" else [value]:
            above = pc.fill_null(pc.less_equal(files[low], each), True)
            below = pc.fill_null(pc.greater_equal(files[high], each), True)
            within = pc.or_(within, {">=": below, "<=": above}.get(operator, pc.and_(above, below)))
        found = pc.and_(found, within)
    return found


def _read_parquet(filesystem: Any, name: str, path: str, expression: Any = None) -> pa.Table:
    try:
        with open_data_file(filesystem, path, name) as source:
            return pq.read_table(source, filters=expression, use_threads=False)
    except FileNotFoundError as error:
        raise damaged_file(path, name) from error


def _concat_rows(tables: Sequence[pa.Table], delta: "DeltaTable | None") -> pa.Table:
    """Concatenate rows, with all columns of the table; null in rows of files that are older than a column."""
    assert delta is not None
    schema = pa.schema(delta.schema())
    return pa.concat_tables([schema.empty_table(), *tables], promote_options="default").select(schema.names)
