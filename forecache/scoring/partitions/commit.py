"""From staged shards to a visible partition: the checks on every row, then one atomic commit to the Delta log."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.errors import CheckError
from forecache.lake.delta.commit import Target
from forecache.lake.delta.partitions import Committed, Seen, replace_partitions
from forecache.lake.delta.tables import open_table
from forecache.pipeline import AS_OF, Pipeline
from forecache.scoring.partitions.staged_files import StagedFile
from forecache.scoring.partitions.unique_keys import count_keys
from forecache.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa


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
            `forecache.scoring.incremental.incremental` proves of predictions carried forward.

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


def commit_nights(
    settings: Settings,
    pipeline: Pipeline,
    table: str,
    files: Mapping[date, Sequence[StagedFile]],
    *,
    seen: Seen,
    inputs: Mapping[date, str],
    note: Mapping[str, str],
) -> Committed:
    """Let the nights' partitions consist of the staged files, some of which may be there already, in one commit.

    Readers of the change data feed see the rows of the files that came as inserted and of those that went as deleted.

    Args:
        seen: The table as the run saw it before it scored, or carried predictions forward.
        inputs: What decides each night's predictions; what another run committed from the same is taken over.

    Raises:
        ConflictError: Another run changed one of the nights meanwhile, from other inputs; it is named.
    """
    from deltalake import Schema

    schema = Schema.from_arrow(prediction_schema(settings, pipeline))
    return replace_partitions(
        Target(settings, table, schema, (AS_OF,), change_feed=True),
        [file.data_file for some in files.values() for file in some],
        column=AS_OF,
        values=sorted(files),
        seen=seen,
        inputs=inputs,
        note=note,
    )
