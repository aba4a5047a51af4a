"""Spark column function of a model, called like `mlflow.pyfunc.spark_udf`; docs/how-to/scoring.md compares the two."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from forecache.base.errors import SettingsError
from forecache.kit.spark.python_worker import unpack_folder
from forecache.models.inference.choose_runtime import plan_scoring
from forecache.models.inference.kernel import score_stream
from forecache.models.inference.kernel_spec import KernelSpec, ScoringPlan

if TYPE_CHECKING:
    from pyspark import Broadcast, SparkContext
    from pyspark.sql import Column, SparkSession
    from pyspark.sql.types import DataType


class ScoringUdf:
    """A column function: `model("features")`, `model(F.struct(...))`, `model("a", "b")`, or `model()`.

    Attributes:
        plan: Metadata of the choice of runtime: runtime, reason, returned columns, checksum, warnings.
        returns: The Spark type of the predictions.
        inputs: The columns that the signature names, in order; empty if it names none.
        shape: "scalar", "array" or "struct".
    """

    def __init__(self, spark: "SparkSession", plan: ScoringPlan) -> None:
        self.inputs = plan.spec.inputs
        self.shape = plan.spec.shape
        self._udf, self.returns = _build(spark, plan)
        self.plan: dict[str, Any] = plan.metadata()

    def __call__(self, *columns: "Column | str") -> "Column":
        """The predictions as a column; SettingsError if the signature does not explain the number of columns.

        Args:
            columns: One array or struct column, or one column for each input of the signature, in its order. None:
                the columns that the signature names.
        """
        if not columns:
            if not self.inputs:
                raise SettingsError(
                    "The model's signature names no columns, so they cannot be left out.",
                    remedy='Pass one array column: model("features").',
                )
            return self._udf(*self.inputs)
        if len(columns) > 1 and self.inputs and len(columns) != len(self.inputs):
            raise SettingsError(
                f"The model takes {len(self.inputs)} columns ({', '.join(self.inputs)}) and got {len(columns)}.",
                remedy="Pass those columns in that order, one struct of them, or one array.",
            )
        return self._udf(*columns)


def scoring_udf(
    spark: "SparkSession",
    model_uri: str,
    *,
    result_type: "str | DataType | None" = None,
    model_config: Mapping[str, Any] | None = None,
    runtime: str = "auto",
) -> ScoringUdf:
    """A model as a Spark column function: `df.withColumn("prediction", model("features"))`.

    The model is read once on the driver and sent to the executors as a broadcast, so that they need neither the
    tracking server nor the driver's disk. Each Python worker loads it once and keeps it for all its tasks, on every
    kind of master, with one thread.

    Args:
        model_uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN/NAME` or a model's folder.
        result_type: Spark type of the predictions, if it is to differ from the signature's.
        model_config: As for `mlflow.pyfunc.load_model`; reaches the model on every kind of master.
        runtime: "auto" chooses by the rule in `forecache.models.inference.choose_runtime`; a name requires it.

    Raises:
        NotFoundError: There is no such model.
        SettingsError: The result type does not fit the model, or the runtime cannot score it.
        InputError: The model needs another major version of its inference package.
    """
    return ScoringUdf(
        spark, plan_scoring(model_uri, result_type=result_type, model_config=model_config, runtime=runtime)
    )


def _build(spark: "SparkSession", plan: ScoringPlan) -> "tuple[Any, DataType]":
    from pyspark.sql.pandas.functions import arrow_udf

    context: SparkContext = spark.sparkContext
    shipped: Broadcast[bytes] = context.broadcast(plan.payload)
    spec = replace(plan.spec, time_zone=str(spark.conf.get("spark.sql.session.timeZone")))
    returns = spark_type(spec)

    # Spark reads the kind of UDF from the hints; with several columns each item is a tuple of arrays all the same.
    def score_batches(iterator: Iterator[pa.Array]) -> Iterator[pa.Array]:
        yield from score_stream(spec, lambda: shipped.value, unpack_folder, iterator)

    return arrow_udf(score_batches, returnType=returns), returns  # type: ignore[call-overload]


def spark_type(spec: KernelSpec) -> "DataType":
    """The Spark type of the predictions."""
    from pyspark.sql.types import StructType

    columns = StructType.fromDDL(", ".join(f"`{column.name}` {column.ddl}" for column in spec.outputs))
    assert isinstance(columns, StructType)
    return columns if spec.shape == "struct" else columns[0].dataType
