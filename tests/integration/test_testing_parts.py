"""`forecache.testing` on snapshots, existing tables, functions on Spark's frames, and real-time models."""

from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from asked_project import FIRST, LAST
from asked_project.pipelines.payments import payments
from asked_project.pipelines.search import search
from asked_project.views import SALES
from joined_sample import WITH_REGION
from live_view_sample import CHECK, VIEW
from outputs_project.pipelines.kinds import plan_sklearn
from outputs_project.pipelines.kinds import spend as spend_quantiles
from outputs_project.pipelines.rules import every
from sql_project.pipelines.orders import CUSTOMERS, orders

import forecache as fc
from forecache import testing
from forecache.base.errors import InputError
from forecache.base.settings import load_settings
from forecache.declare import TableSource
from forecache.plugins.explain.current_answer import compute_current_answer
from forecache.runs import RunRequest, run_in_process

pytestmark = pytest.mark.slow
SUPPORT = Path(__file__).parent.parent / "support"
DAY = date(2026, 1, 4)
MORNING = datetime(2026, 1, 4, 8, tzinfo=timezone.utc)
ORDERS = [
    {"customer": "ann", "at": MORNING, "amount": 2.0, "pieces": 3},
    {"customer": "ann", "at": MORNING - timedelta(days=3), "amount": 5.0},
    {"customer": "ann", "at": MORNING + timedelta(days=1), "amount": 7.0},
]
REGIONS = [{"region": "north", "weight": 3}]
MEMBERS = [
    {"customer": "ann", "region": "south", "since": date(2025, 1, 1), "event_day": date(2026, 1, 1)},
    {"customer": "ann", "region": "north", "since": date(2026, 1, 1), "event_day": date(2026, 1, 3)},
    {"customer": "bob", "region": "north", "since": date(2026, 1, 3), "event_day": date(2026, 1, 3)},
    {"customer": "eve", "region": "north", "since": date(2026, 1, 3), "event_day": date(2026, 1, 5)},
]


def test_of_a_snapshot_the_last_state_counts_and_entities_are_those_of_the_date() -> None:
    rows = {"orders": ORDERS, "customers": MEMBERS, "regions": REGIONS}
    ann, bob = testing.features(orders, rows, date=DAY).to_arrow().to_pylist()
    assert (ann["customer"], ann["orders"], ann["spent_3d"], ann["kind"]) == ("ann", 2, 2.0, "seldom")
    assert (bob["customer"], bob["orders"], bob["customers"], bob["weight"]) == ("bob", None, 2.0, 3)
    assert ann["mean_age_days"] == 2.0


def test_a_label_sees_the_horizon_alone() -> None:
    rows = {"orders": ORDERS, "customers": MEMBERS, "regions": REGIONS}
    found = testing.labels(orders, rows, date="2026-01-04")
    assert found.to_arrow().to_pylist() == [
        {"customer": "ann", "as_of": DAY, "next_spend": 7.0},
        {"customer": "bob", "as_of": DAY, "next_spend": 0.0},
    ]


def test_rows_of_an_existing_table_are_given_like_others() -> None:
    table = TableSource(
        "customers", "nowhere", CUSTOMERS.columns, start=CUSTOMERS.start, time=CUSTOMERS.time, key=CUSTOMERS.key
    )
    region = replace(orders.views[1], sources=(table, *orders.views[1].sources[1:]))
    entities = replace(orders.entities, sources=(table,)) if orders.entities else None
    borrowed = replace(orders, features=(orders.views[0], region), entities=entities)
    members = [{key: value for key, value in row.items() if key != "event_day"} for row in MEMBERS[1:3]]
    rows = {"orders": ORDERS, "customers": members, "regions": REGIONS}
    expected = testing.features(orders, {**rows, "customers": MEMBERS}, date=DAY)
    assert testing.features(borrowed, rows, date=DAY).to_arrow().equals(expected.to_arrow())


def test_a_function_on_frames_is_called_by_spark(spark: Any) -> None:
    day = date(2026, 1, 2)
    rows = {
        "opened": [{"shop": shop, "region": region, "day": day} for shop, region in (("a", "north"), ("b", "south"))],
        "sales": [{"shop": "a", "day": day, "amount": 1.5}],
        "flows": [{"region": "north", "day": day, "people": 10}],
    }
    assert testing.features(WITH_REGION, rows, date=day).to_arrow().to_pylist() == [
        {"shop": "a", "as_of": day, "amount_2d": 1.5, "people": 10.0},
        {"shop": "b", "as_of": day, "amount_2d": None, "people": None},
    ]


