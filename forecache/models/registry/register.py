"""Registration: evaluate a trained model, log its provenance to the MLflow run of its training, register it.

A model's file is logged in the flavour of its library; loading one never executes a pickle.
"""

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from forecache.base.code_version import code_version
from forecache.base.errors import NotFoundError
from forecache.base.plugins import find_hooks, load_hook
from forecache.base.results import Progress, StageResult, no_progress
from forecache.base.settings import Settings
from forecache.declare import TorchModel, Trainable
from forecache.kit.installation import hold_exclusively
from forecache.kit.lease import Lease
from forecache.lake.split_rows import training_classes
from forecache.lake.stage_runner import Stage, StageOutcome
from forecache.models.inference.encoding import ENCODING, MatrixEncoding
from forecache.models.inference.kernel import find_runtimes
from forecache.models.inference.kernel_spec import OUTPUTS
from forecache.models.inference.runtimes.onnx import add_preprocessing
from forecache.models.registry.gate.examples import (
    CandidateModel,
    SplitExamples,
    open_model,
    read_examples,
    score_features,
)
from forecache.models.registry.gate.metric_judge import BaselineScores, judge_of, score_baselines
from forecache.models.registry.gate.score_metrics import Array
from forecache.models.registry.model_versions import (
    FEATURES_TAG,
    JUDGED_CHECKSUMS_TAG,
    JUDGED_TAG,
    ModelVersion,
    list_models,
    model_version,
)
from forecache.models.tracking.artifacts import CHECKSUMS_TAG, download_artifact, file_checksums
from forecache.models.tracking.client import connect_mlflow
from forecache.models.tracking.records import find_run_file
from forecache.models.training.launch import find_run_folder, trained_encoding
from forecache.models.training.spec import METRICS_FILE, MODEL_FILES, REFIT, RESULT_FILE, SPEC_FILE, TORCH_FILE

if TYPE_CHECKING:
    from mlflow import MlflowClient


def find_model_file(folder: Path) -> tuple[str, Path]:
    """The runtime and the file of the trained model in a run's folder; NotFoundError without one."""
    for runtime, name in MODEL_FILES.items():
        if (folder / name).is_file():
            return runtime, folder / name
    raise NotFoundError(
        f"The folder {folder} has no model.", remedy=f"One of {', '.join(MODEL_FILES.values())} is expected."
    )


def log_model(
    pipeline: Trainable, run_dir: Path, classes: tuple[str, ...] = (), *, part: str = "", name: str = "model"
) -> Any:
    """Log the model of a run's folder, or of a `part` of it, in the active MLflow run; returns MLflow's `ModelInfo`.

    The signature has one column for each column of the matrix and the declared outputs. They are floats; an ONNX graph
    takes categories as strings and integers as doubles, and an estimator the codes of the encoding. That, bounds and
    the order of the classes are in the model's metadata, for scoring without the declaration.
    """
    runtime, path = find_model_file(run_dir / part)
    # Listed here because MLflow would import and run the model to infer them, which takes several seconds.
    names = ("mlflow", "numpy", *(["onnx"] if runtime == "onnx" else []), *find_runtimes()[runtime].packages)
    packages = [f"{name}=={found}" for name, found in installed_versions(*names).items()]
    outputs = [replace(o, classes=classes) if o.kind == "classes" else o for o in pipeline.output_specs]
    encoding = trained_encoding(pipeline, run_dir)
    metadata: dict[str, Any] = {OUTPUTS: json.loads(json.dumps([asdict(output) for output in outputs]))}
    metadata |= {} if encoding.is_plain else {ENCODING: encoding.to_json()}
    common: dict[str, Any] = {"name": name, "pip_requirements": packages, "metadata": metadata}
    if runtime == "onnx":
        signature = _signature(pipeline, encoding, "float", takes_texts=True)
        return _log_onnx(path, encoding, signature=signature, **common)
    signature = _signature(pipeline, encoding, "float" if runtime == "xgboost" else "double")
    return load_hook("estimators", "log_file")(runtime, path, signature=signature, **common)


def installed_versions(*packages: str) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = installed_version(name)
        except PackageNotFoundError:
            continue
    return found


