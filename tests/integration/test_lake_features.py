"""Features know nothing of the future, are rebuilt only where something changed, and split by time for training."""

import dataclasses
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dagster_project.purchases import PURCHASE_FEATURES, PURCHASES
from forecache.base.errors import InputError, NotFoundError
from forecache.base.settings import Settings, load_settings
from forecache.declare import EntitySplit, Pipeline, Training, load_pipeline
from forecache.kit.delta.tables import open_table, table_version
from forecache.lake.features import build_features, feature_versions, stale_nights
from forecache.lake.ingest.ingest import ingest
from forecache.lake.query import query
from forecache.lake.training_set import as_of_dates, build_training_set

START = PURCHASES.start
Purchase = tuple[str, int, float]  # customer, days after the start, dollars


@pytest.fixture
def pipeline(settings: Settings) -> Pipeline:
    churn = load_pipeline(settings, "churn")
    label = dataclasses.replace(churn.label, horizon_days=3)
    features = churn.views[0].features
    training = Training(num_as_of=2, every_days=2)
    return dataclasses.replace(churn, sources=(PURCHASES,), features=features, label=label, training=training)


def land(settings: Settings, purchases: list[Purchase], *, days: int, suffix: str = "") -> None:
    folder = Path(settings.landing_uri) / PURCHASES.name
    folder.mkdir(parents=True, exist_ok=True)
    for offset in range(days):
        day = START + timedelta(days=offset)
        rows = [f"{customer},{day},1,{amount}\n" for customer, when, amount in purchases if when == offset]
        if rows or not suffix:
            (folder / f"{day}{suffix}.csv").write_text("customer_id,date,quantity,amount\n" + "".join(rows))


def features(settings: Settings, night: date) -> list[dict[str, Any]]:
    return query(settings, f"select * from features_churn where as_of = '{night}' order by customer_id").to_pylist()


def test_values_of_a_small_history_are_those_computed_by_hand(
    settings: Settings, spark: Any, pipeline: Pipeline
) -> None:
    # 1997-01-04 is a Saturday.
    land(settings, [("00001", 0, 10.0), ("00001", 3, 20.0), ("00001", 3, 5.0), ("00002", 4, 7.0)], days=12)
    ingest(settings, PURCHASES)
    build_features(settings, pipeline, [START + timedelta(days=10)])
    first, second = features(settings, START + timedelta(days=10))
    expected = {
        "recency_days": 7.0,
        "tenure_days": 10.0,
        "frequency": 2.0,
        "monetary": 35.0,
        "purchases_7d": 0.0,
        "purchases_30d": 2.0,
        "amount_30d": 35.0,
        "trend_30d": 1.0,
        "gap_mean_days": 3.0,
        "gap_max_days": 3.0,
        "weekend_share": 0.5,
        "month_start_share": 1.0,
    }
    assert {name: first[name] for name in expected} == pytest.approx(expected)
    assert first["mean_amount"] == pytest.approx(35 / 3)
    assert second["gap_mean_days"] is None
    assert second["purchases_7d"] == 1.0


def test_second_run_is_skipped_and_a_late_file_makes_only_later_nights_stale(
    settings: Settings, spark: Any, pipeline: Pipeline
) -> None:
    land(settings, [("00001", 0, 10.0), ("00002", 5, 3.0)], days=8)
    ingest(settings, PURCHASES)
    nights = [START + timedelta(days=day) for day in (2, 4, 6)]
    first = build_features(settings, pipeline, nights)
    again = build_features(settings, pipeline, nights)
    assert first.rows == again.rows == 1 + 1 + 2
    assert again.skipped
    assert table_version(settings, "features_churn") == first.delta_version

    land(settings, [("00003", 3, 9.0)], days=8, suffix=".late")
    ingest(settings, PURCHASES)
    assert stale_nights(settings, pipeline.views[0]) == tuple(nights[1:])
    rebuilt = build_features(settings, pipeline, nights)
    assert rebuilt.details["built"] == [night.isoformat() for night in nights[1:]]
    assert rebuilt.rows == 1 + 2 + 3
    assert stale_nights(settings, pipeline.views[0]) == ()
    versions = feature_versions(settings, pipeline, nights[:2])
    assert versions == {nights[0]: first.delta_version, nights[1]: rebuilt.delta_version}


def test_nights_without_input_are_refused_with_the_remedy(settings: Settings, spark: Any, pipeline: Pipeline) -> None:
    land(settings, [("00001", 0, 10.0)], days=2)
    ingest(settings, PURCHASES)
    with pytest.raises(InputError, match=r"As-of date 1997-01-05 is empty.*Land a file for 1997-01-05"):
        build_features(settings, pipeline, [START + timedelta(days=4)])
    with pytest.raises(InputError, match=r"date 2001-01-01 lies outside.*1997-01-01 to 1998-06-30"):
        build_features(settings, pipeline, [date(2001, 1, 1)])
    with pytest.raises(NotFoundError, match="has no features for as-of date 1997-01-01"):
        feature_versions(settings, pipeline, [START])


def test_declared_feature_that_is_not_computed_is_named(settings: Settings, spark: Any, pipeline: Pipeline) -> None:
    land(settings, [("00001", 0, 10.0)], days=2)
    ingest(settings, PURCHASES)

    def forgetful(events: Mapping[str, Any]) -> Any:
        names = [feature.name for feature in PURCHASE_FEATURES if feature.name != "monetary"]
        return events["purchases"].selectExpr("customer_id", "as_of", *(f"1.0 as {name}" for name in names))

    declared = dataclasses.replace(pipeline.features, compute=forgetful, sql="")
    with pytest.raises(InputError, match="lack the column 'monetary'"):
        build_features(settings, dataclasses.replace(pipeline, features=declared), [START])


