"""The gate scores a row as the night does, to the bit, whatever library the model is of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scoring_support as sample

from forecache.base.settings import Settings
from forecache.models.registry.gate.examples import open_model, score_features
from forecache.scoring.run import score as score_night

WIDTH, ROWS = 6, 3000
PIPELINE = sample.make_pipeline(WIDTH)
NAMES = list(PIPELINE.feature_names)
OUTPUT = PIPELINE.main_output.name

pytestmark = pytest.mark.slow


def training_rows() -> tuple[np.ndarray, np.ndarray]:
    rows = np.random.default_rng(5).standard_normal((2000, WIDTH), dtype=np.float32)
    return rows, (rows[:, 0] + rows[:, 1] ** 2 > 0.5).astype(np.float32)


def onnx_model(folder: Path) -> None:
    sample.save_onnx(folder, sample.network(WIDTH), sample.column_signature(NAMES, {OUTPUT: "float"}))


def lightgbm_model(folder: Path) -> None:
    import lightgbm
    import mlflow.lightgbm

    data = lightgbm.Dataset(training_rows()[0], label=training_rows()[1])
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, num_boost_round=40)
    mlflow.lightgbm.save_model(booster, str(folder), signature=signature(), **bounded())


def xgboost_model(folder: Path) -> None:
    import mlflow.xgboost
    import xgboost

    data = xgboost.DMatrix(training_rows()[0], label=training_rows()[1], feature_names=NAMES)
    booster = xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 40)
    mlflow.xgboost.save_model(booster, str(folder), model_format="json", signature=signature(), **bounded())


def logistic_regression(folder: Path) -> None:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    save_estimator(make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()), folder)


def random_forest(folder: Path) -> None:
    from sklearn.ensemble import RandomForestRegressor

    save_estimator(RandomForestRegressor(60, max_depth=8, n_jobs=4, random_state=1), folder)


def perceptron(folder: Path) -> None:
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline

    save_estimator(make_pipeline(SimpleImputer(), MLPClassifier((64, 32), max_iter=5, random_state=1)), folder)


def save_estimator(estimator: Any, folder: Path) -> None:
    import mlflow.sklearn

    from forecache.plugins.estimators.skops_files import SAFE_TYPES

    binary = hasattr(estimator, "predict_proba")
    mlflow.sklearn.save_model(
        estimator.fit(*training_rows()),
        str(folder),
        serialization_format="skops",
        skops_trusted_types=list(SAFE_TYPES),
        pyfunc_predict_fn="predict_proba" if binary else "predict",
        signature=signature(),
        **bounded(),
    )


def torch_export(folder: Path) -> None:
    import mlflow.pytorch
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    class Imputed(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return torch.nan_to_num(rows, nan=0.0)

    torch.manual_seed(0)
    layers = [Imputed(), torch.nn.Linear(WIDTH, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1), torch.nn.Sigmoid()]
    kind = np.dtype(np.float32)
    mlflow.pytorch.save_model(
        torch.nn.Sequential(*layers),
        str(folder),
        serialization_format="pt2",
        input_example=training_rows()[0][:4],
        signature=ModelSignature(
            Schema([TensorSpec(kind, (-1, WIDTH), "features")]), Schema([TensorSpec(kind, (-1, 1), OUTPUT)])
        ),
    )


def signature() -> Any:
    return sample.column_signature(NAMES, {OUTPUT: "double"})


def bounded() -> dict[str, Any]:
    return {
        "metadata": {"forecache_outputs": [{"name": OUTPUT, "minimum": 0.02, "maximum": 0.98}]},
        "pip_requirements": [],
    }


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize(
    ("runtime", "save"),
    [
        ("onnx", onnx_model),
        ("lightgbm", lightgbm_model),
        ("xgboost", xgboost_model),
        ("sklearn", logistic_regression),
        ("sklearn", random_forest),
        ("sklearn", perceptron),
        ("torch", torch_export),
    ],
    ids=lambda given: given if isinstance(given, str) else given.__name__,
)
def test_the_gate_scores_a_row_as_the_night_does_to_the_bit(
    runtime: str, save: Callable[[Path], None], settings: Settings, tmp_path: Path
) -> None:
    sample.quiet()
    save(tmp_path / "model")
    rows = sample.features_table(ROWS, num_features=WIDTH)
    assert rows.column("f0").null_count > 10
    sample.write_features(settings, PIPELINE, [rows])
    sample.register_model(settings, PIPELINE, folder=tmp_path / "model")
    done = score_night(settings, PIPELINE, [sample.NIGHT], engine="arrow")
    assert done.details["plan"]["runtime"] == runtime
    night = sample.predictions(settings, PIPELINE).column(OUTPUT).to_numpy(zero_copy_only=False)
    assert len(np.unique(night)) > 20

    features = np.column_stack([rows.column(name).to_numpy(zero_copy_only=False) for name in NAMES])
    model = open_model(tmp_path / "model", PIPELINE.main_output.spec)
    assert model.spec.runtime == runtime
    for size in (1, 7, ROWS):
        few = features[: {1: 60, 7: 700}.get(size, ROWS)]
        parts = [score_features(model, few[first : first + size]) for first in range(0, len(few), size)]
        np.testing.assert_array_equal(np.concatenate(parts), night[: len(few)])
