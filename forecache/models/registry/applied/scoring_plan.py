"""Plans for scoring: of trained and registered models, of those declared as functions or SQL."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from forecache.base.errors import ForecacheError, InputError, NotFoundError
from forecache.base.output_kinds import OutputSpec, probabilities_column
from forecache.base.settings import Settings
from forecache.declare import FunctionModel, RegisteredModel, SqlModel, Trainable
from forecache.models.inference.choose_runtime import plan_scoring
from forecache.models.inference.environment import describe_model
from forecache.models.inference.kernel import load_kernel
from forecache.models.inference.kernel_spec import (
    ALLOW_PICKLE,
    KERNEL_VERSION,
    OUTPUTS,
    OWN,
    PICKED,
    KernelSpec,
    OutputColumn,
    ScoringPlan,
    pickle_allowed,
)
from forecache.models.inference.outputs import own_outputs, read_output
from forecache.models.inference.runtimes import function
from forecache.models.inference.runtimes.runtime import FUNCTION, SQL
from forecache.models.inference.signature import read_signature
from forecache.models.registry.applied.resolve import mlflow_message, unavailable_error
from forecache.models.registry.model_versions import ModelVersion, verified_folder
from forecache.models.tracking.artifacts import CHECKSUMS_TAG, download_artifact, scratch_folder
from forecache.models.tracking.records import find_model_folder


def plan_declared(
    model: FunctionModel | SqlModel, *, code: str, inputs: Sequence[str], outputs: Sequence[OutputSpec]
) -> ScoringPlan:
    """Plan for scoring with a function or SQL expressions, from feature columns and declared outputs in order; `code`
    is the model's fingerprint."""
    names = [output.name for output in outputs]
    if isinstance(model, FunctionModel):
        runtime, uri, payload = FUNCTION, f"function {model.path}", function.pack(model.path, code)
        reason, packages = "the model is a function of the project, which workers import", {}
    else:
        runtime, uri, payload = SQL, f"sql {code}", json.dumps(list(model.expressions_of(names))).encode()
        reason, packages = "the model is an SQL expression, run by DuckDB", {"duckdb": version("duckdb")}
    checksum = _checksum(payload, KERNEL_VERSION, code, *inputs, *names)
    spec = spec_of_outputs(runtime, checksum, inputs=inputs, outputs=outputs, packages=packages)
    return ScoringPlan(uri, spec, payload, reason)


def spec_of_outputs(
    runtime: str, checksum: str, *, inputs: Sequence[str], outputs: Sequence[OutputSpec], **more: Any
) -> KernelSpec:
    """A specification of features as they are and of declared outputs; `more` are further fields."""
    columns = tuple(_declared_column(output) for output in outputs)
    return KernelSpec(runtime, checksum, tuple(inputs), len(inputs), "float32", columns, _shape(columns), **more)


def _declared_column(output: OutputSpec) -> OutputColumn:
    """Column that a function has to return for an output: a number, a text, a boolean, or several of them per row."""
    if output.kind == "structs":
        fields = ",".join(f"{name}:{kind}" for name, kind in output.fields)
        return OutputColumn(output.name, f"struct<{fields}>", -1)
    if output.kind in ("quantiles", "vector"):
        return OutputColumn(output.name, "double", output.values)
    if output.kind == "classes":
        return OutputColumn(output.name, *(("string", None) if output.top == 0 else ("double", -1)))
    return OutputColumn(output.name, {"text": "string", "boolean": "boolean"}.get(output.kind, "double"))


def pick_outputs(
    plan: ScoringPlan, outputs: Sequence[OutputSpec], returns: Mapping[str, tuple[str, int | None]]
) -> ScoringPlan:
    """A plan whose outputs are those of a declaration; InputError if the model has no such output, or one with several
    values a row and no position was given.

    `returns` has for some the model's output and the position of the value in a row, or None; the others are the
    model's output of that name, or its only one.
    """
    have = [column.name for column in plan.spec.outputs]
    picked, columns = [], []
    for output in outputs:
        for name, wanted, place in _find_sources(output, have, returns):
            if wanted not in have:
                raise InputError(
                    f"The model {plan.uri} returns {', '.join(have)}, and the output {name!r} is to be {wanted!r}.",
                    remedy=f"Name the output like one of the model's, or say which in returns={{{name!r}: ...}}.",
                )
            column = plan.spec.outputs[have.index(wanted)]
            if output.kind == "number":
                _require_one_value(plan.uri, name, column, place)
            else:
                _require_kind(plan.uri, output, column, place)
            picked.append((have.index(wanted), place))
            columns.append(OutputColumn(name, column.type, column.width if place is None else None))
    names = [column.name for column in columns]
    options = {**plan.spec.options, **_logged_options(plan.spec, columns, picked), PICKED: picked}
    spec = replace(plan.spec, outputs=tuple(columns), shape=_shape(columns), options=options)
    return replace(plan, spec=replace(spec, checksum=_checksum(plan.spec.checksum.encode(), names, picked)))


