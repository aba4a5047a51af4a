"""Prediction drift: an as-of date's scores against those of dates before and of the test split, and the report."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import islice
from typing import Any, cast

import numpy as np

from forecache.base.alert import Severity
from forecache.base.output_kinds import JUDGED
from forecache.base.settings import Settings
from forecache.base.statistics import Distance, distance, merge_bins, quantile_edges
from forecache.declare import AS_OF, Drift, Effect, Pipeline
from forecache.kit.delta.comparison.partition import partition_digests
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.lake.contracts import class_order
from forecache.lake.ledger import StageRecord, last_records
from forecache.lake.quality.expectations import DRIFT
from forecache.lake.quality.pending_files import ProcessRun
from forecache.lake.quality.stage_checks import require_success
from forecache.lake.quality.verdicts import DRIFT_STAGE
from forecache.lake.stage_runner import Stage, StageOutcome
from forecache.models.registry.model_versions import ModelVersion, list_models
from forecache.models.registry.register import load_evaluation
from forecache.plugins.drift.bins import Bins, binned_counts
from forecache.scoring.night_inputs import STAGE, require_scored

NIGHTS_BEFORE = "nights before"
TEST_SPLIT = "test split"
_MOVED = {"none": "is where it was", "small": "has moved a little", "large": "has moved far"}


@dataclass(frozen=True)
class DriftReport:
    """The drift of an output on an as-of date."""

    pipeline: str
    output: str
    night: date
    model_version: int | None  # None if the record of scoring has none
    edges: tuple[float, ...] | tuple[str, ...]  # inner edges of bins, or classes, and then all others
    counts: tuple[int, ...]  # rows in each bin; one bin more than edges
    references: Mapping[str, tuple[int, ...]]  # rows in each bin by NIGHTS_BEFORE and TEST_SPLIT
    distances: Mapping[str, Distance]
    nights: tuple[date, ...]  # the dates before with which it is compared
    models_before: tuple[int, ...]  # that scored them, 0 for an unknown one
    limits: Drift
    counted: Mapping[date, Sequence[int]] = field(default_factory=dict)  # counts that no record of their date has
    unjudged: str = ""  # the output's kind if drift of this kind is not judged

    @property
    def is_new_model(self) -> bool:
        """True if only other models scored the dates before, so that scores differ for that reason."""
        return bool(self.nights) and (self.model_version or 0) not in self.models_before

    @property
    def main_reference(self) -> str:
        """The reference that a page shows: the test split, else the dates before; "" if there is neither."""
        return next((name for name in (TEST_SPLIT, NIGHTS_BEFORE) if name in self.distances), "")

    def effect(self, reference: str) -> Effect | None:
        """Return the effect against a reference; None if it is not judged: too few rows, or another model's scores."""
        apart = self.distances[reference]
        if self._has_few_rows(apart):
            return None
        if reference == NIGHTS_BEFORE and self.is_new_model:
            return None
        return self.limits.effect(apart.psi, apart.js)

    @property
    def level(self) -> Effect:
        """The largest effect: "none", "small" or "large"; "none" if no reference is judged."""
        found = {self.effect(reference) for reference in self.distances}
        return "large" if "large" in found else "small" if "small" in found else "none"

    @property
    def blocks(self) -> bool:
        return self.limits.blocking and self.level == "large"

    @property
    def success(self) -> bool:
        return not self.blocks

    @property
    def severity(self) -> Severity:
        """The severity of an alert of the effect."""
        return "critical" if self.blocks else "warning" if self.level == "large" else "info"

    @property
    def sentence(self) -> str:
        """The result in words, with the comparisons that were not made and why."""
        if self.unjudged:
            return f"{self.output} on {self.night} is not judged: no drift is measured of an output of {self.unjudged}."
        judged = [reference for reference in self.distances if self.effect(reference)]
        against = [
            f"PSI {self.distances[name].psi:.3f} and Jensen-Shannon {self.distances[name].js:.3f} "
            f"against {self._describe_reference(name)}"
            for name in judged
        ]
        found = (
            f"{self.output} {_MOVED[self.level]}: {', '.join(against)}."
            if judged
            else f"{self.output} on {self.night} is not judged."
        )
        return " ".join([found, *self._notes()])

    def _describe_reference(self, reference: str) -> str:
        if reference == TEST_SPLIT:
            return f"the test split of model {self.model_version}"
        return "the as-of date before" if len(self.nights) == 1 else f"the {len(self.nights)} as-of dates before"

    def _notes(self) -> list[str]:
        notes = []
        if not self.nights:
            notes.append("No date before it was scored." if self.limits.last else "Dates before it do not count.")
        elif self.is_new_model:
            models = " and ".join(str(version) for version in self.models_before)
            notes.append(
                f"Model {self.model_version} scores for the first time: how far it is from the scores of model {models}"
                " is shown, not judged."
            )
        if TEST_SPLIT not in self.distances:
            notes.append("Its model has no evaluation on a test split.")
        few = [name for name, apart in self.distances.items() if self._has_few_rows(apart)]
        if few:
            names = " and ".join(self._describe_reference(name) for name in few)
            notes.append(f"With fewer than {self.limits.min_rows:,} rows on a side, {names} are shown, not judged.")
        return notes

    def _has_few_rows(self, apart: Distance) -> bool:
        return min(apart.rows, apart.reference_rows) < self.limits.min_rows

    def metadata(self) -> dict[str, Any]:
        """JSON-serialisable figures."""
        return {
            "output": self.output,
            "as_of": self.night.isoformat(),
            "model_version": self.model_version,
            "level": self.level,
            "sentence": self.sentence,
            "edges": list(self.edges),
            "counts": list(self.counts),
            "nights": [night.isoformat() for night in self.nights],
            "distances": {
                name: {"psi": apart.psi, "js": apart.js, "rows": apart.reference_rows, "level": self.effect(name)}
                for name, apart in self.distances.items()
            },
        }


