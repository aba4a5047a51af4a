"""Plan how a pipeline's model is run, and check that it fits the features before a row is scored."""

from dataclasses import replace
from pathlib import Path

from forecache.base.errors import ForecacheError, InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.declare import RegisteredModel, Trainable
from forecache.declare.models.applied import FunctionModel, SqlModel
from forecache.models.inference.choose_runtime import plan_scoring
from forecache.models.inference.declared.plans import pick_outputs, plan_declared
from forecache.models.inference.description import describe_model
from forecache.models.inference.kernel import load_kernel
from forecache.models.inference.kernel_spec import ALLOW_PICKLE, ScoringPlan, pickle_allowed
from forecache.models.inference.signature import read_signature
from forecache.models.registry.applied.resolve import mlflow_message, unavailable_error
from forecache.models.registry.versions.model_versions import ModelVersion, verified_folder
from forecache.models.tracking.artifacts import CHECKSUMS_TAG, download_artifact, scratch_folder

_NUMBERS = ("boolean", "int", "bigint", "float", "double")


def plan_model(settings: Settings, pipeline: Trainable, model: ModelVersion) -> ScoringPlan:
    """The scoring plan of a model version.

    Raises:
        InputError: It does not fit the features or the outputs that are declared.
        CheckError: Its files are not those that were registered.
        Others as `forecache.models.inference.choose_runtime.plan_scoring`.
    """
    outputs = pipeline.output_specs
    if pipeline.is_trained:
        return plan_scoring(str(verified_folder(settings, model)), outputs=outputs)
    if isinstance(pipeline.model, RegisteredModel):
        folder = _model_folder(settings, model)
        _check_signature(pipeline, model, folder)
        plan = plan_scoring(str(folder), outputs=outputs)
        _prove_loadable(model, plan)
        return pick_outputs(replace(plan, uri=model.uri), outputs, pipeline.model.model_outputs)
    assert isinstance(pipeline.model, FunctionModel | SqlModel)
    code, names = pipeline.fingerprints.training, pipeline.feature_names
    return plan_declared(pipeline.model, code=code, inputs=names, outputs=outputs)


def _prove_loadable(model: ModelVersion, plan: ScoringPlan) -> None:
    """Load the model, so that one that cannot be loaded is refused here with a message, and not in a worker."""
    try:
        load_kernel(plan.spec, lambda: plan.payload, scratch_folder)
    except ForecacheError:
        raise
    except Exception as error:
        allowed = "" if pickle_allowed() else f", or set {ALLOW_PICKLE}=true if you trust whoever made it"
        raise InputError(
            f"The model {model.uri} cannot be loaded: {mlflow_message(error)}.",
            remedy=f"Log it as ONNX, with skops or as a Booster{allowed}.",
        ) from error


def _model_folder(settings: Settings, model: ModelVersion) -> Path:
    """The model's folder on this machine, verified by its checksums if Forecache registered it."""
    from mlflow.exceptions import MlflowException

    if CHECKSUMS_TAG in model.tags:
        return verified_folder(settings, model)
    try:
        return download_artifact(settings, artifact_uri=model.uri)
    except MlflowException as error:
        gone = error.error_code == "RESOURCE_DOES_NOT_EXIST"
        raise (
            _missing_files_error(model, mlflow_message(error)) if gone else unavailable_error(model.uri, error)
        ) from None
    except OSError as error:
        raise _missing_files_error(model, mlflow_message(error)) from None


def _missing_files_error(model: ModelVersion, said: str) -> ForecacheError:
    return NotFoundError(
        f"The files of the model {model.uri} cannot be read: {said}.",
        remedy="Log it again, or restore the artifacts of the MLflow server.",
    )


def _check_signature(pipeline: Trainable, model: ModelVersion, folder: Path) -> None:
    """Refuse a model whose inputs are not among the features, in name, number or type."""
    described = describe_model(folder)
    if described.inputs is None or described.outputs is None:
        side = "inputs" if described.inputs is None else "outputs"
        raise InputError(
            f"The model {model.uri} was logged without a signature of its {side}: what it takes cannot be checked.",
            remedy="Log it with signature=mlflow.models.infer_signature(features, predictions).",
        )
    signature, features = read_signature(described.inputs, described.outputs), pipeline.feature_names
    computed = f"The features of pipeline {pipeline.name!r} are {', '.join(features)}."
    for name, kind in zip(signature.inputs, signature.input_types, strict=False):
        if name not in features and name not in signature.optional:
            raise InputError(
                f"The model {model.uri} takes the column {name!r}, which is not a feature.", remedy=computed
            )
        if name in features and kind not in _NUMBERS:
            raise InputError(
                f"The model {model.uri} takes the column {name!r} as {kind}, and the feature is a number.",
                remedy="Name another feature like it, or log the model with a signature that takes numbers.",
            )
    if not signature.inputs and signature.width not in (None, len(features)):
        raise InputError(
            f"The model {model.uri} takes a matrix of {signature.width} columns, "
            f"and pipeline {pipeline.name!r} has {len(features)} features.",
            remedy=f"{computed} Declare those that it was trained on, in that order.",
        )
