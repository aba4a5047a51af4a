"""The checks on a night's predictions before anybody sees them."""

from collections.abc import Sequence
from typing import Any

from forecache.errors import CheckError
from forecache.scoring.night import Night
from forecache.scoring.partitions.staged_files import StagedFile
from forecache.scoring.partitions.unique_keys import count_keys
from forecache.scoring.work import Work


def check_partition(
    work: Work, night: Night, files: Sequence[StagedFile], *, carried: Sequence[StagedFile] = ()
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
    pipeline, output = work.pipeline, work.pipeline.main_output
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
    keys += count_keys(work.settings, pipeline, work.table, [file for file in files if file.path not in known])
    failed = []
    if rows != night.rows:
        failed.append(f"{rows} rows for {night.rows} entities")
    if keys != rows:
        failed.append(f"{rows} rows with {keys} different keys")
    failed += [f"{count} rows without a {name}" for name, count in nulls.items() if count]
    if output.minimum is not None and low is not None and low < output.minimum:
        failed.append(f"{output.name} down to {low:g}, below its minimum {output.minimum:g}")
    if output.maximum is not None and high is not None and high > output.maximum:
        failed.append(f"{output.name} up to {high:g}, above its maximum {output.maximum:g}")
    if failed:
        raise CheckError(
            f"The predictions of pipeline {pipeline.name!r} for {night.night} are wrong: {'; '.join(failed)}.",
            remedy="Nothing was written; look at that night's features and at the model.",
        )
    return {"rows": rows, "keys": keys, "minimum": low, "maximum": high}
