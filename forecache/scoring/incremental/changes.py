"""Which entities' features changed between two states of the feature table, by content.

A night that was rebuilt is compared through the change data feed. The feed of a partition that was written again names
every row as deleted and inserted, so that only the comparison of contents tells what changed. A new night is compared
with the partition of an earlier one.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from forecache.lake.delta.log import read_entry
from forecache.lake.delta.tables import open_table
from forecache.pipeline import AS_OF, Pipeline
from forecache.scoring.night import partition_files
from forecache.scoring.partitions.staged_files import lake_filesystem
from forecache.scoring.scratch import scratch_database
from forecache.settings import Settings

_BEFORE = "('delete', 'update_preimage')"
_AFTER = "('insert', 'update_postimage')"
# A feed up to here is worked on as it came; a copy would take as long as all the rest.
_SMALL_BYTES = 128 << 20


@dataclass(frozen=True)
class Changes:
    """Differences from a base state to a target state.

    Attributes:
        changed: Key columns and features, as in the target, of entities that are new or whose features differ.
        removed: Key columns of entities that are gone.
        updated: How many of the changed ones were there before.
    """

    changed: pa.Table
    removed: pa.Table
    updated: int


@dataclass(frozen=True)
class State:
    """A night's feature partition at a version of the feature table."""

    night: date
    version: int


def find_changes(settings: Settings, pipeline: Pipeline, base: State, target: State) -> Changes:
    """What changed from one state to another; one night at two versions, or two nights.

    Raises:
        NotFoundError: A version of the feature table is gone.
    """
    if base.night == target.night:
        with suppress(DeltaError, pa.ArrowException, FileNotFoundError):  # a version between them may be removed
            return _from_feed(settings, pipeline, base, target)
    return _from_partitions(settings, pipeline, base, target)


def feed_share(settings: Settings, pipeline: Pipeline, base: State, target: State) -> float:
    """Size of the change data between two versions relative to the night's partition, from the log alone; about 0.01
    where one row in a hundred was updated, about 2 where the partition was written again."""
    filesystem = lake_filesystem(settings, pipeline.feature_table)
    day = target.night.isoformat()
    changed = 0
    for version in range(base.version + 1, target.version + 1):
        ours = [action for action in read_entry(filesystem, version) if _partition(action) == day]
        feed = [action["cdc"]["size"] for action in ours if "cdc" in action]
        rewritten = [(action.get("add") or action.get("remove") or {}).get("size", 0) for action in ours]
        changed += sum(feed) if feed else sum(rewritten)
    files = partition_files(settings, pipeline.feature_table, target.version, [target.night])[target.night]
    return changed / max(1, sum(file.size_bytes for file in files))


def _partition(action: dict[str, Any]) -> str | None:
    for kind in ("cdc", "add", "remove"):
        if kind in action:
            return (action[kind].get("partitionValues") or {}).get(AS_OF)
    return None


def _from_feed(settings: Settings, pipeline: Pipeline, base: State, target: State) -> Changes:
    if base.version == target.version:
        return _none(settings, pipeline)
    table = open_table(settings, pipeline.feature_table, version=target.version)
    feed = table.load_cdf(
        starting_version=base.version + 1,
        ending_version=target.version,
        columns=[*pipeline.key, AS_OF, *pipeline.features.names, "_change_type", "_commit_version"],
        predicate=f"{AS_OF} = '{target.night.isoformat()}'",
    )
    keys, columns = _names(pipeline.key), _names((*pipeline.key, *pipeline.features.names))
    with scratch_database(settings) as connection:
        _register_feed(connection, pa.RecordBatchReader.from_stream(feed))
        connection.execute(
            f"CREATE VIEW events AS SELECT {columns}, _change_type, _commit_version FROM feed "
            f"WHERE {AS_OF} = DATE '{target.night.isoformat()}'"
        )
        row = connection.execute("SELECT count(DISTINCT _commit_version) FROM events").fetchone()
        kind, source, first, last = "VIEW", "events", "true", "true"
        if row is not None and row[0] > 1:
            # An entity was there before if its first commit takes it away or updates it, and is there now if its last
            # one adds or updates it.
            span = (
                f"SELECT {keys}, min(_commit_version) AS first, max(_commit_version) AS last FROM events GROUP BY ALL"
            )
            source = f"events JOIN ({span}) USING ({keys})"
            kind, first, last = "TABLE", "_commit_version = first", "_commit_version = last"
        for name, wanted, types in (("base", first, _BEFORE), ("target", last, _AFTER)):
            connection.execute(
                f"CREATE {kind} {name} AS SELECT {columns} FROM {source} WHERE {wanted} AND _change_type IN {types}"
            )
        return _compared(connection, pipeline)


def _register_feed(connection: Any, reader: pa.RecordBatchReader) -> None:
    """Make `feed` of a stream: as it comes where it is small, else in a table of DuckDB's, which goes to disk."""
    batches: list[pa.RecordBatch] = []
    size = 0
    for batch in reader:
        batches.append(batch)
        size += batch.nbytes
        if size > _SMALL_BYTES:
            connection.register("stream", pa.RecordBatchReader.from_batches(reader.schema, chain(batches, reader)))
            connection.execute("CREATE TABLE feed AS FROM stream")
            return
    connection.register("feed", pa.Table.from_batches(batches, reader.schema))


def _from_partitions(settings: Settings, pipeline: Pipeline, base: State, target: State) -> Changes:
    with scratch_database(settings) as connection:
        connection.register("base", _dataset(settings, pipeline, base))
        connection.register("target", _dataset(settings, pipeline, target))
        return _compared(connection, pipeline)


def _compared(connection: Any, pipeline: Pipeline) -> Changes:
    """The differences between the rows of `base` and `target` in a database."""
    keys = _names(pipeline.key)
    same = " AND ".join(f'base."{name}" = target."{name}"' for name in pipeline.key)
    new = f'base."{pipeline.key[0]}" IS NULL'
    differs = " OR ".join(f'base."{name}" IS DISTINCT FROM target."{name}"' for name in pipeline.features.names)
    changed = connection.sql(
        f"SELECT target.*, NOT {new} AS was_there FROM target LEFT JOIN base ON {same} WHERE {new} OR {differs}"
    ).to_arrow_table()
    removed = connection.sql(f"SELECT {keys} FROM base ANTI JOIN target USING ({keys})").to_arrow_table()
    updated = pc.sum(changed["was_there"]).as_py() or 0
    return Changes(changed.drop_columns("was_there"), removed, updated)


def _dataset(settings: Settings, pipeline: Pipeline, state: State) -> Any:
    import pyarrow.dataset as ds

    table = open_table(settings, pipeline.feature_table, version=state.version)
    known = {field.name: field for field in pa.schema(table.schema())}
    wanted = pa.schema([known[name] for name in (*pipeline.key, *pipeline.features.names)])
    files = partition_files(settings, pipeline.feature_table, state.version, [state.night])[state.night]
    return ds.dataset(
        [file.path for file in files],
        schema=wanted,
        format="parquet",
        filesystem=lake_filesystem(settings, pipeline.feature_table),
    )


def _none(settings: Settings, pipeline: Pipeline) -> Changes:
    known = {f.name: f for f in pa.schema(open_table(settings, pipeline.feature_table).schema())}
    keys = [known[name] for name in pipeline.key]
    features = [known[name] for name in pipeline.features.names]
    return Changes(pa.schema([*keys, *features]).empty_table(), pa.schema(keys).empty_table(), 0)


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)
