"""A declaration says whether its model is trained here or applied as it is, and what belongs to which."""

import dataclasses
import functools
from typing import Any

import pytest
from rules_project.pipelines.rules import rules, two_outputs
from sample_project.pipelines.visits import returns
from scoring_support import make_pipeline

from forecache.base.errors import InputError, SettingsError
from forecache.declare import FunctionModel, Labelled, Output, Pipeline, RegisteredModel, SqlModel, Training
from forecache.declare.served import require_published

URI = "models:/churn_model@production"


def applied(model: Any, **changes: Any) -> Pipeline:
    return dataclasses.replace(
        make_pipeline(num_features=4), **{"model": model, "label": None, "gate": None, **changes}
    )


@pytest.mark.parametrize("missing", ["label", "gate"])
def test_a_model_that_is_trained_needs_label_and_gate(missing: str) -> None:
    with pytest.raises(SettingsError, match=rf"trains a `TorchModel` and has no {missing}.* Declare its {missing}"):
        dataclasses.replace(returns, **{missing: None})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label", returns.label),
        ("gate", returns.gate),
        ("training", Training(epochs=3)),
        ("shadow", True),
    ],
)
def test_a_model_that_is_not_trained_takes_nothing_of_training(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"declares '{name}', and its model, a `RegisteredModel`, is not trained"):
        applied(RegisteredModel(URI), **{name: value})


def test_what_asks_for_training_is_answered_in_one_sentence() -> None:
    pipeline = applied(FunctionModel(rules))
    for name in ("trained_label", "trained_gate"):
        with pytest.raises(InputError, match="is a `FunctionModel`, which is not trained here"):
            getattr(pipeline, name)


def test_a_pipeline_without_publishing_says_so() -> None:
    pipeline = dataclasses.replace(returns, publish=None)
    for ask in (lambda: pipeline.publishing, lambda: pipeline.served_fields, lambda: require_published(pipeline)):
        with pytest.raises(InputError, match=r"'returns' is not published.*publish=None.*predictions_returns"):
            ask()


@pytest.mark.parametrize(
    "uri",
    [
        "churn_model",
        "models:/churn_model",
        "models:/churn_model/latest",
        "models:/@live",
        "runs:/",
        "models:/a/b/3",
    ],
)
def test_a_model_uri_names_an_alias_a_version_or_a_run(uri: str) -> None:
    with pytest.raises(SettingsError, match="Give models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN/PATH"):
        RegisteredModel(uri)
    assert RegisteredModel("models:/churn_model/3").uri == "models:/churn_model/3"
    assert RegisteredModel("runs:/0123abcd/model").model_outputs == {}


def test_floors_need_a_labelled_table_and_metrics_of_one_kind() -> None:
    labelled = Labelled("labelled", "churned")
    with pytest.raises(SettingsError, match="judged_on or floors without the other"):
        RegisteredModel(URI, judged_on=labelled)
    with pytest.raises(SettingsError, match="judged_on or floors without the other"):
        RegisteredModel(URI, floors={"roc_auc": 0.7})
    with pytest.raises(SettingsError, match="floors of roc_auc, mae, which no kind of label has"):
        RegisteredModel(URI, judged_on=labelled, floors={"roc_auc": 0.7, "mae": 3.0})
    assert RegisteredModel(URI, judged_on=labelled, floors={"mae": 3.0}).kind == "regression"
    for metric in ("accuracy", "pinball_loss"):
        with pytest.raises(SettingsError, match=f"floors {metric}, and its first output, 'score', is of number"):
            applied(
                RegisteredModel(URI, judged_on=labelled, floors={metric: 0.5}), outputs=(Output("score"),), segments=()
            )


def test_what_a_model_returns_is_said_of_declared_outputs() -> None:
    model = RegisteredModel(URI, returns={"probability": "probabilities[1]"})
    assert model.model_outputs == {"probability": ("probabilities", 1)}
    applied(model)
    with pytest.raises(SettingsError, match="what its model returns as 'churn', which is no output"):
        applied(RegisteredModel(URI, returns={"churn": "score"}))
    with pytest.raises(SettingsError, match=r"has returns='probabilities\[x\]'"):
        RegisteredModel(URI, returns={"probability": "probabilities[x]"})


