"""Publishing a real Delta table: what is served, when nothing is done, what travels, what is refused."""

import re
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import orjson
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from store_tables import (
    NEXT_NIGHT,
    NIGHT,
    OPEN_RULES,
    SCORED_AT,
    append,
    churn,
    prediction_table,
    predictions,
    scores,
    upsert,
    write_night,
)

from forecache.base.errors import CheckError, ConflictError, InputError, NotFoundError
from forecache.base.settings import Settings
from forecache.kit.versioned.pointer import lock_versions
from forecache.serve.store import Store, decode_key, encode_key, open_store, publish, split_entry


def served(store: Store) -> dict[str, float | None]:
    """Every key and its score, read through the reader's code."""
    with store.snapshot() as snapshot:
        return {
            key.decode(): orjson.loads(split_entry(entry)[0])["churn_probability"] for key, entry in snapshot.items()
        }


def test_the_first_publish_serves_every_prediction_of_the_newest_night(settings: Settings) -> None:
    write_night(settings, predictions(scores(50), night=NIGHT))
    write_night(settings, predictions(scores(200), night=NEXT_NIGHT), night=NEXT_NIGHT)
    result = publish(settings, churn(), run_id="run-9")
    store = open_store(settings, "churn")
    manifest = store.current()
    assert manifest is not None
    assert served(store) == scores(200)
    assert (result.rows, result.nights, result.delta_version) == (200, (NEXT_NIGHT,), 1)
    assert (manifest.version, manifest.parent, manifest.kind, manifest.rows) == (1, None, "full", 200)
    assert (manifest.as_of, manifest.run_id, manifest.made_by["model"]) == (
        "1998-07-01",
        "run-9",
        {"name": "churn", "version": 3},
    )
    assert manifest.provenance.scored_at == "1998-07-01T03:00:00.000000Z"
    assert manifest.content_hash == result.details["content_hash"]
    with store.snapshot() as snapshot:
        assert snapshot.get(b"00007") == orjson.dumps(
            {"churn_probability": scores(200)["00007"], "risk_segment": "high"}
        )
        assert snapshot.get(b"nobody") is None


def test_an_earlier_night_is_published_where_it_is_named(settings: Settings) -> None:
    write_night(settings, predictions({"a": 0.25}, night=NIGHT))
    write_night(settings, predictions({"a": 0.75}, night=NEXT_NIGHT), night=NEXT_NIGHT)
    publish(settings, churn(), night=NIGHT)
    assert served(open_store(settings, "churn")) == {"a": 0.25}
    with pytest.raises(NotFoundError, match=r"for 1998-07-09.*`forecache run churn --date 1998-07-09` makes them"):
        publish(settings, churn(), night=NIGHT + timedelta(days=9))


def test_a_publish_without_predictions_names_the_table(settings: Settings) -> None:
    with pytest.raises(NotFoundError, match="predictions_churn"):
        publish(settings, churn())


def test_publishing_again_does_nothing_until_the_rows_or_the_fields_change(settings: Settings) -> None:
    write_night(settings, predictions(scores(20), night=NIGHT))
    assert not publish(settings, churn()).skipped
    again = publish(settings, churn())
    assert (again.skipped, again.details["version"], again.rows) == (True, 1, 20)
    older = NIGHT - timedelta(days=1)
    write_night(settings, predictions(scores(5), night=older), night=older)
    assert publish(settings, churn()).skipped, "a backfilled older night changes nothing that is served"
    fewer = publish(settings, churn(rules=replace(OPEN_RULES, fields=("risk_segment",))))
    assert (fewer.details["kind"], fewer.details["why_full"]) == ("full", "the key or the served fields have changed")
    assert publish(settings, churn(rules=replace(OPEN_RULES, fields=("risk_segment",)))).skipped


def test_a_changed_policy_travels_as_a_manifest_alone(settings: Settings) -> None:
    write_night(settings, predictions(scores(20)))
    publish(settings, churn())
    result = publish(settings, churn(rules=replace(OPEN_RULES, max_age_h=2.0)))
    assert (result.details["kind"], result.details["changed"], result.details["segments"]) == ("incremental", 0, 1)
    manifest = open_store(settings, "churn").current()
    assert manifest is not None
    assert manifest.policy.max_age_h == 2.0