def unjudged_report(pipeline: Pipeline, night: date, model_version: int | None, rows: int) -> DriftReport:
    """Make the report on an output of a kind whose drift is not judged."""
    spec = pipeline.output_specs[0]
    return DriftReport(
        pipeline=pipeline.name,
        output=spec.name,
        night=night,
        model_version=model_version,
        edges=(),
        counts=(rows,),
        references={},
        distances={},
        nights=(),
        models_before=(),
        limits=pipeline.drift,
        unjudged=spec.kind,
    )


_BINS = 10
Counts = Mapping[date, Sequence[int]]


def prediction_drift(settings: Settings, pipeline: Pipeline, night: date, *, last: int | None = None) -> DriftReport:
    """Compare the scores of a date with those of scored dates before it and of the model's test split.

    Args:
        last: Most dates before; None: as declared.

    Raises:
        NotFoundError: The date has no predictions.
    """
    return measure_drift(settings, pipeline, [night], last=last)[night]


def require_no_drift(run: ProcessRun, pipeline: Pipeline, nights: Sequence[date]) -> None:
    """Check the drift of as-of dates in a run without an orchestrator; CheckError if one blocks."""
    reports = check_drift(run.settings, pipeline, nights, run_id=run.run_id)
    for night, report in reports.items():
        reason = "" if report.level == "none" else report.sentence
        run.note_check(pipeline.prediction_table, DRIFT, night, reason, report.severity)
    require_success(reports)


def check_drift(
    settings: Settings, pipeline: Pipeline, nights: Sequence[date], *, run_id: str = ""
) -> dict[date, DriftReport]:
    """Measure dates, and record reports and counts: a date whose drift blocks is not published."""
    stage = Stage(settings, DRIFT_STAGE, pipeline.prediction_table, run_id)
    # Taken before the files are read: they change with rows that are added later.
    digests = partition_digests(open_table(settings, pipeline.prediction_table), AS_OF, nights)
    reports = measure_drift(settings, pipeline, nights, digests=digests)
    states = _prediction_states(settings, pipeline)
    done = {}
    for night, report in reports.items():
        counted = {str(day): [states[day], list(counts)] for day, counts in report.counted.items()}
        details = {**report.metadata(), "blocks": report.sentence if report.blocks else ""}
        done[night] = StageOutcome(sum(report.counts), details | ({"counted": counted} if counted else {}))
    inputs = {night: f"{digests[night]} {states[night]}" for night in reports}
    stage.record_changes(inputs, done, time.perf_counter() - stage.started)
    return reports