def test_classes_and_quantiles_are_judged_against_shares_and_quantiles_that_are_given() -> None:
    rng = np.random.default_rng(0)
    names = np.array(["basic", "gold", "trial"])
    label = rng.integers(3, size=600)
    shares = np.full((600, 3), 0.1)
    shares[np.arange(600), label] = 0.8
    found = testing.gate(plan_sklearn, shares, names[label], baseline=[1 / 3] * 3)
    assert found.metrics["log_loss"] == pytest.approx(-np.log(0.8))
    assert found.baseline["log_loss"] == pytest.approx(np.log(3))
    assert {"floor:accuracy", "floor:gold_recall", "baseline"} <= {check.name for check in found.checks if check.passed}
    with pytest.raises(
        InputError, match=r"The scores are of the shape \(600, 3\), and the labels have .* basic, gold\."
    ):
        testing.gate(plan_sklearn, shares, names[label % 2])
    spent = rng.gamma(2.0, 20.0, size=500)
    quantiles = np.quantile(spent, (0.1, 0.5, 0.9))
    judged = testing.gate(spend_quantiles, np.tile(quantiles, (500, 1)), spent, baseline=quantiles * 3)
    assert judged.baseline_name == "empirical quantiles"
    assert judged.passed, judged.line


def test_answers_have_each_kind_of_output_and_the_segments() -> None:
    rows = [{"user_id": "u1", "a": 1.0, "b": 2.0}]
    (answer,) = testing.answers(every, rows)
    value = answer["value"]
    assert (value["score"], value["best"], value["likes"], value["band"]) == (3.0, "right", False, "above")
    assert (value["plan"], value["embedding"]) == ("gold", [1.0, 2.0, 2.0])
    assert value["items"] == [{"item": "i3", "score": 2.0, "seen": True}]
    fitted = testing.answers(
        spend_quantiles, [_features_of(spend_quantiles)], lambda f: np.tile([[30.0, 10.0, 20.0]], (1024, 1))
    )
    assert fitted[0]["value"] == {"spend_q10": 10.0, "spend_q50": 20.0, "spend_q90": 30.0, "size": "medium"}


def _features_of(pipeline: Any) -> dict[str, Any]:
    return {"user_id": "u1", **dict.fromkeys(pipeline.feature_names, 1.0)}


HOUSEHOLDS = [{"household_id": 1, "spend_28d": 9.0, "visits_28d": 2.0}]


def test_a_transform_gives_named_features_and_nan_for_what_is_not_found() -> None:
    found = testing.transform(payments, {"household_id": 1, "amount": 5}, {"household": HOUSEHOLDS})
    assert found.to_arrow().to_pydict() == {"amount": [5.0], "spend_28d": [9.0]}
    assert found.to_arrow().schema.types == [pa.float32()] * 2
    for views in ({"household": HOUSEHOLDS}, {}):
        unknown = testing.transform(payments, {"household_id": 2, "amount": 5}, views)
        assert np.isnan(unknown.to_pandas()["spend_28d"]).all()
    products = [{"product_id": "a", "popularity": 3.0}]
    request = {"household_id": 1, "candidates": [{"product_id": "a", "price": np.e - 1}, {"product_id": "b"}]}
    ranked = testing.transform(search, request, {"household": HOUSEHOLDS, "product": products}).to_pandas()
    assert ranked["spend"].tolist() == [9.0, 9.0]
    assert ranked["popularity"].tolist()[0] == 3.0
    assert np.isnan(ranked["popularity"][1])
    assert ranked["price_log"].tolist() == pytest.approx([1.0, np.log(2)])


