"""Answers of a pipeline's model to several events: the bits of each event alone, whatever the model does with rows."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest

from forecache.base.output_kinds import OutputSpec
from forecache.models.inference.kernel_spec import KernelSpec, OutputColumn
from forecache.plugins.stream_answers.pipeline_answerer import PredictedRows, RowPredictor
from forecache.scoring.tasks.prediction_rows import Band

_SPENT, _KIND = OutputSpec("spent"), OutputSpec("kind", "classes", classes=("a", "b"), top=1)
_BANDS = (Band("size", "spent", (10.0,), ("small", "large")),)
_SCHEMA = pa.schema([*_SPENT.arrow_fields, *_KIND.arrow_fields, pa.field("size", pa.string())])
_RETURNED = (OutputColumn("spent", "double", None), OutputColumn("kind_probabilities", "double", 2))
_SPEC = KernelSpec("own", "", (), 2, "float32", _RETURNED, "struct")
Values = Callable[[np.ndarray], list[np.ndarray]]


class _Kernel:
    """A model of two features that counts its calls."""

    def __init__(self, values: Values) -> None:
        self.calls, self._values = 0, values

    def run(self, arrays: Sequence[pa.Array]) -> list[np.ndarray]:
        return self.run_matrix(np.column_stack([array.to_numpy() for array in arrays]))

    def run_matrix(self, matrix: np.ndarray) -> list[np.ndarray]:
        self.calls += 1
        return self._values(matrix)


def _by_row(matrix: np.ndarray) -> list[np.ndarray]:
    share = 1 / (1 + np.abs(matrix[:, 1].astype(np.float64)))
    return [matrix[:, 0] * np.float32(0.1), np.column_stack([share, 1 - share])]


def _by_number_of_rows(matrix: np.ndarray) -> list[np.ndarray]:
    """As matrix libraries add up in another order for several rows."""
    spent, shares = _by_row(matrix)
    return [spent * np.float32(1 if len(matrix) == 1 else 1 + 1e-7), shares]


def _failing_at_7(matrix: np.ndarray) -> list[np.ndarray]:
    if (matrix[:, 0] == 7).any():
        raise ValueError("7 is too much")
    return _by_row(matrix)


def _features(rows: int, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).gamma(2.0, 60.0, (rows, 2)).astype(np.float32)
    found[:: max(2, rows // 3), 0] = np.nan
    return found


def _rows(values: Values) -> tuple[RowPredictor, _Kernel]:
    kernel = _Kernel(values)
    return RowPredictor("spending", kernel, _SPEC, (_SPENT, _KIND), _BANDS, _SCHEMA), kernel


def _alone(values: Values, features: np.ndarray) -> str:
    rows, _ = _rows(values)
    return repr([rows.predict(features[place : place + 1]).rows.to_pylist()[0] for place in range(len(features))])


def _bits(answered: PredictedRows) -> str:
    assert answered.rows.schema == _SCHEMA
    return repr(answered.rows.to_pylist())


@pytest.mark.parametrize("values", [_by_row, _by_number_of_rows])
def test_each_event_gets_the_bits_that_it_gets_alone(values: Values) -> None:
    rows, _ = _rows(values)
    for seed, n in enumerate((1, 300, 2, 64, 1, 700)):
        features = _features(n, seed)
        assert _bits(rows.predict(features)) == _alone(values, features)


def test_a_model_that_treats_rows_apart_is_called_once_a_batch() -> None:
    rows, kernel = _rows(_by_row)
    rows.predict(_features(300))
    kernel.calls = 0
    rows.predict(_features(200))
    assert kernel.calls == 1


def test_a_model_that_gives_several_rows_other_bits_is_asked_event_by_event(caplog: pytest.LogCaptureFixture) -> None:
    rows, kernel = _rows(_by_number_of_rows)
    rows.predict(_features(300))
    kernel.calls = 0
    rows.predict(_features(200))
    assert kernel.calls == 200
    assert "The model of spending gives several events other bits than one" in caplog.text


@pytest.mark.parametrize("tried", [0, 300])
def test_an_event_whose_model_fails_has_no_answer_and_the_others_have_theirs(tried: int) -> None:
    rows, _ = _rows(_failing_at_7)
    rows.predict(_features(tried))
    features = np.array([[3, 1], [7, 1], [200, 0]], np.float32)
    answered = rows.predict(features)
    assert answered.failed == 1
    assert answered.failure == "ValueError: 7 is too much"
    assert [row["size"] for row in answered.rows.to_pylist()] == ["small", None, "large"]
    assert repr([*answered.rows.to_pylist()[:1], *answered.rows.to_pylist()[2:]]) == _alone(_by_row, features[[0, 2]])
    assert answered.rows.to_pylist()[1] == dict.fromkeys(_SCHEMA.names)


def test_no_event_gives_no_row() -> None:
    rows, _ = _rows(_by_row)
    assert _bits(rows.predict(_features(0))) == "[]"