def _logged_options(
    spec: KernelSpec, columns: Sequence[OutputColumn], picked: Sequence[tuple[int, int | None]]
) -> dict[str, Any]:
    """Logged specifications of a model that was trained here: of its own outputs, and of those picked, by new name."""
    if OUTPUTS not in spec.options:
        return {}
    own = [
        None if output is None else asdict(output)
        for output in own_outputs([*map(read_output, spec.options[OUTPUTS])], spec)
    ]
    named = [
        {**output, "name": column.name}
        for column, (position, place) in zip(columns, picked, strict=True)
        if place is None and (output := own[position]) is not None
    ]
    return {OWN: own, OUTPUTS: named}


def _find_sources(
    output: OutputSpec, have: Sequence[str], returns: Mapping[str, tuple[str, int | None]]
) -> list[tuple[str, str, int | None]]:
    """Columns of an output: the name that each will have, the model's output, and the position in a row or None."""
    name, shares = output.name, probabilities_column(output.name)
    if name in returns:
        return [(name, *returns[name])]
    if output.kind == "quantiles" and name not in have and set(output.columns) <= set(have):
        return [(column, column, None) for column in output.columns]
    if output.kind == "classes" and output.top != 0 and shares in have:
        return [(name, shares, None)]
    return [(name, name if name in have or len(have) > 1 else have[0], None)]


def _require_kind(uri: str, output: OutputSpec, column: OutputColumn, place: int | None) -> None:
    floats = column.type in ("float", "double")
    several = column.width is not None and place is None
    fits = {
        "quantiles": floats and (several or column.name in output.columns),
        "vector": floats and several,
        "classes": (floats and several) if output.top != 0 else (several == floats and column.type != "boolean"),
        "text": column.type == "string" and not several,
        "boolean": column.type == "boolean" and not several,
        "structs": column.type.startswith("struct<") and several,
    }
    if not fits[output.kind]:
        raise InputError(
            f"The model {uri} returns {column.ddl} as {column.name!r}, and the output {output.name!r} is of "
            f"{output.kind}.",
            remedy=_REMEDIES.get(output.kind, "Declare it as what the model returns."),
        )
    width = column.width if place is None and output.is_array else None
    if width is not None and width > 0 and output.values not in (None, 0, width):
        raise InputError(
            f"The model {uri} returns {width} values a row of {column.name!r}, and the output {output.name!r} "
            f"has {output.values}.",
            remedy="Declare as many as the model returns, in its order.",
        )


_REMEDIES = {
    "classes": "The model returns a probability for each class, as a list; or declare that there are no probabilities: "
    "Classes(probabilities=0).",
    "quantiles": "The model returns a number for each level, as a list or as columns of the quantiles' names.",
}


def _require_one_value(uri: str, name: str, column: OutputColumn, place: int | None) -> None:
    width = column.width
    if width is not None and place is None:
        several = f"{width} values" if width > 0 else "a list of values"
        raise InputError(
            f"The model {uri} returns {several} a row of {column.name!r}, and the output {name!r} is one number.",
            remedy=f"Say which one, from 0, such as returns={{{name!r}: '{column.name}[1]'}}.",
        )
    if place is not None and (width is None or 0 < width <= place):
        raise InputError(
            f"The model {uri} returns {width or 1} values a row of {column.name!r}: there is no [{place}].",
            remedy="Places count from 0.",
        )
    if column.type not in ("boolean", "int", "bigint", "float", "double"):
        raise InputError(
            f"The model {uri} returns {column.type} as {column.name!r}, and the output {name!r} is a number.",
            remedy="Log the model with a signature that returns numbers, such as probabilities.",
        )


def _shape(columns: Sequence[OutputColumn]) -> Literal["scalar", "struct"]:
    return "scalar" if len(columns) == 1 else "struct"


def _checksum(content: bytes, *more: object) -> str:
    return hashlib.sha256(content + json.dumps(more).encode()).hexdigest()[:20]


_NUMBERS = ("boolean", "int", "bigint", "float", "double")


def plan_model(settings: Settings, pipeline: Trainable, model: ModelVersion) -> ScoringPlan:
    """The scoring plan of a model version; InputError if it does not fit the declared features or outputs, CheckError
    if its files are not those that were registered, others as `plan_scoring`."""
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
    if CHECKSUMS_TAG in model.tags:
        return verified_folder(settings, model)
    is_registered = model.uri.startswith("models:/")
    if is_registered and (folder := find_model_folder(settings, model.name, model.version)) is not None:
        return folder
    from mlflow.exceptions import MlflowException

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
