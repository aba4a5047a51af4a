"""The sampled report: an HTML page on the scores and features of an as-of date, from bounded samples of both sides.

Rows are chosen by a hash of their key, so that a date gives the same sample every time. The page loads no resources.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from forecache.base.files import write_durably
from forecache.base.hashes import row_hashes
from forecache.base.reports import make_page, write_page
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.base.statistics import Distance, bin_counts, distance, equal_mass_edges
from forecache.declare import AS_OF, Effect, Pipeline
from forecache.kit.delta.dataset import open_dataset, read_few_ahead
from forecache.kit.delta.tables import open_table
from forecache.lake.ledger import StageRecord, last_records
from forecache.lake.quality.pending_files import Run
from forecache.lake.split_rows import count_split, split_batches
from forecache.lake.stage_runner import Stage, StageOutcome
from forecache.models.inference.encoding import FeatureEncoding, MatrixEncoding
from forecache.models.registry.gate.examples import open_model, score_features
from forecache.models.registry.gate.metric_judge import single_values
from forecache.models.registry.model_versions import ModelVersion, list_models, verified_folder
from forecache.models.tracking.client import connect_mlflow
from forecache.models.tracking.own_runs import own_run_folder
from forecache.plugins.drift.bins import BINS, numbers_of
from forecache.plugins.drift.prediction_drift import DriftReport, model_of, prediction_drift, previous_dates
from forecache.scoring.night_inputs import STAGE as SCORE_STAGE
from forecache.scoring.night_inputs import require_scored

if TYPE_CHECKING:
    import pyarrow as pa


_TEMPLATE = Path(__file__).with_name("sampled_report.html.j2")
_BARS = 30
Floats = NDArray[np.floating[Any]]
Sample = dict[str, Floats]
"""Columns of the rows of a sample, float64 [n], NaN where a value is unknown."""


@dataclass(frozen=True)
class SampledColumnDrift:
    """The drift of a column; pairs are (date, reference)."""

    name: str
    distance: Distance
    effect: Effect | None  # None: not judged
    means: tuple[float, float]
    unknown: tuple[float, float]  # share of rows that are null or not a number
    plot: str  # both distributions as SVG


def sampled_page(
    pipeline: Pipeline,
    night: date,
    current: Sample,
    reference: Sample,
    *,
    beside: str,
    report: DriftReport,
    environment: str = "",
) -> str:
    """Make the page as HTML from samples of the same columns, each with a known value on both sides.

    `report` has the drift of the date's output on all rows; its figures are shown for the output's column.
    """
    columns = [column_drift(pipeline, name, current[name], reference[name]) for name in current]
    columns = [_use_report_figures(column, report) for column in columns]
    columns.sort(key=lambda column: -column.distance.psi)
    rows = (_num_rows(current), _num_rows(reference))
    return make_page(
        _TEMPLATE,
        environment=environment,
        pipeline=pipeline,
        night=night,
        rows=rows,
        reference=beside,
        columns=columns,
    )


def _use_report_figures(column: SampledColumnDrift, report: DriftReport) -> SampledColumnDrift:
    """Replace the figures of the output's column by those of the report, so that page and check agree."""
    reference = report.main_reference
    if column.name != report.output or not reference:
        return column
    return replace(column, distance=report.distances[reference], effect=report.effect(reference))


def column_drift(pipeline: Pipeline, name: str, current: Floats, reference: Floats) -> SampledColumnDrift:
    """Compare two float64 [n] samples in bins of the reference, unknown values in a bin of their own."""
    sides = (current, reference)
    known = [values[~np.isnan(values)] for values in sides]
    edges = equal_mass_edges(reference, BINS)
    counts = [
        [*bin_counts(edges, some).tolist(), len(side) - len(some)] for some, side in zip(known, sides, strict=True)
    ]
    apart = distance(counts[1], counts[0])
    return SampledColumnDrift(
        name,
        apart,
        pipeline.drift.effect(apart.psi, apart.js),
        (float(known[0].mean()), float(known[1].mean())),
        (1 - len(known[0]) / len(current), 1 - len(known[1]) / len(reference)),
        _plot(*known),
    )


