"""The training stage: pin the training set's Delta version, train on it unless a completed run exists, record the run.

The plug-in for a kind of model says how it trains, each in processes that leave the same kind of record.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from forecache.base.errors import InputError, NotFoundError
from forecache.base.plugins import find_hooks, load_hook
from forecache.base.prices import hourly_price
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.declare import EstimatorModel, Trainable, Training
from forecache.kit.delta.tables import open_table
from forecache.lake.ledger import last_record
from forecache.lake.split_rows import split_batches
from forecache.lake.stage_runner import Stage, StageOutcome
from forecache.models.inference.encoding import MatrixEncoding, encoding_of
from forecache.models.tracking.runs import open_training_run, read_run_id
from forecache.models.training.process import RunLock, TrainingPlan, lock_run, read_events, run_process
from forecache.models.training.run_files import RunFiles
from forecache.models.training.spec import LANES, METRICS_FILE, RESULT_FILE, SPEC_FILE, TrainingSpec, checkpoints_of
from forecache.models.training.taken_over import take_training


@dataclass(frozen=True)
class CostRecord:
    attempts: int  # how often the workers started to train
    device_s: float  # seconds of all workers together, from their launch to their end
    wasted_s: float  # the part of `device_s` spent on restarting and on repeating steps since the last checkpoint
    steps_repeated: int  # steps that were run again after a restart


def cost_record(events: Iterable[Mapping[str, Any]]) -> CostRecord:
    """Compute a run's cost from its events, given in the order in which they were reported."""
    device_s = wasted_s = last_seen = launched_at = 0.0
    attempts = steps_repeated = 0
    start: Mapping[str, Any] | None = None
    saved_at: dict[int, float] = {}
    for event in events:
        if event["event"] == "start":
            if start is not None:
                ended = max(event["alive_at"], last_seen)
                device_s += (ended - launched_at) * start["workers"]
                repeated = max(0, event["reached_step"] - event["step"])
                if repeated:
                    since = saved_at.get(event["step"], start["time"])
                    wasted_s += (ended - since) * start["workers"]
                # Workers that replace killed ones are started by an agent that was launched earlier.
                launched_at = max(event["launched_at"], ended)
                wasted_s += (event["time"] - launched_at) * event["workers"]
                steps_repeated += repeated
            else:
                launched_at = event["launched_at"]
            start, attempts = event, attempts + 1
        elif event["event"] == "checkpoint":
            saved_at[event["step"]] = event["time"]
        last_seen = event["time"]
    if start is not None:
        device_s += (last_seen - launched_at) * start["workers"]
    return CostRecord(attempts, device_s, wasted_s, steps_repeated)


