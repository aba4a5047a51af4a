"""From staged shards to a visible partition: the checks on every row, then one atomic commit to the Delta log."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.errors import CheckError, ConflictError
from forecache.lake.tables import open_table, table_exists
from forecache.pipeline import AS_OF, Pipeline
from forecache.scoring.night import FeatureFile, files_of
from forecache.scoring.staging import StagedFile, statistics_json
from forecache.scoring.uniqueness import count_keys
from forecache.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

_COMMIT_TRIES = 8


def prediction_schema(settings: Settings, pipeline: Pipeline) -> "pa.Schema":
    """Columns of the prediction table, in order; key columns have the types of the feature table."""
    import pyarrow as pa

    features = {field.name: field.type for field in pa.schema(open_table(settings, pipeline.feature_table).schema())}
    return pa.schema(
        [
            *((name, features[name]) for name in pipeline.key),
            (AS_OF, pa.date32()),
            (pipeline.output.name, pa.float64()),
            *((segment.name, pa.string()) for segment in pipeline.segments),
            ("model_name", pa.string()),
            ("model_version", pa.int32()),
            ("feature_version", pa.int64()),
            ("scored_at", pa.timestamp("us", tz="UTC")),
            ("run_id", pa.string()),
        ]
    )


def check_partition(
    settings: Settings,
    pipeline: Pipeline,
    table: str,
    night: date,
    files: Sequence[StagedFile],
    *,
    expected_rows: int,
    carried: Sequence[StagedFile] = (),
) -> dict[str, Any]:
    """Prove a night's staged rows: as many as keys, no key twice, no null, every output in its range.

    Rows, nulls and ranges come from the files' footers; only the keys are read.

    Args:
        files: All of the night's files.
        carried: Those of them whose keys are known to differ from each other and from all others, as
            `forecache.scoring.incremental` proves of predictions carried forward.

    Returns:
        rows, keys, minimum, maximum.

    Raises:
        CheckError: A check failed, with the figures; nothing has become visible.
    """
    output = pipeline.output
    rows = sum(file.rows for file in files)
    nulls = {
        name: sum(file.statistics["nullCount"][name] for file in files)
        for name in (*pipeline.key, *pipeline.output_columns)
    }
    lows = [file.statistics["minValues"].get(output.name) for file in files if file.rows]
    highs = [file.statistics["maxValues"].get(output.name) for file in files if file.rows]
    low = min((value for value in lows if value is not None), default=None)
    high = max((value for value in highs if value is not None), default=None)
    known = {file.path for file in carried}
    keys = sum(file.rows for file in carried)
    keys += count_keys(settings, pipeline, table, [file for file in files if file.path not in known])
    failed = []
    if rows != expected_rows:
        failed.append(f"{rows} rows for {expected_rows} entities")
    if keys != rows:
        failed.append(f"{rows} rows with {keys} different keys")
    failed += [f"{count} rows without a {name}" for name, count in nulls.items() if count]
    if output.minimum is not None and low is not None and low < output.minimum:
        failed.append(f"{output.name} down to {low:g}, below its minimum {output.minimum:g}")
    if output.maximum is not None and high is not None and high > output.maximum:
        failed.append(f"{output.name} up to {high:g}, above its maximum {output.maximum:g}")
    if failed:
        raise CheckError(
            f"The predictions of pipeline {pipeline.name!r} for {night} are wrong: {'; '.join(failed)}.",
            remedy="Nothing was written; look at that night's features and at the model.",
        )
    return {"rows": rows, "keys": keys, "minimum": low, "maximum": high}


def commit_partitions(
    settings: Settings,
    pipeline: Pipeline,
    table: str,
    files: Mapping[date, Sequence[StagedFile]],
    *,
    description: Mapping[str, str],
) -> int:
    """Replace the nights' partitions by the staged files in one commit; returns its Delta version.

    Raises:
        ConflictError: Other writers changed the same nights meanwhile, several times over.
    """
    nights = [night.isoformat() for night in sorted(files)]
    actions = [_add(file) for staged in files.values() for file in staged]
    options = {"mode": "overwrite", "partition_filters": [(AS_OF, "in", nights)]}
    return _commit(
        settings, pipeline, table, nights[0], lambda delta: actions, options, {"custom_metadata": description}
    )


def commit_files(
    settings: Settings,
    pipeline: Pipeline,
    table: str,
    night: date,
    files: Sequence[StagedFile],
    *,
    before: Sequence[FeatureFile],
    description: Mapping[str, str],
) -> int:
    """Make a night's partition consist of files some of which are in it already, in one commit; returns its version.

    Readers of the change data feed see the rows of the files that came as inserted and of those that went as deleted.

    Args:
        before: The files of the partition as it was when this run looked at it.

    Raises:
        ConflictError: The partition has other files by now, or other writers were faster, several times over.
    """
    from deltalake.transaction import RemoveAction

    known = {file.path: file.size_bytes for file in before}
    after = {file.path for file in files}
    now = int(time.time() * 1000)
    gone = [
        RemoveAction(path, True, now, size, {AS_OF: night.isoformat()})
        for path, size in known.items()
        if path not in after
    ]
    actions = [*gone, *(_add(file) for file in files if file.path not in known)]

    def actions_on(delta: "DeltaTable") -> list[Any]:
        if {file.path for file in files_of(delta, [night])[night]} != set(known):
            raise _conflict(table, night.isoformat())
        return actions

    # No retries of delta-rs's own: they would not look at the partition again.
    properties = {"custom_metadata": description, "max_commit_retries": 0}
    return _commit(settings, pipeline, table, night.isoformat(), actions_on, {"mode": "append"}, properties)


def _add(file: StagedFile) -> Any:
    from deltalake.transaction import AddAction

    now = int(time.time() * 1000)
    return AddAction(file.path, file.size_bytes, {AS_OF: file.night.isoformat()}, now, True, statistics_json(file))


def _commit(
    settings: Settings,
    pipeline: Pipeline,
    table: str,
    night: str,
    actions_on: Callable[["DeltaTable"], list[Any]],
    options: Mapping[str, Any],
    properties: Mapping[str, Any],
) -> int:
    from deltalake import CommitProperties
    from deltalake.exceptions import CommitFailedError

    schema = prediction_schema(settings, pipeline)
    for attempt in range(_COMMIT_TRIES):
        delta = _open_or_create(settings, table, schema)
        try:
            delta.create_write_transaction(
                actions_on(delta),
                schema=schema,
                partition_by=[AS_OF],
                commit_properties=CommitProperties(**properties),
                **options,
            )
        except CommitFailedError:
            time.sleep(0.05 * 2**attempt)
            continue
        delta.update_incremental()
        return int(delta.version())
    raise _conflict(table, night)


def _conflict(table: str, night: str) -> ConflictError:
    return ConflictError(
        f"Another writer changed the table {table!r} for {night} at the same time.",
        remedy="Run again when it has ended; the scored shards are kept.",
    )


def _open_or_create(settings: Settings, table: str, schema: "pa.Schema") -> "DeltaTable":
    from deltalake import DeltaTable

    if not table_exists(settings, table):
        return DeltaTable.create(
            settings.table_uri(table),
            schema,
            mode="ignore",
            partition_by=[AS_OF],
            configuration={"delta.enableChangeDataFeed": "true"},
            storage_options=settings.storage_options,
        )
    delta = open_table(settings, table)
    known = {field.name for field in delta.schema().fields}
    added = [field for field in _delta_fields(schema) if field.name not in known]
    if added:
        delta.alter.add_columns(added)
    return delta


def _delta_fields(schema: "pa.Schema") -> list[Any]:
    from deltalake import Schema

    return list(Schema.from_arrow(schema).fields)
