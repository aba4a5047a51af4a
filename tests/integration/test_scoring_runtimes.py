"""Whatever the runtime, a prediction has the same bits in a batch of any size, so that the size may be calibrated."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from forecache.models.inference.kernel import load_kernel, score_arrays
from forecache.models.inference.kernel_spec import KernelSpec, OutputColumn

WIDTH = 20
ROWS = np.random.default_rng(1).standard_normal((6_000, WIDTH), dtype=np.float32)
LABEL = (ROWS[:, 0] + ROWS[:, 1] ** 2 > 0.5).astype(int)

pytestmark = pytest.mark.slow


def lightgbm_model() -> bytes:
    import lightgbm

    data = lightgbm.Dataset(ROWS, label=LABEL)
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, num_boost_round=30)
    return str(booster.model_to_string()).encode()


def xgboost_model() -> bytes:
    import xgboost

    data = xgboost.DMatrix(ROWS, label=LABEL)
    return bytes(xgboost.train({"objective": "binary:logistic", "nthread": 1}, data, 30).save_raw("json"))


def skops_model(estimator: Any) -> bytes:
    import skops.io

    return bytes(skops.io.dumps(estimator.fit(ROWS, LABEL)))


def logistic_regression() -> bytes:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return skops_model(make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()))


def ridge() -> bytes:
    from sklearn.linear_model import Ridge

    return skops_model(Ridge())


def perceptron() -> bytes:
    from sklearn.neural_network import MLPClassifier

    return skops_model(MLPClassifier((64, 32), max_iter=3, random_state=1))


def boosting() -> bytes:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return skops_model(HistGradientBoostingClassifier(max_iter=20, random_state=1))


def forest() -> bytes:
    from sklearn.ensemble import RandomForestRegressor

    return skops_model(RandomForestRegressor(20, max_depth=8, n_jobs=3, random_state=1))


def torch_export() -> bytes:
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Linear(WIDTH, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1), torch.nn.Sigmoid()]
    network = torch.nn.Sequential(*layers)
    batch = torch.export.Dim("batch", min=1)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(network, (torch.zeros(4, WIDTH),), dynamic_shapes=({0: batch},)), buffer)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize(
    ("runtime", "made"),
    [
        ("lightgbm", lightgbm_model),
        ("xgboost", xgboost_model),
        ("sklearn", logistic_regression),
        ("sklearn", ridge),
        ("sklearn", perceptron),
        ("sklearn", boosting),
        ("sklearn", forest),
        ("torch", torch_export),
    ],
    ids=lambda given: given if isinstance(given, str) else given.__name__,
)
def test_a_prediction_has_the_same_bits_whatever_the_batch(runtime: Any, made: Callable[[], bytes]) -> None:
    output = OutputColumn("p", "double")
    spec = KernelSpec(runtime, f"{made.__name__}", (), WIDTH, "float32", (output,), "scalar")
    kernel = load_kernel(spec, made, str)
    whole = score_arrays(kernel, spec, [_lists(ROWS)])
    assert len(set(whole.to_pylist())) > 20
    for size in (1, 2, 3, 5, 7, 16, 63, 1000, 4095, 4097, 5999):
        for first in (0, 1, 17):
            part = ROWS[first : first + size]
            assert score_arrays(kernel, spec, [_lists(part)]).equals(whole.slice(first, len(part))), (size, first)
    for size in (1, 50, 1500):  # as a matrix, which a request in real time is
        (of_lists,), (of_matrix,) = kernel.run([_lists(ROWS[:size])]), kernel.run_matrix(ROWS[:size])
        assert of_lists.dtype == of_matrix.dtype
        assert of_lists.tobytes() == of_matrix.tobytes()


def _lists(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
