"""Outputs as they are declared, the columns that they become, and what is learned for them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn
from outputs_project.pipelines import kinds
from outputs_project.pipelines.rules import every
from sample_project.pipelines import visits

from forecache.base.errors import CheckError, InputError, SettingsError
from forecache.base.output_kinds import OutputSpec, spark_name
from forecache.declare import (
    Baseline,
    Classes,
    EntitySplit,
    EstimatorModel,
    Gate,
    Metric,
    Output,
    Quantiles,
    Segment,
    SqlModel,
    Structs,
    Text,
    Vector,
)
from forecache.lake.contracts import class_order, require_classes, require_labels
from forecache.lake.training_set import as_of_dates
from forecache.models.inference.kernel import bound_output, find_loaders, load_kernel, score_values
from forecache.models.inference.kernel_spec import PICKED, KernelSpec, OutputColumn, ScoringPlan, returned_type
from forecache.models.inference.outputs import known_outputs, source_of
from forecache.models.inference.signature import read_signature
from forecache.models.registry.applied.scoring_plan import pick_outputs
from forecache.plugins.drift.monitor import _to_arrays
from forecache.scoring.tasks.prediction_rows import number_columns, output_arrays

WRONG: list[tuple[Callable[[], Any], str]] = [
    (lambda: Classes("plan", ("only",)), r"labels=\('only',\)\. Name two classes or more"),
    (lambda: Classes("plan", ("a", "b", "a")), "declares the class 'a' twice"),
    (lambda: Classes("plan", probabilities=-1), "probabilities=-1"),
    (lambda: Quantiles("spend", (0.5, 0.1)), r"levels=\(0\.5, 0\.1\)\. They ascend"),
    (lambda: Quantiles("spend", (0.0, 0.5)), "each more than 0 and less than 1"),
    (lambda: Quantiles("spend", ()), r"levels=\(\)"),
    (lambda: Quantiles("spend", minimum=3.0, maximum=1.0), r"more than the minimum, 3"),
    (lambda: Vector("embedding", 0), "size=0"),
    (lambda: Structs("items", ()), "fields="),
    (lambda: Structs("items", (("item", "varchar"),)), "Each is a name and a type of boolean, int"),
    (lambda: Structs("items", (("item", "string"), ("item", "int"))), "declares the field 'item' twice"),
    (lambda: EntitySplit(0.5, 0.5), "so that some are left to train on"),
    (lambda: replace(kinds.plan, outputs=()), r"outputs=\(\)\. Declare one or more"),
    (
        lambda: replace(kinds.plan, outputs=(Output("p"),)),
        "multiclass label and the first output 'p', which is of Output",
    ),
    (lambda: replace(visits.returns, outputs=(Classes("p"),)), "binary label and the first output 'p'"),
    (
        lambda: replace(kinds.plan, outputs=(Classes("p"), Text("t"))),
        "output 't' of Text, which no network is trained for",
    ),
    (
        lambda: replace(kinds.plan_lightgbm, outputs=(Classes("p"), Output("q"))),
        "output 'q' beside 'p', and its model is an estimator",
    ),
    (lambda: replace(kinds.plan, outputs=(Classes("p"), Output("p"))), "declares the column 'p' twice"),
    (
        lambda: replace(kinds.plan, segments=(Segment("s", "next_plan", (0.5,), ("a", "b")),)),
        "output that is a number",
    ),
    (
        lambda: replace(kinds.spend, segments=(Segment("s", "spend", (0.5,), ("a", "b")),)),
        "`of` is 'spend_q10' or 'spend_q50' or 'spend_q90'",
    ),
    (
        lambda: replace(kinds.plan, gate=Gate("log_loss", {}, Baseline("visits"))),
        "are the class shares in the training",
    ),
    (lambda: replace(kinds.plan, gate=Gate("mae", {})), "judges a multiclass label by 'mae'"),
    (lambda: replace(visits.returns, gate=Gate("roc_auc", {})), "binary label and no baseline in its gate"),
    (
        lambda: replace(kinds.plan, gate=Gate("log_loss", {}, metrics=(Metric("accuracy", min),))),
        "metric of its own called 'accuracy'",
    ),
    (lambda: Gate("m", {}, metrics=(Metric("m", min), Metric("m", max))), "declares the metric 'm' twice"),
    (
        lambda: replace(every, model=SqlModel({output.name: "a" for output in every.outputs})),
        "output 'plan' of classes, and an SQL expression returns a number",
    ),
    (
        lambda: replace(every, outputs=(Classes("p"),), segments=()),
        "classes 'p' without labels, and its model is a func",
    ),
    (
        lambda: replace(kinds.plan, model=replace(kinds.plan.network, target="log1p")),
        "a multiclass label takes 'identity'",
    ),
]


@pytest.mark.parametrize(("declare", "message"), WRONG, ids=range(len(WRONG)))
def test_what_does_not_fit_is_refused_at_load_in_a_sentence(declare: Callable[[], Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        declare()


def test_each_kind_says_its_columns_and_their_types() -> None:
    found = {field.name: spark_name(field.type) for spec in every.output_specs for field in spec.arrow_fields}
    assert found == {
        "score": "double",
        "other": "double",
        "plan": "string",
        "plan_probabilities": "array<struct<class: string, probability: double>>",
        "best": "string",
        "spend_q5": "double",
        "spend_q50": "double",
        "spend_q97_5": "double",
        "embedding": "array<float>",
        "note": "string",
        "likes": "boolean",
        "items": "array<struct<item: string, score: double, seen: boolean>>",
    }
    assert every.output_columns == (*found, "band")


SHARES = hn.arrays(np.float32, st.tuples(st.integers(1, 40), st.just(4)), elements=st.floats(0, 1, width=32))


@given(SHARES, st.sampled_from([None, 0, 1, 3]))
def test_the_class_is_the_first_of_the_most_likely_and_its_probabilities_descend(
    shares: np.ndarray, top: int | None
) -> None:
    total = shares.sum(axis=1, keepdims=True, dtype=np.float64)
    values = np.where(total > 0, shares / np.where(total > 0, total, 1), 0.25)
    spec = OutputSpec("plan", "classes", classes=("d", "c", "b", "a"), top=top)
    columns = output_arrays(spec, values)
    assert [array.type for array in columns[1:]] == [field.type for field in spec.arrow_fields[1:]]
    assert columns[0].to_pylist() == [spec.classes[i] for i in values.argmax(axis=1)]
    for row, kept in zip(values, columns[1].to_pylist() if top != 0 else [], strict=False):
        assert len(kept) == (top or 4)
        found = [item["probability"] for item in kept]
        assert found == sorted(found, reverse=True) == sorted(row, reverse=True)[: top or 4]
        assert all(row[spec.classes.index(item["class"])] == item["probability"] for item in kept)


def test_probabilities_that_are_not_a_number_make_the_class_unknown() -> None:
    spec = OutputSpec("plan", "classes", classes=("a", "b"))
    names, shares = output_arrays(spec, np.array([[0.5, 0.5], [np.nan, 1.0], [np.inf, 0.0]]))
    assert names.to_pylist() == ["a", None, None]
    assert [row is None for row in shares.to_pylist()] == [False, True, True]


@given(hn.arrays(np.float32, st.tuples(st.integers(1, 30), st.just(3)), elements=st.floats(-1e6, 1e6, width=32)))
def test_quantiles_never_cross_and_keep_their_bounds(values: np.ndarray) -> None:
    spec = OutputSpec("q", "quantiles", minimum=-5.0, maximum=1000.0, levels=(0.1, 0.5, 0.9))
    columns = list(number_columns(spec, bound_output(spec, values)).values())
    assert all((low <= high).all() for low, high in zip(columns, columns[1:], strict=False))
    assert columns[0].min() >= -5.0
    assert columns[2].max() <= 1000.0


def test_a_quantile_that_is_not_a_number_makes_its_row_unknown() -> None:
    spec = OutputSpec("q", "quantiles", levels=(0.1, 0.9))
    low, high = output_arrays(spec, np.array([[1.0, 2.0], [np.nan, 3.0]]))
    assert (low.to_pylist(), high.to_pylist()) == ([1.0, None], [2.0, None])


def test_lists_that_do_not_fit_their_declaration_are_refused() -> None:
    rows = np.empty(2, object)
    rows[:] = [[{"item": 3}], [{"item": "a"}]]
    with pytest.raises(CheckError, match="lists of 'items' that do not fit"):
        output_arrays(OutputSpec("items", "structs", fields=(("item", "string"),)), rows)


def test_of_two_classes_a_library_gives_the_second_s_probability_and_a_model_both() -> None:
    spec = OutputSpec("plan", "classes", classes=("a", "b"))
    assert bound_output(spec, np.array([0.25, 1.0])).tolist() == [[0.75, 0.25], [0.0, 1.0]]


def model(*outputs: OutputColumn, classes: tuple[str, ...] = ()) -> KernelSpec:
    stored = [{"name": "plan", "kind": "classes", "classes": list(classes)}] if classes else []
    options = {"forecache_outputs": stored} if stored else {}
    return KernelSpec("onnx", "x", (), 2, "float32", outputs, "struct" if len(outputs) > 1 else "array", options)


def test_the_order_of_the_classes_is_the_model_s_and_another_one_is_refused() -> None:
    shares = OutputColumn("plan", "float", -1)
    learned, declared = OutputSpec("plan", "classes"), OutputSpec("plan", "classes", classes=("b", "a"))
    assert known_outputs([learned], model(shares, classes=("a", "b")))[0].classes == ("a", "b")
    assert known_outputs([declared], model(shares))[0].classes == ("b", "a")
    with pytest.raises(InputError, match="knows the classes a, b of 'plan', and the pipeline declares b, a"):
        known_outputs([declared], model(shares, classes=("a", "b")))
    with pytest.raises(InputError, match="does not say which classes its probabilities of 'plan' are of"):
        known_outputs([learned], model(shares))


def test_a_model_that_learned_other_quantiles_is_refused() -> None:
    stored = [{"name": "spend", "kind": "quantiles", "levels": [0.1, 0.5]}]
    spec = replace(model(OutputColumn("spend", "float", 2)), options={"forecache_outputs": stored})
    assert known_outputs([OutputSpec("spend", "quantiles", levels=(0.1, 0.5))], spec)
    with pytest.raises(InputError, match="returns the quantiles 0.1, 0.5 of 'spend', and the pipeline declares 0.05,"):
        known_outputs([OutputSpec("spend", "quantiles", levels=(0.05, 0.5))], spec)


class Two:
    """A kernel that returns the second class's probability, as libraries do of two classes, and two quantiles."""

    def run(self, arrays: Any) -> list[np.ndarray]:
        return [np.array([0.25, 1.0]), np.array([[3.0, 1.0], [0.5, 2.0]])]


