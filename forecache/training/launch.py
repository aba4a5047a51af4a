"""The training stage: pin the training set's Delta version, train on it unless that is done, record it.

A network trains under torchrun, an estimator in one process; the record is the same.
"""

import hashlib
import os
import time
from datetime import date
from pathlib import Path
from typing import Any

from forecache.lake.delta.tables import open_table
from forecache.lake.ledger import StageRecord, last_record, record
from forecache.pipeline import EstimatorModel, Pipeline
from forecache.results import Progress, StageResult, no_progress
from forecache.settings import Settings
from forecache.tracking.runs import training_run
from forecache.training.advice import advice
from forecache.training.cost import cost_record, priced
from forecache.training.devices import num_workers, resolved_precision
from forecache.training.estimator import launch as estimator
from forecache.training.exclusive.hold import holding
from forecache.training.spec import LANES, METRICS_FILE, RESULT_FILE, TrainingSpec, checkpoints_of
from forecache.training.torchrun import command, read_events, run_process

STAGE = "train"
_FORMAT = 3


def train(
    settings: Settings,
    pipeline: Pipeline,
    night: date,
    *,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Train on the pinned training set, or return the completed run that had the same inputs.

    An interrupted run with the same inputs goes on from its last checkpoint.

    Returns:
        `rows` of the training split; `details`: run_dir, mlflow_run_id, training_table, training_version, epochs,
        best_epoch, validation_loss, workers, device, precision, parallel, history, the export's parity, cost (see
        `forecache.training.cost`), usage and advice on the next run's size.

    Raises:
        NotFoundError: There is no training set yet.
        ConflictError: Another process trains with the same inputs, here or, with checkpoints in a bucket, elsewhere.
        ForecacheError: The training failed or was stopped; the message names the log.
    """
    started = time.perf_counter()
    version, lanes = pinned_version(settings, pipeline), _lanes(settings, pipeline)
    alone = isinstance(pipeline.model, EstimatorModel)
    training = pipeline.training if alone else resolved_precision(settings, pipeline.training)
    inputs = training_inputs(pipeline, version, lanes=lanes, precision=training.precision)
    folder = run_folder(settings, pipeline, inputs)
    before = last_record(settings, STAGE, pipeline.name)
    if before is not None and before.inputs == inputs and (folder / RESULT_FILE).is_file():
        return _result(pipeline, night, before.rows, started, before.details, version=version, skipped=True)
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
    arguments = estimator.command(spec) if alone else command(settings, spec)

    def tell(message: str) -> None:
        progress(f"training {pipeline.name}: {message}", None)

    with (
        # First, so that a run which is held elsewhere leaves no failure in the holder's MLflow run.
        holding(settings, spec, run_id=run_id, tell=tell) as hold,
        training_run(settings, pipeline, folder, night=night.isoformat(), run_id=run_id) as streamed,
    ):

        def on_event(event: dict[str, Any]) -> None:
            _tell(progress, pipeline, event)
            trouble = streamed.on_event(event)
            if trouble:
                progress(trouble, None)

        workers = "in one process" if alone else f"with {num_workers(settings)} workers"
        progress(f"training {pipeline.name} {workers}", 0.0)
        threads = os.cpu_count() if alone else None
        result = run_process(settings, spec, arguments, hold, on_event=on_event, threads=threads)
        streamed.finish(result["history"])
    rows = result["rows"]["train"]
    cost = cost_record(read_events(folder / METRICS_FILE))
    details = {
        "run_dir": str(folder),
        "training_table": pipeline.training_table,
        "training_version": version,
        "mlflow_run_id": streamed.id,
        "night": night.isoformat(),
        "seed": pipeline.training.seed,
        "inputs": inputs,
        "cost": {**vars(cost), **priced(cost, result["device_name"], settings.prices)},
        "advice": advice(result),
        **{name: value for name, value in result.items() if name not in ("sample_digests", "statistics")},
    }
    seconds = time.perf_counter() - started
    row = StageRecord(STAGE, pipeline.name, None, inputs, "", -1, rows, seconds, details, run_id=run_id)
    record(settings, [row])
    progress(f"trained {pipeline.name}: {result['epochs']} {result.get('unit', 'epoch')}s", 1.0)
    return _result(pipeline, night, rows, started, details, version=version, skipped=False)


def pinned_version(settings: Settings, pipeline: Pipeline) -> int:
    """The Delta version of the training set that was last recorded, else the newest; NotFoundError without a table."""
    recorded = last_record(settings, "training_set", pipeline.name)
    if recorded is not None and recorded.delta_version >= 0:
        return recorded.delta_version
    return open_table(settings, pipeline.training_table).version()


def training_inputs(pipeline: Pipeline, version: int, *, lanes: int = LANES, precision: str = "float32") -> str:
    """What the trained weights depend on. The number of workers is left out: the sample order is made of lanes.

    Args:
        precision: The type that a network computes in: a run that began on a GPU does not go on in another one.
    """
    if isinstance(pipeline.model, EstimatorModel):
        precision = "float32"
    more = f" lanes={lanes}" if lanes != LANES else ""
    more += f" precision={precision}" if precision != "float32" else ""
    return f"{pipeline.training_table}@{version} declared={pipeline.fingerprints.training} format={_FORMAT}{more}"


def run_folder(settings: Settings, pipeline: Pipeline, inputs: str) -> Path:
    """The folder of a run: the same inputs always train in the same place, so that they resume there."""
    return settings.training_path / pipeline.name / hashlib.sha256(inputs.encode()).hexdigest()[:16]


def _lanes(settings: Settings, pipeline: Pipeline) -> int:
    """At least one for each worker, and a power of two, so that most numbers of workers share them evenly."""
    if isinstance(pipeline.model, EstimatorModel):
        return LANES
    most_nodes = int(settings.training_nodes.rpartition(":")[2])
    return max(LANES, 1 << (most_nodes * settings.training_workers - 1).bit_length())


def _tell(progress: Progress, pipeline: Pipeline, event: dict[str, Any]) -> None:
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


def _result(
    pipeline: Pipeline, night: date, rows: int, started: float, details: Any, *, version: int, skipped: bool
) -> StageResult:
    return StageResult(
        STAGE,
        pipeline.name,
        rows,
        time.perf_counter() - started,
        nights=(night,),
        table=pipeline.training_table,
        delta_version=version,
        skipped=skipped,
        details=details,
    )
