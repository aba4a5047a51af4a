"""Checks of a night's predictions before they become visible."""

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from forecache.base.errors import CheckError
from forecache.declare import Pipeline
from forecache.scoring.night_inputs import ScoringNight
from forecache.scoring.partitions.staged_files import StagedFile
from forecache.scoring.partitions.unique_keys import count_keys
from forecache.scoring.run_context import ScoringWork


def check_partition(
    work: ScoringWork, night: ScoringNight, files: Sequence[StagedFile], *, carried: Sequence[StagedFile] = ()
) -> dict[str, Any]:
    """Check a night's staged rows: one for each entity, no key twice, no null, every number finite and in its range.

    Rows, nulls and ranges come from the files' footers; only the keys are read.

    Args:
        files: All of the night's files.
        carried: Those of them whose keys are known to differ from each other and from all others, as
            `forecache.scoring.incremental.score_changes` proves of predictions carried forward.

    Returns:
        rows, keys; minimum and maximum of the first output if it is a number or quantiles.

    Raises:
        CheckError: A check failed, with the figures; nothing has become visible.
    """
    pipeline = work.pipeline
    rows = sum(file.rows for file in files)
    nulls = {
        name: sum(file.statistics["nullCount"][name] for file in files)
        for name in (*pipeline.key, *pipeline.output_columns)
        if name not in _columns_of_lists(pipeline)
    }
    known = {file.path for file in carried}
    keys = sum(file.rows for file in carried)
    keys += count_keys(work.settings, pipeline, work.table, [file for file in files if file.path not in known])
    failed = []
    if rows != night.rows:
        failed.append(f"{rows} rows for {night.rows} entities")
    if keys != rows:
        failed.append(f"{rows} rows with {keys} different keys")
    failed += [f"{count} rows without a {name}" for name, count in nulls.items() if count]
    ranges = {name: _range(files, name) for output in pipeline.output_specs for name in output.numbers}
    for output in pipeline.output_specs:
        for name in output.numbers:
            low, high = ranges[name]
            if low == -math.inf or high == math.inf:  # JSON has no such number
                failed.append(f"{name} {'down' if low == -math.inf else 'up'} to infinity")
            if output.minimum is not None and low is not None and low < output.minimum:
                failed.append(f"{name} down to {low:g}, below its minimum {output.minimum:g}")
            if output.maximum is not None and high is not None and high > output.maximum:
                failed.append(f"{name} up to {high:g}, above its maximum {output.maximum:g}")
    if failed:
        raise CheckError(
            f"The predictions of pipeline {pipeline.name!r} for {night.night} are wrong: {'; '.join(failed)}.",
            remedy="Nothing was written; look at that night's features and at the model.",
        )
    low, high = ranges.get(pipeline.output_specs[0].judged_column, (None, None))
    return {"rows": rows, "keys": keys, "minimum": low, "maximum": high}


def _columns_of_lists(pipeline: Pipeline) -> set[str]:
    """Columns of lists: a footer counts nulls of their items only, so their rows are checked when they are made."""
    fields = [field for output in pipeline.output_specs for field in output.arrow_fields]
    return {field.name for field in fields if pa.types.is_list(field.type)}


def _range(files: Sequence[StagedFile], name: str) -> tuple[float | None, float | None]:
    """Smallest and largest value of a column; None if all are null."""
    lows = [file.statistics["minValues"].get(name) for file in files if file.rows]
    highs = [file.statistics["maxValues"].get(name) for file in files if file.rows]
    low = min((value for value in lows if value is not None), default=None)
    return low, max((value for value in highs if value is not None), default=None)