def test_of_a_live_view_the_rows_are_those_that_are_merged_and_an_estimator_stands_in_for_the_trained_one() -> None:
    from sklearn.linear_model import LogisticRegression

    names = VIEW.feature_names
    rows = [{"card": 5, **{name: float(place) for place, name in enumerate(names)}}]
    found = testing.transform(CHECK, {"card": 5, "amount": 2.5}, {VIEW.name: rows})
    assert [*found.to_arrow().to_pylist()[0].values()] == [*map(float, range(len(names))), 2.5]
    generator = np.random.default_rng(1)
    matrix = generator.normal(size=(50, len(names) + 1)).astype(np.float32)
    fitted = LogisticRegression().fit(matrix, matrix[:, -1] > 0)
    answered = testing.answer(CHECK, {"card": 5, "amount": 2.5}, {VIEW.name: rows}, model=fitted)
    expected = fitted.predict_proba(found.to_pandas().to_numpy())[0, 1]
    assert (answered["answered_by"], answered["value"]["score"]) == ("model", pytest.approx(expected))


def test_an_answer_is_by_the_model_or_by_the_fallback_that_the_server_would_take() -> None:
    request = {"household_id": 1, "amount": 5, "request_id": "r1"}
    found = testing.answer(payments, request, {"household": HOUSEHOLDS})
    assert (found["name"], found["request_id"], found["value"]) == ("payments", "r1", {"suspicion": 0.5})
    assert (found["answered_by"], found["answered_by_counts"]) == ("model", {"model": 1})
    assert found["stores"]["household"]["version"] == 1

    def failing(features: Any) -> Any:
        raise ValueError("no")

    fallen = testing.answer(payments, request, {"household": HOUSEHOLDS}, model=failing)
    assert (fallen["answered_by"], fallen["fallback_reason"], fallen["value"]) == (
        "precomputed", "failed", {"suspicion": 2.0},
    )  # fmt: skip
    alone = testing.answer(payments, request)
    assert (alone["answered_by"], alone["fallback_reason"], alone["value"]) == ("default", "lookup", {"suspicion": 0.5})
    request = {"household_id": 1, "candidates": [{"product_id": "a"}, {"product_id": "b"}]}
    views = {"household": HOUSEHOLDS, "product": [{"product_id": name, "popularity": 1.0} for name in "ab"]}
    ranked = testing.answer(search, request, views, model=lambda features: np.arange(len(features["spend"])) * 0.0)
    assert [item["product_id"] for item in ranked["items"]] == ["a", "b"]


def test_a_request_or_view_that_does_not_fit_is_refused() -> None:
    request = {"household_id": 1, "amount": 5}
    with pytest.raises(InputError, match="The server would refuse the request: .*'amuont'"):
        testing.transform(payments, {"household_id": 1, "amuont": 5})
    with pytest.raises(InputError, match=r"looks up no view 'houshold'. Did you mean 'household'\?"):
        testing.answer(payments, request, {"houshold": HOUSEHOLDS})
    with pytest.raises(InputError, match="The frame of view 'household' has no column 'visits_28d'"):
        testing.answer(payments, request, {"household": [{"household_id": 1, "spend_28d": 9.0}]})
    with pytest.raises(InputError, match="The model of real-time model 'search' is a `EstimatorModel`"):
        testing.answer(search, {"household_id": 1, "candidates": []})


def test_an_answer_is_that_of_the_release_of_a_nightly_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))
    settings = load_settings(home=tmp_path / "home", project="asked_project")
    folder = Path(settings.landing_uri) / SALES.name
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for number in range((LAST - FIRST).days + 1):
        day = FIRST + timedelta(days=number)
        rows = [f"{rng.integers(5)},p{rng.integers(3)},{rng.integers(1, 99) / 4},{day}" for _ in range(4)]
        (folder / f"{day}.csv").write_text("\n".join(["household_id,product_id,spend,day", *rows, ""]))
    run_in_process(settings, RunRequest(pipelines=["payments"]))
    views = {"household": fc.features("household", settings=settings)}
    for household in (0, 3, 77):
        request = {"household_id": household, "amount": 12.5}
        expected = compute_current_answer(settings, "payments", orjson.dumps(request))
        assert not isinstance(expected, str), expected
        found = testing.answer(payments, request, views)
        assert expected.scores is not None
        assert found["value"]["suspicion"] == expected.scores[0]
        assert found["answered_by"] == expected.answered_by
        features = testing.transform(payments, request, views).to_pandas().to_numpy()
        np.testing.assert_array_equal(features, expected.features)
