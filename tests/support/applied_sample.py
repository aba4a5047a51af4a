"""Pipelines over the features of `scoring_support` whose models are not trained here, and others' models in MLflow."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from scoring_support import _new_database, column_signature, make_pipeline, network, quiet, save_onnx

from forecache.base.settings import Settings
from forecache.declare import Pipeline
from forecache.models.tracking.client import connect_mlflow

NAMES = ["f0", "f1", "f2", "f3"]


def applied(model: Any, **changes: Any) -> Pipeline:
    """The pipeline `demo` with four features and another model."""
    return dataclasses.replace(
        make_pipeline(num_features=4), **{"model": model, "label": None, "gate": None, **changes}
    )


def prepare(settings: Settings) -> None:
    database = Path(settings.mlflow_tracking_uri.removeprefix("sqlite:///"))
    if not database.exists():
        shutil.copytree(_new_database(), database.parent, dirs_exist_ok=True)


def register(settings: Settings, folder: Path, *, name: str = "churn_model", alias: str = "production") -> int:
    """Register a saved model as others do, without tags, and give it the alias; returns its version."""
    prepare(settings)
    client = connect_mlflow(settings)
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(name, str(folder))
    if alias:
        client.set_registered_model_alias(name, alias, version.version)
    return int(version.version)


def onnx_model(folder: Path, *, seed: int = 0, names: list[str] | None = None, kind: str = "float") -> Path:
    """A saved network of the features."""
    taken = NAMES if names is None else names
    signature = column_signature(taken, {"probability": "float"}, kind=kind)
    return save_onnx(folder, network(len(taken), seed=seed), signature)


def sklearn_model(folder: Path, *, format: str = "skops", proba: bool = True, backwards: bool = False) -> Any:
    """A logistic regression after an imputer, saved by MLflow's own flavour; returns the estimator."""
    import mlflow.sklearn
    import pandas as pd
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline as chain

    quiet()
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.standard_normal((400, 4)).astype(np.float32), columns=NAMES)
    label = (frame["f1"] + frame["f2"] + 0.3 * rng.standard_normal(400) > 0).astype(int)
    estimator = chain(SimpleImputer(), LogisticRegression()).fit(frame, 1 - label if backwards else label)
    predicted = estimator.predict_proba(frame) if proba else estimator.predict(frame)
    mlflow.sklearn.save_model(
        estimator,
        str(folder),
        signature=mlflow.models.infer_signature(frame, predicted),
        serialization_format=format,
        **({"skops_trusted_types": ["numpy.dtype"]} if format == "skops" else {}),
        pyfunc_predict_fn="predict_proba" if proba else "predict",
        pip_requirements=["scikit-learn"],
    )
    return estimator
