"""A challenger: a version, chosen by a person, that is scored beside the champion into its own table, and compared.

The challenger's table has the prediction table's columns and contracts; nothing publishes from it. Both are compared by
a join in DuckDB: nearly all rows differ, and figures over all are wanted. For 2 million rows it takes 0.9 s and 0.7 GB,
the comparison by hashes (`forecache.kit.delta.comparison`), which returns the rows that differ, 7.3 s and 1.0 GB.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from forecache.base.errors import CheckError
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.statistics import distance
from forecache.declare import AS_OF, Pipeline, Trainable
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.lake.ledger import last_record
from forecache.lake.query import scratch_database
from forecache.lake.stage_runner import hold_table_lock
from forecache.models.registry.alias_moves import find_equal_champion, reconcile_aliases
from forecache.models.registry.model_versions import (
    CHALLENGER,
    CHAMPION,
    REJECTED,
    ROLLED_BACK,
    ModelVersion,
    champion,
    list_models,
    model_version,
    registry_lock,
)
from forecache.models.tracking.client import connect_mlflow
from forecache.scoring.cost_estimate import combine_plans
from forecache.scoring.night_inputs import STAGE, ScoringRun
from forecache.scoring.run import score_stale

SHADOW_STAGE = "score_challenger"
_BINS = 20
# Bin edges are computed from about this number of predictions, the same ones each time.
_SAMPLE_ROWS = 1_000_000
_FIGURES = ("mean_difference", "mean_absolute_difference", "largest_difference", "correlation", "psi", "js")


def score_shadow(
    settings: Settings,
    pipeline: Pipeline,
    night: date,
    challenger: ModelVersion,
    *,
    run_id: str = "",
    progress: Progress = no_progress,
    rebuild: bool = False,
) -> StageResult:
    """Score a night with a challenger, and with the champion if that has not been done, and compare them.

    Predictions that an earlier run committed from the same inputs before it was killed are only recorded. Raises as
    `forecache.scoring.run.score`.

    Args:
        rebuild: Score the night with the challenger again, also if it is current.

    Returns:
        A result about the challenger's table; `details` are those of `score`, with `predicted` and `actual` of both
        models together. They also name both models (`champion`, `challenger`), say whether the champion's partition was
        written (`champion_written`), and have the `comparison` of `compare`.
    """
    with (
        hold_table_lock(settings, pipeline.prediction_table, run_id, progress),
        hold_table_lock(settings, pipeline.challenger_table, run_id, progress),
    ):
        first = ScoringRun(
            settings=settings,
            pipeline=pipeline,
            model=champion(settings, pipeline),
            table=pipeline.prediction_table,
            stage=STAGE,
            run_id=run_id,
            progress=progress,
        )
        models = {side: f"{m.name}@{m.version}" for side, m in (("champion", first.model), ("challenger", challenger))}

        def compare_night(night: date) -> Mapping[str, Any]:
            progress(f"comparing the predictions for {night}", None)
            return {**models, "comparison": compare(settings, pipeline, night)}

        second = replace(
            first,
            model=challenger,
            table=pipeline.challenger_table,
            stage=SHADOW_STAGE,
            compared_with=models["champion"],
            details=compare_night,
        )
        by_champion = score_stale(first, [night], mode="auto", rebuild=())
        result = score_stale(second, [night], mode="full", rebuild=[night] if rebuild else ())
    record = last_record(settings, SHADOW_STAGE, pipeline.name, night)
    assert record is not None
    details = {
        **result.details,
        **models,
        "champion_written": not by_champion.skipped,
        "comparison": record.details["comparison"],
        **combine_plans(settings, [by_champion, result]),
    }
    return replace(result, details=details)


def compare(settings: Settings, pipeline: Pipeline, night: date) -> dict[str, Any]:
    """Compare the challenger's predictions of a night with the champion's, in memory that does not grow with them.

    Returns:
        rows, mean_difference (challenger minus champion), mean_absolute_difference, largest_difference, correlation
        (None if a side is constant), psi, js, and segment_changes: the number of rows that change their segment, by
        segment column. The figures are those of the first output, for quantiles of the one nearest to the median; for
        classes and other kinds only rows and segment_changes are not None.
    """
    keys = ", ".join(f'"{name}"' for name in pipeline.key)
    spec = pipeline.output_specs[0]
    cuts = [*([] if spec.numbers else spec.columns[:1]), *(segment.name for segment in pipeline.segments)]
    differs = [f'count_if(champion."{name}" IS DISTINCT FROM challenger."{name}")' for name in cuts]
    value = f'"{spec.judged_column}"' if spec.numbers else None
    old, new = (f"{side}.{value}" if value else "NULL::DOUBLE" for side in ("champion", "challenger"))
    with scratch_database(settings) as connection:
        for side, table in (("champion", pipeline.prediction_table), ("challenger", pipeline.challenger_table)):
            rows = open_dataset(open_table(settings, table), partitions=[(AS_OF, "=", night.isoformat())])
            connection.register(f"{side}_table", rows)
            connection.execute(f"CREATE VIEW {side} AS FROM {side}_table WHERE {AS_OF} = DATE '{night}'")
        figures = connection.execute(
            f"SELECT count(*), avg({new} - {old}), avg(abs({new} - {old})), max(abs({new} - {old})), "
            f"{', '.join([f'corr({old}, {new})', *differs])} FROM champion JOIN challenger USING ({keys})"
        ).fetchone()
        count, mean, absolute, largest, correlation, *changes = figures
        told = {"rows": count, "segment_changes": dict(zip(cuts, changes, strict=True))}
        if value is None:
            return {**told, **dict.fromkeys(_FIGURES)}
        shares, one_of = [i / _BINS for i in range(1, _BINS)], max(1, figures[0] // _SAMPLE_ROWS)
        (edges,) = connection.execute(
            f"SELECT quantile_disc({old}, {shares}) FROM champion WHERE hash({keys}) % {one_of} = 0"
        ).fetchone()
        edges = sorted(set(edges))
        apart = distance(_counts(connection, "champion", old, edges), _counts(connection, "challenger", new, edges))
    return {
        **told,
        "mean_difference": mean,
        "mean_absolute_difference": absolute,
        "largest_difference": largest,
        "correlation": correlation if correlation == correlation else None,  # JSON knows no NaN
        "psi": apart.psi,
        "js": apart.js,
    }


def _counts(connection: Any, side: str, output: str, edges: Sequence[float]) -> list[int]:
    """Rows in each bin, as `forecache.base.statistics.bin_counts` counts them."""
    from_edge = [f"count_if({output} >= {edge!r}::DOUBLE)" for edge in edges]
    above = connection.execute(f"SELECT {', '.join([f'count({output})', *from_edge])} FROM {side}").fetchone()
    return [first - then for first, then in zip(above, [*above[1:], 0], strict=True)]


def score_challenger(
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    result: StageResult,
    *,
    run_id: str,
    progress: Progress,
    rebuild: bool,
) -> StageResult:
    """Add the challenger's scoring of nights, if there is one, to the result of the champion's.

    An error of the challenger does not stop the run: it is recorded in place of the comparison.
    """
    challenger = find_challenger(settings, pipeline)
    if challenger is None:
        return result
    shadows: list[StageResult] = []
    outcomes: dict[str, dict[str, Any]] = {}
    for night in sorted(set(nights)):
        try:
            shadow = score_shadow(
                settings, pipeline, night, challenger, run_id=run_id, progress=progress, rebuild=rebuild
            )
        except Exception as error:  # noqa: BLE001  (whatever is wrong with a challenger, the champion is scored)
            outcomes[night.isoformat()] = {"error": (str(error).strip().splitlines() or [type(error).__name__])[0]}
        else:
            shadows.append(shadow)
            outcomes[night.isoformat()] = {"rows": shadow.rows, "comparison": shadow.details["comparison"]}
    return replace(
        result,
        details={
            **result.details,
            **combine_plans(settings, [result, *shadows]),
            "challenger": {
                "model": f"{challenger.name}@{challenger.version}",
                "table": pipeline.challenger_table,
                "nights": outcomes,
            },
        },
    )


def find_challenger(settings: Settings, pipeline: Trainable) -> ModelVersion | None:
    """The version with the alias; None if there is none, or if it has become the champion."""
    for version in list_models(settings, pipeline):
        if CHALLENGER in version.aliases and CHAMPION not in version.aliases:
            return version
    return None


def name_challenger(settings: Settings, pipeline: Trainable, version: int) -> ModelVersion:
    """Make a registered version the challenger; it has passed the gate, waits for approval, or is not judged yet.

    NotFoundError without the version; CheckError if it is the champion or has the same inputs and weights as one, did
    not pass the gate, was rejected by a person, or was rolled back; ConflictError as of `reconcile_aliases`.
    """
    with registry_lock(settings, pipeline.name, action=f"naming the challenger {version}") as lease:
        entries = reconcile_aliases(settings, pipeline, lease)
        chosen = model_version(settings, pipeline, version)
        equal = find_equal_champion(settings, pipeline, chosen, entries)
        objection = _objection(chosen) or (
            equal and f"it has the same inputs and weights as version {equal.version}, which has been champion"
        )
        if objection:
            raise CheckError(
                f"Model {pipeline.name!r} version {version} cannot be the challenger: {objection}.",
                remedy=f"Name another version; `forecache models list {pipeline.name}` shows them.",
            )
        lease.confirm()
        connect_mlflow(settings).set_registered_model_alias(pipeline.name, CHALLENGER, str(version))
        return model_version(settings, pipeline, version)


def _objection(version: ModelVersion) -> str | None:
    if CHAMPION in version.aliases:
        return "it is the champion"
    if version.gate == ROLLED_BACK:
        return "it was rolled back"
    if version.gate == REJECTED:
        return f"it was {version.tags['gate_reason']}"
    if version.gate == "failed":
        return f"it did not pass the gate, {version.tags['gate_reason']}"
    return None


def dismiss_challenger(settings: Settings, pipeline: Trainable) -> ModelVersion | None:
    """Remove the alias; returns the version that had it, or None."""
    with registry_lock(settings, pipeline.name, action="dismissing the challenger") as lease:
        holders = [version for version in list_models(settings, pipeline) if CHALLENGER in version.aliases]
        if not holders:
            return None
        lease.confirm()
        connect_mlflow(settings).delete_registered_model_alias(pipeline.name, CHALLENGER)
        return holders[0]
