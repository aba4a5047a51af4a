"""Training results without training: a linear model with the given weights as ONNX, in a run's folder."""

import hashlib
import json
from datetime import date
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.models.tracking.runs import open_training_run
from forecache.models.training import spec as files

NIGHT = date(2024, 8, 1)
GOOD = (-0.03, 0.0, 0.8, 0.7, 0.0)
SLIGHTLY_WORSE = (-0.03, 0.0, 0.8, 0.7, 0.8)
USELESS = (0.0, 0.0, 0.0, 0.0, 1.0)


def write_onnx(path: Path, pipeline: Trainable, weights: tuple[float, ...]) -> None:
    """`sigmoid(features @ weights - 2)` for a binary label, without the sigmoid for a regression; NaN counts as 0."""
    tensors = {
        "weights": np.array(weights, np.float32).reshape(-1, 1),
        "zero": np.zeros(1, np.float32),
        "bias": np.array([-2.0], np.float32),
    }
    binary = pipeline.label.kind == "binary"
    nodes = [
        helper.make_node("IsNaN", ["features"], ["unknown"]),
        helper.make_node("Where", ["unknown", "zero", "features"], ["known"]),
        helper.make_node("MatMul", ["known", "weights"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Sigmoid" if binary else "Relu", ["sum"], [pipeline.main_output.name]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", len(weights)])],
        [helper.make_tensor_value_info(pipeline.main_output.name, TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)


def made_up_training(
    settings: Settings, pipeline: Trainable, weights: tuple[float, ...], *, training_version: int
) -> StageResult:
    """What `train` returns, for a linear model with these weights."""
    digest = hashlib.sha256(repr(weights).encode()).hexdigest()
    folder = settings.training_path / pipeline.name / digest[:16]
    folder.mkdir(parents=True, exist_ok=True)
    write_onnx(folder / files.ONNX_FILE, pipeline, weights)
    (folder / files.TORCH_FILE).write_bytes(b"not read by these tests")
    for name in (files.SPEC_FILE, files.RESULT_FILE, files.METRICS_FILE):
        (folder / name).write_text(json.dumps({}))
    history = [
        {"epoch": epoch, "step": 10 * (epoch + 1), "train_loss": 1 / (epoch + 1), "validation_loss": 1.1 / (epoch + 1)}
        for epoch in range(3)
    ]
    with open_training_run(settings, pipeline, folder, night=NIGHT.isoformat()) as run:
        run.finish(history)
    details = {
        "run_dir": str(folder),
        "mlflow_run_id": run.id,
        "training_table": pipeline.training_table,
        "training_version": training_version,
        "as_of": NIGHT.isoformat(),
        "seed": 7,
        "inputs": f"made up {digest}",
        "weights_digest": digest,
        "history": history,
        "epochs": 3,
        "best_epoch": 2,
        "workers": 2,
        "device": "cpu",
        "cost": {"attempts": 2, "device_s": 80.0, "wasted_s": 12.0, "steps_repeated": 9, "saving": 0.6},
        "usage": {"stall_share": 0.02, "peak_memory_bytes": 1 << 30},
        "advice": ["A worker used at most 1.0 GiB of memory; 1.5 GiB per worker is enough."],
    }
    return StageResult(
        "train", pipeline.name, 3000, 1.0, (NIGHT,), pipeline.training_table, training_version, details=details
    )