def price_of_run(cost: CostRecord, device_name: str, prices: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """`price_on_demand`, without the seconds that preemption wasted, `price_spot`, and `saving` as a share; empty for a
    device without a price. `prices`: (on demand, spot) per device hour, by a part of the device's name; the longest
    match counts."""
    price = hourly_price(device_name, prices)
    if price is None:
        return {}
    on_demand, spot = price
    price_on_demand, price_spot = (cost.device_s - cost.wasted_s) / 3600 * on_demand, cost.device_s / 3600 * spot
    saving = 1 - price_spot / price_on_demand if price_on_demand else 0.0
    return {"price_on_demand": price_on_demand, "price_spot": price_spot, "saving": saving}


_STALL_SHARE = 0.15
_LOW_SHARE = 0.5
_MEMORY_MARGIN = 1.25
_MARGIN_BYTES = 1 << 28


def sizing_advice(result: Mapping[str, Any]) -> list[str]:
    """Advice in sentences on the next run, from a run's `result.json`; the first states how much memory a worker
    needs."""
    usage = result["usage"]
    enough = usage["peak_memory_bytes"] * _MEMORY_MARGIN + _MARGIN_BYTES
    peak = _gib(usage["peak_memory_bytes"])
    sentences = [f"A worker used at most {peak} of memory; {_gib(enough)} per worker is enough."]
    if usage["stall_share"] > _STALL_SHARE:
        sentences.append(
            f"Workers waited for data {usage['stall_share']:.0%} of the time: one more core per worker, or a larger "
            "cache, would shorten the run."
        )
    elif "estimator" not in result and result["device"] == "cpu" and usage["cpu_share"] < _LOW_SHARE:
        sentences.append(
            f"The workers' threads were busy {usage['cpu_share']:.0%} of the time and did not wait for data: fewer "
            "workers or a larger batch would cost less."
        )
    if usage["device_memory_bytes"]:
        share = usage["peak_device_memory_bytes"] / usage["device_memory_bytes"]
        if share < _LOW_SHARE:
            sentences.append(
                f"The run used {share:.0%} of the memory of {result['device_name']}: a smaller device is enough, or "
                "a larger batch would use it."
            )
    return sentences


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / (1 << 30):.1f} GiB"


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

    A run with the same inputs that was interrupted, also on a machine that was lost, resumes from its last checkpoint;
    an estimator starts again. If another process trains with the same inputs, its result is waited for and taken.

    Args:
        night: As-of date under which the run is recorded.
        run_id: The orchestrator's run id, "" without one.

    Returns:
        `rows` of the training split; `details`: run_dir, mlflow_run_id, training_table, training_version, epochs,
        best_epoch, validation_loss, workers, device, precision, parallel, history, the export's parity, cost (see
        `forecache.models.training.launch`), usage and advice on the next run's size; for a model that was fitted again
        `refit`, the number of its rows and rounds.

    Raises:
        NotFoundError: There is no training set yet.
        LeaseLostError: This process stood still, and another machine has taken the training over.
        ForecacheError: The training failed or was stopped; the message names the log.
    """
    started = time.perf_counter()
    version = pinned_version(settings, pipeline)
    plan = plan_training(settings, pipeline)
    inputs = training_inputs(pipeline, version, lanes=plan.lanes, precision=plan.training.precision)
    folder = run_folder(settings, pipeline, inputs)
    spec = TrainingSpec(
        run_dir=str(folder),
        pipeline=pipeline.name,
        table_uri=settings.table_uri(pipeline.training_table),
        table_version=version,
        inputs=inputs,
        training=plan.training,
        lanes=plan.lanes,
        checkpoints=checkpoints_of(settings, folder),
        device=settings.device,
    )
    stage, files = Stage(settings, STAGE, pipeline.name, run_id), RunFiles(settings, spec)

    def report(message: str) -> None:
        progress(f"training {pipeline.name}: {message}", None)

    # The lock comes first: a process that waits for another one takes the result that this one has recorded.
    with lock_run(settings, spec, run_id=run_id, report=report) as lock:
        row, skipped = stage.run_once(
            inputs,
            lambda: _train(stage, pipeline, plan, files, lock, night, progress),
            usable=lambda _: files.fetch_result(),
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
        details={**row.details, "run_dir": spec.run_dir},  # of this machine
    )


def find_training(settings: Settings, pipeline: Trainable, night: date) -> StageResult:
    """The training that was recorded last, as `train` returned it; a machine may use it that could not train the same.

    NotFoundError without one, or if the declaration or the code of the training has changed since.
    """
    row = last_record(settings, STAGE, pipeline.name)
    if row is None:
        raise NotFoundError(f"No training of {pipeline.name!r} is recorded.", remedy="Train it first.")
    if _declared_text(pipeline) not in row.inputs:
        raise NotFoundError(
            f"The declaration of {pipeline.name!r}, or the code of its training, has changed since it was trained.",
            remedy="Train it again, and register it then.",
        )
    version = row.details["training_version"]
    return StageResult(
        STAGE,
        pipeline.name,
        row.rows,
        row.seconds,
        nights=(night,),
        table=row.details["training_table"],
        delta_version=version,
        skipped=True,
        details=row.details,
    )


def plan_training(settings: Settings, pipeline: Trainable) -> TrainingPlan:
    """Plan the training of a pipeline's model on this machine; UnavailableError without the plug-in for its kind."""
    plugin = "estimators" if isinstance(pipeline.model, EstimatorModel) else "torch"
    plan: TrainingPlan = load_hook(plugin, "plan_training")(settings, pipeline)
    return plan


def _train(
    stage: Stage,
    pipeline: Trainable,
    plan: TrainingPlan,
    files: RunFiles,
    lock: RunLock,
    night: date,
    progress: Progress,
) -> StageOutcome:
    settings, spec, has_trained = files.settings, files.spec, False
    if not files.fetch_result():
        equal = (find(stage, spec.inputs, progress=progress) for find in find_hooks("find_equal_training"))
        if there := next(filter(None, equal), None):
            take_training(files, there, pipeline, lock, night, run_id=stage.run_id)
        else:
            spec = replace(spec, vocabularies=learn_vocabularies(settings, pipeline, version=spec.table_version))
            _run_workers(pipeline, plan, replace(files, spec=spec), lock, night, stage.run_id, progress)
            has_trained = True
    result = json.loads((spec.folder / RESULT_FILE).read_text())
    cost = cost_record(read_events(spec.folder / METRICS_FILE))
    details = {
        "run_dir": spec.run_dir,
        "training_table": pipeline.training_table,
        "training_version": spec.table_version,
        "mlflow_run_id": read_run_id(spec.folder),
        "as_of": night.isoformat(),
        "seed": pipeline.training.seed,
        "inputs": spec.inputs,
        "cost": {**vars(cost), **price_of_run(cost, result["device_name"], settings.prices)},
        "advice": sizing_advice(result),
        **{name: value for name, value in result.items() if name not in ("sample_digests", "statistics")},
    }
    progress(f"trained {pipeline.name}: {result['epochs']} {result.get('unit', 'epoch')}s", 1.0)
    # No time for what a trial, or a run that was killed before it recorded it, has trained: plans estimate by it.
    return StageOutcome(result["rows"]["train"], details, seconds=None if has_trained else 0.0)


