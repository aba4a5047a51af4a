"""A pipeline, feature partitions and registered ONNX models, made up: what scoring needs and nothing before it."""

import atexit
import dataclasses
import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from forecache.base.settings import Settings, load_settings
from forecache.declare import (
    Baseline,
    Column,
    Feature,
    Features,
    Gate,
    Label,
    Output,
    Pipeline,
    Segment,
    Source,
    TorchModel,
)
from forecache.lake.ledger import StageRecord, append_records
from forecache.models.registry.model_versions import CHAMPION, ModelVersion, model_version
from forecache.models.tracking.artifacts import CHECKSUMS_TAG, file_checksums
from forecache.models.tracking.client import connect_mlflow

NIGHT = date(2024, 6, 30)


def _unused(*arguments: object) -> None:
    raise AssertionError("scoring computes no features, labels or networks")


def make_pipeline(num_features: int = 20) -> Pipeline:
    source = Source("visits", (Column("user_id", "string"), Column("day", "date")), "day", start=date(2024, 1, 1))
    return Pipeline(
        name="demo",
        key=("user_id",),
        sources=(source,),
        features=Features(compute=_unused, columns=tuple(Feature(f"f{i}") for i in range(num_features))),
        label=Label("bought", "binary", 30, _unused),
        model=TorchModel(_unused),
        outputs=(Output("probability", minimum=0.0, maximum=1.0),),
        segments=(Segment("band", "probability", (0.3, 0.7), ("low", "medium", "high")),),
        gate=Gate("roc_auc", {}, Baseline("f0")),
    )


def features_table(
    rows: int, *, num_features: int = 20, seed: int = 0, night: date = NIGHT, first: int = 0
) -> pa.Table:
    """Keys in a fixed order, float32 features, one value in a hundred unknown in the first column."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((num_features, rows), dtype=np.float32)
    columns = {f"f{i}": pa.array(values[i]) for i in range(num_features)}
    if rows:
        columns["f0"] = pa.array(values[0], mask=rng.random(rows) < 0.01)
    keys = pa.array([f"u{i:08d}" for i in range(first, first + rows)])
    return pa.table({"user_id": keys, "as_of": pa.array([night] * rows, pa.date32()), **columns})


def write_features(
    settings: Settings, pipeline: Pipeline, tables: Sequence[pa.Table], *, night: date = NIGHT, replace: bool = True
) -> int:
    """Replace a night's feature partition by one file for each table, and enter it in the ledger."""
    uri = settings.table_uri(pipeline.feature_table)
    for position, table in enumerate(tables):
        exists = DeltaTable.is_deltatable(uri)
        write_deltalake(
            uri,
            table,
            mode="overwrite" if replace and not position and exists else "append",
            predicate=f"as_of = '{night}'" if replace and not position and exists else None,
            partition_by=["as_of"],
            configuration={"delta.enableChangeDataFeed": "true"},
        )
    return enter_features(settings, pipeline, rows=sum(table.num_rows for table in tables), night=night)


def enter_features(settings: Settings, pipeline: Pipeline, *, rows: int, night: date = NIGHT) -> int:
    version = DeltaTable(settings.table_uri(pipeline.feature_table)).version()
    append_records(settings, [StageRecord("features", pipeline.name, night, f"v{version}", "", version, rows, 0.0)])
    return version


