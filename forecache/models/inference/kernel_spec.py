"""Specification of a model for workers, beside its bytes, and the Arrow types of its predictions."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from forecache.base.output_kinds import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa

# pyarrow is imported inside the functions that need types: a replica without it pulls and verifies releases.

ALLOW_PICKLE = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
"""MLflow's own switch, which Forecache takes as off if it is not set."""

OUTPUTS = "forecache_outputs"
"""In the metadata of a model that was trained here, and in a kernel's options: its outputs, each as a `dict` of
`forecache.base.output_kinds.OutputSpec`. They hold the bounds that values are clipped to, and the classes in order."""

PICKED = "forecache_picked"
"""In a kernel's options: for each output, its position among the model's, and which value of a row, or None."""

OWN = "forecache_own"
"""Beside `PICKED`, of a model that was trained here: for each output that the model itself returns, its entry of
`OUTPUTS`, or None."""

CLASSES = "forecache_classes"
"""In a kernel's options: the classes of a third-party estimator's probabilities, in order."""

# Increase it if a change of this code can change a prediction: all is then scored again.
KERNEL_VERSION = 6


def pickle_allowed() -> bool:
    """True if a model may be loaded that runs code of its file."""
    return os.environ.get(ALLOW_PICKLE, "false").lower() in ("true", "1")


@dataclass(frozen=True)
class OutputColumn:
    """An output of a model: `type` is a Spark type name or a struct of such, `width` None for one value a row, else how
    many, or -1."""

    name: str
    type: str
    width: int | None = None

    @property
    def ddl(self) -> str:
        return f"array<{self.type}>" if self.width is not None else self.type


@dataclass(frozen=True)
class KernelSpec:
    """A model's specification for workers; it is small, because every task carries it.

    Attributes:
        shape: "scalar" (one output), "array" (one output of several values) or "struct".
        input_types: Spark type names of the inputs, "array" for arrays of any type; empty if they have no names.
        packages: Versions of the packages that decide about a value; a worker with others does not score.
    """

    runtime: str  # name of the library that runs the model, as in `forecache.models.inference.kernel`
    checksum: str  # of the model's content, its configuration and the runtime: the key of the process's cache
    inputs: tuple[str, ...]  # input names of the signature, in order; empty if it has none (a tensor)
    width: int | None  # number of features, if known
    dtype: str  # numpy dtype of the matrix that the model takes
    outputs: tuple[OutputColumn, ...]  # columns that the UDF returns, in order
    shape: Literal["scalar", "array", "struct"]
    options: Mapping[str, Any] = field(default_factory=dict)  # of the runtime, such as the names of the ONNX outputs
    model_config: Mapping[str, Any] | None = None  # as for `mlflow.pyfunc.load_model`
    input_types: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # inputs that a struct may lack
    packages: Mapping[str, str] = field(default_factory=dict)
    time_zone: str = "UTC"  # zone of a model's timestamps without one


def returned_type(spec: KernelSpec) -> "pa.DataType":
    import pyarrow as pa

    types = [pa.list_(value_type(c.type)) if c.width is not None else value_type(c.type) for c in spec.outputs]
    if spec.shape != "struct":
        return types[0]
    return pa.struct([pa.field(c.name, kind) for c, kind in zip(spec.outputs, types, strict=True)])


def value_type(name: str) -> "pa.DataType":
    """The Arrow type of a value by its Spark type, such as "double" or "struct<item:string,score:double>"."""
    import pyarrow as pa

    if not name.startswith("struct<"):
        return arrow_type(name)
    fields = (field.rsplit(":", 1) for field in name.removeprefix("struct<").removesuffix(">").split(","))
    return pa.struct([(field, arrow_type(kind)) for field, kind in fields])


@dataclass(frozen=True)
class ScoringPlan:
    """Plan for scoring a model; a run records its `metadata()`. Workers load `payload`: the model's file, or its folder
    as zip."""

    uri: str
    spec: KernelSpec
    payload: bytes = field(repr=False)
    reason: str  # reason for this runtime
    warnings: tuple[str, ...] = ()  # differences between the model's environment and this one that do not stop the run

    def metadata(self) -> dict[str, Any]:
        return {
            "model_uri": self.uri,
            "runtime": self.spec.runtime,
            "reason": self.reason,
            "returns": [f"{column.name}: {column.ddl}" for column in self.spec.outputs],
            "model_bytes": len(self.payload),
            "checksum": self.spec.checksum,
            "packages": dict(self.spec.packages),
            "warnings": list(self.warnings),
        }
