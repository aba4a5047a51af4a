"""Which runtime scores a model, and why: the rule, the bytes that workers get, the plan that a run records.

The rule, in order, where every input is a number:
1. `onnx`: the model has an ONNX flavour whose graph takes one matrix [rows, features] or one tensor a column, and
   returns plain tensors, as many as the signature names.
2. `lightgbm`, `xgboost`: a Booster saved in its library's own format; XGBoost's with the signature's columns in order.
3. `sklearn`: a scikit-learn estimator that Forecache trained and saved with skops, of types known to be safe.
4. `torch`: a torch flavour saved as an exported program (pt2) with one matrix as input.
5. `pyfunc`: everything else, also where columns may be left out, and every model that is given a `model_config`,
   which only `mlflow.pyfunc` understands.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from forecache.errors import NotFoundError, SettingsError
from forecache.inference.description import ModelDescription, describe_model
from forecache.inference.environment import compare_environment, deciding_versions
from forecache.inference.kernel_spec import KERNEL_VERSION, EngineName, KernelSpec, OutputColumn, pickle_allowed
from forecache.inference.runtimes.builders import BUILDERS, archive, new_spec
from forecache.inference.runtimes.estimators import BOUNDS
from forecache.inference.runtimes.exported import refuse_code
from forecache.inference.signature import Signature, read_signature, resolve_result

if TYPE_CHECKING:
    from pyspark.sql.types import DataType

EngineChoice = Literal["auto", "onnx", "lightgbm", "xgboost", "sklearn", "torch", "pyfunc"]


@dataclass(frozen=True)
class Plan:
    """How a model will be scored; `metadata()` is what a run records.

    Attributes:
        payload: What workers load: the model's file, or the model's folder as a zip archive.
        reason: Why this engine.
        warnings: Differences between the model's environment and this one that do not stop the run.
    """

    uri: str
    spec: KernelSpec
    payload: bytes = field(repr=False)
    reason: str
    warnings: tuple[str, ...] = ()

    def metadata(self) -> dict[str, Any]:
        return {
            "model_uri": self.uri,
            "engine": self.spec.engine,
            "reason": self.reason,
            "returns": [f"{column.name}: {column.ddl}" for column in self.spec.outputs],
            "model_bytes": len(self.payload),
            "checksum": self.spec.checksum,
            "packages": dict(self.spec.packages),
            "warnings": list(self.warnings),
        }


def plan_scoring(
    model_uri: str,
    *,
    result_type: "str | DataType | None" = None,
    model_config: Mapping[str, Any] | None = None,
    engine: EngineChoice = "auto",
    bounds: Sequence[float | None] | None = None,
) -> Plan:
    """Resolve a model URI, choose its engine, and prove that its result and its environment fit.

    Args:
        bounds: Smallest and largest output, in place of those that Forecache logged the model with; a model that was
            logged by others has none.

    Raises:
        NotFoundError: The URI leads to no model.
        SettingsError: The result type does not fit the signature, or the engine asked for cannot run this model.
        InputError: The model needs another version of its inference package than the one installed.
        CheckError: A registered model does not match its checksums.
    """
    path = _local_path(model_uri)
    model = describe_model(path)
    signature = read_signature(model.inputs, model.outputs)
    outputs, shape = resolve_result(signature.outputs, result_type)
    chosen, reason, spec, payload = _choose(path, model, signature, outputs, model_config, engine, bounds)
    warnings = compare_environment(path, chosen)
    spec = replace(spec, shape=shape, outputs=outputs)
    digest = hashlib.sha256(payload)
    digest.update(json.dumps([KERNEL_VERSION, repr(spec), model_config], sort_keys=True).encode())
    packages = deciding_versions(path, chosen)
    spec = replace(spec, model_config=model_config, packages=packages, checksum=digest.hexdigest()[:20])
    return Plan(model_uri, spec, payload, reason, warnings)


def _local_path(model_uri: str) -> Path:
    if "://" not in model_uri and not model_uri.startswith(("models:", "runs:")) and Path(model_uri).is_dir():
        return Path(model_uri)
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    from forecache.tracking.artifacts import refuse_changed

    try:
        path = Path(download_artifacts(artifact_uri=model_uri))
        if model_uri.startswith("models:/"):
            refuse_changed(path, model_uri)
    except (MlflowException, OSError) as error:
        raise NotFoundError(
            f"The model {model_uri!r} cannot be read: {str(error).splitlines()[0]}.",
            remedy="Give models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN/NAME or a model's folder.",
        ) from None
    return path


def _choose(
    path: Path,
    model: ModelDescription,
    signature: Signature,
    outputs: tuple[OutputColumn, ...],
    model_config: Mapping[str, Any] | None,
    engine: EngineChoice,
    bounds: Sequence[float | None] | None,
) -> tuple[EngineName, str, KernelSpec, bytes]:
    if engine not in get_args(EngineChoice):
        raise SettingsError(
            f"There is no engine {engine!r}.", remedy=f"The engines are {', '.join(get_args(EngineChoice))}."
        )
    refusals: dict[str, str] = {}
    limits = {BOUNDS: list(bounds or model.metadata[BOUNDS])} if BOUNDS in model.metadata else {}
    for name, build in BUILDERS.items():
        if engine not in ("auto", name):
            continue
        refusal = _refusal(signature, model_config)
        if not refusal and _flavour(name) not in model.flavours:
            refusal = "has no such flavour"
        if not refusal and name == "sklearn" and not limits:
            refusal = "was not trained by Forecache"
        if not refusal:
            built = build(path, model.flavours[_flavour(name)], signature, outputs)
            if not isinstance(built, str):
                spec = replace(built[0], options={**built[0].options, **limits})
                return spec.engine, f"{name}: {built[2]}", spec, built[1]
            refusal = built
        refusals[name] = refusal
    if engine not in ("auto", "pyfunc"):
        raise SettingsError(
            f"The engine {engine!r} cannot score this model: it {refusals[engine]}.",
            remedy="Use engine='auto'.",
        )
    # The workers' own environment was fixed when the JVM started; what counts is what holds here and now.
    if not pickle_allowed():
        for program in path.rglob("*.pt2"):  # whose sizes and guards MLflow evaluates all the same
            refuse_code(program.read_bytes())
    options = {"tensor": signature.tensor is not None, "allow_pickle": str(pickle_allowed()).lower(), **limits}
    spec = new_spec("pyfunc", signature, signature.tensor or "float32", options)
    told = "; ".join(f"{name}: it {why}" for name, why in refusals.items()) or "asked for"
    return "pyfunc", f"pyfunc ({told})", spec, archive(path)


def _flavour(engine: str) -> str:
    return "pytorch" if engine == "torch" else engine


def _refusal(signature: Signature, model_config: Mapping[str, Any] | None) -> str:
    if model_config is not None:
        return "was given a model_config"
    if not signature.is_numeric:
        return "has no signature of numbers only"
    if signature.optional:
        return "has columns that may be left out"
    return ""
