"""LightGBM's models by its C API: the values of the package to the bit, and none of what it imports."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forecache.plugins.estimators import native_booster
from forecache.plugins.estimators.native_booster import NativeBooster, load_booster


@pytest.fixture(params=["regression", "binary", "multiclass"])
def booster(request: pytest.FixtureRequest) -> Any:
    import lightgbm

    rng = np.random.default_rng(4)
    features = rng.normal(size=(2_000, 6))
    features[rng.random(features.shape) < 0.1] = np.nan
    several = {"num_class": 3} if request.param == "multiclass" else {}
    settings = {"objective": request.param, "verbosity": -1, "num_threads": 1, **several}
    label = rng.integers(0, 3 if several else 2, len(features))
    return lightgbm.train(settings, lightgbm.Dataset(features, label), 20)


def test_values_and_trees_are_those_of_the_package(booster: Any) -> None:
    native = load_booster(booster.model_to_string().encode())
    assert isinstance(native, NativeBooster)
    rows = np.random.default_rng(7).normal(size=(3_001, 6))
    for matrix in (rows, rows.astype(np.float32), rows[::3], np.asfortranarray(rows), rows[:1]):
        expected, found = booster.predict(matrix, num_threads=1), native.predict(matrix, num_threads=1)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert found.tobytes() == expected.tobytes()
    expected = booster.dump_model()
    assert native.dump_model()["tree_info"] == expected["tree_info"]


def test_a_dump_larger_than_the_first_buffer_is_whole() -> None:
    import lightgbm

    rng = np.random.default_rng(1)
    data = lightgbm.Dataset(rng.normal(size=(4_000, 6)), rng.normal(size=4_000))
    large = lightgbm.train({"num_leaves": 255, "min_data_in_leaf": 1, "verbosity": -1, "num_threads": 1}, data, 40)
    found = load_booster(large.model_to_string().encode()).dump_model()
    assert len(str(found)) > 1 << 20
    assert found["tree_info"] == large.dump_model()["tree_info"]


def test_an_error_of_lightgbm_is_raised_with_its_text(booster: Any) -> None:
    native = load_booster(booster.model_to_string().encode())
    with pytest.raises(RuntimeError, match="number of features"):
        native.predict(np.zeros((2, 5)), num_threads=1)
    with pytest.raises(RuntimeError, match="LightGBM: "):
        load_booster(b"no model")


def test_the_package_loads_a_model_whose_library_is_elsewhere(booster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightgbm

    monkeypatch.setattr(native_booster, "_load_library", lambda: None)
    assert isinstance(load_booster(booster.model_to_string().encode()), lightgbm.Booster)


def test_a_model_is_scored_without_the_imports_of_the_package(booster: Any, tmp_path: Path) -> None:
    (tmp_path / "model.lgb").write_bytes(booster.model_to_string().encode())
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from forecache.plugins.estimators.runtimes import load_lightgbm\n"
        "predict = load_lightgbm(Path(sys.argv[1]).read_bytes())\n"
        "print(len(predict(np.zeros((2000, 6), np.float32))), len(predict(np.zeros((2, 6), np.float32))))\n"
        "print(*{'lightgbm', 'sklearn', 'scipy', 'pandas'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "model.lgb"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["2000 2", ""]