def _signature(pipeline: Trainable, encoding: MatrixEncoding, output_type: str, *, takes_texts: bool = False) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Schema

    values: Any = DataType[output_type]
    returned = [ColSpec(Array(values) if output.is_array else values, output.name) for output in pipeline.output_specs]
    kinds = {"category": "string", "integer": "double"} if takes_texts else {}
    return ModelSignature(
        Schema([ColSpec(kinds.get(each.type, "float"), name) for each in encoding.features for name in each.columns]),
        Schema(returned),
    )


def _log_onnx(path: Path, encoding: MatrixEncoding, **common: Any) -> Any:
    import mlflow.onnx
    import onnx

    graph = onnx.load(path)
    return mlflow.onnx.log_model(
        graph if encoding.is_plain else add_preprocessing(graph, encoding),
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
        **common,
    )


STAGE = "register"
EVALUATION_FILE = "evaluation.json"
_LIBRARIES = (
    *("deltalake", "mlflow", "numpy", "onnx", "onnxruntime", "pyarrow", "torch"),
    *("lightgbm", "scikit-learn", "skops", "xgboost", "xgboost-cpu"),
)
_SPLITS = ("train", "validation", "test")


def register_trained_model(
    settings: Settings,
    pipeline: Trainable,
    training: StageResult,
    *,
    run_id: str = "",
    progress: Progress = no_progress,
) -> StageResult:
    """Register the model of a training run (the result of `train`), or return the version that was registered for it
    before.

    The MLflow flavour is ONNX for a network, whose torch export is logged to the run as `torch/model.pt2`, and the
    library's own for an estimator. If the estimator was fitted again on the rows of all splits, that model is the
    version; the one before is evaluated and judged, and logged to the run as `judged_model`.

    NotFoundError if the training table's version is gone, InputError for an empty split.

    Returns:
        `rows` of the test split; `details`: model_version, mlflow_run_id, model_uri, metrics, baseline (by split).
    """
    stage = Stage(settings, STAGE, pipeline.name, run_id)
    connect_mlflow(settings)
    inputs = f"{training.details['inputs']} weights={training.details['weights_digest'][:16]}"
    name = f"registration/{pipeline.name}"

    def report(holder: str) -> None:
        progress(f"waiting for {holder}", None)

    # Another process may be registering the same training, which would make a second version of it.
    with hold_exclusively(settings, name, action="registering a model", run_id=run_id, report=report) as lease:
        known = find_registered(settings, pipeline, inputs)
        skipped = known is not None
        if known is None:
            known = _log_and_register(settings, pipeline, training, inputs, progress, lease)
    evaluation = load_evaluation(settings, known)
    details = {
        "model_version": known.version,
        "mlflow_run_id": known.run_id,
        "model_uri": known.uri,
        "metrics": evaluation["metrics"],
        "baseline": evaluation["baseline"],
        "baseline_feature": evaluation["baseline_feature"],
        **({"refit": evaluation["refit"]} if "refit" in evaluation else {}),
    }
    seconds, rows = time.perf_counter() - stage.started, evaluation["rows"]["test"]
    if not skipped:
        stage.record({None: StageOutcome(rows, details)}, {None: inputs}, seconds)
        progress(f"registered {pipeline.name} version {known.version}", 1.0)
    return StageResult(STAGE, pipeline.name, rows, seconds, nights=training.nights, skipped=skipped, details=details)


def find_registered(settings: Settings, pipeline: Trainable, inputs: str) -> ModelVersion | None:
    """The completely registered version with these inputs, None without one."""
    for version in list_models(settings, pipeline):
        if version.tags.get("inputs") == inputs and CHECKSUMS_TAG in version.tags:
            return version
    return None


def load_evaluation(settings: Settings, version: ModelVersion) -> dict[str, Any]:
    """A version's result of `evaluate_model`, and its training history."""
    path = find_run_file(settings, version.run_id, EVALUATION_FILE)
    path = path or download_artifact(settings, run_id=version.run_id, artifact_path=EVALUATION_FILE)
    evaluation: dict[str, Any] = json.loads(path.read_text())
    return evaluation