def test_feature_added_to_the_declaration_is_added_to_the_table(
    settings: Settings, spark: Any, pipeline: Pipeline
) -> None:
    land(settings, [("00001", 0, 10.0)], days=3)
    ingest(settings, PURCHASES)
    fewer = dataclasses.replace(pipeline.features, columns=PURCHASE_FEATURES[:3])
    build_features(
        settings,
        dataclasses.replace(
            pipeline, features=fewer, gate=dataclasses.replace(pipeline.gate, baseline=pipeline.gate.baseline)
        ),
        [START],
    )
    build_features(settings, pipeline, [START + timedelta(days=1)])
    (old,), (new,) = features(settings, START), features(settings, START + timedelta(days=1))
    assert old["monetary"] is None
    assert new["monetary"] == 10.0


def test_training_dates_never_let_a_label_reach_a_later_split(pipeline: Pipeline) -> None:
    night = date(1998, 6, 30)
    dates = as_of_dates(pipeline, night)
    horizon = timedelta(days=pipeline.label.horizon_days)
    assert max(dates["train"]) + horizon <= min(dates["validation"])
    assert max(dates["validation"]) + horizon <= min(dates["test"])
    assert max(dates["test"]) + horizon <= night


def test_training_set_has_labels_of_the_horizon_only_and_is_skipped_when_current(
    settings: Settings, spark: Any, pipeline: Pipeline
) -> None:
    # Train on days 4 and 6, validate on 9, test on 12, with three days of horizon; the night is day 15.
    purchases = [("00001", 0, 1.0), ("00001", 7, 1.0), ("00001", 12, 1.0), ("00001", 15, 1.0), ("00001", 16, 1.0)]
    land(settings, purchases, days=18)
    ingest(settings, PURCHASES)
    night = START + timedelta(days=15)
    result = build_training_set(settings, pipeline, night)
    labels = query(settings, "select as_of, split, churned from training_set_churn order by as_of").to_pylist()
    assert [((row["as_of"] - START).days, row["split"], row["churned"]) for row in labels] == [
        (4, "train", 0.0),
        (6, "train", 0.0),
        (9, "validation", 0.0),
        (12, "test", 0.0),
    ]
    assert result.details["splits"] == {"train": 2, "validation": 1, "test": 1}
    again = build_training_set(settings, pipeline, night)
    assert again.skipped
    assert (again.rows, again.delta_version) == (result.rows, result.delta_version)
    with pytest.raises(InputError, match="cannot train as of 1997-01-03"):
        build_training_set(settings, pipeline, START + timedelta(days=2))


def test_a_training_set_by_entity_has_each_customer_in_one_split_on_all_dates(
    settings: Settings, spark: Any, pipeline: Pipeline
) -> None:
    by_entity = dataclasses.replace(
        pipeline, training=Training(num_as_of=2, every_days=2, split=EntitySplit(validation=0.25, test=0.25))
    )
    land(settings, [(f"{i:05d}", 0, 10.0) for i in range(60)], days=18)
    ingest(settings, PURCHASES)
    result = build_training_set(settings, by_entity, START + timedelta(days=15))
    asked = "select customer_id, list(distinct split) as splits, count(*) as n from training_set_churn group by all"
    rows = query(settings, asked).to_pylist()
    assert {(len(row["splits"]), row["n"]) for row in rows} == {(1, 2)}
    assert len(rows) == 60
    assert result.details["splits"] == {
        name: 2 * sum(row["splits"] == [name] for row in rows) for name in ("train", "validation", "test")
    }
    assert {name: days[-1] for name, days in result.details["as_of"].items()} == dict.fromkeys(
        ("train", "validation", "test"), (START + timedelta(days=12)).isoformat()
    )
    few = dataclasses.replace(
        by_entity, training=dataclasses.replace(by_entity.training, split=EntitySplit(0.001, 0.2))
    )
    with pytest.raises(InputError, match="validation split of pipeline 'churn' has no entity .*larger share"):
        build_training_set(settings, few, START + timedelta(days=15))


purchase = st.tuples(st.sampled_from(["00001", "00002", "00003"]), st.integers(0, 9), st.integers(1, 99))


@pytest.mark.slow
@hypothesis_settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(purchases=st.lists(purchase, min_size=1, max_size=12), day=st.integers(0, 8))
def test_adding_later_events_changes_no_earlier_feature(
    tmp_path_factory: pytest.TempPathFactory, pipeline: Pipeline, purchases: list[tuple[str, int, int]], day: int
) -> None:
    """The point-in-time contract: the features of a night are those of a lake that ends on that night."""

    def computed(known: list[tuple[str, int, int]]) -> list[dict[str, Any]]:
        home = load_settings(home=tmp_path_factory.mktemp("home"))
        land(home, [("00009", 0, 1.0), *((customer, when, float(amount)) for customer, when, amount in known)], days=10)
        ingest(home, PURCHASES)
        build_features(home, pipeline, [START + timedelta(days=day)])
        return features(home, START + timedelta(days=day))

    assert computed(purchases) == computed([each for each in purchases if each[1] <= day])


def test_feature_table_has_a_change_feed_and_no_deletion_vectors(
    settings: Settings, spark: Any, pipeline: Pipeline
) -> None:
    land(settings, [("00001", 0, 10.0)], days=1)
    ingest(settings, PURCHASES)
    build_features(settings, pipeline, [START])
    configuration = open_table(settings, "features_churn").metadata().configuration
    assert configuration["delta.enableChangeDataFeed"] == "true"
    assert configuration["delta.enableDeletionVectors"] == "false"
