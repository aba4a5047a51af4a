"""The prediction table as a publish reads it: one night at one Delta version, in pieces that workers share out."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import xxhash
from deltalake import DeltaTable

from forecache.errors import InputError, NotFoundError
from forecache.lake.tables import open_table
from forecache.pipeline import AS_OF, PROVENANCE_COLUMNS, Pipeline
from forecache.settings import Settings
from forecache.store.encode import provenance_counts
from forecache.store.manifest import Provenance, Source

_BATCH_ROWS = 1 << 17
_SAMPLE_ROWS = 1 << 15
_Rows = TypeVar("_Rows", pa.RecordBatch, pa.Table)


@dataclass(frozen=True)
class Piece:
    """A row group of a data file."""

    path: str
    row_group: int
    rows: int


@dataclass(frozen=True)
class NightSource:
    """A night of a prediction table at a Delta version.

    Attributes:
        digest: Names the night's data files; equal digests mean equal rows.
        num_rows: Rows as the Delta log counts them, None where it has no statistics.
    """

    table: DeltaTable
    source: Source
    storage_options: dict[str, str]
    digest: str
    num_rows: int | None

    @property
    def night(self) -> date:
        return date.fromisoformat(self.source.as_of)

    @property
    def schema(self) -> pa.Schema:
        return self.table.to_pyarrow_dataset().schema


def open_night(settings: Settings, pipeline: Pipeline, night: date | None) -> NightSource:
    """The given or the newest night of the pipeline's prediction table.

    Raises:
        NotFoundError: There is no prediction table, or it has no rows for that night.
    """
    table = open_table(settings, pipeline.prediction_table)
    nights = sorted({date.fromisoformat(str(values[AS_OF])) for values in table.partitions()})
    if not nights or (night is not None and night not in nights):
        raise NotFoundError(
            f"The prediction table of {pipeline.name} has no rows for {night or 'any night'}.",
            remedy=f"Run `forecache score {pipeline.name}` first.",
        )
    night = night or nights[-1]
    actions = pa.table(table.get_add_actions(flatten=True))
    actions = actions.filter(pa.compute.equal(actions[f"partition.{AS_OF}"].cast(pa.date32()), night))
    counts = actions["num_records"]
    return NightSource(
        table=table,
        source=Source(
            table=pipeline.prediction_table,
            uri=settings.table_uri(pipeline.prediction_table),
            delta_version=table.version(),
            as_of=night.isoformat(),
        ),
        storage_options=dict(settings.storage_options),
        digest=xxhash.xxh3_128_hexdigest("\n".join(sorted(actions["path"].to_pylist())).encode()),
        num_rows=None if counts.null_count else pa.compute.sum(counts).as_py() or 0,
    )


def night_dataset(source: Source, storage_options: dict[str, str]) -> list[ds.ParquetFileFragment]:
    """The night's data files, in the order of their paths."""
    table = DeltaTable(source.uri, version=source.delta_version, storage_options=storage_options)
    return _fragments(table, source.as_of)


def _fragments(table: DeltaTable, as_of: str) -> list[ds.ParquetFileFragment]:
    dataset = table.to_pyarrow_dataset(partitions=[(AS_OF, "=", as_of)])
    found = dataset.get_fragments(filter=ds.field(AS_OF) == date.fromisoformat(as_of))
    return sorted(found, key=lambda fragment: fragment.path)


def pieces(night: NightSource) -> list[Piece]:
    """Every row group of the night."""
    return [
        Piece(fragment.path, group.id, group.num_rows)
        for fragment in _fragments(night.table, night.source.as_of)
        for group in fragment.row_groups
    ]


def share_out(all_pieces: list[Piece], shares: int) -> list[list[Piece]]:
    """Split pieces into at most `shares` lists of about equal rows."""
    lists: list[list[Piece]] = [[] for _ in range(shares)]
    loads = [0] * shares
    for piece in sorted(all_pieces, key=lambda piece: -piece.rows):
        smallest = loads.index(min(loads))
        lists[smallest].append(piece)
        loads[smallest] += piece.rows
    return [sorted(items, key=lambda piece: (piece.path, piece.row_group)) for items in lists if items]


def read_pieces(
    source: Source, storage_options: dict[str, str], wanted: list[Piece], columns: list[str]
) -> Iterator[tuple[str, int, pa.RecordBatch]]:
    """Batches of bounded size: (file path, position of the batch's first row in its row group, rows)."""
    fragments = {fragment.path: fragment for fragment in night_dataset(source, storage_options)}
    for piece in wanted:
        group = fragments[piece.path].subset(row_group_ids=[piece.row_group])
        position = 0
        for batch in group.to_batches(
            columns=columns, batch_size=_BATCH_ROWS, use_threads=False, batch_readahead=1, fragment_readahead=1
        ):
            yield f"{piece.path} (row group {piece.row_group})", position, plain(batch)
            position += len(batch)


_PLAIN = {
    pa.string_view(): pa.string(),
    pa.large_string(): pa.string(),
    pa.binary_view(): pa.binary(),
    pa.large_binary(): pa.binary(),
}


def plain(rows: _Rows) -> _Rows:
    """The same rows with the plain text and binary types: writers differ in which of Arrow's types they store."""
    for position, field in enumerate(rows.schema):
        if field.type in _PLAIN:
            kind = _PLAIN[field.type]
            rows = rows.set_column(position, pa.field(field.name, kind), rows.column(position).cast(kind))
    return rows


def commonest_provenance(night: NightSource) -> Provenance:
    """The provenance that most rows have, judged by the first row group of each data file.

    Raises:
        InputError: The night is empty.
    """
    counts: dict[Provenance, int] = {}
    for fragment in _fragments(night.table, night.source.as_of):
        total = sum(group.num_rows for group in fragment.row_groups)
        if total == 0:
            continue
        first = fragment.subset(row_group_ids=[0])
        batches = first.to_batches(columns=list(PROVENANCE_COLUMNS), batch_size=_SAMPLE_ROWS, batch_readahead=0)
        sample = provenance_counts(plain(pa.Table.from_batches([next(iter(batches))])))
        scale = total / max(1, sum(sample.values()))
        for item, count in sample.items():
            counts[item] = counts.get(item, 0) + int(count * scale)
    if not counts:
        raise InputError(
            f"The night {night.source.as_of} of {night.source.table} has no rows.", remedy="Score that night first."
        )
    return max(counts, key=lambda item: (counts[item], item.scored_at, item.id))
