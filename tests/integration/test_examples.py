"""The training set of a real-time model: requests as they would have been answered, never with what came later."""

import json
import shutil
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest
from deltalake import DeltaTable
from offered_project.pipelines.offers import SHOWN, offers
from offered_project.pipelines.takers import takers
from offered_project.transforms import FEATURES
from offered_project.views import VISITS
from offered_sample import NIGHT, Shown, Visit, brief, expected, land_offers, shown, visits

from forecache.base.errors import InputError
from forecache.base.settings import Settings, load_settings
from forecache.declare.realtime.request_rows import RowsBuilder, apply_transform
from forecache.lake.features import build_view
from forecache.lake.ingest.ingest import ingest
from forecache.models.registry.model_versions import list_models
from forecache.models.registry.register import register_trained_model
from forecache.models.registry.run_gate import run_gate
from forecache.models.training.launch import train
from forecache.operations.release import recorded_requests
from forecache.plugins.drift.log_monitoring import expected_log_performance
from forecache.plugins.historical_features.requests import request_days
from forecache.plugins.historical_features.training_set import build_examples
from forecache.realtime.lookups import keys_of
from forecache.realtime.request.request_answer import ParsedRequest
from forecache.serve.store import open_store, publish

pytestmark = pytest.mark.slow
BOUGHT, ASKED = visits(), shown()


def lake(settings: Settings, spark: Any, bought: list[Visit], asked: list[Shown]) -> Settings:
    land_offers(settings, bought, asked)
    for source in (VISITS, SHOWN):
        ingest(settings, source)
    return settings


