"""What all sections score: a feature table with 20 float columns, the churn network, a LightGBM model of 200 trees."""

import json
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from scoring_support import (  # noqa: E402
    NIGHT,
    column_signature,
    features_table,
    make_pipeline,
    network,
    quiet,
    register_model,
    save_onnx,
    write_features,
)

from forecache.base.settings import Settings, load_settings  # noqa: E402

FILES = 16
PIPELINE = make_pipeline(20)
NAMES = list(PIPELINE.feature_names)


def settings_of(home: Path, *, cores: int = 2, jvm: Literal["auto", "long"] = "long") -> Settings:
    """The same session for every contender; a first run has what `auto` gives it, many runs in a session a long one."""
    return load_settings(
        home=home,
        spark_master=f"local[{cores}]",
        spark_driver_memory="3g",
        spark_jvm=jvm,
        code_version="benchmark",
    )


def prepare(home: Path, rows: int) -> Settings:
    """A home with `rows` entities in 16 files and the network as champion; made once and kept."""
    settings = settings_of(home)
    done = home / "prepared"
    if not done.exists():
        size = rows // FILES
        write_features(settings, PIPELINE, [features_table(size, seed=i, first=i * size) for i in range(FILES)])
        register_model(settings, PIPELINE)
        done.write_text(json.dumps({"rows": size * FILES}))
    return settings


def network_model(home: Path) -> str:
    folder = home / "network"
    if not folder.exists():
        save_onnx(folder, network(20), column_signature(NAMES, {"probability": "float"}))
    return str(folder)


def network_for_mlflow(home: Path, *, threads: int, layout: str) -> str:
    """The same network as a peer would save it: with a number of threads a session (0: ONNX Runtime's default), taking
    columns or one array."""
    folder = home / f"network-{layout}-{threads}"
    if not folder.exists():
        import mlflow.onnx
        import onnx
        from mlflow.models import ModelSignature
        from mlflow.types.schema import Schema, TensorSpec

        quiet()
        signature: Any = column_signature(NAMES, {"probability": "float"})
        if layout == "array":
            takes = TensorSpec(np.dtype("float32"), (-1, len(NAMES)), "x")
            signature = ModelSignature(
                Schema([takes]), Schema([TensorSpec(np.dtype("float32"), (-1, 1), "probability")])
            )
        options = {"intra_op_num_threads": threads, "inter_op_num_threads": threads} if threads else None
        mlflow.onnx.save_model(
            onnx.load_from_string(network(20)),
            str(folder),
            signature=signature,
            onnx_session_options=options,
            pip_requirements=["onnxruntime"],
        )
    return str(folder)


def tree_model(home: Path, *, threads: int = 2) -> str:
    """A LightGBM Booster of 200 trees with 31 leaves."""
    folder = home / f"trees-{threads}"
    if not folder.exists():
        import lightgbm
        import mlflow.lightgbm

        quiet()
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((50_000, 20)).astype(np.float32)
        label = (rows[:, 0] + rows[:, 1] * rows[:, 2] + rng.normal(size=len(rows)) > 0).astype(int)
        parameters: dict[str, Any] = {"objective": "binary", "num_leaves": 31, "verbose": -1, "num_threads": threads}
        booster = lightgbm.train(parameters, lightgbm.Dataset(rows, label=label), num_boost_round=200)
        signature = column_signature(NAMES, {"probability": "double"})
        mlflow.lightgbm.save_model(booster, str(folder), signature=signature, pip_requirements=["lightgbm"])
    return str(folder)


__all__ = [
    "FILES",
    "NAMES",
    "NIGHT",
    "PIPELINE",
    "network",
    "network_for_mlflow",
    "network_model",
    "prepare",
    "settings_of",
    "tree_model",
]
