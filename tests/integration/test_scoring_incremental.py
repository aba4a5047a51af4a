"""Incremental scoring equals full scoring, row for row, and what did not change keeps its provenance."""

import tempfile
from contextlib import nullcontext
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scoring_support import (
    NIGHT,
    enter_features,
    features_table,
    make_pipeline,
    network,
    predictions,
    register_model,
    write_features,
)

from forecache.base.errors import CheckError
from forecache.base.settings import Settings, load_settings
from forecache.kit.delta.tables import open_table
from forecache.scoring import run
from forecache.scoring.incremental import score_changes as changes_module
from forecache.scoring.incremental.score_changes import PartitionVersion, feed_share, find_changes
from forecache.scoring.night_inputs import partition_files
from forecache.scoring.partitions import commit as committing
from forecache.scoring.run import score

WIDTH = 4
PIPELINE = make_pipeline(num_features=WIDTH)


def entities(first: int, rows: int, *, seed: int, night: date = NIGHT) -> pa.Table:
    return features_table(rows, num_features=WIDTH, seed=seed, first=first, night=night)


def merge(settings: Settings, rows: pa.Table, *, night: date = NIGHT) -> None:
    table = open_table(settings, PIPELINE.feature_table)
    (
        table.merge(rows, f"t.user_id = s.user_id AND t.as_of = DATE '{night}'", source_alias="s", target_alias="t")
        .when_matched_update_all()
        .when_not_matched_insert_all()
        .execute()
    )


def features(settings: Settings, night: date) -> pa.Table:
    return (
        open_table(settings, PIPELINE.feature_table)
        .to_pyarrow_table(partitions=[("as_of", "=", night.isoformat())])
        .sort_by("user_id")
    )


def enter(settings: Settings, night: date = NIGHT) -> None:
    enter_features(settings, PIPELINE, rows=features(settings, night).num_rows, night=night)


def full_outputs(settings: Settings, night: date, *, seed: int = 0) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(network(WIDTH, seed=seed, output=PIPELINE.main_output.name))
    table = features(settings, night)
    matrix = np.column_stack([table[f"f{i}"].to_numpy().astype(np.float32) for i in range(WIDTH)])
    return session.run(None, {"x": matrix})[0][:, 0].astype(np.float64)


def assert_equals_full(settings: Settings, night: date, *, seed: int = 0) -> pa.Table:
    table = predictions(settings, PIPELINE, night=night)
    assert table["user_id"].to_pylist() == features(settings, night)["user_id"].to_pylist()
    np.testing.assert_array_equal(table["probability"].to_numpy(), full_outputs(settings, night, seed=seed))
    return table


@pytest.fixture
def scored(settings: Settings) -> Settings:
    write_features(settings, PIPELINE, [entities(0, 100, seed=0), entities(100, 100, seed=1)])
    register_model(settings, PIPELINE)
    score(settings, PIPELINE, [NIGHT], run_id="full", engine="arrow")
    return settings


def test_updates_inserts_and_deletes_are_scored_and_the_rest_keeps_its_provenance(scored: Settings) -> None:
    before = predictions(scored, PIPELINE)
    merge(scored, pa.concat_tables([entities(50, 5, seed=7), entities(500, 3, seed=8)]))
    open_table(scored, PIPELINE.feature_table).delete("user_id = 'u00000007'")
    enter(scored)
    result = score(scored, PIPELINE, [NIGHT], run_id="small", engine="arrow", mode="incremental")
    assert (result.details["scored_rows"], result.details["carried_rows"]) == (8, 194)
    table = assert_equals_full(scored, NIGHT)
    carried = table.filter(pa.compute.equal(table["run_id"], "full"))
    assert carried.num_rows == 194
    old = {row["user_id"]: row for row in before.to_pylist()}
    assert all(old[row["user_id"]] == row for row in carried.to_pylist())


def test_an_update_that_changes_nothing_is_not_scored(scored: Settings) -> None:
    merge(scored, entities(0, 100, seed=0).slice(10, 20))
    enter(scored)
    result = score(scored, PIPELINE, [NIGHT], run_id="none", engine="arrow", mode="incremental")
    assert (result.details["scored_rows"], result.details["carried_rows"]) == (0, 200)
    assert_equals_full(scored, NIGHT)