def _evaluate_folder(settings: Settings, pipeline: Trainable, training: StageResult, folder: Path) -> dict[str, Any]:
    """Evaluate the logged model in a folder with the kernel that scoring uses."""
    details, model = training.details, open_model(folder, pipeline.main_output.spec)
    splits = {
        name: read_examples(
            settings,
            pipeline,
            table=details["training_table"],
            version=details["training_version"],
            split=name,
            encoding=model.encoding,
        )
        for name in _SPLITS
    }
    evaluation = evaluate_model(pipeline, model, splits)
    known = {name: details[name] for name in ("history", "refit") if name in details}
    return {**evaluation, **known, "unit": details.get("unit", "epoch")}


class ScoredSplit(NamedTuple):
    """Predictions of a split by a model, as of `score_features`, and by the baselines, the best first."""

    scores: Array
    baselines: list[BaselineScores]


def evaluate_model(pipeline: Trainable, model: CandidateModel, splits: Mapping[str, SplitExamples]) -> dict[str, Any]:
    """Evaluate an exported model on each split; the values are JSON-serialisable.

    `metrics` and `baseline` by split, `rows`, `classes`, and what plug-ins add. With several baselines, the figures are
    those of the best on the test split.
    """
    scored = {
        name: ScoredSplit(score_features(model, s.features, s.classes, s.sizes), score_baselines(pipeline, s))
        for name, s in splits.items()
    }
    best = scored["test"].baselines[0].name
    result: dict[str, Any] = {
        "kind": pipeline.task,
        "classes": list(splits["test"].classes),
        "metric": pipeline.trained_gate.metric,
        "rows": {name: len(examples.label) for name, examples in splits.items()},
        "metrics": {
            name: judge_of(pipeline, each.sizes).measure(each.label, scored[name].scores, each.weight)
            for name, each in splits.items()
        },
        "baseline": {
            name: next(each.metrics for each in found.baselines if each.name == best) for name, found in scored.items()
        },
        "baseline_feature": best,
    }
    for evaluate in find_hooks("evaluate"):
        result |= evaluate(pipeline, model, splits, scored)
    return result


def _log_and_register(
    settings: Settings, pipeline: Trainable, training: StageResult, inputs: str, progress: Progress, lease: Lease
) -> ModelVersion:
    import mlflow

    client = connect_mlflow(settings)
    training = replace(training, details={**training.details, "run_dir": str(find_run_folder(settings, training))})
    with mlflow.start_run(training.details["mlflow_run_id"], log_system_metrics=False) as run:
        progress(f"logging {pipeline.name}", 0.2)
        details = training.details
        classes = training_classes(
            settings, pipeline, version=details["training_version"], table=details["training_table"]
        )
        run_dir, refitted = Path(details["run_dir"]), "refit" in details
        judged = log_model(pipeline, run_dir, classes, name="judged_model" if refitted else "model")
        served = log_model(pipeline, run_dir, classes, part=REFIT) if refitted else judged
        progress(f"evaluating {pipeline.name}", 0.4)
        folder = download_artifact(settings, artifact_uri=judged.model_uri)
        checksums = {JUDGED_TAG: judged.model_uri, JUDGED_CHECKSUMS_TAG: json.dumps(file_checksums(folder))}
        evaluation = _evaluate_folder(settings, pipeline, training, folder)
        progress(f"registering {pipeline.name}", 0.8)
        _log_figures(client, run.info.run_id, pipeline, details, evaluation)
        _log_dataset(client, run.info.run_id, settings, training)
        _log_artifacts(client, run.info.run_id, training, evaluation)
    lease.confirm()  # whoever has taken it over makes the version
    tags = {"inputs": inputs, **(checksums if refitted else {})}
    return _create_version(settings, client, pipeline, training, evaluation, tags, served, run.info.run_id)