def test_a_function_is_one_that_workers_can_import() -> None:
    def inside(features: Any) -> Any:
        return features

    for function in (inside, lambda features: features, max, functools.partial(rules)):
        with pytest.raises(SettingsError, match="Workers import it"):
            FunctionModel(function)
    assert FunctionModel(rules).path == "rules_project.pipelines.rules:rules"


def test_a_function_of_which_the_code_changes_is_another_model() -> None:
    one, other = (applied(FunctionModel(function)).fingerprints for function in (rules, two_outputs))
    assert one.training != other.training
    assert one.scoring == other.scoring
    assert applied(FunctionModel(rules)).fingerprints == one


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("f9 > 1", "wrong: .*f9"),
        ("case when f0 > 1", "wrong: "),
        ("'high'", "gives VARCHAR"),
        ("max(f0)", r"calls max\(\) and so looks at other rows"),
        ("row_number() OVER ()", "says OVER and so looks at other rows"),
        ("f0 + random()", r"calls random\(\) and so differs from run to run"),
        ("epoch(now())", r"calls now\(\) and so differs"),
        ("rowid", "wrong: .*rowid"),
        ("COLUMNS(*)", "Give one expression|wrong"),
        ("year(age(TIMESTAMP '2020-01-01'))", r"calls age\(\) and so differs"),
        ("year(current_date)", "says CURRENT_DATE and so differs"),
        ("(SELECT f0)", "has a query of its own"),
        ("(FROM features LIMIT 1)", "has a query of its own"),
        ("unnest([f0, f1])", "gives several rows"),
        ("f0), (f1", "Give one expression|wrong"),
        ("1) FROM features; SELECT (2", "Give one expression|has a query"),
        (" ", "Give an expression"),
    ],
)
def test_an_expression_is_over_the_features_of_one_row(expression: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        applied(SqlModel(expression))


@pytest.mark.parametrize(
    "expression",
    [
        "CASE WHEN f0 IS NULL THEN 0.5 WHEN f1 > 1 -- the new ones\n THEN 0.9 ELSE 0.1 END",
        "coalesce(f0, 0) IS DISTINCT FROM f1",
        "greatest(f0, f1) + list_sum([f2, f3]) -- a comment",
        "if(f0 > 0, 1, 0) || '' = 'max(1)'",
    ],
)
def test_an_expression_may_say_what_duckdb_says_of_a_row(expression: str) -> None:
    applied(SqlModel(expression))


def test_what_a_registered_model_returns_is_scored_with_and_its_floors_are_not() -> None:
    plain = applied(RegisteredModel(URI)).fingerprints
    returning = applied(RegisteredModel(URI, returns={"probability": "score"})).fingerprints
    judged_on = Labelled("labelled", "churned")
    judged = applied(RegisteredModel(URI, judged_on=judged_on, floors={"roc_auc": 0.7})).fingerprints
    assert returning.scoring != plain.scoring
    assert (judged.scoring, judged.features, judged.training_set) == (plain.scoring, plain.features, "")


def test_several_outputs_have_an_expression_each() -> None:
    outputs = (Output("probability"), Output("rank"))
    model = SqlModel({"probability": "f0", "rank": "f1 * 2"})
    assert applied(model, outputs=outputs, segments=()).output_columns == ("probability", "rank")
    for wrong in (SqlModel("f0"), SqlModel({"probability": "f0"})):
        with pytest.raises(SettingsError, match="has no expression for its output 'rank' in its `SqlModel`"):
            applied(wrong, outputs=outputs, segments=())
    with pytest.raises(SettingsError, match="has an expression for 'rank' in its `SqlModel`"):
        applied(model, outputs=outputs[:1], segments=())
