"""Small tables that grow by a few rows per commit, such as ledgers: read with filters, and compacted as they grow.

A process caches the log of each such table and the rows of its small files, which are immutable. Every read first
updates to the newest commit of any process, but a look for work reads one state of each table. An append that finds
many small files merges them in its own commit, sorted by the columns that reads filter by. The first append to a table
of an earlier version gives it today's columns in its own commit.
"""

import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import cache, reduce
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from forecache.base.settings import Settings
from forecache.base.steps import look_once
from forecache.kit.delta.commit import Change, TableState, Target, commit
from forecache.kit.delta.errors import damaged_file, open_data_file
from forecache.kit.delta.files import DataFile, fit_columns, place_of
from forecache.kit.delta.log import open_if_exists, read_actions
from forecache.kit.delta.merge_files import MergePolicy, check_row_count, write_merged
from forecache.kit.delta.renamed_columns import RENAMED, old_columns, rename_columns, stored_columns
from forecache.kit.delta.writers import write_rows
from forecache.kit.lease import Lease

if TYPE_CHECKING:
    from deltalake import DeltaTable

SORTED_BY: Mapping[str, tuple[str, ...]] = {
    "stage_ledger": ("subject", "stage", "as_of"),
    "promotion_ledger": ("pipeline",),
    "monitoring": ("pipeline", "run_date"),
    "ingested_files": ("source", "event_day"),
    "mail_ledger": ("mailing", "as_of"),
}
"""The small tables, and the columns that their compacted files are sorted by."""
MOST_SMALL_FILES = 50
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


def read_small_table(
    settings: Settings, name: str, filters: Sequence[Filter], *, only_last: bool = False
) -> list[dict[str, Any]]:
    """Read the rows of a small table that meet all filters, at the newest commit; empty if there is no table.

    A filter has a column, one of `=`, `in`, `>=` and `<=`, and a value that is not null. With `only_last`, of the rows
    the last one by `commit_version` and `recorded_at`; null comes first.
    """
    options = tuple(sorted(settings.storage_options.items()))
    return _table_reader(os.getpid(), settings.table_uri(name), options).read(
        settings, name, filters, only_last=only_last
    )


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
    LeaseLostError if the lease `fence` was lost.
    """

    def decide(state: TableState) -> Change:
        rows = pa.Table.from_pylist(rows_at(state.version), schema=schema)
        if _is_old(name, state.delta):
            return _rewrite_with_renamed(settings, name, state, rows)
        return prepare_upsert(settings, name, state, rows)

    return commit(replace(small_table_target(settings, name, schema), fence=fence), decide)


def rename_table_columns(settings: Settings, name: str) -> None:
    """Give a small table of an earlier version today's columns in one commit; nothing if it has them."""

    def decide(state: TableState) -> Change:
        if not _is_old(name, state.delta):
            return Change()
        return _rewrite_with_renamed(settings, name, state, _concat_rows([], name, state.delta))

    delta = open_if_exists(settings, name)
    if delta is not None and _is_old(name, delta):
        commit(Target(settings, name, delta.schema(), fit=False), decide)


def _is_old(name: str, delta: "DeltaTable | None") -> bool:
    """Tell if a table has columns that are named otherwise today."""
    return delta is not None and bool(old_columns(name, pa.schema(delta.schema()).names))


def _rewrite_with_renamed(settings: Settings, name: str, state: TableState, rows: pa.Table) -> Change:
    """Write each file of a small table again with today's columns, and more rows; returns the change of the table."""
    from deltalake import Schema

    filesystem, none = place_of(settings, name).open(), _concat_rows([], name, state.delta)
    schema = pa.unify_schemas([none.schema, rows.schema])
    written = write_rows(fit_columns(rows, schema), settings, name)
    for file in state.files:
        there, _ = _read_parquet(filesystem, name, file.path)
        check_row_count(name, [file], there.num_rows)
        written += write_rows(fit_columns(there, schema), settings, name, group_rows=_GROUP_ROWS)
    return Change(written, state.files, schema=Schema.from_arrow(schema))