def _log_figures(
    client: "MlflowClient", run: str, pipeline: Trainable, details: Mapping[str, Any], evaluation: dict[str, Any]
) -> None:
    """Log parameters, metrics, cost and resource usage, and the advice on the next run's size as a tag."""
    from mlflow.entities import Metric, Param, RunTag

    names = ("training_table", "training_version", "workers", "device", "device_name", "parameters", "best_epoch")
    chosen = _declared_parameters(pipeline, details) | {name: details[name] for name in names if name in details}
    found = {f"{split}_{name}": value for split in _SPLITS for name, value in evaluation["metrics"][split].items()}
    found |= {f"baseline_test_{name}": value for name, value in evaluation["baseline"]["test"].items()}
    figures = {name.replace("@", "_at_"): value for name, value in found.items() if value == value}  # MLflow takes no @
    figures |= {f"{kind}_{name}": float(value) for kind in ("cost", "usage") for name, value in details[kind].items()}
    now = int(time.time() * 1000)
    client.log_batch(
        run,
        metrics=[Metric(name, value, now, 0) for name, value in figures.items()],
        params=[Param(name, str(value)) for name, value in chosen.items()],
        tags=[RunTag("forecache.advice", "\n".join(details["advice"]))],
    )


def _declared_parameters(pipeline: Trainable, details: Mapping[str, Any]) -> dict[str, Any]:
    """The declared training parameters; for an estimator its own parameters, not a network's."""
    if isinstance(pipeline.model, TorchModel):
        return vars(pipeline.training)
    own = {f"estimator.{name}": value for name, value in details["estimator"]["parameters"].items()}
    chosen = {"seed": pipeline.training.seed, "refit": pipeline.training.refit}
    return {**chosen, "estimator": details["estimator"]["class"], **own}


def _log_dataset(client: "MlflowClient", run: str, settings: Settings, training: StageResult) -> None:
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag

    table, version = training.details["training_table"], training.details["training_version"]
    source = DeltaDatasetSource(path=settings.table_uri(table), delta_table_version=version)
    dataset = MetaDataset(source, name=f"{table}@{version}")
    tag = InputTag(key="mlflow.data.context", value="training")
    client.log_inputs(run, [DatasetInput(dataset=dataset._to_mlflow_entity(), tags=[tag])])


def _log_artifacts(client: "MlflowClient", run: str, training: StageResult, evaluation: dict[str, Any]) -> None:
    folder = Path(training.details["run_dir"])
    client.log_dict(run, evaluation, EVALUATION_FILE)
    client.log_dict(run, describe_environment(), "environment.json")
    for draw_evaluation in find_hooks("draw_evaluation"):
        for name, svg in draw_evaluation(evaluation, standalone=True).items():
            client.log_text(run, svg, f"plots/{name}.svg")
    for place in (folder / REFIT, folder):
        if (place / TORCH_FILE).is_file():
            client.log_artifact(run, str(place / TORCH_FILE), "torch")
            break
    for name in (SPEC_FILE, RESULT_FILE, METRICS_FILE):
        client.log_artifact(run, str(folder / name), "training")


def describe_environment() -> dict[str, str]:
    """Versions of Python, the platform and libraries, which a repetition of the training would need."""
    return {"python": platform.python_version(), "platform": platform.platform(), **installed_versions(*_LIBRARIES)}


def _create_version(
    settings: Settings,
    client: "MlflowClient",
    pipeline: Trainable,
    training: StageResult,
    evaluation: dict[str, Any],
    tags: Mapping[str, str],
    logged: Any,
    run: str,
) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(pipeline.name, description=pipeline.description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {
        **tags,
        "features": json.dumps(pipeline.feature_names),
        "output": pipeline.main_output.name,
        "flavour": find_model_file(Path(training.details["run_dir"]))[0],
        "training_table": training.details["training_table"],
        "training_version": str(training.details["training_version"]),
        "as_of": training.details["as_of"],
        "code_version": code_version(settings),
        "fingerprint": pipeline.fingerprint,
        FEATURES_TAG: pipeline.fingerprints.features,
        "test_metrics": json.dumps(evaluation["metrics"]["test"]),
        "gate": "pending",
    }
    created = client.create_model_version(
        pipeline.name, source=logged.model_uri, run_id=run, model_id=logged.model_id, tags=tags
    )
    number = int(created.version)
    folder = download_artifact(settings, artifact_uri=f"models:/{pipeline.name}/{number}")
    # The checksums come last: a version without them was never completed and is refused at load.
    client.set_model_version_tag(pipeline.name, str(number), CHECKSUMS_TAG, json.dumps(file_checksums(folder)))
    return model_version(settings, pipeline, number)
