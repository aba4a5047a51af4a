"""Maintenance merges small files and removes what nothing names; what is named, recent or unfinished stays."""

import json
import os
import time
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake import Schema
from maintenance_lake import DAY, TRAINING, age, contents, data_files, write_lake
from reader_support import churn_rows, write_version

from forecache.base.errors import NotFoundError, UnreachableError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.cli.main import cli
from forecache.kit.delta.commit import Target
from forecache.kit.delta.files import RETENTION
from forecache.kit.delta.partitions import replace_partitions, take_snapshot
from forecache.kit.delta.tables import open_table
from forecache.kit.delta.writers import write_rows
from forecache.kit.lease import hold_lease
from forecache.lake.ledger import StageRecord, append_records
from forecache.models.training.process import LEASE_NAME
from forecache.models.training.run_files import remove_old_checkpoints
from forecache.plugins.maintenance.lake import maintain_lake, pinned_versions
from forecache.plugins.maintenance.table import MaintenanceResult, Pin
from forecache.serve.store import open_store
from forecache.serve.store.push_pull import push

FEATURES = "features_orders"


@pytest.fixture
def lake(settings: Settings) -> Settings:
    write_lake(settings)
    age(settings)
    return settings


def by_table(done: list[MaintenanceResult]) -> dict[str, MaintenanceResult]:
    return {item.table: item for item in done}


def write_day(settings: Settings, day: date, value: int) -> int:
    rows = pa.table({"key": ["a"], "x": pa.array([value], pa.int64()), "as_of": pa.array([day], pa.date32())})
    target = Target(settings, FEATURES, Schema.from_arrow(rows.schema), ("as_of",), change_feed=True)
    seen, files = (
        take_snapshot(settings, FEATURES, "as_of"),
        write_rows(rows, settings, FEATURES, partition_by=["as_of"]),
    )
    return replace_partitions(target, files, column="as_of", values=[day], seen=seen).version


def record_day(settings: Settings, day: date, version: int) -> None:
    append_records(settings, [StageRecord("features", "orders", day, "i", FEATURES, version, 1, 0.1)])


def values(settings: Settings, version: int, day: date) -> list[int]:
    found = open_table(settings, FEATURES, version=version).to_pyarrow_table([("as_of", "=", day.isoformat())])
    return found["x"].to_pylist()


def test_small_files_are_merged_and_old_versions_that_nothing_names_go(lake: Settings) -> None:
    before = contents(lake)
    done = by_table(maintain_lake(lake))
    assert contents(lake) == before
    assert (done["raw_orders"].merged, done["raw_orders"].table_files_after) == (6, 2)
    assert (done["quarantine_orders"].merged, done["quarantine_orders"].table_files_after) == (6, 1)
    assert (done["stage_ledger"].merged, done["stage_ledger"].table_files_after) == (7, 1)
    assert (done[TRAINING].merged, done[TRAINING].removed, done[TRAINING].files_after) == (0, 3, 2)
    # What was merged now was in use a moment ago.
    assert (done["raw_orders"].removed, done["raw_orders"].files_after) == (0, 8)
    age(lake)
    again = by_table(maintain_lake(lake))
    assert (again["raw_orders"].merged, again["raw_orders"].removed, again["raw_orders"].files_after) == (0, 6, 2)
    assert again["raw_orders"].bytes_after < again["raw_orders"].bytes_before
    assert contents(lake) == before
    assert open_table(lake, TRAINING, version=2).to_pyarrow_table()["x"].to_pylist() == [2, 2, 2]


def test_what_was_merged_now_stays_though_the_log_is_cleaned_meanwhile(lake: Settings) -> None:
    merged = by_table(maintain_lake(lake, ["stage_ledger"]))["stage_ledger"]
    assert (merged.merged, merged.removed) == (7, 0)
    delta = open_table(lake, "stage_ledger")
    delta.create_checkpoint()
    for entry in Path(lake.table_uri("stage_ledger"), "_delta_log").glob("*.json"):
        entry.unlink()
    assert by_table(maintain_lake(lake, ["stage_ledger"]))["stage_ledger"].removed == 0


def test_a_dry_run_says_what_would_go_and_changes_nothing(lake: Settings) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(lake.lake_uri).rglob("*")}
    done = by_table(maintain_lake(lake, dry_run=True))
    assert {path: path.stat().st_mtime_ns for path in Path(lake.lake_uri).rglob("*")} == before
    assert (done["raw_orders"].merged, done[TRAINING].removed, done[TRAINING].files_after) == (6, 3, 2)


def test_the_version_that_the_ledger_names_of_a_night_stays_and_others_of_that_night_go(settings: Settings) -> None:
    days = [DAY, DAY + timedelta(days=1)]
    for day in days:
        record_day(settings, day, write_day(settings, day, 0))
    named = write_day(settings, days[0], 1)
    record_day(settings, days[0], named)
    unnamed = write_day(settings, days[0], 2)  # a run that was killed before it could record it
    record_day(settings, days[1], write_day(settings, days[1], 1))
    write_day(settings, days[0], 3)
    age(settings)
    done = by_table(maintain_lake(settings))
    # The first night's first and third files, and the second night's first.
    assert (done[FEATURES].files_before, done[FEATURES].removed) == (6, 3)
    assert values(settings, named, days[0]) == [1]
    with pytest.raises(OSError, match=r"parquet|No such file"):
        values(settings, unnamed, days[0])
    assert sorted(open_table(settings, FEATURES).to_pyarrow_table()["x"].to_pylist()) == [1, 3]