def _run_workers(
    pipeline: Trainable,
    plan: TrainingPlan,
    files: RunFiles,
    lock: RunLock,
    night: date,
    run_id: str,
    progress: Progress,
) -> None:
    """Train in the run's folder, from what is left of an interrupted training, and share the result."""
    settings, spec, arguments = files.settings, files.spec, plan.command(files.spec)
    files.fetch_progress()
    with open_training_run(settings, pipeline, spec.folder, night=night.isoformat(), run_id=run_id) as streamed:
        files.share_start()

        def on_event(event: dict[str, Any]) -> None:
            _report_event(progress, pipeline, event)
            warnings = [streamed.on_event(event)]
            if not lock.lease.is_taken_over:  # else what all machines find of the run belongs to another process
                warnings.append(files.share_progress())
            for warning in filter(None, warnings):
                progress(warning, None)

        progress(f"training {pipeline.name} {plan.workers()}", 0.0)
        try:
            with files.offer_to_nodes(lock.lease):
                result = run_process(
                    spec, arguments, plan.environment(), lock, on_event=on_event, fetch_error=files.fetch_error
                )
        except BaseException:
            if not lock.lease.is_taken_over:
                files.share_progress(at_once=True)
            raise
        lock.lease.confirm()
        streamed.finish(result["history"])
        files.share_result()


def pinned_version(settings: Settings, pipeline: Trainable) -> int:
    """Delta version of the last recorded training set, else the table's newest; NotFoundError without a table."""
    recorded = last_record(settings, "training_set", pipeline.name)
    if recorded is not None and recorded.delta_version >= 0:
        return recorded.delta_version
    return open_table(settings, pipeline.training_table).version()


def training_inputs(pipeline: Trainable, version: int, *, lanes: int = LANES, precision: str = "float32") -> str:
    """Text that identifies everything the trained weights depend on.

    The number of workers is not part of it, because the sample order depends on the lanes only. A run in one precision
    does not resume a run in another.
    """
    if isinstance(pipeline.model, EstimatorModel):
        precision = "float32"
    more = f" lanes={lanes}" if lanes != LANES else ""
    more += f" precision={precision}" if precision != "float32" else ""
    return f"{pipeline.training_table}@{version} {_declared_text(pipeline)}{more}"


def _declared_text(pipeline: Trainable) -> str:
    return f"declared={pipeline.fingerprints.training} format={_FORMAT}"


def run_folder(settings: Settings, pipeline: Trainable, inputs: str) -> Path:
    """The folder of a run; equal inputs always have the same folder, so that a run resumes there."""
    return settings.training_path / pipeline.name / hashlib.sha256(inputs.encode()).hexdigest()[:16]


def find_run_folder(settings: Settings, training: StageResult) -> Path:
    """The folder of a training's result, which is copied to this machine if another one trained; NotFoundError if this
    one finds it nowhere."""
    there = Path(training.details["run_dir"])
    if (there / RESULT_FILE).is_file():
        return there
    folder = settings.training_path / training.subject / there.name
    spec = TrainingSpec(
        run_dir=str(folder),
        pipeline=training.subject,
        table_uri="",
        table_version=training.details["training_version"],
        inputs=training.details["inputs"],
        training=Training(),
        checkpoints=checkpoints_of(settings, folder),
    )
    if not RunFiles(settings, spec).fetch_result():
        raise NotFoundError(
            f"The files of the training of {training.subject!r} in {there} are not on this machine.",
            remedy="Put trainings where all machines find them, by FORECACHE_TRAINING_CHECKPOINTS and "
            "FORECACHE_MLFLOW_URI; or train here.",
        )
    return folder


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
    elif event["event"] == "refit":
        progress(f"fitting {pipeline.name} again on the rows of all splits", None)
    elif event["event"] == "warning":
        progress(f"training {pipeline.name}: {event['message']}", None)


def learn_vocabularies(settings: Settings, pipeline: Trainable, *, version: int) -> dict[str, list[str]]:
    """The categories in the training split, in order, by name of each category feature without declared ones;
    InputError if there are more than the feature allows."""
    learning = [each for each in pipeline.feature_columns if each.type == "category" and each.categories is None]
    most = {feature.name: feature.max_categories for feature in learning}
    found: dict[str, set[str]] = {name: set() for name in most}
    if not found:
        return {}
    table = pipeline.training_table
    for batch in split_batches(settings, table, version=version, split="train", columns=list(found)):
        for name, known in found.items():
            known.update(value for value in batch.column(name).unique().to_pylist() if value)
            if len(known) > most[name]:
                raise InputError(
                    f"The category {name!r} of pipeline {pipeline.name!r} has more than the {most[name]:,} that "
                    f"max_categories allows in the training split.",
                    remedy="Raise max_categories, declare the categories that count, or return fewer.",
                )
    return {name: sorted(known) for name, known in found.items()}


def trained_encoding(pipeline: Trainable, run_dir: Path) -> MatrixEncoding:
    path = run_dir / SPEC_FILE
    learned = json.loads(path.read_text()).get("vocabularies", {}) if path.is_file() else {}
    return encoding_of(pipeline.feature_columns, learned)
