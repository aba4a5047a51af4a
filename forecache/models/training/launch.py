"""The training stage: pin the training set's Delta version, train on it unless a completed run exists, record the run.

A network trains under torchrun, an estimator in one process; both leave the same kind of record.
"""

import hashlib
import os
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.declare import EstimatorModel, Trainable
from forecache.kit.delta.tables import open_table
from forecache.lake.ledger import last_record
from forecache.lake.stage import Stage, StageOutcome
from forecache.models.tracking.runs import open_training_run
from forecache.models.training.cost import cost_record, price_of_run, sizing_advice
from forecache.models.training.devices import num_workers, resolve_precision
from forecache.models.training.exclusive.run_lock import lock_run
from forecache.models.training.spec import LANES, METRICS_FILE, RESULT_FILE, TrainingSpec, checkpoints_of
from forecache.models.training.torchrun import command, estimator_command, read_events, run_process
from forecache.models.training.vocabulary import learn_vocabularies

STAGE = "train"
_FORMAT = 3


def train(
    settings: Settings,
    pipeline: Trainable,
    night: date,
    *,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Train on the pinned training set, or return the completed run that had the same inputs.

    An interrupted run with the same inputs resumes from its last checkpoint; an estimator starts again.

    Args:
        night: As-of date under which the run is recorded.
        run_id: The orchestrator's run id, "" without one.

    Returns:
        `rows` of the training split; `details`: run_dir, mlflow_run_id, training_table, training_version, epochs,
        best_epoch, validation_loss, workers, device, precision, parallel, history, the export's parity, cost (see
        `forecache.models.training.cost`), usage and advice on the next run's size.

    Raises:
        NotFoundError: There is no training set yet.
        ConflictError: Another process trains with the same inputs, here or, with checkpoints in a bucket, elsewhere.
        ForecacheError: The training failed or was stopped; the message names the log.
    """
    started = time.perf_counter()
    version, lanes = pinned_version(settings, pipeline), _lanes(settings, pipeline)
    alone = isinstance(pipeline.model, EstimatorModel)
    training = pipeline.training if alone else resolve_precision(settings, pipeline.training)
    inputs = training_inputs(pipeline, version, lanes=lanes, precision=training.precision)
    folder = run_folder(settings, pipeline, inputs)
    spec = TrainingSpec(
        run_dir=str(folder),
        pipeline=pipeline.name,
        table_uri=settings.table_uri(pipeline.training_table),
        table_version=version,
        inputs=inputs,
        training=training,
        lanes=lanes,
        checkpoints="" if alone else checkpoints_of(settings, folder),
        device=settings.device,
    )
    stage = Stage(settings, STAGE, pipeline.name, run_id)
    row, skipped = stage.run_once(
        inputs,
        lambda: _train(settings, pipeline, spec, night, run_id, progress),
        usable=lambda _: (folder / RESULT_FILE).is_file(),
    )
    return StageResult(
        STAGE,
        pipeline.name,
        row.rows,
        time.perf_counter() - started,
        nights=(night,),
        table=pipeline.training_table,
        delta_version=version,
        skipped=skipped,
        details=row.details,
    )


def _train(
    settings: Settings, pipeline: Trainable, spec: TrainingSpec, night: date, run_id: str, progress: Progress
) -> StageOutcome:
    """Run the specification, in one process or under torchrun, and follow it in MLflow."""
    spec = replace(spec, vocabularies=learn_vocabularies(settings, pipeline, version=spec.table_version))
    folder, alone = Path(spec.run_dir), isinstance(pipeline.model, EstimatorModel)
    arguments = estimator_command(spec) if alone else command(settings, spec)

    def report(message: str) -> None:
        progress(f"training {pipeline.name}: {message}", None)

    with (
        # The lock comes first: a run that is locked by another process must not log a failure to that one's MLflow run.
        lock_run(settings, spec, run_id=run_id, report=report) as lock,
        open_training_run(settings, pipeline, folder, night=night.isoformat(), run_id=run_id) as streamed,
    ):

        def on_event(event: dict[str, Any]) -> None:
            _report_event(progress, pipeline, event)
            warning = streamed.on_event(event)
            if warning:
                progress(warning, None)

        workers = "in one process" if alone else f"with {num_workers(settings)} workers"
        progress(f"training {pipeline.name} {workers}", 0.0)
        threads = os.cpu_count() if alone else None
        result = run_process(settings, spec, arguments, lock, on_event=on_event, threads=threads)
        streamed.finish(result["history"])
    cost = cost_record(read_events(folder / METRICS_FILE))
    details = {
        "run_dir": spec.run_dir,
        "training_table": pipeline.training_table,
        "training_version": spec.table_version,
        "mlflow_run_id": streamed.id,
        "night": night.isoformat(),
        "seed": pipeline.training.seed,
        "inputs": spec.inputs,
        "cost": {**vars(cost), **price_of_run(cost, result["device_name"], settings.prices)},
        "advice": sizing_advice(result),
        **{name: value for name, value in result.items() if name not in ("sample_digests", "statistics")},
    }
    progress(f"trained {pipeline.name}: {result['epochs']} {result.get('unit', 'epoch')}s", 1.0)
    return StageOutcome(result["rows"]["train"], details)


def pinned_version(settings: Settings, pipeline: Trainable) -> int:
    """Delta version of the last recorded training set, else the table's newest; NotFoundError without a table."""
    recorded = last_record(settings, "training_set", pipeline.name)
    if recorded is not None and recorded.delta_version >= 0:
        return recorded.delta_version
    return open_table(settings, pipeline.training_table).version()


def training_inputs(pipeline: Trainable, version: int, *, lanes: int = LANES, precision: str = "float32") -> str:
    """Text that identifies everything the trained weights depend on.

    The number of workers is not part of it, because the sample order depends on the lanes only.

    Args:
        precision: Type in which a network computes; a run in one precision does not resume a run in another.
    """
    if isinstance(pipeline.model, EstimatorModel):
        precision = "float32"
    more = f" lanes={lanes}" if lanes != LANES else ""
    more += f" precision={precision}" if precision != "float32" else ""
    return f"{pipeline.training_table}@{version} declared={pipeline.fingerprints.training} format={_FORMAT}{more}"


def run_folder(settings: Settings, pipeline: Trainable, inputs: str) -> Path:
    """The folder of a run; equal inputs always have the same folder, so that a run resumes there."""
    return settings.training_path / pipeline.name / hashlib.sha256(inputs.encode()).hexdigest()[:16]


def _lanes(settings: Settings, pipeline: Trainable) -> int:
    """Number of lanes: a power of two and at least one per worker, so that most worker counts divide it evenly."""
    if isinstance(pipeline.model, EstimatorModel):
        return LANES
    most_nodes = int(settings.training_nodes.rpartition(":")[2])
    return max(LANES, 1 << (most_nodes * settings.training_workers - 1).bit_length())


def _report_event(progress: Progress, pipeline: Trainable, event: dict[str, Any]) -> None:
    if event["event"] == "progress":
        unit = event.get("unit", "epoch")
        progress(f"training {pipeline.name}: {unit} {event['epoch'] + 1}", event["share"])
    elif event["event"] == "epoch":
        progress(
            f"training {pipeline.name}: epoch {event['epoch'] + 1}, validation loss {event['validation_loss']:.4f}, "
            f"{event['rows_per_s']:,.0f} rows/s",
            (event["epoch"] + 1) / event["epochs"],
        )
    elif event["event"] == "export":
        progress(f"exporting {pipeline.name}", None)
    elif event["event"] == "warning":
        progress(f"training {pipeline.name}: {event['message']}", None)
