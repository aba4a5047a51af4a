"""Types of features: what a declaration refuses, and the matrix that a model takes of each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecache.base.errors import InputError, SettingsError
from forecache.base.settings import Settings
from forecache.declare import Feature, FeatureView, load_pipeline
from forecache.lake.stored_features import hashed_words
from forecache.models.inference.encoding import FeatureEncoding, MatrixEncoding, encoding_of, read_encoding
from forecache.models.inference.runtimes.onnx import add_preprocessing, remove_preprocessing
from forecache.models.registry.gate.examples import SplitExamples, slices_of
from forecache.plugins.drift.bins import count_batches


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: Feature("x", type="words"), r"type='words'\. It is one of 'number', 'integer', 'category'"),
        (lambda: Feature("x", type="vector"), r"size=None\. A vector has a size from 1 to 16,384"),
        (lambda: Feature("x", type="vector", size=0), "size=0"),
        (lambda: Feature("x", size=3), r"size=3\. A number has none; leave it out"),
        (lambda: Feature("x", type="text"), r"A text has a size"),
        (lambda: Feature("x", type="category", log=True), r"log=True\. A category is not scaled"),
        (lambda: Feature("x", categories=("a",)), "A category has one or more"),
        (lambda: Feature("x", type="category", categories=()), "A category has one or more"),
        (lambda: Feature("x", type="category", categories=("a", "a")), "declares the category 'a' twice"),
        (lambda: Feature("x", type="category", categories=("a", "")), "An empty text is a null"),
        (lambda: Feature("x", type="category", max_categories=0), "max_categories=0"),
        (lambda: Feature("x", type="category", max_categories=10**6), "At most 100,000"),
        (lambda: Feature("x", type="vector", size=2, embed=len), "Only a text is embedded"),
    ],
)
def test_a_feature_that_cannot_be_is_refused_when_it_loads(declare: Callable[[], Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        declare()


SHOP = FeatureEncoding("shop", "category", categories=("b", "a"))


def test_a_category_has_a_code_for_null_for_what_is_not_known_and_for_each_that_is() -> None:
    texts = pa.array(["b", None, "a", "c", "", "b"])
    assert SHOP.matrix(texts)[:, 0].tolist() == [2, 0, 3, 1, 0, 2]
    assert SHOP.matrix(texts.slice(2, 3))[:, 0].tolist() == [3, 1, 0]
    assert SHOP.matrix(texts.dictionary_encode())[:, 0].tolist() == [2, 0, 3, 1, 0, 2]
    assert SHOP.matrix(pa.chunked_array([texts, texts]))[:, 0].tolist() == [2, 0, 3, 1, 0, 2] * 2
    assert SHOP.matrix(pa.nulls(2))[:, 0].tolist() == [0, 0]
    assert SHOP.matrix(pa.array([], pa.string())).shape == (0, 1)
    with pytest.raises(InputError, match=r"category 'shop' was given as double\. Give it as texts"):
        SHOP.matrix(pa.array([1.0]))


def test_an_integer_is_rounded_alike_whether_or_not_another_row_is_null() -> None:
    values = [16_777_217, 9_007_199_254_740_993, -(2**62) - 1, 36_028_799_166_447_617]
    alone = FeatureEncoding("n", "integer").matrix(pa.array(values))[:, 0]
    beside = FeatureEncoding("n", "integer").matrix(pa.array([*values, None]))[:, 0]
    assert alone.tobytes() == beside[:-1].tobytes()
    assert np.isnan(beside[-1])


def test_a_vector_is_columns_in_order_and_has_one_width() -> None:
    vector = FeatureEncoding("v", "vector", size=2)
    found = vector.matrix(pa.array([[1, 2], None, [3, None]], pa.list_(pa.float32())))
    assert np.isnan(found[1]).all()
    assert np.isnan(found[2, 1])
    assert found[0].tolist() == [1, 2]
    for wrong in ([[1.0, 2.0, 3.0]], [[1.0]], [[1.0], [1.0, 2.0]]):
        with pytest.raises(InputError, match="2 "):
            vector.matrix(pa.array(wrong, pa.list_(pa.float32())))


ENCODING = MatrixEncoding(
    (FeatureEncoding("x", "number"), SHOP, FeatureEncoding("n", "integer"), FeatureEncoding("v", "vector", size=2))
)


def test_the_columns_of_the_matrix_are_those_of_the_features_in_order() -> None:
    assert ENCODING.columns == ("x", "shop", "n", "v_0", "v_1")
    assert ENCODING.categories == {"shop": (1, 4)}
    assert ENCODING.places["v"] == slice(3, 5)
    assert read_encoding(ENCODING.to_json()) == ENCODING
    assert not ENCODING.is_plain
    assert MatrixEncoding((FeatureEncoding("x", "number"),)).is_plain


def test_declared_categories_are_known_whatever_a_training_learned() -> None:
    features = (Feature("a", type="category", categories=("z", "y")), Feature("b", type="category"))
    found = encoding_of(features, {"b": ["k"]})
    assert [each.categories for each in found.features] == [("z", "y"), ("k",)]


_texts = st.one_of(
    st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=4), st.sampled_from(["a", "b"])
)
_floats = st.one_of(st.none(), st.floats(width=32, allow_nan=False))


@given(
    st.lists(st.tuples(_floats, _texts, st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), _floats, _floats),
             min_size=1, max_size=20)
)  # fmt: skip
def test_the_first_nodes_of_a_registered_graph_make_the_same_matrix(rows: list[tuple[Any, ...]]) -> None:
    x, shop, n, v0, v1 = zip(*rows, strict=True)
    vectors = pa.array([list(pair) for pair in zip(v0, v1, strict=True)], pa.list_(pa.float32()))
    ours = ENCODING.matrix([pa.array(x, pa.float32()), pa.array(shop, pa.string()), pa.array(n, pa.int64()), vectors])
    feeds = {
        "x": _column(x, np.float32), "shop": np.array([text or "" for text in shop], object),
        "n": _column(n, np.float64), "v_0": _column(v0, np.float32), "v_1": _column(v1, np.float32),
    }  # fmt: skip
    assert SESSION.run(None, feeds)[0].tobytes() == ours.tobytes()


def _column(values: tuple[Any, ...], kind: Any) -> Any:
    return np.array([np.nan if value is None else value for value in values], kind)


def _graph() -> Any:
    from onnx import TensorProto, helper

    matrix = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 5])
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["rows", 5])
    graph = helper.make_graph([helper.make_node("Identity", ["features"], ["out"])], "core", [matrix], [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


WHOLE = add_preprocessing(_graph(), ENCODING).SerializeToString()
SESSION = onnxruntime.InferenceSession(WHOLE, providers=["CPUExecutionProvider"])


def test_scoring_leaves_the_first_nodes_out() -> None:
    core = onnxruntime.InferenceSession(remove_preprocessing(WHOLE), providers=["CPUExecutionProvider"])
    [taken] = core.get_inputs()
    assert (taken.name, taken.type, taken.shape) == ("features", "tensor(float)", ["rows", 5])
    matrix = np.arange(10, dtype=np.float32).reshape(2, 5)
    assert core.run(None, {"features": matrix})[0].tolist() == matrix.tolist()


def test_words_are_counted_by_hash_whatever_their_case() -> None:
    counted = hashed_words(8)(["Blue chair, BLUE!", "", "chair blue blue"])
    assert counted.sum(axis=1).tolist() == [3, 0, 3]
    assert counted[0].tolist() == counted[2].tolist()


def test_a_slice_by_a_category_is_named_by_it() -> None:
    matrix = np.array([[0, 2, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 2, 0, 0, 0]], np.float32)
    examples = SplitExamples(matrix, np.zeros(4), (), ENCODING)
    found = {name: rows.tolist() for name, rows in slices_of(examples, "shop")}
    assert found == {
        "null": [False, False, True, False],
        "not known to the model": [False, True, False, False],
        "b": [True, False, False, True],
    }


def test_categories_and_vectors_are_counted_in_bins_of_their_own() -> None:
    batch = pa.record_batch(
        {
            "shop": pa.array(["a", "b", None, "z", "a"]),
            "v": pa.array([[3, 4], None, [0, 0], [None, 1], [30, 40]], pa.list_(pa.float32())),
        }
    )
    counts = count_batches([batch], {"shop": ["a", "b"], "v": [0.5, 5.0]})
    assert counts == {"shop": [1, 2, 1, 1], "v": [1, 1, 2, 1]}


def test_a_feature_may_not_be_named_like_a_column_of_a_vector(settings: Settings) -> None:
    churn = load_pipeline(settings, "churn")
    view = churn.features
    assert isinstance(view, FeatureView)
    two = (Feature("v", type="vector", size=2), Feature("v_1"))
    with pytest.raises(SettingsError, match="declares the feature 'v_1' twice"):
        replace(view, features=replace(view.features, columns=two, sql="", compute=dict))


def test_a_network_over_categories_takes_them_and_a_baseline_is_a_number(settings: Settings) -> None:
    churn = load_pipeline(settings, "churn")
    view = churn.features
    assert isinstance(view, FeatureView)
    first, *others = view.features.columns
    typed = replace(
        view, features=replace(view.features, columns=(*others, replace(first, type="category", log=False)))
    )
    with pytest.raises(SettingsError, match="recency_days'. It scores by itself, so it is a number or an integer"):
        replace(churn, features=typed)