def test_a_machine_with_an_empty_home_keeps_what_versions_in_the_remote_name(lake: Settings, tmp_path: Path) -> None:
    write_version(lake.store_path, "churn", churn_rows(3), as_of="2026-01-03")
    store = open_store(lake, "churn")
    push(store, LocalFolder(tmp_path / "remote"))
    source = store.versions()[0].source
    elsewhere = load_settings(home=tmp_path / "elsewhere", lake=lake.lake_uri, store_remote=str(tmp_path / "remote"))
    assert pinned_versions(elsewhere)[source.table] == {Pin(source.delta_version, source.as_of)}


def test_what_a_search_trains_from_stays_though_all_machines_find_trainings_elsewhere(lake: Settings) -> None:
    elsewhere = lake.model_copy(update={"training_checkpoints": f"{lake.lake_uri}/.training"})
    trial = {"table_uri": lake.table_uri(TRAINING), "table_version": 1}
    LocalFolder(lake.training_path).write("orders/search/trial/spec.json", json.dumps(trial).encode())
    LocalFolder(Path(lake.lake_uri) / ".training").write(
        "orders/a/spec.json", json.dumps(trial | {"table_version": 3}).encode()
    )
    assert {pin.version for pin in pinned_versions(elsewhere)[TRAINING]} == {1, 2, 3}


def test_checkpoints_of_trainings_that_ended_a_week_ago_go_and_their_results_stay(tmp_path: Path) -> None:
    place = LocalFolder(tmp_path / "shared")
    settings = load_settings(home=tmp_path / "home", training_checkpoints=str(place))
    for run, days in (("old", 8), ("young", 6), ("running", None), ("held", 8)):
        for name in ("spec.json", "trained/1a-model.onnx", "step-1/state.pt", "step-1/COMMITTED"):
            place.write(f"orders/{run}/{name}", b"1")
        if days is not None:
            ended = {"files": {}, "ended_at": time.time() - days * 86_400}
            place.write(f"orders/{run}/trained.json", json.dumps(ended).encode())
    before = set(place.names())
    with hold_lease(LocalFolder(tmp_path / "shared" / "orders" / "held"), LEASE_NAME, action="training orders"):
        assert remove_old_checkpoints(settings, older_than=RETENTION, dry_run=True) == 4
        assert before <= set(place.names())
        assert remove_old_checkpoints(settings, older_than=RETENTION) == 2
    assert before - set(place.names()) == {"orders/old/step-1/state.pt", "orders/old/step-1/COMMITTED"}
    assert remove_old_checkpoints(settings, older_than=RETENTION) == 2, "those of the other, which nobody holds now"
    assert remove_old_checkpoints(settings, older_than=RETENTION) == 0
    home = load_settings(home=tmp_path / "home")
    LocalFolder(home.training_path).write("orders/a/step-1/COMMITTED", b"1")
    assert remove_old_checkpoints(home, older_than=timedelta()) == 0


def test_files_that_no_version_has_stay_for_a_week(lake: Settings) -> None:
    folder = Path(lake.table_uri("raw_orders"))
    inside = next(iter(data_files(lake, "raw_orders")))
    for name, days in (("young", 6), ("old", 8)):
        path = folder / f"event_day={DAY}" / f"{name}-attempt" / "shard=all" / "a.c0.parquet"
        path.parent.mkdir(parents=True)
        path.write_bytes(inside.read_bytes())
        os.utime(path, (time.time() - days * 86_400,) * 2)
    (folder / "written-1" / "_temporary" / "0").mkdir(parents=True)
    half = folder / "written-1" / "_temporary" / "0" / "half.parquet"
    half.write_bytes(b"PAR1")
    os.utime(half, (0, 0))
    assert by_table(maintain_lake(lake, ["raw_orders"]))["raw_orders"].removed == 2
    assert (folder / f"event_day={DAY}" / "young-attempt" / "shard=all" / "a.c0.parquet").exists()
    assert not (folder / f"event_day={DAY}" / "old-attempt").exists()
    assert not (folder / "written-1").exists()


def test_the_command_shows_each_table_and_takes_names(lake: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(lake.home))
    done = CliRunner().invoke(cli, ["maintain", TRAINING, "--json"], catch_exceptions=False)
    (item,) = json.loads(done.output)["tables"]
    assert (item["table"], item["removed"], item["files_before"], item["files_after"]) == (TRAINING, 3, 5, 2)
    with pytest.raises(NotFoundError, match="no table 'nothing'"):
        maintain_lake(lake, ["nothing"])


def test_the_command_says_what_was_done_although_checkpoints_are_out_of_reach(
    lake: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise UnreachableError("The bucket does not answer.")

    monkeypatch.setenv("FORECACHE_HOME", str(lake.home))
    with monkeypatch.context() as patched:
        patched.setattr("forecache.models.training.run_files.remove_old_checkpoints", fail)
        done = CliRunner().invoke(cli, ["maintain", "--json"])
    assert isinstance(done.exception, UnreachableError)
    found = json.loads(done.output)
    assert {item["table"] for item in found["tables"]} == {item.table for item in maintain_lake(lake, dry_run=True)}
    assert found["removed_checkpoint_files"] == 0