def test_a_partition_written_again_is_compared_by_content(scored: Settings) -> None:
    tables = [entities(0, 100, seed=0), entities(100, 99, seed=1), entities(800, 1, seed=5)]
    state = [PartitionVersion(NIGHT, 1), PartitionVersion(NIGHT, write_features(scored, PIPELINE, tables))]
    assert feed_share(scored, PIPELINE, *state) > 1
    changes = find_changes(scored, PIPELINE, *state)
    changed = changes.changed["user_id"].to_pylist()
    assert changes.removed["user_id"].to_pylist() == ["u00000199"]
    assert "u00000800" in changed
    # `entities` draws its values by row count, so that the 99 differ from the 99 first of the 100.
    assert set(changed) == {"u00000800", *(f"u{i:08d}" for i in range(100, 199))}


def test_a_state_between_whose_files_are_removed_is_not_needed(scored: Settings) -> None:
    between = write_features(scored, PIPELINE, [entities(0, 100, seed=3), entities(100, 100, seed=4)])
    gone = open_table(scored, PIPELINE.feature_table, version=between).file_uris()
    last = write_features(scored, PIPELINE, [entities(0, 100, seed=0), entities(100, 100, seed=2)])
    expected = find_changes(scored, PIPELINE, PartitionVersion(NIGHT, 1), PartitionVersion(NIGHT, last))
    removed = set(gone) - set(open_table(scored, PIPELINE.feature_table, version=last).file_uris())
    assert removed
    for uri in removed:
        Path(uri.removeprefix("file://")).unlink()
    found = find_changes(scored, PIPELINE, PartitionVersion(NIGHT, 1), PartitionVersion(NIGHT, last))
    assert found.changed.sort_by("user_id").equals(expected.changed.sort_by("user_id"))
    assert (found.updated, found.removed.num_rows) == (expected.updated, 0)


def test_in_mode_auto_the_log_says_that_a_small_update_is_worth_carrying(settings: Settings) -> None:
    write_features(settings, PIPELINE, [entities(0, 40_000, seed=0)])
    register_model(settings, PIPELINE)
    score(settings, PIPELINE, [NIGHT], engine="arrow")
    merge(settings, entities(50, 400, seed=7))
    enter(settings)
    assert feed_share(settings, PIPELINE, PartitionVersion(NIGHT, 0), PartitionVersion(NIGHT, 1)) < 0.1
    result = score(settings, PIPELINE, [NIGHT], engine="arrow")
    assert (result.details["scored_rows"], result.details["carried_rows"]) == (400, 39_600)
    assert_equals_full(settings, NIGHT)


def test_in_mode_auto_a_partition_written_again_is_scored_in_full(scored: Settings) -> None:
    write_features(scored, PIPELINE, [entities(0, 100, seed=0), entities(100, 100, seed=1)])
    result = score(scored, PIPELINE, [NIGHT], engine="arrow")
    assert result.details["scored_rows"] == 200


def test_a_new_night_carries_what_is_as_the_night_before(scored: Settings) -> None:
    night = NIGHT + timedelta(days=2)
    write_features(
        scored, PIPELINE, [entities(0, 100, seed=0, night=night), entities(100, 50, seed=9, night=night)], night=night
    )
    result = score(scored, PIPELINE, [night], run_id="next", engine="arrow", mode="incremental")
    assert (result.details["scored_rows"], result.details["carried_rows"]) == (50, 100)
    table = assert_equals_full(scored, night)
    assert table["run_id"].to_pylist() == ["full"] * 100 + ["next"] * 50
    assert set(table["feature_version"].to_pylist()) == {1, 3}
    assert predictions(scored, PIPELINE).num_rows == 200


def paths(settings: Settings) -> set[str]:
    return {file.path for file in partition_files(settings, PIPELINE.prediction_table, None, [NIGHT])[NIGHT]}


def feed_of_predictions(settings: Settings, version: int) -> dict[str, list[str]]:
    table = open_table(settings, PIPELINE.prediction_table)
    feed = pa.table(pa.RecordBatchReader.from_stream(table.load_cdf(starting_version=version, ending_version=version)))
    rows = feed.select(["_change_type", "user_id"]).to_pylist()
    found: dict[str, list[str]] = {"delete": [], "insert": []}
    for row in rows:
        found[row["_change_type"]].append(row["user_id"])
    return {kind: sorted(keys) for kind, keys in found.items()}