def test_outputs_are_picked_of_what_a_model_that_was_trained_here_says_it_returns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = [
        {"name": "spend", "kind": "quantiles", "levels": [0.1, 0.9], "minimum": 1.0},
        {"name": "plan", "kind": "classes", "classes": ["a", "b"]},
    ]
    columns = (OutputColumn("plan", "double", 2), OutputColumn("spend", "double", 2))
    plan = ScoringPlan("models:/m/1", replace(model(*columns), options={"forecache_outputs": stored}), b"", "")
    wanted = [
        OutputSpec("gold"),
        OutputSpec("tier", "classes"),
        OutputSpec("high"),
        OutputSpec("range", "quantiles", levels=(0.1, 0.9)),
    ]
    returns = {"gold": ("plan", 1), "tier": ("plan", None), "high": ("spend", 1), "range": ("spend", None)}
    picked = pick_outputs(plan, wanted, returns).spec
    monkeypatch.setitem(find_loaders(), picked.runtime, lambda *arguments: Two())
    kernel = load_kernel(picked, bytes, str)
    known = known_outputs(wanted, picked)
    gold, tier, high, spread = score_values(kernel, picked, [pa.array([0.0, 0.0])], known)
    assert (gold.tolist(), tier.tolist()) == ([0.25, 1.0], [[0.75, 0.25], [0.0, 1.0]])
    assert (high.tolist(), spread.tolist()) == ([3.0, 2.0], [[1.0, 3.0], [1.0, 2.0]])
    assert known[1].classes == ("a", "b")
    for classes in (("b", "a"), ("x", "y")):
        with pytest.raises(InputError, match="knows the classes a, b of 'tier'"):
            known_outputs([replace(wanted[1], classes=classes)], picked)