def _plot(current: Floats, reference: Floats) -> str:
    """Draw the shares in bars of equal width: the date filled, the reference as a line, without the outer percent."""
    low, high = np.quantile(np.concatenate([current, reference]), (0.01, 0.99))
    edges = np.linspace(low, high if high > low else low + 1, _BARS + 1)
    shares = [np.histogram(np.clip(side, low, edges[-1]), edges)[0] / len(side) for side in (current, reference)]
    top = max(float(each.max()) for each in shares)
    night, before = (" ".join(_steps(each / top)) for each in shares)
    line = 'fill="none" stroke="var(--ink)" vector-effect="non-scaling-stroke"'
    return (
        f'<svg viewBox="0 0 {_BARS} 10" preserveAspectRatio="none" role="img" aria-label="distribution">'
        f'<path d="M0,10 {night} L{_BARS},10 Z" fill="var(--accent)" fill-opacity="0.35"/>'
        f'<path d="M0,10 {before} L{_BARS},10" {line}/></svg>'
    )


def _steps(shares: Floats) -> list[str]:
    return [f"L{bar},{10 - 10 * share:.2f} H{bar + 1}" for bar, share in enumerate(shares)]


def report_scores(run: Run, pipeline: Pipeline, night: date) -> None:
    """Write the report of a nightly run without an orchestrator, if one is declared."""
    if pipeline.drift.report_rows:
        run.run_stage(write_drift_report, run.settings, pipeline, night)


STAGE = "drift_report"
MLFLOW_FOLDER = "drift"
MLFLOW_FILE = "newest.html"
_HASHES, _HASH = 1_000_000, "hash of the key"


