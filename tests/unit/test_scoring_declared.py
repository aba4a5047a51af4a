"""Functions and expressions of a declaration as kernels: what a worker gets, and what it refuses."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from applied_sample import NAMES, applied
from rules_project.pipelines.rules import rules

from forecache.base.errors import CheckError, InputError
from forecache.base.output_kinds import OutputSpec
from forecache.declare import FunctionModel, SqlModel
from forecache.models.inference.kernel import find_loaders, load_kernel, score_values
from forecache.models.inference.runtimes.function import FunctionKernel, pack
from forecache.models.registry.applied.scoring_plan import plan_declared, plan_model
from forecache.scoring.batch_size import bytes_a_row
from forecache.scoring.tasks.prediction_rows import output_arrays


def kernel_of(model: Any) -> Any:
    plan = plan_model(None, applied(model), None)  # type: ignore[arg-type]  # neither is looked at
    return load_kernel(plan.spec, lambda: plan.payload, str), plan


def batch(rows: int) -> list[pa.Array]:
    values = np.random.default_rng(1).standard_normal((4, rows)).astype(np.float32)
    return [pa.array(column, mask=np.arange(rows) % 7 == 3) for column in values]


@pytest.mark.parametrize("model", [FunctionModel(rules), SqlModel("ln(abs(f1) + 1) * exp(f2) / (f0 * f3 - 1)")])
def test_a_row_has_the_same_bits_wherever_it_stands(model: Any) -> None:
    kernel, _ = kernel_of(model)
    arrays = batch(5000)
    (whole,) = kernel.run(arrays)
    assert np.isnan(whole).any() or isinstance(model, FunctionModel)
    for first, rows in ((0, 1), (17, 2), (1023, 3), (1024, 1500), (4999, 1)):
        (part,) = kernel.run([array.slice(first, rows) for array in arrays])
        assert part.tobytes() == whole[first : first + rows].tobytes()


def test_a_function_that_is_not_there_is_named_with_the_remedy() -> None:
    _, plan = kernel_of(FunctionModel(rules))
    for path in ("no_such_project.rules:rules", "rules_project.pipelines.rules:gone"):
        with pytest.raises(InputError, match=f"{path} cannot be imported where it is to score.*Install the project"):
            find_loaders()["function"](plan.spec, lambda path=path: pack(path, "0"), str)


def test_a_worker_finds_the_project_where_the_driver_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far_project").mkdir()
    (tmp_path / "far_project" / "__init__.py").write_text("")
    (tmp_path / "far_project" / "rules.py").write_text("def half(features):\n    return features['f0'] / 2\n")
    payload = json.dumps({"path": "far_project.rules:half", "code": "0", "root": str(tmp_path)}).encode()
    _, plan = kernel_of(FunctionModel(rules))
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    with pytest.raises(InputError, match="is other code where it is to score"):  # found, and of another fingerprint
        find_loaders()["function"](plan.spec, lambda: payload, str)


def test_another_order_of_features_or_another_code_is_another_kernel() -> None:
    checksums = {
        plan_declared(
            FunctionModel(rules), code=code, inputs=inputs, outputs=applied(SqlModel("f0")).output_specs
        ).spec.checksum
        for code in ("one", "two")
        for inputs in (NAMES, NAMES[::-1])
    }
    assert len(checksums) == 4


CLASSES = OutputSpec("plan", "classes", classes=("a", "b", "c"), top=1)
NAMED = OutputSpec("best", "classes", top=0)
ITEMS = OutputSpec("items", "structs", fields=(("item", "string"), ("score", "double")))
TEXT, LIKES, SCORE = OutputSpec("note", "text"), OutputSpec("likes", "boolean"), OutputSpec("score")
VECTOR = OutputSpec("embedding", "vector", width=2)


def columns_of(output: OutputSpec, function: Any, rows: int = 2500) -> list[pa.Array]:
    """What a function of one feature, the number of a row, becomes in a prediction table."""
    spec = plan_declared(FunctionModel(rules), code="one", inputs=("x",), outputs=(output,)).spec
    kernel = FunctionKernel(lambda features: function(features["x"]), "m:f", spec)
    features = [pa.array(np.arange(rows, dtype=np.float32))]
    return output_arrays(output, score_values(kernel, spec, features, [output])[0])


def test_a_function_returns_lists_of_any_length() -> None:
    (items,) = columns_of(ITEMS, lambda x: [[{"item": "i", "score": float("nan")}] * int(i > 2000) for i in x])
    assert np.diff(items.offsets.to_numpy()).tolist() == [0] * 2001 + [1] * 499
    (both,) = columns_of(ITEMS, lambda x: [[{"item": "i", "score": 1.0}] * (2 if i < 1500 else int(i) % 3) for i in x])
    assert np.diff(both.offsets.to_numpy()).tolist() == [2] * 1500 + [i % 3 for i in range(1500, 2500)]


def test_probabilities_may_be_whole_numbers_and_so_may_classes_be_beside_unknown_ones() -> None:
    best, _ = columns_of(CLASSES, lambda x: np.eye(3, dtype=int)[x.astype(int) % 3])
    assert best.to_pylist()[:4] == ["a", "b", "c", "a"]
    (names,) = columns_of(NAMED, lambda x: np.where(x == 1, np.nan, x % 2))
    assert names.to_pylist()[:4] == ["0", None, "0", "1"]
    (unknown,) = columns_of(NAMED, lambda x: np.full(len(x), np.nan))
    assert unknown.null_count == len(unknown)


def test_what_is_unknown_is_null_in_texts_and_booleans_whatever_the_rest_of_a_batch_is() -> None:
    (all_unknown,) = columns_of(TEXT, lambda x: np.full(len(x), np.nan))
    assert all_unknown.null_count == len(all_unknown)
    (some,) = columns_of(TEXT, lambda x: np.array(["a" if i else np.nan for i in x], dtype=object))
    assert some.to_pylist()[:2] == [None, "a"]
    (likes,) = columns_of(LIKES, lambda x: np.where(x == 1, np.nan, x == 2))
    assert likes.to_pylist()[:3] == [False, None, True]


@pytest.mark.parametrize(
    ("output", "function", "message"),
    [
        (SCORE, lambda x: np.where(x > 1, "high", "low"), "returned text as 'score', which is of numbers"),
        (SCORE, lambda x: x + 1j, "returned values of complex64 as 'score'"),
        (SCORE, lambda x: np.full(len(x), np.datetime64("2026-01-01")), "returned values of datetime64.D. as"),
        (VECTOR, lambda x: np.full((len(x), 2), "high"), "returned text as 'embedding'"),
        (VECTOR, lambda x: [[1.0] * (1 + int(i) % 2) for i in x], "rows of 'embedding' that differ in length"),
        (NAMED, lambda x: x / 4, "returned 0.25 as a class of 'best'"),
        (LIKES, lambda x: np.full(len(x), 0.25), "returned 0.25 of 'likes', which is no boolean"),
        (LIKES, lambda x: np.where(x > 1, "yes", "no"), "values of 'likes' that are no boolean"),
        (TEXT, lambda x: np.array(["a" if i else 1 for i in x], dtype=object), "values of 'note' that are no text"),
        (ITEMS, lambda x: list(x), "lists of 'items' that do not fit list.*object is not iterable"),
    ],
)  # fmt: skip
def test_what_is_not_of_an_output_s_kind_is_refused_in_a_sentence(
    output: OutputSpec, function: Any, message: str
) -> None:
    with pytest.raises(CheckError, match=message):
        columns_of(output, function)


def test_the_memory_of_a_batch_counts_every_class() -> None:
    classes = tuple(f"class_{i}" for i in range(300))
    output = OutputSpec("plan", "classes", classes=classes)
    plan = plan_declared(FunctionModel(rules), code="one", inputs=("x",), outputs=(output,))
    rows = 1000
    shares = np.full((rows, len(classes)), 1 / len(classes))
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    kept = output_arrays(output, shares)
    took = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - before
    tracemalloc.stop()
    assert len(kept) == 2
    sample = [pa.array(np.zeros(rows, np.float32))]
    assert took + shares.nbytes <= rows * bytes_a_row(plan, sample, [output]) <= 4 * took
    assert bytes_a_row(plan, sample, [SCORE]) < 50