@pytest.fixture(scope="module")
def landed(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("offers") / "home"
    return lake(load_settings(home=home, project="offered_project", spark_master="local[2]"), spark, BOUGHT, ASKED)


def copied(settings: Settings, folder: Path) -> Settings:
    """The same lake in another home, to change it there."""
    home = shutil.copytree(settings.home_path, folder / "home")
    return load_settings(home=home, project="offered_project", spark_master="local[2]")


@pytest.fixture(scope="module")
def built(landed: Settings, spark: Any) -> Any:
    return build_examples(landed, offers, NIGHT, run_id="first")


def written(settings: Settings) -> pa.Table:
    table = DeltaTable(settings.table_uri("training_set_offers")).to_pyarrow_table()
    return table.sort_by([("request_id", "ascending"), ("position", "ascending")])


def features_of(table: pa.Table) -> np.ndarray:
    return np.column_stack([table[name].to_numpy(zero_copy_only=False) for name in FEATURES])


def test_the_whole_table_is_what_a_plain_computation_gives(landed: Settings, built: Any) -> None:
    table = written(landed)
    assert table.schema.names == ["request_id", "position", "as_of", "split", *FEATURES, "taken"]
    days = request_days(offers, NIGHT)
    of_day = {day: split for split, some in days.items() for day in some}
    rows = sorted((row for row in ASKED if row.at.date() in of_day), key=lambda row: (row.request, row.place))
    assert table["request_id"].to_pylist() == [row.request for row in rows]
    assert table["position"].to_pylist() == [row.place for row in rows]
    assert table["as_of"].to_pylist() == [row.at.date() for row in rows]
    assert table["split"].to_pylist() == [of_day[row.at.date()] for row in rows]
    assert table["taken"].to_pylist() == [float(row.taken) for row in rows]
    known = expected(BOUGHT, ASKED)
    wanted = np.array([known[row.request, row.place] for row in rows], np.float64).astype(np.float32)
    np.testing.assert_array_equal(features_of(table), wanted)
    assert np.isnan(wanted).any(axis=0)[[0, 2, 7]].all(), "the sample should have unknown keys and nulls"


def test_splits_follow_in_time_with_the_horizon_between_them(built: Any) -> None:
    days = request_days(offers, NIGHT)
    assert days == {
        "train": tuple(date(2026, 1, day) for day in range(4, 10)),
        "validation": (date(2026, 1, 11), date(2026, 1, 12)),
        "test": (date(2026, 1, 14), date(2026, 1, 15)),
    }
    assert built.details["as_of"]["test"] == ["2026-01-14", "2026-01-15"]
    assert built.details["requests"] == {"train": 72, "validation": 24, "test": 24}
    assert sum(built.details["splits"].values()) == built.rows


def test_a_request_never_sees_its_own_day_or_a_later_one(landed: Settings, spark: Any, settings: Settings) -> None:
    day = date(2026, 1, 11)
    later = [
        replace(each, spend=None if each.spend is None else each.spend + 1e6) if each.day >= day else each
        for each in BOUGHT
    ] + [Visit(row.household, row.product, 5e6, row.at.date()) for row in ASKED if row.at.date() >= day]
    changed = settings.model_copy(update={"project": "offered_project"})
    build_examples(lake(changed, spark, later, ASKED), offers, NIGHT)
    before, after = written(landed), written(changed)
    until = np.array([made <= day for made in before["as_of"].to_pylist()])
    first, second = features_of(before), features_of(after)
    np.testing.assert_array_equal(first[until], second[until])
    assert until.any()
    differs = (first != second) & ~(np.isnan(first) & np.isnan(second))
    assert differs[~until].any(axis=1).all()


def test_a_request_is_whole_in_a_file_and_in_order(landed: Settings, built: Any) -> None:
    seen: set[str] = set()
    for file in DeltaTable(landed.table_uri("training_set_offers")).file_uris():
        import pyarrow.parquet as pq

        rows = pq.read_table(file, columns=["request_id", "position"]).to_pylist()
        assert rows == sorted(rows, key=lambda row: (row["request_id"], row["position"]))
        ids = {row["request_id"] for row in rows}
        assert not ids & seen
        seen |= ids
    assert len(seen) == 120


def test_it_is_current_until_something_changes(landed: Settings, built: Any, spark: Any, tmp_path: Path) -> None:
    again = build_examples(landed, offers, NIGHT)
    assert (again.skipped, again.delta_version, again.details) == (True, built.delta_version, built.details)
    changed = copied(landed, tmp_path)
    assert not build_examples(changed, brief, NIGHT).skipped
    assert build_examples(changed, brief, NIGHT).skipped
    # Features as of the day before are published at six, and do not count from eight o'clock on.
    six = replace(offers.trained_examples, published_h=6.0)
    older = replace(offers, examples=six, lookups=(replace(offers.lookups[0], max_age_h=8.0), *offers.lookups[1:]))
    aged = build_examples(changed, older, NIGHT)
    assert not aged.skipped
    table = written(changed)
    at = {(row.request, row.place): row.at for row in ASKED}
    keys = list(zip(table["request_id"].to_pylist(), table["position"].to_pylist(), strict=True))
    hours = np.array([at[key].hour for key in keys])
    spend = table["spend_3d"].to_numpy(zero_copy_only=False)
    assert np.isnan(spend[(hours >= 8) | (hours < 6)]).all()
    assert not np.isnan(spend[(hours >= 6) & (hours < 8)]).all()
    earlier = expected(BOUGHT, [replace(row, at=row.at - timedelta(days=row.at.hour < 6)) for row in ASKED])
    popular = [earlier[key][0] for key in keys]
    np.testing.assert_array_equal(table["popularity"].to_numpy(zero_copy_only=False), np.array(popular, np.float32))
    assert not build_examples(changed, brief, NIGHT).skipped
    assert build_examples(changed, brief, NIGHT, rebuild=True).delta_version == aged.delta_version + 2


def test_some_requests_are_kept_as_they_are_sent(landed: Settings, built: Any) -> None:
    texts = recorded_requests(landed, "offers")
    assert len(texts) == 12
    sent = [json.loads(text) for text in texts]
    last = {row.request: row for row in ASKED if row.at.date() == date(2026, 1, 15)}
    assert {(each["household_id"], each["asked_at"]) for each in sent} == {
        (row.household, row.at.isoformat().replace("+00:00", "Z")) for row in last.values()
    }
    assert set(sent[0]["candidates"][0]) == {"product_id", "price"}
    assert {each["channel"] for each in sent} <= {"app", "web"}, "an empty channel is asked as its default"
    columns = offers.feature_names
    assert columns == FEATURES


def test_a_request_has_the_same_bits_when_it_is_asked_of_the_stores_of_its_day(
    landed: Settings, built: Any, spark: Any
) -> None:
    night = date(2026, 1, 14)
    for view in offers.views:
        build_view(landed, view, [night])
        publish(landed, view, night=night)
    stores = {view.name: open_store(landed, view.name).snapshot() for view in offers.views}
    builder, table = RowsBuilder(offers), written(landed)
    of_day = table.filter(pa.compute.equal(table["as_of"], pa.scalar(date(2026, 1, 15))))
    ids = sorted(set(of_day["request_id"].to_pylist()))
    texts = recorded_requests(landed, "offers")
    for request_id, text in zip(ids, texts, strict=True):
        asked = json.loads(text)
        offered = asked.pop("candidates")
        columns = builder.build_columns(asked, {name: [each[name] for each in offered] for name in offered[0]})
        request = ParsedRequest(columns.length, columns.values, (), b"")
        looked_up = {}
        for lookup in offers.lookups:
            snapshot = stores[lookup.view.name]
            looked_up[lookup.called] = snapshot.matrix(keys_of(snapshot.manifest.key, lookup.by, request))
        views, found = ({name: pair[i] for name, pair in looked_up.items()} for i in (0, 1))
        rows = builder.build_rows(columns, views, found)
        answered = apply_transform(offers.transform, offers.transform_path, rows, len(FEATURES))
        trained = features_of(of_day.filter(pa.compute.equal(of_day["request_id"], request_id)))
        np.testing.assert_array_equal(np.isnan(answered), np.isnan(trained))
        known = ~np.isnan(trained)
        np.testing.assert_array_equal(answered[known].view(np.uint32), trained[known].view(np.uint32))


def changed_examples(**columns: Any) -> Any:
    """The offers with one look-up, whose examples have other columns: functions of their frame."""

    def compute(rows: Any, first: Any, last: Any) -> Any:
        frame = offers.trained_examples.compute(rows, first, last)
        for name, column in columns.items():
            frame = frame.drop(name) if column is None else frame.withColumn(name, column(frame))
        return frame

    return replace(brief, examples=replace(offers.trained_examples, compute=compute))


def test_examples_that_could_not_be_asked_are_refused_and_the_table_stays(
    landed: Settings, built: Any, spark: Any
) -> None:
    from pyspark.sql import functions as F

    version = DeltaTable(landed.table_uri("training_set_offers")).version()
    cases = [
        ({"price": None}, "The examples of 'offers' lack the column 'price'. Return it from compute"),
        ({"product_id": lambda frame: frame.position}, "'product_id' of the examples of 'offers' is a int"),
        (
            {"event_timestamp": lambda frame: F.when(frame.position != 3, frame.event_timestamp)},
            "has a row without 'event_timestamp'",
        ),
        ({"taken": lambda frame: F.lit(0.5)}, "The label 'taken' .* is 0.5 in .* rows"),
    ]
    for columns, message in cases:
        with pytest.raises(InputError, match=message):
            build_examples(landed, changed_examples(**columns), NIGHT)
    assert DeltaTable(landed.table_uri("training_set_offers")).version() == version


def test_a_model_of_one_value_learns_from_requests_of_one_row(landed: Settings, spark: Any) -> None:
    result = build_examples(landed, takers, NIGHT)
    assert result.details["as_of"]["test"] == ["2026-01-14", "2026-01-15", "2026-01-16"]
    assert result.details["as_of"]["validation"] == ["2026-01-12", "2026-01-13"]
    assert result.details["splits"] == result.details["requests"]
    table = DeltaTable(landed.table_uri("training_set_takers")).to_pyarrow_table()
    assert set(table["position"].to_pylist()) == {0}
    by_request: dict[str, list[Shown]] = {}
    for row in ASKED:
        by_request.setdefault(row.request, []).append(row)
    for request, shown_then, took, worth, is_app in zip(
        *(table[name].to_pylist() for name in ("request_id", "shown", "took", "worth", "is_app")), strict=True
    ):
        rows = by_request[request]
        assert (shown_then, took) == (len(rows), max(row.taken for row in rows))
        assert (worth, is_app) == ((2.0, 1.0) if rows[0].channel == "app" else (1.0, 0.0))
    texts = recorded_requests(landed, "takers")
    assert set(json.loads(texts[0])) == {"household_id", "channel", "shown"}
    trained = train(landed, takers, NIGHT)
    version = register_trained_model(landed, takers, trained).details["model_version"]
    verdict = run_gate(landed, takers, version, actor="test")
    assert np.isfinite(verdict.metrics["roc_auc"])
    assert {"calibration", "latency_ms"} <= {check.name for check in verdict.checks}
    scores = np.linspace(0.02, 0.98, 150, dtype=np.float32)
    figures, note = expected_log_performance(landed, takers, NIGHT, version, [scores[::2], scores[1::2]])
    assert (note, len(figures)) == ("", 6)
    [model] = list_models(landed, takers)
    for row in figures:
        assert (row.pipeline, row.run_date, row.kind) == ("takers", NIGHT, "estimate")
        assert (row.model_version, row.rows) == (1, 150)
        assert row.reference_value == model.metrics.get(row.name, row.reference_value)
        higher = row.value - row.reference_value
        assert row.effect == pytest.approx(higher if row.name in ("log_loss", "brier") else -higher)
        assert row.effect_low < row.effect < row.effect_high
    names = {row.name for row in figures}
    assert names == {"roc_auc", "average_precision", "log_loss", "brier", "accuracy", "f1"}
    assert "version 2 was registered without" in expected_log_performance(landed, takers, NIGHT, 2, [scores])[1]


def test_nights_without_data_are_refused(landed: Settings, spark: Any) -> None:
    with pytest.raises(InputError, match="cannot train as of 2026-01-08: its data starts on 2026-01-01.") as said:
        build_examples(landed, offers, date(2026, 1, 8))
    assert "Train on 2026-01-09 or later" in str(said.value)
    assert request_days(offers, date(2026, 1, 9))["train"] == (date(2026, 1, 2),)
    with pytest.raises(InputError, match="lies outside 'offers'"):
        build_examples(landed, offers, date(2025, 12, 31))
    with pytest.raises(InputError, match="has no landing file"):
        build_examples(landed, offers, NIGHT + timedelta(days=1))