def write_drift_report(
    settings: Settings,
    pipeline: Pipeline,
    night: date,
    *,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Write `HOME/reports/drift/<pipeline>/<night>.html`, and remove all but the newest of them, as declared.

    The reference is the test split of the model that scored the date, or, for a model without one, the date before. The
    figures of the score are those of the drift check, of all rows in its bins. The page is also an artifact of the
    model's MLflow run, `drift/newest.html`, which the next one replaces.

    Returns:
        `rows`: rows of the date in the sample; `details`: reference (None if there is none: then no page is written),
        path, mlflow_artifact (None for a model without a run), reference_rows, columns. Skipped if the page exists and
        both sides are unchanged.
    """
    stage = Stage(settings, STAGE, pipeline.name, run_id)
    scored = {day: row for day, row in last_records(settings, SCORE_STAGE, pipeline.name).items() if day is not None}
    require_scored(pipeline, night, scored)
    model = _find_model(settings, pipeline, scored[night])
    before = next(iter(previous_dates(scored, night, model_of(scored[night]), last=1)), None)
    has_test = model is not None and "training_table" in model.tags
    name = f"test split of model {model.version}" if has_test and model else f"as-of date {before}" if before else None
    state = " ".join(f"{scored[day].inputs} at {scored[day].delta_version}" for day in (before, night) if day)
    inputs = f"{state} {name} {pipeline.drift}"
    path = settings.reports_path / "drift" / pipeline.name / f"{night.isoformat()}.html"

    def write() -> StageOutcome:
        if name is None:
            return StageOutcome(0, {"path": None, "mlflow_artifact": None, "reference": None})
        progress(f"sampling {pipeline.name} on {night}", 0.1)
        current = _night_sample(settings, pipeline, scored[night])
        if has_test and model:
            reference = _test_sample(settings, pipeline, model)
        else:
            assert before is not None
            reference = _night_sample(settings, pipeline, scored[before])
        common = [name for name in reference if name in current]
        known = [name for name in common if not (np.isnan(reference[name]).all() or np.isnan(current[name]).all())]
        progress(f"writing the drift report of {pipeline.name}", 0.4)
        report = prediction_drift(settings, pipeline, night, last=1)
        sides = [{column: side[column] for column in known} for side in (current, reference)]
        page = sampled_page(pipeline, night, *sides, beside=name, report=report, environment=settings.environment)
        write_page(path, page)
        _keep_newest(path, pipeline.drift.keep_reports)
        details = {"path": str(path), "mlflow_artifact": _log_to_mlflow(settings, model, path), "reference": name}
        return StageOutcome(_num_rows(current), {**details, "reference_rows": _num_rows(reference), "columns": known})

    row, skipped = stage.run_once(inputs, write, night=night, usable=lambda _: name is None or path.is_file())
    return stage.result(row.rows, nights=[night], skipped=skipped, details=row.details)


def _find_model(settings: Settings, pipeline: Pipeline, scored: StageRecord) -> ModelVersion | None:
    known = {model.version: model for model in list_models(settings, pipeline)}
    return known.get(model_of(scored) or -1)


def _num_rows(sample: Sample) -> int:
    return len(next(iter(sample.values()), ()))


def _numbers(rows: "pa.Table", names: Sequence[str]) -> Sample:
    return {name: numbers_of(rows.column(name).cast("double", safe=False).combine_chunks()) for name in names}


def _test_sample(settings: Settings, pipeline: Pipeline, model: ModelVersion) -> Sample:
    """Features and scores of a sample of the model's test split."""
    table, version = model.training_table
    features = [name for name in _shown_features(pipeline) if name in model.features]
    total = count_split(settings, table, version=version, split="test")
    numbers = _score_columns(pipeline)
    loaded = open_model(verified_folder(settings, model), pipeline.main_output.spec)
    inputs = loaded.input_names(model.features)
    columns = [*pipeline.key, *inputs]
    batches = split_batches(settings, table, version=version, split="test", columns=columns)
    drawn = _sample(batches, pipeline, total).select(inputs)
    sample = _numbers(drawn, features)
    if not numbers:
        return sample
    encoding = loaded.encoding or MatrixEncoding(tuple(FeatureEncoding(name, "number") for name in inputs))
    scores = score_features(loaded, encoding.matrix([drawn.column(name) for name in inputs]))
    return {**sample, numbers[0]: single_values(pipeline, scores).astype(np.float64)}


def _shown_features(pipeline: Pipeline) -> list[str]:
    """The features that the page shows: those with one number a row."""
    return [feature.name for feature in pipeline.feature_columns if feature.is_numeric]


def _score_columns(pipeline: Pipeline) -> list[str]:
    """The column of the scores; none if they are no numbers."""
    spec = pipeline.output_specs[0]
    return [spec.judged_column] if spec.numbers else []


def _night_sample(settings: Settings, pipeline: Pipeline, scored: StageRecord) -> Sample:
    """Features and scores of a sample of a date; without features that were not among those that were scored."""
    names = [*_shown_features(pipeline), *_score_columns(pipeline)]
    sides = []
    for table, version in (
        (scored.details.get("feature_table", pipeline.feature_table), scored.details.get("feature_version")),
        (pipeline.prediction_table, None),
    ):
        dataset = open_dataset(
            open_table(settings, table, version=version), partitions=[(AS_OF, "=", f"{scored.as_of}")]
        )
        columns = [*pipeline.key, *(name for name in dataset.schema.names if name in names)]
        sides.append(_sample(read_few_ahead(dataset, columns), pipeline, scored.rows))
    joined = sides[0].join(sides[1], list(pipeline.key), join_type="inner")
    return _numbers(joined, [name for name in names if name in joined.column_names])


def _sample(batches: "Iterable[pa.RecordBatch]", pipeline: Pipeline, rows: int) -> "pa.Table":
    """Choose at most `report_rows` rows by the hashes of their keys, independent of the order of the rows."""
    import pyarrow as pa

    most, chosen = pipeline.drift.report_rows, []
    # Rows beyond the share are filtered before the sort.
    share = math.ceil(_HASHES * most / max(1, rows))
    for batch in batches:
        hashes = row_hashes([batch.column(name) for name in pipeline.key])
        hashed = pa.Table.from_batches([batch]).append_column(_HASH, pa.array(hashes))
        chosen.append(hashed.filter(pa.array(hashes % np.uint64(_HASHES) < share)))
    order = [(name, "ascending") for name in (_HASH, *pipeline.key)]
    return pa.concat_tables(chosen).sort_by(order).slice(0, most).drop_columns([_HASH])


def _keep_newest(written: Path, keep: int) -> None:
    """Remove all pages except the newest and the one that was just written, which may be of an older date."""
    pages: Sequence[Path] = sorted(written.parent.glob("[0-9]*.html"))  # not those being written
    for page in pages[:-keep]:
        if page != written:
            page.unlink(missing_ok=True)


def _log_to_mlflow(settings: Settings, model: ModelVersion | None, path: Path) -> str | None:
    """Log the page to the model's run under a fixed name, so that a run has one page; None if there is no run."""
    if model is None or not model.run_id:
        return None
    folder = own_run_folder(settings, model.run_id)
    if folder is not None:  # what MLflow does, without its import
        (folder / MLFLOW_FOLDER).mkdir(exist_ok=True)
        write_durably(folder / MLFLOW_FOLDER / MLFLOW_FILE, path.read_bytes())
    else:
        client: Any = connect_mlflow(settings)
        client.log_text(model.run_id, path.read_text(), f"{MLFLOW_FOLDER}/{MLFLOW_FILE}")
    return f"runs:/{model.run_id}/{MLFLOW_FOLDER}/{MLFLOW_FILE}"
