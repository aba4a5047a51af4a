"""A home whose views of the last night are published and whose model is released: a week of payments through the lake.

Usage: python -m _stream.prepare HOME CUSTOMERS TERMINALS PAYMENTS_A_DAY
"""

import sys
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyarrow import csv

from _stream.services import PROJECTS
from _stream.traffic import Traffic

if str(PROJECTS) not in sys.path:
    sys.path.insert(0, str(PROJECTS))

from bench_scored.pipelines import scored

from forecache.base.settings import Settings, load_settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_DAYS = 7
_FIRST = 10**12
"""Number of the first payment of the history, above all of a benchmark's."""


def last_night() -> date:
    return datetime.now(timezone.utc).date() - timedelta(days=1)


def history(day: date, place: int, *, customers: int, terminals: int, payments: int) -> Traffic:
    """Payments of a whole day."""
    begin = datetime.combine(day, datetime.min.time(), timezone.utc)
    return Traffic(
        begin_us=int(begin.timestamp() * 1e6), rate=payments / 86_400, count=payments,
        first=_FIRST + place * payments, customers=customers, terminals=terminals,
    )  # fmt: skip


def land(settings: Settings, traffic: Traffic, day: date) -> None:
    """The day's landing file."""
    numbers = traffic.numbers
    columns = {
        "transaction_id": numbers,
        "customer_id": traffic.customer_of(numbers),
        "terminal_id": traffic.terminal_of(numbers),
        "at": np.datetime_as_string(traffic.due_us(numbers).astype("datetime64[us]"), timezone="UTC"),
        "amount": traffic.amount_of(numbers).astype(np.float64),
        "channel": pa.nulls(len(numbers), pa.string()),
    }
    folder = Path(settings.landing_uri) / scored.payments_source.name
    folder.mkdir(parents=True, exist_ok=True)
    csv.write_csv(pa.table(columns), folder / f"{day}.csv")


def prepare(
    spark: "SparkSession", settings: Settings, *, customers: int, terminals: int, payments: int, days: int = _DAYS
) -> None:
    """Land and ingest days of payments up to yesterday, build and publish the views, and release the model."""
    from forecache.lake.features import build_view
    from forecache.lake.ingest.ingest import ingest
    from forecache.operations.release import release_model
    from forecache.serve.store import publish

    night = last_night()
    for place in range(days):
        day = night - timedelta(days=days - 1 - place)
        land(settings, history(day, place, customers=customers, terminals=terminals, payments=payments), day)
    ingest(settings, scored.payments_source)
    for view in (scored.customer, scored.terminal):
        build_view(settings, view, [night])
        publish(settings, view, night=night)
    register(settings)
    release_model(settings, scored.fraud)


def register(settings: Settings) -> None:
    """Register a small network as the champion, as a team does that trains elsewhere."""
    import mlflow
    import mlflow.onnx
    from _realtime import case
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    from forecache.models.tracking.client import connect_mlflow

    client = connect_mlflow(settings)
    inputs = Schema([ColSpec(DataType.float, feature) for feature in scored.FEATURES])
    signature = ModelSignature(inputs, Schema([ColSpec(DataType.float, "score")]))
    graph = case.network(np.random.default_rng(0), len(scored.FEATURES))
    # Not `set_experiment`, which the process would go on with: a test prepares a home beside others.
    with mlflow.start_run(experiment_id=client.create_experiment("bench")):
        logged = mlflow.onnx.log_model(graph, name="fraud", signature=signature, pip_requirements=["onnxruntime"])
    version = mlflow.register_model(logged.model_uri, "fraud").version
    client.set_registered_model_alias("fraud", "champion", version)


if __name__ == "__main__":
    from forecache.kit.spark.session import spark_session, stop_spark

    home = load_settings(home=Path(sys.argv[1]), project="bench_scored", spark_master="local[2]")
    try:
        prepare(
            spark_session(home), home, customers=int(sys.argv[2]), terminals=int(sys.argv[3]), payments=int(sys.argv[4])
        )
    finally:
        stop_spark()