def test_files_without_a_changed_entity_stay_and_the_feed_names_the_others_only(settings: Settings) -> None:
    write_features(settings, PIPELINE, [entities(0, 100, seed=0), entities(100, 100, seed=1)])
    register_model(settings, PIPELINE)
    for first in (0, 300):
        merge(settings, entities(first, 100, seed=4))
        enter(settings)
        score(settings, PIPELINE, [NIGHT], engine="arrow", mode="incremental" if first else "full")
    before = paths(settings)
    merge(settings, entities(310, 5, seed=9))
    enter(settings)
    result = score(settings, PIPELINE, [NIGHT], engine="arrow", mode="incremental")
    assert (result.details["scored_rows"], result.details["carried_rows"]) == (5, 295)
    assert result.details["checks"][NIGHT.isoformat()]["keys"] == 300
    assert (len(before), len(before & paths(settings)), len(paths(settings))) == (3, 2, 4)
    group = [f"u{i:08d}" for i in range(300, 400)]
    assert result.delta_version is not None
    assert feed_of_predictions(settings, result.delta_version) == {"delete": group, "insert": group}
    assert_equals_full(settings, NIGHT)


def test_files_are_not_left_in_a_partition_that_another_run_has_replaced(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_features(settings, PIPELINE, [entities(0, 100, seed=0)])
    register_model(settings, PIPELINE)
    score(settings, PIPELINE, [NIGHT], engine="arrow")
    merge(settings, entities(300, 20, seed=4))
    enter(settings)
    commit = committing.commit_nights

    def late(*given: Any, **options: Any) -> Any:
        monkeypatch.setattr(committing, "commit_nights", commit)
        monkeypatch.setattr(run, "hold_table_lock", lambda *_: nullcontext())  # as on another machine
        score(settings, PIPELINE, [NIGHT], run_id="faster", engine="arrow", mode="full")
        return commit(*given, **options)

    monkeypatch.setattr(committing, "commit_nights", late)
    result = score(settings, PIPELINE, [NIGHT], run_id="slower", engine="arrow", mode="incremental")
    assert result.details["taken_over"] == {NIGHT.isoformat(): "faster"}
    assert set(assert_equals_full(settings, NIGHT)["run_id"].to_pylist()) == {"faster"}


def replace_predictions(settings: Settings, rows: pa.Table) -> None:
    """Write the night's predictions by other means than a scoring run."""
    write_deltalake(
        settings.table_uri(PIPELINE.prediction_table), rows, mode="overwrite", predicate=f"as_of = '{NIGHT}'"
    )


def test_predictions_that_another_writer_put_there_are_carried_if_each_entity_is_there_once(scored: Settings) -> None:
    rows = predictions(scored, PIPELINE)
    merge(scored, entities(50, 5, seed=7))
    enter(scored)
    replace_predictions(scored, pa.concat_tables([rows.slice(0, 199), rows.slice(10, 1)]))
    with pytest.raises(CheckError, match="200 rows with 199 different keys"):
        score(scored, PIPELINE, [NIGHT], engine="arrow", mode="incremental")
    replace_predictions(scored, rows)
    result = score(scored, PIPELINE, [NIGHT], engine="arrow", mode="incremental")
    assert result.details["carried_rows"] == 195
    assert_equals_full(scored, NIGHT)


@pytest.mark.parametrize(("lacking", "twice", "found"), [(51, 49, 4), (49, 51, 6)])
def test_a_base_without_each_changed_entity_once_is_refused(
    scored: Settings, lacking: int, twice: int, found: int
) -> None:
    rows = predictions(scored, PIPELINE)
    merge(scored, entities(50, 5, seed=7))
    enter(scored)
    others = pa.concat_tables([rows.slice(0, lacking), rows.slice(lacking + 1)])
    replace_predictions(scored, pa.concat_tables([others, rows.slice(twice, 1)]))
    with pytest.raises(CheckError, match=f"have {found} rows of the 5 entities that changed.*mode 'full'"):
        score(scored, PIPELINE, [NIGHT], engine="arrow", mode="incremental")


@pytest.mark.parametrize("most_bytes", [0, 1 << 30], ids=["partitions", "feed"])
def test_changes_of_several_commits_are_taken_together(
    scored: Settings, monkeypatch: pytest.MonkeyPatch, most_bytes: int
) -> None:
    monkeypatch.setattr(changes_module, "_MOST_FEED_BYTES", most_bytes)
    merge(scored, entities(0, 100, seed=5).slice(10, 3))
    merge(scored, entities(0, 100, seed=0).slice(10, 2))  # two of the three are again what they were
    features_now = open_table(scored, PIPELINE.feature_table)
    features_now.delete("user_id IN ('u00000020', 'u00000021')")
    merge(scored, entities(0, 100, seed=0).slice(20, 1))
    merge(scored, entities(700, 2, seed=5))
    open_table(scored, PIPELINE.feature_table).delete("user_id = 'u00000700'")
    version = open_table(scored, PIPELINE.feature_table).version()
    changes = find_changes(scored, PIPELINE, PartitionVersion(NIGHT, 1), PartitionVersion(NIGHT, version))
    assert sorted(changes.changed["user_id"].to_pylist()) == ["u00000012", "u00000701"]
    assert changes.removed["user_id"].to_pylist() == ["u00000021"]
    assert changes.updated == 1


@pytest.mark.parametrize("place", [0, 2], ids=["first", "last"])
def test_an_entity_that_is_twice_in_the_features_is_refused(scored: Settings, place: int) -> None:
    night = NIGHT + timedelta(1)
    tables = [entities(0, 100, seed=0, night=night), entities(100, 100, seed=1, night=night)]
    tables.insert(place, tables[1].slice(3, 1))
    write_features(scored, PIPELINE, tables, night=night)
    with pytest.raises(CheckError, match="mode 'full'"):
        score(scored, PIPELINE, [night], engine="arrow", mode="incremental")


def test_another_model_forces_a_full_run(scored: Settings) -> None:
    register_model(scored, PIPELINE, seed=1)
    merge(scored, entities(0, 3, seed=7))
    enter(scored)
    result = score(scored, PIPELINE, [NIGHT], engine="arrow", mode="incremental")
    assert (result.details["scored_rows"], result.details["carried_rows"]) == (200, 0)
    assert_equals_full(scored, NIGHT, seed=1)


def test_composite_keys_are_told_apart() -> None:
    from forecache.scoring.incremental.carry_forward import entity_ids

    left, right = pa.array(["a,1:b", "a"]), pa.array(["c", "1:b,1:c"])
    assert len(set(entity_ids([left, right]).to_pylist())) == 2


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["update", "insert", "delete", "rewrite", "night", "model"]),
        st.integers(0, 30),
        st.integers(1, 6),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.slow
