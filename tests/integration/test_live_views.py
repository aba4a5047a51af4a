"""A live view from landing files to the store: its states travel to the bit, and merge with tiles to what is true."""

import shutil
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import orjson
import pytest
from live_view_sample import CHECK, PAYMENTS, START, VIEW, features_at, land, us
from published_live_view import ALL, AS_OF, AT, CARDS, DAYS, PLAN, TODAY, commit, keys, looked_up, streamed, truth

from forecache.base.errors import InputError, UnavailableError
from forecache.base.settings import Settings, load_settings
from forecache.cli.commands.get import provenance_text
from forecache.kit.delta.tables import open_table
from forecache.kit.http.problems import Problem
from forecache.lake.features import build_view
from forecache.lake.ingest.ingest import ingest
from forecache.plugins.historical_features.historical import historical_features
from forecache.plugins.historical_features.live_features import live_features
from forecache.plugins.historical_features.night_features import load_night_features
from forecache.plugins.historical_features.training_set import build_examples
from forecache.plugins.score_cache.cached_path import score_cache_key
from forecache.realtime.lookups import ViewUnavailable
from forecache.realtime.request.request_answer import ParsedRequest
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.versions.live_answers import answers_of
from forecache.serve.reader.versions.live_layers import LiveLayers
from forecache.serve.reader.wire import answer_from, answers_from
from forecache.serve.store import open_store, publish
from forecache.serve.store.live.layer import LiveLayer, read_layer, write_layer
from forecache.serve.store.read.live_view import LiveViewMerger

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def landed(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = load_settings(home=tmp_path_factory.mktemp("live") / "home", spark_master="local[2]")
    land(settings, ALL, [START + timedelta(days=number) for number in range(DAYS)])
    ingest(settings, PAYMENTS)
    build_view(settings, VIEW, [AS_OF - timedelta(days=1), AS_OF])
    return settings


@pytest.fixture(scope="module")
def published(landed: Settings) -> Settings:
    for night in (AS_OF - timedelta(days=1), AS_OF):
        publish(landed, VIEW, night=night)
    return landed


def test_a_published_night_merged_with_tiles_is_what_the_moment_has(published: Settings) -> None:
    store = open_store(published, VIEW.name)
    versions = store.versions()
    assert [manifest.as_of for manifest in versions] == [str(AS_OF - timedelta(days=1)), str(AS_OF)]
    tiles = streamed([p for p in ALL if p.at_us <= AT and p.day >= us(AS_OF) // us(date(1970, 1, 2))], AS_OF)
    for manifest in versions:  # a night late, and none
        assert tuple(state.name for state in manifest.states) == VIEW.live_states
        view = LiveViewMerger(PLAN.to_json(), manifest)
        with store.snapshot(manifest.version) as snapshot:
            matrix, known = snapshot.matrix(keys(published))
            features, found = view.merge(matrix, known, tiles, AT)
            entries = view.merge_entries(snapshot.get_entries(keys(published)), tiles, AT)
        for card in range(CARDS):
            wanted = truth([p for p in ALL if p.at_us <= AT], card, AT)
            assert np.array_equal(features[card], wanted, equal_nan=True), (manifest.as_of, card)
            assert (entries[card] is None) == (not found[card])
            if found[card]:
                assert np.frombuffer(entries[card], np.float32).tobytes() == features[card].tobytes()


def test_answers_show_the_features_of_the_night_and_no_state(published: Settings) -> None:
    store = open_store(published, VIEW.name)
    with store.snapshot() as snapshot:
        answers = VersionAnswers(snapshot)
        (row, *_) = answers.rows(keys(published)[:1])
        shown = orjson.loads(answers.one(keys(published)[0]))["value"]
        matrix, _ = snapshot.matrix(keys(published)[:1])
    assert list(row) == list(shown) == list(VIEW.feature_names)
    assert matrix.shape == (1, len(VIEW.feature_names) + 2 * len(VIEW.live_states))
    assert np.array_equal(np.array(list(row.values()), np.float32), matrix[0, : len(row)], equal_nan=True)
    end = us(AS_OF + timedelta(days=1)) - 1
    assert np.array_equal(matrix[0, : len(row)], truth([p for p in ALL if p.at_us <= end], 0, end), equal_nan=True)


def test_a_version_of_another_declaration_is_not_merged(published: Settings) -> None:
    manifest = open_store(published, VIEW.name).current()
    plan = PLAN.to_json()
    plan["nights"] = 5
    with pytest.raises(UnavailableError, match="published by another declaration"):
        LiveViewMerger(plan, manifest)


def test_training_rows_see_what_came_strictly_before_their_moment(spark: Any, landed: Settings) -> None:
    moments = [ALL[place].at_us + shift for place in range(60, 200, 3) for shift in (0, 1)]
    asked = [(f"r{n}", n % (CARDS + 1), at) for n, at in enumerate(moments)] + [("none", None, moments[0])]
    rows = spark.createDataFrame(
        [(name, card, datetime.fromtimestamp(at / 1e6, timezone.utc)) for name, card, at in asked],
        "name string, buyer int, asked timestamp",
    )
    looked_up = live_features(spark, landed, VIEW, rows, by=("buyer",), timestamp="asked", column="seen")
    assert looked_up.columns == ["name", "buyer", "asked", "seen"]
    found = {row["name"]: row["seen"] for row in looked_up.collect()}
    assert len(found) == len(asked)
    for name, card, at in asked:
        before = [p for p in ALL if p.at_us < at]
        wanted = None if card is None else features_at(before, card, at)
        assert (found[name] is None) == (wanted is None), name
        if wanted is not None:
            assert np.array_equal(np.array(found[name], np.float32), np.array(wanted, np.float32), equal_nan=True)


def test_the_examples_of_a_model_see_the_view_as_when_they_were_asked(spark: Any, landed: Settings) -> None:
    result = build_examples(landed, CHECK, AS_OF)
    rows = open_table(landed, "training_set_check").to_pyarrow_table().to_pylist()
    assert len(rows) == result.rows > 50
    by_name = {f"p{payment.at_us}": payment for payment in ALL}
    for row in rows:
        asked = by_name[row["request_id"]]
        wanted = truth([p for p in ALL if p.at_us < asked.at_us], asked.card, asked.at_us)
        made = [np.nan if row[name] is None else row[name] for name in CHECK.feature_names[:-1]]
        assert np.array_equal(np.array(made, np.float32), wanted, equal_nan=True)
    assert build_examples(landed, CHECK, AS_OF).skipped


def test_any_table_of_keys_and_moments_is_given_features_of_the_moment(spark: Any, landed: Settings) -> None:
    asked = [(ALL[place].card, ALL[place].at_us) for place in range(100, 200, 7)]
    rows = spark.createDataFrame(
        [(card, datetime.fromtimestamp(at / 1e6, timezone.utc), at) for card, at in asked],
        "card bigint, event_timestamp timestamp, at bigint",
    )
    with pytest.raises(InputError, match="has 'card' as string, and the view 'card_live' as bigint. Cast it"):
        historical_features(spark, landed, [VIEW], rows.withColumn("card", rows.card.cast("string")))
    found = historical_features(spark, landed, [VIEW], rows)
    assert found.columns == ["card", "event_timestamp", "at", *VIEW.feature_names]
    for row in found.collect():
        wanted = truth([p for p in ALL if p.at_us < row["at"]], row["card"], row["at"])
        made = [np.nan if row[name] is None else row[name] for name in VIEW.feature_names]
        assert np.array_equal(np.array(made, np.float32), wanted, equal_nan=True)


def test_nights_computed_for_the_asked_have_the_states_of_those_in_the_table(spark: Any, landed: Settings) -> None:
    night = AS_OF - timedelta(days=1)
    in_table = load_night_features(spark, landed, VIEW, [night], states=True)
    computed = load_night_features(spark, landed, VIEW, [night - timedelta(days=1), night], states=True)
    assert computed.columns == in_table.columns == ["card", "as_of", *VIEW.feature_names, *VIEW.live_states]
    assert {repr(row) for row in in_table.collect()} <= {repr(row) for row in computed.collect()}


@pytest.fixture
def layered(published: Settings) -> Any:
    """The view's live layer, empty; it is gone after the test."""
    layout = open_store(published, VIEW.name).layout
    key = open_store(published, VIEW.name).current().key
    write_layer(layout, LiveLayer("cards", "stream_cards", "tiles", key, (), plan=PLAN.to_json()))
    yield layout
    layout.live.unlink()
    shutil.rmtree(layout.streamed_folder)


def test_a_request_sees_the_stream_up_to_its_moment(published: Settings, layered: Any) -> None:
    night = [p for p in ALL if p.at_us < us(AS_OF + timedelta(days=1))]
    before = looked_up(published, AT)
    commit(published, layered, TODAY, AT)
    after = looked_up(published, AT)
    for found, seen in ((before, night), (after, [*night, *TODAY])):
        assert list(found.merged) == ["card"]
        for card in range(CARDS):
            assert np.array_equal(found.views["card"][card], truth(seen, card, AT), equal_nan=True), card
            assert found.known["card"][card] == (features_at(seen, card, AT) is not None)
    request = ParsedRequest(CARDS, {"buyer": np.arange(CARDS)}, list(range(CARDS)), b"")
    assert score_cache_key(request, before) != score_cache_key(request, after), (
        "an answer from before is not given again"
    )


def test_tiles_that_the_night_includes_are_left_out(published: Settings, layered: Any) -> None:
    commit(published, layered, TODAY, AT)
    of_night, merged = looked_up(published, AT, cut=7), looked_up(published, AT, cut=6)
    assert of_night.views["card"].tobytes() != merged.views["card"].tobytes()
    night = [p for p in ALL if p.at_us < us(AS_OF + timedelta(days=1))]
    assert np.array_equal(of_night.views["card"][1], truth(night, 1, AT), equal_nan=True)


def test_a_night_that_is_too_old_is_not_served(published: Settings, layered: Any) -> None:
    looked_up(published, us(AS_OF + timedelta(days=3), 1439))
    with pytest.raises(ViewUnavailable, match=f"of the live view {VIEW.name} is too old to be merged"):
        looked_up(published, us(AS_OF + timedelta(days=4)))


def test_a_live_view_without_a_stream_is_that_of_the_night(published: Settings) -> None:
    end = us(AS_OF + timedelta(days=1)) - 1
    found = looked_up(published, end + 3_600_000_000)
    for card in range(CARDS):
        assert np.array_equal(
            found.views["card"][card], truth([p for p in ALL if p.at_us <= end], card, end), equal_nan=True
        )
    assert not found.merged


def test_a_version_of_another_declaration_than_the_layer_answers_without_it(
    published: Settings, layered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(published, layered, TODAY, AT)
    layers, store = LiveLayers(), open_store(published, VIEW.name)
    layer = read_layer(store.layout)
    assert layer is not None
    write_layer(store.layout, replace(layer, plan={**layer.plan, "nights": 5}))
    with store.snapshot() as snapshot:
        answers = answers_of(snapshot, layers.open_layer(store))
        answers.refresh(AT / 1e6)
        body = answers.one(keys(published)[0])
    assert body is not None
    assert orjson.loads(body)["source"] == "precomputed"
    layers.close()


def test_an_answer_in_json_is_what_a_request_sees_at_its_moment(
    published: Settings, layered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(published, layered, TODAY, AT)
    monkeypatch.setattr("forecache.serve.reader.versions.live_answers.time.time_ns", lambda: AT * 1000)
    layers, store = LiveLayers(), open_store(published, VIEW.name)
    asked = [*keys(published), b"99"]
    with store.snapshot() as snapshot:
        answers = answers_of(snapshot, layers.open_layer(store))
        answers.refresh(AT / 1e6)
        many = {row["key"]: row for row in orjson.loads(answers.many(asked)[0])["results"]}
        rows, moments = answers.dated_rows(asked)
        for place, key in enumerate(asked):
            wanted = features_at([p for p in ALL if p.at_us <= AT], int(key), AT)
            body = answers.one(key)
            assert (body is None) == (wanted is None) == (rows[place] is None) == (not many[key.decode()]["found"])
            if wanted is None:
                continue
            one = orjson.loads(body)
            assert (one["source"], one["position"]) == ("live", 7)
            assert (one["as_of"], one["feature_version"].split("@")[0]) == (
                str(AS_OF + timedelta(days=1)),
                f"{VIEW.name}={AS_OF}",
            )
            assert one["value"] == many[key.decode()]["value"] == rows[place]
            assert moments[place].timestamp() * 1e6 == AT
            shown = [np.nan if value is None else value for value in one["value"].values()]
            assert np.array_equal(np.array(shown, np.float32), np.array(wanted, np.float32), equal_nan=True)
        later = us(AS_OF + timedelta(days=1 + VIEW.live.nights))
        monkeypatch.setattr("forecache.serve.reader.versions.live_answers.time.time_ns", lambda: later * 1000)
        with pytest.raises(Problem, match="publish a newer as-of date"):
            answers.one(asked[0])
    layers.close()


def test_an_answer_without_an_event_since_the_night_says_that_it_is_of_now(
    published: Settings, layered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forecache.serve.reader.versions.live_answers.time.time_ns", lambda: AT * 1000)
    layers, store = LiveLayers(), open_store(published, VIEW.name)
    card = keys(published)[1]
    with store.snapshot() as snapshot:
        answers = answers_of(snapshot, layers.open_layer(store))
        answers.refresh(AT / 1e6)
        one, many = orjson.loads(answers.one(card) or b""), orjson.loads(answers.many([card])[0])
        base = f"{VIEW.name}={AS_OF}@{snapshot.manifest.source.delta_version}"
    layers.close()
    value, key = one.pop("value"), one.pop("key")
    assert one == {
        "source": "live", "position": None, "event_time": None, "verified_through": -1,
        "as_of": str(AS_OF + timedelta(days=1)), "feature_version": base, "age_s": 700 * 60, "stale": one["stale"],
    }  # fmt: skip
    assert many == {"results": [{"key": key, "found": True, "value": value}], **one}
    [answer] = answers_from(many)
    assert (answer.source, answer.as_of, answer.event_time) == ("live", AS_OF + timedelta(days=1), None)
    assert answer == answer_from({**one, "key": key, "value": value})
    assert provenance_text(one).startswith(f"live: {base} and no event since, as of {AS_OF + timedelta(days=1)}, age ")