def row_schema(kind: type, *, int32: Sequence[str] = ()) -> pa.Schema:
    """Arrow schema for the fields of a dataclass, those in `int32` in 32 bits; choices are text, mappings JSON text."""
    # Of `int | None` the first.
    hints = {name: get_args(h)[0] if isinstance(h, UnionType) else h for name, h in get_type_hints(kind).items()}
    types = {name: _ARROW_TYPES.get(hint, pa.string()) for name, hint in hints.items()}
    return pa.schema([(name, pa.int32() if name in int32 else kind) for name, kind in types.items()])


def small_table_target(settings: Settings, name: str, schema: pa.Schema) -> Target:
    """Commit target for a small table, whose old versions are not needed."""
    from deltalake import Schema

    return Target(settings, name, Schema.from_arrow(schema), keep_log=False, renamed=RENAMED.get(name, {}))


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
    actions = read_actions(state.delta)
    filters = [(column, "in", keys[column].unique().to_pylist()) for column in keys.column_names]
    paths = {unquote(path) for path in _select_files(actions, filters)["path"].to_pylist()}
    for file in state.files:
        if file.path not in paths:
            continue
        rows = _concat_rows([_read_parquet(filesystem, name, file.path)[0]], name, state.delta)
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
    """Cache of a table's log, of the footers of its files, and of the rows of its small files, by path."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._delta: DeltaTable | None = None
        self._files = pa.table({})
        self._entry: object = None
        self._kept: dict[str, pa.Table] = {}
        self._footers: dict[str, pq.FileMetaData] = {}

    def read(
        self, settings: Settings, name: str, filters: Sequence[Filter], *, only_last: bool
    ) -> list[dict[str, Any]]:
        filesystem = place_of(settings, name).open()
        with self._lock:
            delta = look_once((self, "table"), lambda: self._open_newest(settings, name, filesystem))
            if delta is None:
                return []
            rows = _filter_rows(self._read_rows(filesystem, name, delta, filters), filters)
            return (_sort_by_commit(rows).slice(max(0, rows.num_rows - 1)) if only_last else rows).to_pylist()

    def _read_rows(self, filesystem: Any, name: str, delta: "DeltaTable", filters: Sequence[Filter]) -> pa.Table:
        files = _select_files(self._files, filters).select(["path", "num_records"])
        tables = [
            self._read_file(filesystem, name, unquote(file["path"]), file["num_records"], filters)
            for file in files.to_pylist()
        ]
        return _concat_rows(tables, name, delta)

    def _open_newest(self, settings: Settings, name: str, filesystem: Any) -> "DeltaTable | None":
        seen = self._delta and self._delta.version()
        delta = self._update(settings, name, filesystem)
        if delta is not None and (self._delta is not delta or seen != delta.version()):
            self._files = _read_bounds(name, delta)
            active = set(map(unquote, self._files["path"].to_pylist()))
            self._kept = {path: rows for path, rows in self._kept.items() if path in active}
            self._footers = {path: footer for path, footer in self._footers.items() if path in active}
        self._delta = delta
        return delta

    def _update(self, settings: Settings, name: str, filesystem: Any) -> "DeltaTable | None":
        from deltalake.exceptions import DeltaError

        # If a table was deleted and created again, its log has a different entry under the last version seen.
        if self._delta is not None and self._entry == _entry_identity(filesystem, self._delta):
            seen = self._delta.version()
            try:
                self._delta.update_incremental()
            except DeltaError:
                pass
            else:
                if self._delta.version() != seen:
                    self._entry = _entry_identity(filesystem, self._delta)
                return self._delta
        delta, self._kept, self._footers = open_if_exists(settings, name), {}, {}
        self._entry = None if delta is None else _entry_identity(filesystem, delta)
        return delta

    def _read_file(
        self, filesystem: Any, name: str, path: str, num_rows: int | None, filters: Sequence[Filter]
    ) -> pa.Table:
        rows = self._kept.get(path)
        if rows is None:
            is_kept = num_rows is not None and num_rows <= _KEPT_FILE_ROWS
            rows, self._footers[path] = _read_parquet(
                filesystem, name, path, () if is_kept else filters, self._footers.get(path)
            )
            if is_kept:
                self._kept[path] = rows
        return _filter_rows(rows, filters)


def _entry_identity(filesystem: Any, delta: "DeltaTable") -> object:
    """Type, size and time of the log's last entry, to recognize another entry of the same version."""
    info = filesystem.get_file_info(f"_delta_log/{delta.version():020d}.json")
    return info.type, info.size, info.mtime_ns