@hypothesis_settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(changes=CHANGES)
def test_incremental_equals_full_after_any_sequence_of_changes(changes: list[tuple[str, int, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(home=Path(folder))
        write_features(settings, PIPELINE, [entities(0, 20, seed=0), entities(20, 20, seed=1)])
        register_model(settings, PIPELINE)
        score(settings, PIPELINE, [NIGHT], engine="arrow")
        night, model = NIGHT, 0
        for position, (kind, first, count, seed) in enumerate(changes):
            if kind == "model":
                model += 1
                register_model(settings, PIPELINE, seed=model)
            else:
                night = change(settings, night, kind, first, count, seed)
            result = score(settings, PIPELINE, [night], run_id=str(position), engine="arrow",
                mode="incremental" if seed else "auto",
            )  # fmt: skip
            assert kind != "model" or not result.details["carried_rows"]
            assert_equals_full(settings, night, seed=model)


def change(settings: Settings, night: date, kind: str, first: int, count: int, seed: int) -> date:
    """Apply a change to the feature table; returns the night to score."""
    if kind in ("update", "insert"):
        start = first if kind == "update" else 100 + first
        merge(settings, entities(start, count, seed=seed, night=night), night=night)
    elif kind == "delete":
        table = open_table(settings, PIPELINE.feature_table)
        table.delete(f"as_of = DATE '{night}' AND user_id = 'u{first:08d}'")
    else:
        now = features(settings, night)
        target = night + timedelta(days=1 if kind == "night" else 0)
        moved = now.set_column(1, "as_of", pa.array([target] * now.num_rows, pa.date32()))
        write_features(settings, PIPELINE, [moved.slice(0, len(moved) - seed)], night=target)
        return target
    enter(settings, night)
    return night
