"""The source of a publish: one as-of date of a table at one Delta version, in pieces that workers share."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from forecache.base.errors import InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.declare import AS_OF, PROVENANCE_COLUMNS, FeatureView, Served
from forecache.kit.delta.comparison.partition import PartitionReader, RowGroup, files_digest, partition_files
from forecache.kit.delta.tables import open_table
from forecache.lake.features import STAGE, feature_versions
from forecache.lake.ledger import newest_night
from forecache.serve.store.encoding.entries import provenance_of
from forecache.serve.store.manifest import Provenance, TableSource

_SAMPLE_ROWS = 1 << 15
_CUT_TEXT = 32


@dataclass(frozen=True)
class NightSource:
    """An as-of date of a prediction table or of a feature view's table, at a Delta version."""

    table: DeltaTable
    source: TableSource
    storage_options: dict[str, str] = field(repr=False)
    digest: str  # of the data files; equal digests mean equal rows
    num_rows: int | None  # by the Delta log; None if it has no statistics

    @property
    def night(self) -> date:
        return date.fromisoformat(self.source.as_of)

    @cached_property
    def schema(self) -> pa.Schema:
        return pa.schema(self.table.schema())

    @cached_property
    def reader(self) -> "NightReader":
        return NightReader(self.table, self.source.as_of)

    def values_of(self, rows: int) -> int:
        """Estimated number of values in the longest column of so many rows."""
        pieces = self.reader.pieces
        return rows * sum(piece.values for piece in pieces) // max(1, sum(piece.rows for piece in pieces))

    @cached_property
    def provenance(self) -> Provenance:
        """The most frequent provenance by statistics or first rows; of features, their Delta version."""
        counts: Counter[Provenance] = Counter()
        for piece in self.reader.pieces:
            if piece.rows == 0:
                continue
            if PROVENANCE_COLUMNS[0] not in self.reader.schema.names:
                return Provenance("", -1, self.source.delta_version, "", "")
            only = self.reader.provenance(piece)
            if only is not None:
                counts[only] += piece.rows
                continue
            first = next(self.reader.batches(piece, list(PROVENANCE_COLUMNS), batch_rows=_SAMPLE_ROWS))
            distinct = pa.Table.from_batches([first]).group_by(list(PROVENANCE_COLUMNS)).aggregate([([], "count_all")])
            for row in distinct.to_pylist():
                made_by = provenance_of([row[name] for name in PROVENANCE_COLUMNS])
                counts[made_by] += row["count_all"] * piece.rows // len(first)
        if not counts:
            raise InputError(
                f"As-of date {self.source.as_of} of {self.source.table} has no rows.", remedy="Score that date first."
            )
        return max(counts, key=lambda item: (counts[item], item.scored_at, item.id))


def open_night(settings: Settings, pipeline: Served, night: date | None) -> NightSource:
    """Open the given or the newest as-of date of the table that is published; raises NotFoundError without rows."""
    version = None
    if isinstance(pipeline, FeatureView):
        # At the version that the stage recorded and checked, even if the table has changed since.
        night = night or newest_night(settings, STAGE, pipeline.name)
        version = feature_versions(settings, pipeline, [night])[night] if night else None
    table = open_table(settings, pipeline.served_table, version=version)
    nights = sorted({date.fromisoformat(str(values[AS_OF])) for values in table.partitions()})
    if not nights or (night is not None and night not in nights):
        raise NotFoundError(
            f"The table {pipeline.served_table} has no rows for {night or 'any as-of date'}.",
            remedy=f"`forecache run {pipeline.name}{f' --date {night}' if night else ''}` makes them.",
        )
    night = night or nights[-1]
    files = partition_files(table, AS_OF, night)
    counts = files["num_records"]
    uri, as_of = settings.table_uri(pipeline.served_table), night.isoformat()
    return NightSource(
        table,
        TableSource(pipeline.served_table, uri, table.version(), as_of),
        dict(settings.storage_options),
        files_digest(files),
        None if counts.null_count else pa.compute.sum(counts).as_py() or 0,
    )


class NightReader(PartitionReader):
    """Reads the pieces of an as-of date at the Delta version of an open table; safe for threads."""

    def __init__(self, table: DeltaTable, as_of: str) -> None:
        super().__init__(table, AS_OF, as_of)

    def provenance(self, piece: RowGroup) -> Provenance | None:
        """The provenance of all rows of a piece, None if the file's statistics do not show that they share one."""
        group = self._fragments[piece.path].metadata.row_group(piece.row_group)
        statistics = {
            column.path_in_schema: column.statistics
            for column in map(group.column, range(group.num_columns))
            if column.path_in_schema in PROVENANCE_COLUMNS
        }
        found = [_constant_value(statistics.get(name), piece.rows) for name in PROVENANCE_COLUMNS]
        return None if _VARIES in found else provenance_of(found)


_VARIES = object()


def _constant_value(statistics: Any, rows: int) -> Any:
    """The value of a column in all rows of a row group (None: null), _VARIES if it is not known to be constant."""
    if statistics is None or not statistics.has_null_count:
        return _VARIES
    if statistics.null_count == rows:
        return None
    if statistics.null_count or not statistics.has_min_max or statistics.min != statistics.max:
        return _VARIES
    # Writers may truncate texts of 32 bytes and more, so that different ones have the same bounds.
    long = isinstance(statistics.min, (str, bytes)) and len(statistics.min) >= _CUT_TEXT
    return _VARIES if long else statistics.min


def split_pieces(all_pieces: list[RowGroup], shares: int) -> list[list[RowGroup]]:
    lists: list[list[RowGroup]] = [[] for _ in range(shares)]
    loads = [0] * shares
    for piece in sorted(all_pieces, key=lambda piece: -piece.rows):
        smallest = loads.index(min(loads))
        lists[smallest].append(piece)
        loads[smallest] += piece.rows
    return [sorted(items, key=lambda piece: (piece.path, piece.row_group)) for items in lists if items]