def measure_drift(
    settings: Settings,
    pipeline: Pipeline,
    nights: Sequence[date],
    *,
    last: int | None = None,
    digests: Mapping[date, str] | None = None,
) -> dict[date, DriftReport]:
    """Measure the drift of several dates, with one aggregation for each model that scored them.

    With `digests` the counts of these dates have to be of exactly these data files; recorded counts of other dates may
    be of files that were compacted since.
    """
    scored = {day: row for day, row in last_records(settings, STAGE, pipeline.name).items() if day is not None}
    for night in nights:
        require_scored(pipeline, night, scored)
    if pipeline.output_specs[0].kind not in JUDGED:
        return {n: unjudged_report(pipeline, n, model_of(scored[n]), scored[n].rows) for n in sorted(set(nights))}
    by_model: dict[int | None, list[date]] = {}
    for night in sorted(set(nights)):
        by_model.setdefault(model_of(scored[night]), []).append(night)
    known = {version.version: version for version in list_models(settings, pipeline)}
    reports: dict[date, DriftReport] = {}
    for version, group in by_model.items():
        window = pipeline.drift.last if last is None else last
        before = {night: previous_dates(scored, night, version, window) for night in group}
        test = test_split_scores(settings, known.get(version)) if version is not None else None
        edges = test[0] if test else _edges(settings, pipeline, version, group, before)
        wanted = {*group, *(day for days in before.values() for day in days)}
        counts, own = _counts(settings, pipeline, wanted, edges, digests or {})
        for night in group:
            require_scored(pipeline, night, counts)
            report = _report(pipeline, night, scored, before[night], edges, counts, test)
            reports[night] = replace(report, counted={day: counts[day] for day in report.nights if day not in own})
    return dict(sorted(reports.items()))


def _report(
    pipeline: Pipeline,
    night: date,
    scored: Mapping[date, StageRecord],
    before: Sequence[date],
    edges: Bins,
    counts: Counts,
    test: tuple[Bins, list[int]] | None,
) -> DriftReport:
    past = [day for day in before if day in counts]
    references: dict[str, tuple[int, ...]] = {}
    if past:
        references[NIGHTS_BEFORE] = tuple(sum(bins) for bins in zip(*(counts[day] for day in past), strict=True))
    if test:
        references[TEST_SPLIT] = tuple(test[1])
    return DriftReport(
        pipeline=pipeline.name,
        output=pipeline.output_specs[0].judged_column,
        night=night,
        model_version=model_of(scored[night]),
        edges=cast("tuple[float, ...] | tuple[str, ...]", tuple(edges)),
        counts=tuple(counts[night]),
        references=references,
        distances={name: distance(reference, counts[night]) for name, reference in references.items()},
        nights=tuple(past),
        models_before=tuple(sorted({model_of(scored[day]) or 0 for day in past})),
        limits=pipeline.drift,
    )


def model_of(scored: StageRecord) -> int | None:
    """Return the version of the model that scored a date; None if the record has none."""
    version = scored.details.get("model_version")
    return None if version is None else int(version)


def previous_dates(scored: Mapping[date, StageRecord], night: date, version: int | None, last: int) -> list[date]:
    """Return the last dates before a date that the same model scored; if there are none, the last ones of any model."""
    before = sorted((day for day in scored if day < night), reverse=True)
    same = list(islice((day for day in before if model_of(scored[day]) == version), last))
    return sorted(same or before[:last])