def test_an_output_is_found_among_a_model_s_by_its_name_or_its_columns() -> None:
    spec = model(*(OutputColumn(name, "double") for name in ("q_q10", "q_q90", "plan", "plan_probabilities")))
    assert source_of(spec, OutputSpec("q", "quantiles", levels=(0.1, 0.9))) == (0, 1)
    assert source_of(spec, OutputSpec("plan", "classes")) == (3,)
    assert source_of(spec, OutputSpec("plan", "classes", top=0)) == (2,)


def labels(**splits: list[str]) -> pa.Table:
    rows = [(split, name) for split, names in splits.items() for name in names]
    return pa.table({"split": [row[0] for row in rows], "plan": [row[1] for row in rows]})


def test_classes_are_those_of_the_training_split_in_ascending_order() -> None:
    assert require_classes(labels(train=["b", "a"], validation=["a"], test=["b"]), kinds.plan) == ("a", "b")
    assert class_order(["10", "9", "-1", None]) == ("-1", "9", "10")
    declared = replace(kinds.plan, outputs=(Classes("next_plan", ("b", "a")),))
    assert require_classes(labels(train=["b", "a"], validation=["a"], test=["a"]), declared) == ("b", "a")


@pytest.mark.parametrize(
    ("declared", "splits", "message"),
    [
        (None, {"train": ["a", "b"], "validation": ["a"], "test": ["new"]},
         "test split of pipeline 'plan' has the class 'new' of 'plan', which the training split never has; it has a"),
        (("a", "b"), {"train": ["a", "b", "c"]}, "train split .* class 'c' .*the declaration does not have; it has"),
        (("a", "b", "c"), {"train": ["a", "b"]}, "never has the declared class 'c'"),
        (None, {"train": ["a", "a"]}, "Every label of the training split of 'plan' is 'a'"),
    ],
)  # fmt: skip
def test_a_class_that_training_never_saw_is_refused_in_a_sentence(
    declared: tuple[str, ...] | None, splits: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        require_classes(labels(**splits), replace(kinds.plan, outputs=(Classes("next_plan", declared),)))


@pytest.mark.parametrize("weight", [0.0, -1.0, None, float("nan"), float("inf"), 1e-60, 1e60])
def test_a_weight_is_a_number_above_zero_also_as_the_model_gets_it(weight: float | None) -> None:
    rows = pa.table({"as_of": [None] * 2, "split": ["train"] * 2, "plan": ["a", "b"], "importance": [1.0, weight]})
    with pytest.raises(InputError, match="weight 'importance' of pipeline 'plan_weighted' is .* in 1 of 2 rows"):
        require_labels(rows, kinds.plan_weighted)
    require_labels(rows.slice(0, 1), kinds.plan_weighted)


def test_an_outcome_that_no_model_knows_counts_as_one_without_a_probability() -> None:
    items = [[{"class": "a", "probability": 0.7}, {"class": "b", "probability": 0.3}]] * 2
    label, shares, weight = _to_arrays(pa.table({"_label_0": ["b", "new"], "_score_0": items}), classes=True)
    assert (label.tolist(), weight) == ([1.0, 2.0], None)
    assert shares.tolist() == [[0.7, 0.3, 0.0]] * 2


def test_outcomes_have_the_positions_that_their_classes_have_in_the_model() -> None:
    items = [[{"class": "b", "probability": 0.7}, {"class": "c", "probability": 0.3}]] * 3
    table = pa.table({"_label_0": ["c", "a", "b"], "_score_0": items})
    label, shares, _ = _to_arrays(table, classes=True)
    assert (label.tolist(), shares[0].tolist()) == ([1.0, 2.0, 0.0], [0.7, 0.3, 0.0])
    label, shares, _ = _to_arrays(table, True, ("c", "b"))
    assert (label.tolist(), shares[0].tolist()) == ([0.0, 2.0, 1.0], [0.3, 0.7, 0.0])


def test_splits_by_entity_share_the_latest_dates_whose_labels_are_known() -> None:
    night = visits.VISITS.start.replace(month=8)
    split = as_of_dates(kinds.by_entity, night)
    assert split["train"] == split["validation"] == split["test"]
    assert (night - split["test"][-1]).days == kinds.by_entity.trained_label.horizon_days
    assert max(split["train"]) > max(as_of_dates(kinds.plan, night)["train"])


def test_estimators_of_quantiles_become_one_model_that_predicts_what_each_predicts() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    from forecache.plugins.estimators.saving import merge_boosters

    rng = np.random.default_rng(0)
    rows = rng.standard_normal((400, 4)).astype(np.float32)
    target = rows[:, 0] + rng.standard_normal(400)
    wanted = {0.1: 3, 0.5: 11, 0.9: 7}
    trees = [
        lightgbm.LGBMRegressor(objective="quantile", alpha=level, n_estimators=rounds, verbose=-1)
        for level, rounds in wanted.items()
    ]
    boosters = [tree.fit(rows, target).booster_ for tree in trees]
    merged = lightgbm.Booster(model_str=merge_boosters(boosters).model_to_string())
    expected = np.column_stack([booster.predict(rows) for booster in boosters])
    np.testing.assert_array_equal(merged.predict(rows), expected)


def test_what_an_estimator_builds_for_quantiles_is_one_for_each_level_or_one() -> None:
    from forecache.plugins.estimators.fit import _build_estimators

    pipeline = replace(kinds.spend_lightgbm, model=EstimatorModel(build=lambda levels: kinds.spend_trees(levels)[:2]))
    with pytest.raises(SettingsError, match="builds 2 estimators for 3 values a row"):
        _build_estimators(pipeline, pipeline.model)  # type: ignore[arg-type]


RETURNED = model(
    OutputColumn("score", "float"),
    OutputColumn("plan_probabilities", "double", -1),
    OutputColumn("plan", "string"),
    OutputColumn("embedding", "float", 4),
    OutputColumn("likes", "boolean"),
    OutputColumn("q_q10", "double"),
    OutputColumn("q_q90", "double"),
    OutputColumn("items", "struct<item:string,score:double>", -1),
)


def test_a_registered_model_s_outputs_are_picked_by_kind_and_others_refused() -> None:
    plan = ScoringPlan("models:/m/1", RETURNED, b"", "")
    wanted = [
        OutputSpec("likes", "boolean"),
        OutputSpec("q", "quantiles", levels=(0.1, 0.9)),
        OutputSpec("plan", "classes", classes=("a", "b")),
        OutputSpec("best", "classes", top=0),
        OutputSpec("embedding", "vector", width=4),
        OutputSpec("items", "structs", fields=(("item", "string"), ("score", "double"))),
    ]
    picked = pick_outputs(plan, wanted, {"best": ("plan", None)}).spec
    assert picked.options[PICKED] == [(place, None) for place in (4, 5, 6, 1, 2, 3, 7)]
    assert [source_of(picked, output) for output in wanted] == [(0,), (1, 2), (3,), (4,), (5,), (6,)]
    for output, message in (
        (OutputSpec("score", "classes"), "returns float as 'score', and the output 'score' is of classes"),
        (OutputSpec("plan", "vector", width=2), "returns string as 'plan', and the output 'plan' is of vector"),
        (OutputSpec("embedding"), "returns 4 values a row of 'embedding', and the output 'embedding' is one number"),
        (OutputSpec("likes", "text"), "returns boolean as 'likes', and the output 'likes' is of text"),
        (OutputSpec("none", "text"), "returns score, plan_probabilities, .* is to be 'none'"),
    ):
        with pytest.raises(InputError, match=message):
            pick_outputs(plan, [output], {})


def test_a_signature_s_list_of_structures_is_an_output() -> None:
    items = {"type": "object", "properties": {"item": {"type": "string"}, "score": {"type": "double"}}}
    found = read_signature(None, [{"name": "items", "type": "array", "items": items}])
    assert found.outputs == (OutputColumn("items", "struct<item:string,score:double>", -1),)
    assert str(returned_type(replace(RETURNED, outputs=found.outputs, shape="array"))) == (
        "list<item: struct<item: string, score: double>>"
    )