def test_changed_rows_of_the_published_night_travel_as_a_small_segment(settings: Settings) -> None:
    write_night(settings, predictions(scores(300)))
    publish(settings, churn())
    upsert(settings, predictions({"00001": 0.125, "new": 0.5}))
    prediction_table(settings).delete("customer_id = '00002'")
    result = publish(settings, churn())
    expected = {**scores(300), "00001": 0.125, "new": 0.5}
    del expected["00002"]
    assert served(open_store(settings, "churn")) == expected
    details = result.details
    assert (details["kind"], details["changes_from"]) == ("incremental", "change data feed")
    assert (details["changed"], details["added"], details["removed"], details["segments"]) == (2, 1, 1, 2)
    assert result.rows == 300


def test_a_night_written_again_with_equal_rows_travels_not_at_all(settings: Settings) -> None:
    write_night(settings, predictions(scores(100)))
    publish(settings, churn())
    changed = {**scores(100), "00003": 0.875}
    write_night(settings, predictions(changed))
    result = publish(settings, churn())
    details = result.details
    assert (details["kind"], details["changed"], details["compared_rows"]) == ("incremental", 1, 200)
    assert served(open_store(settings, "churn")) == changed


def test_a_new_night_travels_as_what_differs_from_the_night_before(settings: Settings) -> None:
    write_night(settings, predictions(scores(100), night=NIGHT))
    publish(settings, churn())
    tonight = {**scores(99), "00003": 0.875, "new": 0.5}
    rescored = predictions(tonight, night=NEXT_NIGHT, run_id="run-2", scored_at=SCORED_AT + timedelta(days=1))
    write_night(settings, rescored, night=NEXT_NIGHT)
    result = publish(settings, churn())
    store = open_store(settings, "churn")
    details = result.details
    assert (details["kind"], details["changes_from"]) == ("incremental", "partition")
    assert (details["changed"], details["added"], details["removed"]) == (2, 1, 1)
    assert served(store) == tonight
    manifest = store.current()
    assert manifest is not None
    assert (manifest.as_of, manifest.provenance.run_id, manifest.carried) == ("1998-07-01", "run-2", 0)


def test_rows_of_another_scoring_run_carry_their_own_provenance(settings: Settings) -> None:
    write_night(settings, predictions(scores(100)))
    publish(settings, churn())
    late = SCORED_AT + timedelta(hours=5)
    upsert(settings, predictions({"00001": 0.125}, run_id="run-2", model_version=4, scored_at=late))
    publish(settings, churn())
    with open_store(settings, "churn").snapshot() as snapshot:
        assert snapshot.manifest.carried == 1
        assert snapshot.get(b"00001") == b'{"churn_probability":0.125,"risk_segment":"low"}'
        entry = snapshot.get_entry(b"00001")
        assert entry is not None
        own = snapshot.manifest.provenances[split_entry(entry)[1]]
        assert (own.run_id, own.model_version, own.scored_at) == ("run-2", 4, "1998-07-01T08:00:00.000000Z")
        assert snapshot.get_entry(b"00002") == snapshot.get(b"00002")


def test_a_night_that_another_model_scored_again_names_that_model(settings: Settings) -> None:
    write_night(settings, predictions(scores(50), model_version=3))
    publish(settings, churn())
    write_night(settings, predictions({key: value / 2 for key, value in scores(50).items()}, model_version=4))
    assert publish(settings, churn()).details["kind"] == "full"
    manifest = open_store(settings, "churn").current()
    assert manifest is not None
    assert (manifest.made_by["model"], manifest.carried) == ({"name": "churn", "version": 4}, 0)


@pytest.mark.parametrize("how", ["vacuumed", "never written"])
def test_a_feed_that_cannot_be_had_leads_to_a_full_publish_that_says_so(settings: Settings, how: str) -> None:
    write_night(settings, predictions(scores(100)))
    publish(settings, churn())
    write_night(settings, predictions({**scores(100), "00003": 0.875}))
    write_night(settings, predictions({**scores(100), "00003": 0.625}))
    table = prediction_table(settings)
    if how == "vacuumed":
        table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    else:
        table.alter.set_table_properties({"delta.enableChangeDataFeed": "false"})
        upsert(settings, predictions({"00003": 0.625}))
    result = publish(settings, churn())
    assert result.details["kind"] == "full"
    assert "change data feed" in result.details["why_full"]
    assert served(open_store(settings, "churn"))["00003"] == 0.625


def test_more_changes_than_a_small_segment_is_for_become_a_new_base(settings: Settings) -> None:
    write_night(settings, predictions(scores(3000)))
    publish(settings, churn())
    upsert(settings, predictions(dict.fromkeys(scores(1500), 0.5)))
    result = publish(settings, churn())
    assert (result.details["kind"], result.details["segments"]) == ("full", 1)
    assert result.details["why_full"].startswith(("compaction", "the change data feed has"))


