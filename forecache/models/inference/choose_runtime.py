"""Choice of the runtime that scores a model: the rule, the bytes for workers, and the plan that a run records.

The rule, in order, if every input is a number:
1. `onnx`: the model has an ONNX flavour whose graph takes one matrix [rows, features] or one tensor a column, and
   returns plain tensors, as many as the signature names.
2. `lightgbm`, `xgboost`: a Booster saved in its library's own format; XGBoost's with the signature's columns in order.
3. `sklearn`: a scikit-learn estimator that Forecache trained and saved with skops, of types known to be safe.
4. `skops`: a scikit-learn estimator that others saved with skops, of such types, if pickles are not allowed.
5. `torch`: a torch flavour saved as an exported program (pt2) with one matrix as input.
6. `pyfunc`: everything else, also if columns may be left out, and every model that is given a `model_config`, which
   only `mlflow.pyfunc` understands.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forecache.base.errors import NotFoundError, SettingsError
from forecache.base.output_kinds import OutputSpec
from forecache.models.inference.encoding import ENCODING, find_encoding
from forecache.models.inference.environment import compare_environment, deciding_versions, describe_model
from forecache.models.inference.kernel_spec import KERNEL_VERSION, OUTPUTS, ScoringPlan
from forecache.models.inference.known_runtimes import find_runtimes
from forecache.models.inference.runtimes.runtime import PackedModel, Runtime, StoredModel
from forecache.models.inference.signature import read_signature, resolve_result

if TYPE_CHECKING:
    from pyspark.sql.types import DataType


def plan_scoring(
    model_uri: str,
    *,
    result_type: "str | DataType | None" = None,
    model_config: Mapping[str, Any] | None = None,
    runtime: str = "auto",
    outputs: Sequence[OutputSpec] = (),
) -> ScoringPlan:
    """Resolve a model URI, choose its runtime, and check that its result and its environment fit.

    Args:
        runtime: "auto" chooses by the rule above; a name requires that runtime.
        outputs: Outputs whose bounds replace those that Forecache logged the model with; a model that was logged by
            others has none.

    Raises:
        NotFoundError: The URI leads to no model.
        SettingsError: The result type does not fit the signature, or the runtime asked for cannot run this model.
        InputError: A package that decides what the model computes is missing, or installed in another major version.
        CheckError: A registered model does not match its checksums.
    """
    path = _local_path(model_uri)
    described = describe_model(path)
    signature = read_signature(described.inputs, described.outputs)
    returned, shape = resolve_result(signature.outputs, result_type)
    model = StoredModel(path, described.flavours, described.metadata, signature, returned)
    chosen, packed, reason = _choose(model, runtime, with_config=model_config is not None)
    warnings = compare_environment(path, chosen.packages)
    logged = {OUTPUTS: _with_declared_bounds(outputs, model.metadata[OUTPUTS])} if OUTPUTS in model.metadata else {}
    spec = replace(packed.spec, shape=shape, outputs=returned, options={**packed.spec.options, **logged})
    encoding = find_encoding(described.metadata)
    if encoding is not None:
        spec = replace(
            spec,
            inputs=encoding.names,
            input_types=(),
            width=None,
            dtype="float32",
            options={**spec.options, ENCODING: described.metadata[ENCODING]},
        )
    digest = hashlib.sha256(packed.payload)
    digest.update(json.dumps([KERNEL_VERSION, repr(spec), model_config], sort_keys=True).encode())
    packages = deciding_versions(path, chosen)
    spec = replace(spec, model_config=model_config, packages=packages, checksum=digest.hexdigest()[:20])
    return ScoringPlan(model_uri, spec, packed.payload, reason, warnings)


def _with_declared_bounds(declared: Sequence[OutputSpec], logged: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The outputs of a model's metadata with the declared bounds; a single one may have another name."""
    limits = {output.name: {"minimum": output.minimum, "maximum": output.maximum} for output in declared}
    only = next(iter(limits.values())) if len(declared) == len(logged) == 1 else {}
    return [{**output, **limits.get(output["name"], only)} for output in logged]


def _local_path(model_uri: str) -> Path:
    if "://" not in model_uri and not model_uri.startswith(("models:", "runs:")) and Path(model_uri).is_dir():
        return Path(model_uri)
    from mlflow.exceptions import MlflowException

    from forecache.models.tracking.artifacts import download_from_mlflow, refuse_changed_download

    try:
        path = download_from_mlflow(artifact_uri=model_uri)
        if model_uri.startswith("models:/"):
            refuse_changed_download(path, model_uri)
    except (MlflowException, OSError) as error:
        raise NotFoundError(
            f"The model {model_uri!r} cannot be read: {str(error).splitlines()[0]}.",
            remedy="Give models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN/NAME or a model's folder.",
        ) from None
    return path


def _choose(model: StoredModel, wanted: str, *, with_config: bool) -> tuple[Runtime, PackedModel, str]:
    """The first runtime that can run the model, or the one asked for; the packed model, and the reason."""
    runtimes = find_runtimes()
    if wanted not in ("auto", *runtimes):
        raise SettingsError(f"There is no runtime {wanted!r}.", remedy=f"The runtimes are auto, {', '.join(runtimes)}.")
    refusals: dict[str, str] = {}
    for name, runtime in runtimes.items():
        if wanted not in ("auto", name):
            continue
        packed = _refusal(runtime, model, with_config) or runtime.pack(model)
        if isinstance(packed, PackedModel):
            others = "; ".join(f"{other}: it {why}" for other, why in refusals.items())
            return runtime, packed, f"{name}: {packed.reason}" if packed.reason else f"{name} ({others or 'asked for'})"
        refusals[name] = packed
    name, why = refusals.popitem()
    raise SettingsError(f"The runtime {name!r} cannot score this model: it {why}.", remedy="Use runtime='auto'.")


def _refusal(runtime: Runtime, model: StoredModel, with_config: bool) -> str:
    """The reason why a runtime cannot run a model regardless of the model's files; "" if there is none."""
    if ENCODING in model.metadata:
        # The other columns of its signature are those of the matrix.
        if runtime.generic or with_config:
            return "has features that only the runtime of its own library encodes"
    elif not runtime.generic:
        if with_config:
            return "was given a model_config"
        if not model.signature.is_numeric:
            return "has no signature of numbers only"
        if model.signature.optional:
            return "has columns that may be left out"
    return "" if runtime.flavour in model.flavours else "has no such flavour"
