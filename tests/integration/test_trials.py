"""Trials: forks while others write and clean up, models under their numbers, and nothing that leaves a trial's home."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from alert_receivers import receiver
from deltalake import DeltaTable, write_deltalake
from letters import accepted, smtp_server
from store_services import minio_server
from tried_base import objects
from try_job import answers, contents, copy_project, land_sales, record_until, run_from_nothing, try_full
from warm import start

from forecache.base.errors import ConflictError, DamagedError, NotFoundError, SettingsError, UnreachableError
from forecache.base.folders import BucketFolder
from forecache.base.settings import Settings, load_settings, trial_settings
from forecache.cli.main import main
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.files import place_of, read_file_rows
from forecache.kit.delta.log import active_files
from forecache.kit.delta.tables import append_rows, open_table, remove_table
from forecache.kit.installation import open_lake, open_state
from forecache.kit.smtp import Relay
from forecache.lake.ledger import StageRecord, append_records, ledger_records
from forecache.models.tracking.records import find_version, find_versions
from forecache.plugins.redis.versions import open_redis_store
from forecache.plugins.trials.trial import (
    Trial,
    changed_tables,
    fork,
    hold_trial,
    list_trials,
    own_bytes,
    read_trial,
    remove,
)
from forecache.serve.store.layout import REALTIME
from forecache.stream.kafka.client import client_options

DAY = date(2026, 1, 1)


def add(settings: Settings, name: str, number: int, **more: object) -> None:
    rows = pa.table({"number": pa.array([number], pa.int64())})
    write_deltalake(settings.table_uri(name), rows, mode="append", **more)  # type: ignore[arg-type]


def numbers(settings: Settings, name: str, version: int | None = None) -> list[int]:
    table = DeltaTable(settings.table_uri(name), version=version)
    return sorted(table.to_pyarrow_table()["number"].to_pylist())


def record(settings: Settings, subject: str, version: int) -> None:
    append_records(settings, [StageRecord("score", subject, DAY, "x", subject, version, 1, 1.0)])


def test_a_fork_has_each_table_at_the_same_version_with_its_history(settings: Settings) -> None:
    for number in range(5):
        add(settings, "numbers", number)
    record(settings, "numbers", 4)
    before = contents(settings.home_path)
    made = fork(settings, "x")
    trial = trial_settings(settings, "x")
    assert contents(settings.home_path) == before
    assert made.tables == {"numbers": 4, "stage_ledger": 0}
    assert read_trial(trial) == made
    assert [numbers(trial, "numbers", version) for version in (0, 2, 4)] == [[0], [0, 1, 2], [0, 1, 2, 3, 4]]
    assert ledger_records(trial) == ledger_records(settings)
    add(trial, "numbers", 100)
    add(settings, "numbers", 200)
    assert (numbers(trial, "numbers")[-1], numbers(settings, "numbers")[-1]) == (100, 200)
    assert changed_tables(trial, made) == {"numbers": 5}


def test_a_fork_outlives_what_its_base_removes_and_leaves_what_it_has_when_it_is_removed(settings: Settings) -> None:
    for number in range(30):
        add(settings, "numbers", number)
    table = open_table(settings, "numbers")
    table.create_checkpoint()
    add(settings, "numbers", 30)
    fork(settings, "x")
    trial = trial_settings(settings, "x")
    table = open_table(settings, "numbers")
    table.optimize.compact()
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    for path in (Path(settings.table_uri("numbers")) / "_delta_log").glob("0000000000000000000*.json"):
        path.unlink()  # as a log is cleaned
    assert numbers(trial, "numbers") == numbers(settings, "numbers") == list(range(31))
    before = contents(settings.home_path)
    fork(settings, "of-a-cleaned-log")
    assert numbers(trial_settings(settings, "of-a-cleaned-log"), "numbers") == list(range(31))
    shutil.rmtree(settings.table_uri("numbers"))
    assert numbers(trial, "numbers") == list(range(31))
    fork(settings, "y")
    remove(settings, "x")
    assert [made.name for _, made in list_trials(settings)] == ["y", "of-a-cleaned-log"]
    assert {name: value for name, value in before.items() if "numbers" not in name} == contents(settings.home_path)


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Settings]:
    """An installation whose lake is on a real S3-compatible server."""
    with minio_server(tmp_path / "minio", "cloud") as options:
        yield load_settings("", home=tmp_path / "remote", lake="s3://cloud/a/lake", storage_options=options)


def add_remote(settings: Settings, name: str, numbers: list[int]) -> None:
    texts = [f"a b/ü%2F={number % 3}" for number in numbers]
    rows = pa.table({"number": pa.array(numbers, pa.int64()), "text": texts})
    append_rows(settings, name, rows, partition_by=["text"])


def read_rows(settings: Settings, name: str, version: int | None = None) -> list[tuple[int, str]]:
    """All rows of a table by each of the ways that this project reads it, which have to agree."""
    delta = open_table(settings, name, version=version)
    native = open_dataset(delta).to_table()
    filesystem, schema = place_of(settings, name).open(), native.schema
    own = pa.Table.from_batches(read_file_rows(filesystem, name, active_files(delta), schema), schema)
    found = [
        sorted(zip(rows["number"].to_pylist(), rows["text"].to_pylist(), strict=True))
        for rows in (native, own, delta.to_pyarrow_table())
    ]
    assert found[0] == found[1] == found[2]
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize("trials", ["", "s3://cloud/trials"])
def test_a_fork_in_a_bucket_has_each_table_with_its_history_and_outlives_what_its_base_removes(
    remote: Settings, trials: str
) -> None:
    places = {"home": remote.home_path, "lake": remote.lake, "storage_options": remote.storage_options}
    base = load_settings("", trials=trials, **places)
    for number in range(4):
        add_remote(base, "numbers", list(range(10 * number, 10 * number + 10)))
    open_table(base, "numbers").create_checkpoint()
    add_remote(base, "numbers", [100])
    record(base, "numbers", 4)
    open_state(base).write("sent.json", b"{}")
    open_table(base, "numbers").optimize.compact()
    before, rows = objects(base, "s3://cloud"), [read_rows(base, "numbers", version) for version in range(6)]
    made, other = fork(base, "x"), fork(base, "y")
    trial = trial_settings(base, "x")
    assert base.trials_uri == ("s3://cloud/trials" if "://" in trials else "s3://cloud/a/lake-trials")
    assert re.fullmatch(f"{base.trials_uri}/x-[0-9a-f]{{8}}", trial.lake_uri)
    assert trial.home_path == base.home_path.with_name("remote-trials") / "x"
    assert {uri: tag for uri, tag in objects(base, "s3://cloud").items() if uri in before} == before
    assert made.tables == other.tables == {"numbers": 5, "stage_ledger": 0}
    assert [read_rows(trial, "numbers", version) for version in range(6)] == rows
    assert ledger_records(trial) == ledger_records(base)
    assert open_state(trial).read("sent.json") == open_state(base).read("sent.json")
    assert own_bytes(trial) > sum(size for name, size in open_lake(base).sizes().items() if "numbers" in name)

    add_remote(trial, "numbers", [1000])
    add_remote(base, "numbers", [2000])
    table = open_table(base, "numbers")
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert read_rows(trial, "numbers")[-1][0] == 1000
    assert [read_rows(trial, "numbers", version) for version in range(6)] == rows
    assert changed_tables(trial, made) == {"numbers": 6}
    remove_table(base, "numbers")
    assert len(read_rows(trial, "numbers")) == 42

    before = objects(base, base.lake_uri) | objects(base, trial_settings(base, "y").lake_uri)
    remove(base, "x")
    assert objects(base, "s3://cloud") == before
    assert [each.name for _, each in list_trials(base)] == ["y"]


@pytest.mark.slow
def test_a_trial_in_a_bucket_that_is_partly_removed_can_be_removed_again(
    remote: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_remote(remote, "numbers", [1])
    before = objects(remote, "s3://cloud")
    fork(remote, "x")

    def fail(folder: BucketFolder, names: list[str]) -> None:
        raise UnreachableError("The store does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(BucketFolder, "delete", fail)
        with pytest.raises(UnreachableError):
            remove(remote, "x")
    assert list_trials(remote) == []
    assert objects(remote, "s3://cloud") != before
    remove(remote, "x")
    assert objects(remote, "s3://cloud") == before
    with pytest.raises(NotFoundError, match="no trial 'local/x'"):
        remove(remote, "x")


@pytest.mark.slow
def test_a_trial_that_names_the_lake_of_its_base_removes_nothing_there(remote: Settings) -> None:
    add_remote(remote, "numbers", [1])
    fork(remote, "x")
    (trial_settings(remote, "x").home_path / "lake.uri").write_text(remote.lake_uri)
    before = objects(remote, "s3://cloud")
    with pytest.raises(DamagedError, match="names 's3://cloud/a/lake', which is no lake of this trial"):
        remove(remote, "x")
    assert objects(remote, "s3://cloud") == before


@pytest.mark.slow
def test_forks_of_a_bucket_beside_a_writer_name_no_version_that_they_lack(remote: Settings) -> None:
    add_remote(remote, "numbers", [0])
    record(remote, "numbers", 0)
    made = fork_beside_a_writer(remote, {"lake": remote.lake, "storage_options": remote.storage_options}, 4)
    for each in made:
        trial, version = trial_settings(remote, each.name), each.tables["numbers"]
        assert sorted(row["number"] for row in open_table(trial, "numbers").to_pyarrow_table().to_pylist()) == list(
            range(version + 1)
        )
        assert max(row.delta_version for row in ledger_records(trial)) <= version


@pytest.mark.slow
def test_forks_beside_a_writer_name_no_version_that_they_lack(settings: Settings) -> None:
    add(settings, "numbers", 0)
    record(settings, "numbers", 0)
    made = fork_beside_a_writer(settings, {}, 10)
    for each in made:
        trial = trial_settings(settings, each.name)
        version = each.tables["numbers"]
        assert numbers(trial, "numbers") == list(range(version + 1))
        assert max(row.delta_version for row in ledger_records(trial)) <= version


def fork_beside_a_writer(settings: Settings, places: Mapping[str, Any], most: int) -> list[Trial]:
    """Fork again and again while another process commits and records, until so many versions have been forked."""
    ended = settings.home_path.with_name("ended")
    writer, made = start(record_until, ended, settings.home_path, places), list[Trial]()
    try:
        while len({each.tables["numbers"] for each in made}) < most:
            assert writer.is_alive()
            made.append(fork(settings, f"n{len(made)}"))
    finally:
        ended.touch()
    finish(writer)
    return made


def test_a_trial_is_held_by_one_process_and_removed_only_if_nobody_has_it(settings: Settings) -> None:
    add(settings, "numbers", 0)
    with hold_trial(settings, "x", "tries"):
        fork(settings, "x")
        with pytest.raises(ConflictError, match=rf"'x' is being used by process {os.getpid()} \(tries\)"):
            remove(settings, "x")
    remove(settings, "x")
    with pytest.raises(NotFoundError, match="no trial 'local/x'"):
        remove(settings, "x")


def test_a_folder_that_is_no_trial_is_neither_used_nor_removed(settings: Settings, tmp_path: Path) -> None:
    add(settings, "numbers", 0)
    beside = load_settings("", home=settings.home_path, trials=str(settings.home_path.parent))
    name, before = settings.home_path.name, contents(settings.home_path)  # of a trial whose home would be its base's
    for attempt in (fork, remove):
        with pytest.raises(DamagedError, match="is no trial: it has no trial.json. Give another name"):
            attempt(beside, name)
    assert contents(settings.home_path) == before


def test_what_is_released_under_the_name_of_a_folder_of_unfinished_files_is_forked(settings: Settings) -> None:
    names = {"staging/STATE", "staging/releases/00000001/release.json"}
    for name in (*names, "staging/staging/ab12/release.json", ".leases/x"):
        path = Path(settings.lake_uri, REALTIME, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    fork(settings, "x")
    forked = Path(trial_settings(settings, "x").lake_uri, REALTIME)
    assert {str(path.relative_to(forked)) for path in forked.rglob("*") if path.is_file()} == names


def test_what_cannot_be_forked_is_refused_in_one_sentence(settings: Settings, tmp_path: Path) -> None:
    for lake, trials, told in (
        ("s3://bucket/lake", "s3://other/trials", "not in the bucket of s3://bucket/lake"),
        ("s3://bucket", "", "not in the bucket of s3://bucket"),
        ("s3a://bucket/lake", "s3://bucket/lake/trials", "in s3a://bucket/lake"),
        ("s3://bucket", "s3://bucket/trials", "in s3://bucket"),
        ("", "s3://bucket/trials", f"not in the bucket of {tmp_path / 'other'}"),
        ("", str(tmp_path / "other" / "lake" / "trials"), f"in {tmp_path / 'other' / 'lake'}"),
    ):
        misplaced = load_settings("", home=tmp_path / "other", lake=lake, trials=trials)
        with pytest.raises(SettingsError, match=f"tables cannot be in .*: it is {told}"):
            fork(misplaced, "x")
        assert list(misplaced.trials_path.glob(".draft*")) == []
    add(settings, "numbers", 0)
    served = load_settings("", home=settings.home_path, mlflow_uri="http://user:hush@mlflow:5000")
    with pytest.raises(Exception, match="on the MLflow server http://mlflow:5000"):
        fork(served, "x")
    if Path("/dev/shm").is_dir() and os.stat("/dev/shm").st_dev != os.stat(tmp_path).st_dev:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
            far = load_settings("", home=settings.home_path, trials=elsewhere)
            with pytest.raises(SettingsError, match="Set FORECACHE_TRIALS to a folder on the file system of the lake"):
                fork(far, "x")


def test_a_trial_of_nothing_is_empty(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fork(settings, "x")
    assert (made.tables, made.models) == ({}, {})
    trial = trial_settings(settings, "x")
    size = own_bytes(trial)
    assert size < 100_000
    listed = list(os.walk(trial.home_path))
    monkeypatch.setattr(os, "walk", lambda _: [(folder, names, [*files, "gone"]) for folder, names, files in listed])
    assert own_bytes(trial) == size
    assert not settings.home_path.exists()


def test_a_trial_refuses_what_would_leave_its_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FORECACHE_SMTP_HOST", "127.0.0.1")
    monkeypatch.setenv("FORECACHE_STORE_REMOTE", str(tmp_path / "remote"))
    fork(load_settings(), "x")
    trial = load_settings("local/x")
    for attempt, told in (
        (lambda: Relay(trial), "does not send mail"),
        (lambda: client_options(trial), "does not read from Kafka or send to it"),
        (lambda: open_redis_store(trial, "churn"), "does not read or write Redis"),
    ):
        with pytest.raises(SettingsError, match=f"The trial 'local/x' {told}"):
            attempt()
    for command in ("push", "pull"):
        assert main(["store", command, "--env", "local/x", "--remote", str(tmp_path / "remote")]) == 2
        assert "does not exchange versions with a remote" in capsys.readouterr().err
    assert main(["try", "--env", "local/x"]) == 2
    assert "a trial defers to an environment" in capsys.readouterr().err


@pytest.mark.slow
def test_a_trial_that_trains_and_one_that_fails_send_publish_and_move_nothing(tmp_path: Path) -> None:
    """Mail, webhook, lineage, remote and registry of the base are real, and as they were."""
    project = copy_project(tmp_path / "before")
    changed = copy_project(tmp_path / "after", before="max(amount) AS most", after="max(amount) * 2 AS most")
    broken = copy_project(tmp_path / "broken", before="max(amount) AS most", after="error('no') AS most")
    home, record_folder = tmp_path / "home", tmp_path / "mails"
    land_sales(home / "landing")
    with receiver() as there, smtp_server(record_folder) as port:
        places = {
            "store_remote": str(tmp_path / "remote"),
            "openlineage_url": there.url,
            "alert_webhook": f"{there.url}/hook",
            "alert_email": "ops@example.org",
            "alert_email_from": "Forecache <forecache@example.org>",
            "smtp_host": "127.0.0.1",
            "smtp_port": port,
            "smtp_security": "none",
        }
        finish(start(run_from_nothing, project, home, places))
        base = load_settings("", home=home, **places)
        before, remote, posted = contents(home), contents(tmp_path / "remote"), len(there.posted)
        assert remote
        assert posted > 0  # the base does send
        finish(start(try_full, changed, home, "changed", places))
        failed = start(try_full, broken, home, "broken", places)
        failed.join(300)
        assert failed.exitcode == 1
        assert (contents(home), contents(tmp_path / "remote"), len(there.posted)) == (before, remote, posted)
        assert accepted(record_folder) == []
    trial = trial_settings(base, "changed")
    old, new = find_versions(base, "spend"), find_versions(trial, "spend")
    assert old is not None
    assert new is not None
    assert [(each.version, tuple(each.aliases)) for each in old] == [(1, ("champion",))]
    assert sorted(each.version for each in new) == [1, 2]
    [champion] = [each for each in new if "champion" in each.aliases]
    assert champion.version == 2
    assert champion.location.startswith(trial.mlflow_artifact_root)
    kept = find_version(trial, "spend", number=1)
    assert kept is not None
    assert (kept.run_id, kept.location) == (old[0].run_id, old[0].location)
    assert kept.tags.items() >= old[0].tags.items()

    truth = tmp_path / "truth"
    land_sales(truth / "landing")
    finish(start(run_from_nothing, changed, truth, {}))
    assert answers(trial) == answers(load_settings("", home=truth))


def finish(process: object) -> None:
    process.join(300)  # type: ignore[attr-defined]
    assert process.exitcode == 0  # type: ignore[attr-defined]