def test_more_segments_than_allowed_are_merged_into_a_new_base(settings: Settings) -> None:
    expected = scores(3000)
    write_night(settings, predictions(expected))
    rules = replace(OPEN_RULES, max_segments=3)
    publish(settings, churn(rules=rules))
    for number in range(4):
        upsert(settings, predictions({f"{number:05d}": 0.25 + number / 8, f"n{number}": 0.5}))
        prediction_table(settings).delete(f"customer_id = '{100 + number:05d}'")
        expected |= {f"{number:05d}": 0.25 + number / 8, f"n{number}": 0.5}
        del expected[f"{100 + number:05d}"]
        result = publish(settings, churn(rules=rules))
        kind, segments = ("compacted", 1) if number == 2 else ("incremental", 2 if number == 3 else number + 2)
        assert (result.details["kind"], result.details["segments"]) == (kind, segments)
        store = open_store(settings, "churn")
        assert served(store) == expected
        current = store.current()
        assert current is not None
        assert result.details.get("why_compacted") == ("4 segments" if number == 2 else None)
        assert (current.rows, current.tombstones) == (3000, {0: 1, 1: 2, 2: 0, 3: 1}[number])


def test_segments_that_are_together_large_are_merged_into_a_new_base(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forecache.serve.store.segment import writer as build

    monkeypatch.setattr(build, "SHARD_ROWS", 500)
    expected = scores(3000)
    write_night(settings, predictions(expected))
    publish(settings, churn())
    for first in (0, 600):
        changed = {f"{number:05d}": 0.5 for number in range(first, first + 600)}
        expected |= changed
        upsert(settings, predictions(changed))
        result = publish(settings, churn())
    assert result.details["kind"] == "compacted"
    assert result.details["why_compacted"] == "1,200 changed keys over a base of 3,000"
    store = open_store(settings, "churn")
    assert served(store) == expected
    manifest = store.current()
    assert manifest is not None
    assert len(manifest.segments[0].shards) == 8
    publish(settings, churn(), full=True)
    again = store.current()
    assert again is not None
    assert again.content_hash == manifest.content_hash


def test_a_base_that_has_outgrown_its_shards_is_built_anew(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from forecache.serve.store.segment import writer as build

    write_night(settings, predictions(scores(3000)))
    publish(settings, churn())
    monkeypatch.setattr(build, "SHARD_ROWS", 500)
    upsert(settings, predictions({"00001": 0.5}))
    assert publish(settings, churn()).details["why_full"] == "the base has 1 shards where 8 suit 3,000 rows"


def test_a_merged_base_that_lost_a_row_does_not_pass_the_verification(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forecache.serve.store.publishing import incremental as compaction

    write_night(settings, predictions(scores(30)))
    rules = replace(OPEN_RULES, max_segments=1)
    publish(settings, churn(rules=rules))
    upsert(settings, predictions({"00001": 0.5}))
    honest = compaction.merge_rows
    monkeypatch.setattr(compaction, "merge_rows", lambda base, overlay: list(honest(base, overlay))[1:].__iter__())
    with pytest.raises(CheckError, match="does not read back as the source has it: 29 rows of 30"):
        publish(settings, churn(rules=rules))
    assert open_store(settings, "churn").pointer().serving == 1


def test_composite_integer_and_uuid_keys_are_served(settings: Settings) -> None:
    devices = [UUID(int=number).bytes for number in (1, 2, 3)]
    keys = {
        "country": pa.array(["NL", "N|L", "D%E"]),
        "account": pa.array([1, -2, 3], pa.int64()),
        "device": pa.array(devices, pa.binary()),
    }
    write_night(settings, predictions({"a": 0.25, "b": 0.5, "c": 0.75}, keys=keys))
    publish(settings, churn(key=("country", "account", "device")))
    with open_store(settings, "churn").snapshot() as snapshot:
        key = snapshot.manifest.key
        there, missing = (encode_key(key, ("N|L", -2, UUID(int=number))) for number in (2, 9))
        assert snapshot.get_many([there, missing]) == [b'{"churn_probability":0.5,"risk_segment":"high"}', None]
        assert decode_key(key, there) == ("N|L", -2, str(UUID(int=2)))
        assert encode_key(key, ("D%E", 3, UUID(int=3))).startswith(b"D%25E|3|0000")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["a", None, "c"], r"null key: \{'customer_id': None\} in .*parquet .*row 1"),
        (["a", "b", "x" * 600], r"too long: 'x{40}'\.\.\. with 600 bytes"),
        (["a", "", "c"], r"empty or too long: ''"),
        (["a", "b", "a"], r"1 keys occur more than once .* such as 'a'"),
    ],
)
def test_keys_that_cannot_be_served_stop_the_publish_and_are_named(
    settings: Settings, keys: list[str | None], words: str
) -> None:
    write_night(settings, predictions({"a": 0.5}))
    publish(settings, churn())
    bad = predictions({"a": 0.25, "b": 0.5, "c": 0.75}, night=NEXT_NIGHT, keys={"customer_id": pa.array(keys)})
    write_night(settings, bad, night=NEXT_NIGHT)
    with pytest.raises(InputError, match=re.compile(words, re.DOTALL)):
        publish(settings, churn())
    assert served(open_store(settings, "churn")) == {"a": 0.5}


