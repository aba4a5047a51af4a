"""Which entities' features changed between two states of the feature table, by content.

A night that was rebuilt is compared through the change data feed. The feed of a partition that was written again names
every row as deleted and inserted, so that only the comparison of contents tells what changed. A new night is compared
with the partition of an earlier one.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa

from forecache.lake.tables import open_table
from forecache.pipeline import AS_OF, Pipeline
from forecache.scoring.night import partition_files
from forecache.scoring.staging import lake_filesystem
from forecache.settings import Settings

_BEFORE = "('delete', 'update_preimage')"
_AFTER = "('insert', 'update_postimage')"


@dataclass(frozen=True)
class Changes:
    """Differences from a base state to a target state.

    Attributes:
        changed: Key columns and features, as in the target, of entities that are new or whose features differ.
        removed: Key columns of entities that are gone.
    """

    changed: pa.Table
    removed: pa.Table


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
        return _from_feed(settings, pipeline, base, target)
    return _from_partitions(settings, pipeline, base, target)


def feed_share(settings: Settings, pipeline: Pipeline, base: State, target: State) -> float:
    """Size of the change data between two versions relative to the night's partition, from the log alone; about 0.01
    where one row in a hundred was updated, about 2 where the partition was written again."""
    filesystem = lake_filesystem(settings, pipeline.feature_table)
    day = target.night.isoformat()
    changed = 0
    for version in range(base.version + 1, target.version + 1):
        with filesystem.open_input_stream(f"_delta_log/{version:020d}.json") as stream:
            actions = [json.loads(line) for line in stream.read().splitlines() if line.strip()]
        ours = [action for action in actions if _partition(action) == day]
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
    keys, features = _names(pipeline.key), _names(pipeline.features.names)
    before, after = f"_change_type IN {_BEFORE}", f"_change_type IN {_AFTER}"
    # An entity was there before if its first event takes it away or is an update; it is there now if its last adds it.
    events = f"""
        SELECT {keys},
            min(_commit_version) FILTER ({before}) AS first_before,
            min(_commit_version) FILTER ({after}) AS first_after,
            max(_commit_version) FILTER ({before}) AS last_before,
            max(_commit_version) FILTER ({after}) AS last_after,
            arg_min(row({features}), _commit_version) FILTER ({before}) AS old,
            arg_max(row({features}), _commit_version) FILTER ({after}) AS new
        FROM feed WHERE {AS_OF} = DATE '{target.night.isoformat()}' GROUP BY {keys}"""
    net = f"""
        SELECT *, coalesce(first_before <= coalesce(first_after, first_before), false) AS was_there,
            coalesce(last_after >= coalesce(last_before, last_after), false) AS is_there
        FROM ({events})"""
    unpacked = ", ".join(
        f'struct_extract_at(new, {position + 1}) AS "{name}"' for position, name in enumerate(pipeline.features.names)
    )
    with _database(settings) as connection:
        connection.register("feed", pa.RecordBatchReader.from_stream(feed))
        connection.execute(f"CREATE TABLE net AS {net}")
        changed = connection.sql(
            f"SELECT {keys}, {unpacked} FROM net WHERE is_there AND (NOT was_there OR old IS DISTINCT FROM new)"
        ).to_arrow_table()
        removed = connection.sql(f"SELECT {keys} FROM net WHERE was_there AND NOT is_there").to_arrow_table()
    return Changes(changed, removed)


def _from_partitions(settings: Settings, pipeline: Pipeline, base: State, target: State) -> Changes:
    same = " AND ".join(f'base."{name}" = target."{name}"' for name in pipeline.key)
    keys = ", ".join(f'"{name}"' for name in pipeline.key)
    features = _names(pipeline.features.names)
    with _database(settings) as connection:
        connection.register("base_files", _dataset(settings, pipeline, base))
        connection.register("target_files", _dataset(settings, pipeline, target))
        connection.execute(f"CREATE VIEW base AS SELECT {keys}, row({features}) AS content FROM base_files")
        connection.execute(f"CREATE VIEW target AS SELECT *, row({features}) AS content FROM target_files")
        changed = connection.sql(
            f"SELECT target.* EXCLUDE (content) FROM target LEFT JOIN base ON {same} "
            f'WHERE base."{pipeline.key[0]}" IS NULL OR base.content IS DISTINCT FROM target.content'
        ).to_arrow_table()
        removed = connection.sql(
            f"SELECT {keys} FROM base WHERE NOT EXISTS (SELECT 1 FROM target WHERE {same})"
        ).to_arrow_table()
    return Changes(changed, removed)


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
    return Changes(pa.schema([*keys, *features]).empty_table(), pa.schema(keys).empty_table())


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)


@contextmanager
def _database(settings: Settings) -> Iterator[Any]:
    """DuckDB with bounded memory that spills into the home folder."""
    import duckdb

    scratch = settings.home_path / "scoring"
    scratch.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(":memory:", config={"memory_limit": "512MB", "temp_directory": str(scratch)}) as connection:
        yield connection