def _read_bounds(name: str, delta: "DeltaTable") -> pa.Table:
    """The files of a table with the bounds of their columns, by today's names."""
    files, found = read_actions(delta), {"path": "path", "num_records": "num_records"}
    for column, stored in stored_columns(name, pa.schema(delta.schema()).names).items():
        found |= {f"{bound}.{column}": f"{bound}.{stored}" for bound in ("min", "max")}
    return pa.table({column: files[stored] for column, stored in found.items() if stored in files.column_names})


def _select_files(files: pa.Table, filters: Sequence[Filter]) -> pa.Table:
    """The files whose column bounds allow rows that meet the filters; a file without bounds allows all."""
    for column, operator, value in filters:
        low, high = f"min.{column}", f"max.{column}"
        if low not in files.column_names or high not in files.column_names:
            continue
        masks = []
        for each in value if operator == "in" else [value]:
            above = pc.fill_null(pc.less_equal(files[low], each), True)
            below = pc.fill_null(pc.greater_equal(files[high], each), True)
            masks.append({">=": below, "<=": above}.get(operator, pc.and_(above, below)))
        files = _keep_any(files, masks)
    return files


def _filter_rows(rows: pa.Table, filters: Sequence[Filter]) -> pa.Table:
    for column, operator, value in filters:
        compare = {">=": pc.greater_equal, "<=": pc.less_equal}.get(operator, pc.equal)
        some = value if operator == "in" else [value]
        rows = _keep_any(rows, [compare(rows[column], pa.scalar(each, rows[column].type)) for each in some])
    return rows


def _sort_by_commit(rows: pa.Table) -> pa.Table:
    position = pc.fill_null(rows["commit_version"], -1)  # of rows written before the column existed
    order = pa.table([position, rows["recorded_at"]], names=["position", "time"])
    return rows.take(pc.sort_indices(order, sort_keys=[("position", "ascending"), ("time", "ascending")]))


def _keep_any(rows: pa.Table, masks: Sequence[pa.ChunkedArray]) -> pa.Table:
    """The rows that one of the masks has."""
    return rows.filter(reduce(pc.or_, masks)) if masks else rows.slice(0, 0)


def _group_may_hold(group: pq.RowGroupMetaData, places: Mapping[str, int], filters: Sequence[Filter]) -> bool:
    """Tell if the bounds of a row group's columns of text and dates allow rows that meet the filters."""
    for column, operator, value in filters:
        bounds = group.column(places[column]).statistics if column in places else None
        if bounds is None or not bounds.has_min_max or type(bounds.min) not in (str, date):
            continue
        low, high = bounds.min, bounds.max
        some = value if operator == "in" else [value]
        if not any((operator == "<=" or each <= high) and (operator == ">=" or low <= each) for each in some):
            return False
    return True


def _read_parquet(
    filesystem: Any, name: str, path: str, filters: Sequence[Filter] = (), footer: pq.FileMetaData | None = None
) -> tuple[pa.Table, pq.FileMetaData]:
    """The rows of a file's groups that may meet the filters, and its footer; pyarrow's datasets would import pandas."""
    try:
        with open_data_file(filesystem, path, name) as source:
            file = pq.ParquetFile(source, metadata=footer)
            footer = file.metadata
            places = {column: place for place, column in enumerate(footer.schema.names)}
            places = {column: places[stored] for column, stored in stored_columns(name, places).items()}
            groups = [n for n in range(file.num_row_groups) if _group_may_hold(footer.row_group(n), places, filters)]
            return rename_columns(file.read_row_groups(groups, use_threads=False), name), footer
    except FileNotFoundError as error:
        raise damaged_file(path, name) from error


def _concat_rows(tables: Sequence[pa.Table], name: str, delta: "DeltaTable | None") -> pa.Table:
    """Concatenate rows, with all columns of the table; null in rows of files that are older than a column."""
    assert delta is not None
    none = rename_columns(pa.schema(delta.schema()).empty_table(), name)
    return pa.concat_tables([none, *tables], promote_options="default").select(none.column_names)