def test_a_duplicate_that_arrives_later_through_the_feed_is_found_too(settings: Settings) -> None:
    write_night(settings, predictions(scores(100)))
    publish(settings, churn())
    append(settings, predictions({"00001": 0.125}))
    with pytest.raises((InputError, CheckError), match="00001|does not read back"):
        publish(settings, churn())
    assert served(open_store(settings, "churn")) == scores(100)


def test_gates_stop_a_publish_and_leave_the_served_version(settings: Settings) -> None:
    write_night(settings, predictions(scores(1000)))
    publish(settings, churn())
    rules = replace(OPEN_RULES, max_row_change=0.5, max_psi=0.2, max_null_share=0.01)
    write_night(settings, predictions(scores(400), night=NEXT_NIGHT), night=NEXT_NIGHT)
    with pytest.raises(CheckError, match=r"rows go from 1,000 to 400, a change of 60%"):
        publish(settings, churn(rules=rules))
    shifted = {key: value**3 for key, value in scores(1000).items()}
    write_night(settings, predictions(shifted, night=NEXT_NIGHT), night=NEXT_NIGHT)
    with pytest.raises(CheckError, match=r"'churn_probability' has drifted .* index of 0\.\d+ \(max_psi 0\.2\)"):
        publish(settings, churn(rules=rules))
    upsert(settings, predictions(dict.fromkeys(list(scores(1000))[:20], None)))
    with pytest.raises(CheckError, match=r"20 of 1,000 values of 'churn_probability' are null"):
        publish(settings, churn(rules=rules), night=NIGHT)
    assert served(open_store(settings, "churn")) == scores(1000)


def test_scores_of_a_new_model_are_not_compared_with_those_of_the_served_one(settings: Settings) -> None:
    write_night(settings, predictions(scores(1000)))
    publish(settings, churn())
    shifted = {key: value**3 for key, value in scores(1000).items()}
    write_night(settings, predictions(shifted, night=NEXT_NIGHT, model_version=4), night=NEXT_NIGHT)
    publish(settings, churn(rules=replace(OPEN_RULES, max_psi=0.2)))
    assert served(open_store(settings, "churn")) == shifted


def test_statistics_after_small_segments_are_those_of_a_rebuild(settings: Settings) -> None:
    write_night(settings, predictions({**scores(500), "00009": None}))
    publish(settings, churn())
    upsert(settings, predictions({"00001": None, "00009": 0.5, "new": 0.25}))
    publish(settings, churn())
    moved = open_store(settings, "churn").current()
    publish(settings, churn(), full=True)
    rebuilt = open_store(settings, "churn").current()
    assert moved is not None
    assert rebuilt is not None
    assert moved.statistics["nulls"] == rebuilt.statistics["nulls"] == {"churn_probability": 1, "risk_segment": 1}
    assert sum(moved.statistics["histograms"]["churn_probability"]["counts"]) == pytest.approx(500)
    assert moved.content_hash == rebuilt.content_hash


def test_two_publishers_at_once_one_wins_and_the_other_says_who_does(settings: Settings) -> None:
    write_night(settings, predictions(scores(10)))
    layout = open_store(settings, "churn").layout
    with lock_versions(layout, action="publish"), pytest.raises(ConflictError, match=r"process \d+ \(publish\)"):
        publish(settings, churn())
    assert publish(settings, churn()).rows == 10


def test_a_table_written_by_another_writer_is_read_the_same(settings: Settings) -> None:
    table = predictions(scores(10))
    large = table.set_column(0, "customer_id", table["customer_id"].cast(pa.large_string()))
    uri = settings.table_uri("predictions_churn")
    write_deltalake(uri, large, partition_by=["as_of"])
    publish(settings, churn())
    assert served(open_store(settings, "churn")) == scores(10)
    assert DeltaTable(uri).version() == 0