def network(
    num_features: int = 20,
    *,
    hidden: Sequence[int] = (64, 32),
    seed: int = 0,
    output: str = "probability",
    scale: float = 0.3,
) -> bytes:
    """A float32 network that imputes nulls with 0 and ends in a sigmoid, as an ONNX file."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    weights = [numpy_helper.from_array(np.float32(0), "zero")]
    nodes = [helper.make_node("IsNaN", ["x"], ["unknown"]), helper.make_node("Where", ["unknown", "zero", "x"], ["h0"])]
    sizes = [num_features, *hidden, 1]
    for layer, (wide, narrow) in enumerate(zip(sizes, sizes[1:], strict=False)):
        weight = rng.normal(size=(wide, narrow), scale=scale).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        weights.append(numpy_helper.from_array(rng.normal(size=narrow).astype(np.float32), f"b{layer}"))
        nodes.append(helper.make_node("Gemm", [f"h{layer}", f"w{layer}", f"b{layer}"], [f"g{layer}"]))
        last = layer == len(sizes) - 2
        nodes.append(
            helper.make_node("Sigmoid" if last else "Relu", [f"g{layer}"], [output if last else f"h{layer + 1}"])
        )
    takes = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, num_features])]
    returns = [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, 1])]
    graph = helper.make_graph(nodes, "network", takes, returns, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return bytes(model.SerializeToString())


def column_signature(names: Sequence[str], outputs: dict[str, str], *, kind: str = "float") -> object:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    return ModelSignature(
        Schema([ColSpec(kind, name) for name in names]), Schema([ColSpec(t, name) for name, t in outputs.items()])
    )


def save_onnx(folder: Path, model: bytes, signature: object) -> Path:
    import mlflow.onnx
    import onnx

    quiet()
    mlflow.onnx.save_model(
        onnx.load_from_string(model), str(folder), signature=signature, pip_requirements=["onnxruntime"]
    )
    return folder


def register_model(
    settings: Settings, pipeline: Pipeline, *, seed: int = 0, champion: bool = True, folder: Path | None = None
) -> ModelVersion:
    """Register a network, or the MLflow model in a folder, for the pipeline, by default as its champion."""
    import mlflow

    database = Path(settings.mlflow_tracking_uri.removeprefix("sqlite:///"))
    if not database.exists():
        shutil.copytree(_new_database(), database.parent, dirs_exist_ok=True)
    client = connect_mlflow(settings)
    names = list(pipeline.feature_names)
    signature = column_signature(names, {pipeline.main_output.name: "float"})
    if folder is None:
        folder = Path(settings.home_path) / f"model-{pipeline.name}-{len(names)}-{seed}"
        if not folder.exists():
            save_onnx(folder, network(len(names), seed=seed, output=pipeline.main_output.name), signature)
    if not client.search_registered_models(f"name='{pipeline.name}'"):
        client.create_registered_model(pipeline.name)
    tags = {CHECKSUMS_TAG: json.dumps(file_checksums(folder)), "features": json.dumps(names), "gate": "passed"}
    version = client.create_model_version(pipeline.name, str(folder), tags=tags)
    assert mlflow.get_tracking_uri() == settings.mlflow_tracking_uri
    if champion:
        client.set_registered_model_alias(pipeline.name, CHAMPION, version.version)
    return model_version(settings, pipeline, int(version.version))


@lru_cache(maxsize=1)
def _new_database() -> Path:
    """An MLflow database just created, to copy: creating one takes seconds."""
    home = Path(tempfile.mkdtemp(prefix="forecache-mlflow-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    settings = load_settings(home=home)
    connect_mlflow(settings)
    return Path(settings.mlflow_tracking_uri.removeprefix("sqlite:///")).parent


def quiet() -> None:
    for name in ("mlflow", "mlflow.utils.environment", "mlflow.utils.uv_utils"):
        logging.getLogger(name).setLevel(logging.ERROR)


def predictions(settings: Settings, pipeline: Pipeline, *, night: date = NIGHT, table: str = "") -> pa.Table:
    """A night's predictions, by key."""
    found = DeltaTable(settings.table_uri(table or pipeline.prediction_table)).to_pyarrow_table(
        partitions=[("as_of", "=", night.isoformat())]
    )
    return found.sort_by(pipeline.key[0])


def with_output(pipeline: Pipeline, **changes: object) -> Pipeline:
    return dataclasses.replace(pipeline, outputs=(dataclasses.replace(pipeline.main_output, **changes),))