def test_split_scores(settings: Settings, model: ModelVersion | None) -> tuple[Bins, list[int]] | None:
    """Return bins and counts of a model's scores on its test split; None if it was not evaluated here."""
    if model is None or "test_metrics" not in model.tags:
        return None
    evaluation = load_evaluation(settings, model)
    scores = evaluation.get("scores")
    if not scores:
        return None
    if "classes" in scores:
        return scores["classes"], [*scores["prediction"], 0]
    series = [scores[name] for name in ("negative", "positive", "prediction") if name in scores]
    inside = [int(sum(values)) for values in zip(*series, strict=True)]
    # The histogram starts at the smallest score, and leaves out the top percent of scores.
    beyond = max(0, int(evaluation["rows"]["test"]) - sum(inside))
    return merge_bins(scores["edges"], [0, *inside, beyond], _BINS)


def _edges(
    settings: Settings,
    pipeline: Pipeline,
    version: int | None,
    nights: Sequence[date],
    before: Mapping[date, Sequence[date]],
) -> Bins:
    """Choose bins for a model without a test split: those of its recorded counts, else new ones."""
    recorded = last_records(settings, DRIFT_STAGE, pipeline.prediction_table)
    known = [day for day, row in recorded.items() if day and row.details["model_version"] == version]
    if known:
        return list(recorded[max(known)].details["edges"])
    first, spec = before[nights[0]], pipeline.output_specs[0]
    if spec.classes:
        return list(spec.classes)
    return _choose_bins(settings, pipeline, first[-1] if first else nights[0])


def _prediction_states(settings: Settings, pipeline: Pipeline) -> dict[date | None, str]:
    """Return for each scored date a text that identifies its predictions."""
    records = last_records(settings, STAGE, pipeline.name)
    return {day: f"{row.table}@{row.delta_version} {row.inputs}" for day, row in records.items()}


def _counts(
    settings: Settings,
    pipeline: Pipeline,
    nights: Collection[date],
    edges: Bins,
    digests: Mapping[date, str],
) -> tuple[Counts, set[date]]:
    """Count rows of each date in each bin; dates with recorded counts in these bins are not read again.

    Returns:
        The counts, and the dates whose own records have them. Those of a date that an earlier model scored are in the
        record of a date that is compared with it.
    """
    recorded = last_records(settings, DRIFT_STAGE, pipeline.prediction_table, nights=nights)
    states = _prediction_states(settings, pipeline)
    counts: dict[date, Sequence[int]] = {
        day: recorded[day].details["counts"]
        for day in nights
        if day in recorded
        and _is_same_input(recorded[day].inputs, digests.get(day), states[day])
        and recorded[day].details["edges"] == list(edges)
    }
    own = set(counts)
    for row in (recorded[day] for day in nights if day in recorded and recorded[day].details["edges"] == list(edges)):
        for name, (state, some) in row.details.get("counted", {}).items():
            day = date.fromisoformat(name)
            if day in nights and day not in digests and states.get(day) == state:
                counts.setdefault(day, some)
    left = sorted(set(nights) - set(counts))
    if left:
        column = pipeline.output_specs[0].judged_column
        counts |= binned_counts(settings, pipeline.prediction_table, column, left, edges)
        own.update(day for day in left if day in digests)
    return counts, own


def _is_same_input(inputs: str, digest: str | None, state: str) -> bool:
    counted, _, of = inputs.partition(" ")
    return of == state and digest in (None, counted)


def _choose_bins(settings: Settings, pipeline: Pipeline, night: date) -> Bins:
    """Choose bins with about equal numbers of a date's rows; for classes, the classes of the date."""
    import pyarrow.compute as pc

    delta = open_table(settings, pipeline.prediction_table)
    dataset = open_dataset(delta, partitions=[(AS_OF, "=", night.isoformat())])
    digest: list[float] = []
    names: set[str] = set()
    spec = pipeline.output_specs[0]
    for batch in dataset.to_batches(columns=[spec.judged_column], batch_size=131_072):
        if spec.kind == "classes":
            names |= set(batch.column(0).drop_null().unique().to_pylist())
        elif batch.num_rows:
            digest += pc.quantile(batch.column(0), q=np.linspace(0, 1, 201).tolist()).to_pylist()
    if names:
        return list(class_order(list(names)))
    return quantile_edges(np.asarray(digest), _BINS).tolist() if digest else []
