"""The model that scores a pipeline; a registered one scores only if it reaches its floors on a labelled table.

A version is judged once, when it is first used with these floors. If it misses them, the last version that reached them
scores.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from forecache.base.errors import CheckError, InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.base.steps import begin_work
from forecache.declare import Labelled, RegisteredModel, Trainable
from forecache.declare.models.applied import FunctionModel, SqlModel
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_existing
from forecache.lake.ledger import StageRecord, all_records
from forecache.lake.split_rows import label_numbers
from forecache.lake.stage_runner import Stage, StageOutcome
from forecache.models.inference.kernel import load_kernel, score_values
from forecache.models.inference.outputs import known_outputs, source_of
from forecache.models.registry.applied.resolve import (
    find_version,
    make_numbered_version,
    number_model,
    recorded_models,
    registered_versions,
    resolve_uri,
)
from forecache.models.registry.applied.scoring_plan import plan_model
from forecache.models.registry.gate.gate_checks import check_floors
from forecache.models.registry.gate.metric_judge import judge_of
from forecache.models.registry.model_versions import ModelVersion, champion, list_models, model_version
from forecache.models.tracking.artifacts import scratch_folder

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable


STAGE = "judge"
_BATCH_ROWS = 65_536


def accepted_version(
    settings: Settings, pipeline: Trainable, model: RegisteredModel, found: ModelVersion, *, run_id: str = ""
) -> ModelVersion:
    """The version that may score: the one found, or the last that reached its floors; CheckError if none did.

    The found version has `gate` "passed", or an earlier one "failed" if the found one missed its floors; the tag
    `gate_reason` says why. Without floors, the found version unchanged.
    """
    if model.judged_on is None:
        return found
    judged = all_records(settings, STAGE, pipeline.name)
    verdict = _find_or_make_verdict(settings, pipeline, model, found, judged, run_id)
    reason = str(verdict.details["reason"])
    if verdict.details["accepted"]:
        return _add_verdict(found, verdict)
    numbers = [
        row.details["version"] for row in judged if row.details["accepted"] and row.details["name"] == found.name
    ]
    before = [int(number) for number in dict.fromkeys(reversed(numbers)) if int(number) != found.version]
    kept = [version for version in (find_version(settings, model, number) for number in before) if version is not None]
    for version in kept:
        # It was accepted once, perhaps by lower floors or for other outputs than are declared now.
        former = _find_or_make_verdict(settings, pipeline, model, version, judged, run_id)
        if former.details["accepted"]:
            why = f"Version {version.version} stays: version {found.version} misses its floors: {reason}"
            return replace(_add_verdict(version, former), gate="failed", tags={**version.tags, "gate_reason": why})
    others = "those that did are deleted" if before and not kept else "no version did before"
    raise CheckError(
        f"The model {found.uri} does not reach its floors, and {others}: {reason}",
        remedy="Register a better version, or lower the floors. What was published stays.",
    )


def _find_or_make_verdict(
    settings: Settings,
    pipeline: Trainable,
    model: RegisteredModel,
    version: ModelVersion,
    judged: Sequence[StageRecord],
    run_id: str,
) -> StageRecord:
    """The verdict on a version by the present floors; judges the version and records the verdict if there is none."""
    inputs = _verdict_inputs(pipeline, model, version)
    found = next((row for row in reversed(judged) if row.inputs == inputs), None)
    if found is None:
        begin_work(f"judging {version.uri}")
        stage = Stage(settings, STAGE, pipeline.name, run_id)
        outcome = _judge_version(settings, pipeline, model, version)
        found = stage.record({None: outcome}, {None: inputs}, time.perf_counter() - stage.started)[None]
    return found


def _verdict_inputs(pipeline: Trainable, model: RegisteredModel, found: ModelVersion) -> str:
    output = asdict(pipeline.output_specs[0])
    about = [dict(sorted(model.floors.items())), dict(model.returns), pipeline.feature_names, output]
    judged_on = model.judged_on
    assert judged_on is not None
    made = f"{found.uri} made={found.created_at.isoformat()}"
    return f"{made} judged_on={judged_on.table}.{judged_on.label} declared={json.dumps(about)}"


def _judge_version(
    settings: Settings, pipeline: Trainable, model: RegisteredModel, found: ModelVersion
) -> StageOutcome:
    judged_on = model.judged_on
    assert judged_on is not None
    table = open_existing(settings, judged_on.table, what="The labelled table")
    label, score = _score_labelled_rows(settings, pipeline, judged_on, found, table)
    judge = judge_of(pipeline)
    metrics = judge.measure(label, score)
    checks = list(check_floors(model.floors, metrics, judge.less_is_better))
    missed = [check.reason for check in checks if not check.passed]
    details: dict[str, Any] = {
        "name": found.name,
        "version": found.version,
        "uri": found.uri,
        "accepted": not missed,
        "reason": f"{'; '.join(missed or [check.reason for check in checks])}, on {len(label):,} rows.",
        "metrics": {name: value for name, value in metrics.items() if value == value},
        "table": judged_on.table,
        "delta_version": table.version(),
    }
    return StageOutcome(len(label), details)


def _score_labelled_rows(
    settings: Settings, pipeline: Trainable, judged_on: Labelled, found: ModelVersion, table: "DeltaTable"
) -> tuple[np.ndarray, np.ndarray]:
    """Labels float64 [n] (of classes their positions) and scores [n] or [n, values] of the rows that have a label."""
    plan = plan_model(settings, pipeline, found)
    kernel = load_kernel(plan.spec, lambda: plan.payload, scratch_folder)
    names = list(plan.spec.inputs or pipeline.feature_names)
    (output,) = known_outputs(pipeline.output_specs[:1], plan.spec)
    if output.kind == "classes" and plan.spec.outputs[source_of(plan.spec, output)[0]].width is None:
        raise InputError(
            f"The model {found.uri} returns the classes of {output.name!r} without their probabilities, by which it is "
            "judged.",
            remedy="Log one that returns a probability for each class, or declare no floors.",
        )
    labels, scores = [], []
    for batch in _read_labelled_rows(table, judged_on, names, classes=bool(output.classes)):
        label = label_numbers(batch.column(judged_on.label), output.classes)
        if np.isnan(label).any():
            strange = batch.column(judged_on.label)[int(np.flatnonzero(np.isnan(label))[0])].as_py()
            raise InputError(
                f"The label {judged_on.label!r} of {judged_on.table!r} has the class {strange!r}, which the model does "
                f"not know; it knows {', '.join(output.classes)}.",
                remedy="Judge on rows of those classes, or register a model that knows it.",
            )
        features = [batch.column(name) for name in names]
        labels.append(label)
        scores.append(score_values(kernel, plan.spec, features, [output])[0].astype(np.float64))
    if not labels:
        raise InputError(
            f"The labelled table {judged_on.table!r} has no row with a {judged_on.label!r}.",
            remedy="Judge on a table with labels.",
        )
    label = np.concatenate(labels)
    model = pipeline.model
    if isinstance(model, RegisteredModel) and pipeline.task == "binary" and not np.isin(label, (0.0, 1.0)).all():
        wrong = label[~np.isin(label, (0.0, 1.0))][0]
        raise InputError(
            f"The label {judged_on.label!r} of {judged_on.table!r} has the value {wrong:g}, and its floors are of a "
            "binary label.",
            remedy="A binary label is 0 or 1.",
        )
    return label, np.concatenate(scores)


def _read_labelled_rows(
    table: "DeltaTable", judged_on: Labelled, names: list[str], *, classes: bool
) -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa
    import pyarrow.compute as pc

    dataset = open_dataset(table)
    missing = [name for name in (*names, judged_on.label) if name not in dataset.schema.names]
    if missing:
        raise InputError(
            f"The labelled table {judged_on.table!r} has no column {missing[0]!r}.",
            remedy=f"It has {', '.join(dataset.schema.names)}.",
        )
    try:
        columns = {name: pc.field(name).cast(pa.float32()) for name in names}
        columns[judged_on.label] = pc.field(judged_on.label).cast(pa.string() if classes else pa.float64())
        scanner = dataset.scanner(
            columns=columns, filter=pc.field(judged_on.label).is_valid(), batch_size=_BATCH_ROWS, use_threads=False
        )
        for batch in scanner.to_batches():
            if batch.num_rows:
                yield batch
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"The labelled table {judged_on.table!r} does not fit the features: {error}.",
            remedy="Features and label are numbers there.",
        ) from None


def scoring_model(settings: Settings, pipeline: Trainable, *, run_id: str = "") -> ModelVersion:
    """The version that scores now: the champion, or the declared model; judges a new version that has floors.

    Raises:
        NotFoundError: There is no champion, or no such registered model, version, alias or run.
        UnavailableError: MLflow does not answer.
        CheckError: No version of the registered model has reached its floors.
        InputError: The table that it is judged on does not fit.
    """
    if pipeline.is_trained:
        return champion(settings, pipeline)
    if isinstance(pipeline.model, RegisteredModel):
        found = resolve_uri(settings, pipeline, pipeline.model)
        if not pipeline.model.name:
            details = {"uri": found.uri, "mlflow_run_id": found.run_id}
            number = number_model(settings, pipeline.name, found.uri, details, run_id=run_id)
            found = replace(found, version=number)
        return accepted_version(settings, pipeline, pipeline.model, found, run_id=run_id)
    return _declared_model(settings, pipeline, run_id=run_id)


def _declared_model(settings: Settings, pipeline: Trainable, *, run_id: str) -> ModelVersion:
    """The version of a declared function or expression, identified by its code."""
    code, model = pipeline.fingerprints.training, pipeline.model
    assert isinstance(model, FunctionModel | SqlModel)
    uri = f"function {model.path}" if isinstance(model, FunctionModel) else "sql"
    said = {"expression": model.expression} if isinstance(model, SqlModel) else {"function": model.path}
    number = number_model(settings, pipeline.name, f"{uri} code={code}", {"uri": uri, **said}, run_id=run_id)
    return make_numbered_version(pipeline, number, f"{uri} code={code}")


def models_of(settings: Settings, pipeline: Trainable) -> list[ModelVersion]:
    """All versions, newest first; those of a registered model with floors have their verdicts."""
    if pipeline.is_trained:
        return list_models(settings, pipeline)
    if isinstance(pipeline.model, RegisteredModel) and pipeline.model.name:
        verdicts = {row.details["uri"]: row for row in all_records(settings, STAGE, pipeline.name)}
        found = registered_versions(settings, pipeline.model)
        return [_add_verdict(version, verdicts.get(version.uri)) for version in found]
    return [
        _recorded_version(pipeline, number, row)
        for number, row in reversed(recorded_models(settings, pipeline.name).items())
    ]


def model_of(settings: Settings, pipeline: Trainable, version: int) -> ModelVersion:
    """The version that a prediction names; NotFoundError if there is none of that number any more."""
    if pipeline.is_trained:
        return model_version(settings, pipeline, version)
    for found in models_of(settings, pipeline):
        if found.version == version:
            return found
    raise NotFoundError(
        f"The model of pipeline {pipeline.name!r} has no version {version}.",
        remedy=f"`forecache models {pipeline.name}` lists them.",
    )


def _add_verdict(version: ModelVersion, verdict: StageRecord | None) -> ModelVersion:
    if verdict is None:
        return version
    tags = {**version.tags, "gate_reason": str(verdict.details["reason"])}
    gate = "passed" if verdict.details["accepted"] else "failed"
    return replace(version, gate=gate, metrics=verdict.details["metrics"], tags=tags)


def _recorded_version(pipeline: Trainable, number: int, row: StageRecord) -> ModelVersion:
    run = str(row.details.get("mlflow_run_id", ""))
    version = make_numbered_version(pipeline, number, str(row.details["uri"]), run_id=run, created_at=row.recorded_at)
    return replace(version, tags={"code_version": row.code_version})
