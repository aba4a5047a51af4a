"""Damaged stores beside the reader, and stores that took another's place: publish, verify, replicas, Redis."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import redis
from store_services import redis_server
from store_tables import OPEN_RULES, churn, predictions, scores, upsert, write_night

from forecache.base.errors import CheckError, ConflictError, DamagedError, NotFoundError, UnavailableError
from forecache.base.settings import Settings
from forecache.base.steps import publish_step
from forecache.cli.main import main
from forecache.kit.versioned.pointer import lock_versions
from forecache.plugins.doctor.checks import check_stores
from forecache.plugins.redis.versions import RedisStore
from forecache.plugins.store_checks import verify_stores as verification
from forecache.plugins.store_checks.verify_stores import DamagedStoresError, check_bytes, verify_store, verify_stores
from forecache.serve.store import Store, open_remote, open_store, publish, pull, push
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.store import retire_versions

OLD = scores(300)
NEW = {key: value / 2 for key, value in scores(250).items()}
CHANGED = {"00001": 0.125, "new": 0.5}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x15
    path.write_bytes(content)


def content(store: Any) -> dict[str, float]:
    with store.snapshot() as snapshot:
        keys = [key.encode() for key in {**OLD, **NEW, **CHANGED}]
        entries = zip(keys, snapshot.get_entries(keys), strict=True)
        return {key.decode(): json.loads(entry)["churn_probability"] for key, entry in entries if entry}


def publish_two(settings: Settings, rows: dict[str, float]) -> Store:
    """A base, and a small segment with a filter over it."""
    write_night(settings, predictions(rows))
    publish(settings, churn())
    upsert(settings, predictions(CHANGED))
    assert publish(settings, churn()).details["kind"] == "incremental"
    return open_store(settings, "churn")


@pytest.fixture
def store(settings: Settings) -> Store:
    return publish_two(settings, OLD)


def the(store: Store, pattern: str) -> Path:
    [path] = store.layout.root.glob(pattern)
    return path


def test_a_store_published_anew_under_the_same_numbers_is_no_other_for_replica_and_redis(
    settings: Settings, tmp_path: Path
) -> None:
    with redis_server(tmp_path / "redis") as port:
        old = publish_two(settings, OLD)
        remote, replica = open_remote(str(tmp_path / "remote"), {}), Store(tmp_path / "replica" / "churn")
        there = RedisStore(redis.Redis(port=port), "churn")
        for _ in range(2):
            push(old, remote)
            pull(replica, remote)
            there.load(old)
        assert content(replica) == content(there) == content(old) == {**OLD, **CHANGED}
        with replica.snapshot() as reading:
            shutil.rmtree(settings.store_path / "churn")
            write_night(settings, predictions(NEW))
            shutil.rmtree(settings.home_path / "lake")
            new = publish_two(settings, NEW)
            assert new.pointer().current == old.pointer().current == 2
            shutil.rmtree(tmp_path / "remote")
            push(new, remote)
            assert pull(replica, remote)["moved"]
            there.load(new)
            assert content(replica) == content(there) == content(new) == {**NEW, **CHANGED}
            assert reading.get(b"00299") is not None, "what is open stays whole"
        assert [item.problem for item in verify_store(replica, content=True)] == ["", ""]
        assert pull(replica, remote)["moved"] is False
        assert replica.version_numbers() == [2]
        assert len(list(replica.layout.segments.iterdir())) == 2


def test_a_replica_that_pinned_a_version_of_the_store_before_keeps_it_until_it_is_unpinned(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    remote, replica = open_remote(str(tmp_path / "remote"), {}), Store(tmp_path / "replica" / "churn")
    push(store, remote)
    pull(replica, remote)
    replica.pin(2)
    for lost in (settings.store_path / "churn", tmp_path / "remote"):
        shutil.rmtree(lost)
    publish(settings, churn())
    push(open_store(settings, "churn"), remote)
    with pytest.raises(ConflictError, match=r"Version 2 of churn is pinned here.*forecache store unpin churn"):
        pull(replica, remote)
    assert content(replica) == {**OLD, **CHANGED}
    replica.unpin()
    assert pull(replica, remote)["version"] == 1


def test_a_damaged_replica_is_mended_by_a_pull_that_verifies(store: Store, tmp_path: Path) -> None:
    remote, replica = open_remote(str(tmp_path / "remote"), {}), Store(tmp_path / "replica" / "churn")
    push(store, remote)
    pull(replica, remote)
    for pattern in ("segments/*-base-*/000.mdb", "filters/*.bin", "versions/00000002.json"):
        flip(the(replica, pattern))
        assert any(item.problem for item in verify_store(replica))
        assert pull(replica, remote, verify=True)["moved"] is False
        assert not any(item.problem for item in verify_store(replica, content=True))
    for path in (replica.layout.pointer, replica.layout.pointer_copy):
        flip(path)
    with pytest.raises(UnavailableError, match="and its copy"):
        replica.pointer()
    pull(replica, remote, verify=True)
    assert content(replica) == {**OLD, **CHANGED}


def unverified_for_a_day(store: Store) -> None:
    for folder in store.layout.segments.iterdir():
        os.utime(folder, (0, 0))


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("segments/*-base-*/000.mdb", flip),
        ("versions/00000002.json", flip),
        ("versions/00000002.json", Path.unlink),
        ("filters/*.bin", flip),
    ],
)
def test_a_publish_over_a_damaged_version_is_full(
    settings: Settings, store: Store, pattern: str, damage: Callable[[Path], None]
) -> None:
    damage(the(store, pattern))
    unverified_for_a_day(store)
    again = publish(settings, churn())
    assert not again.skipped
    assert "version 2 is damaged" in again.details["why_full"]
    assert content(store) == {**OLD, **CHANGED}
    store.move(store.pointer().block({1: "test"}))
    assert not [item for item in verify_store(store) if item.version == 3 and item.problem]


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("segments/*-base-*/000.mdb", flip),
        ("versions/00000002.json", flip),
        ("versions/00000002.json", Path.unlink),
    ],
)
def test_the_publish_gates_hold_over_a_damaged_version(
    settings: Settings, store: Store, pattern: str, damage: Callable[[Path], None]
) -> None:
    damage(the(store, pattern))
    unverified_for_a_day(store)
    write_night(settings, predictions(scores(100)))
    with pytest.raises(CheckError, match=r"the rows go from 30\d to 100"):
        publish(settings, churn(rules=replace(OPEN_RULES, max_row_change=0.2)))
    assert store.pointer().current == 2


def test_a_pointer_that_is_lost_is_read_from_its_copy(settings: Settings, store: Store) -> None:
    before = store.pointer()
    store.layout.pointer.unlink()
    assert store.pointer() == before
    upsert(settings, predictions({"00002": 0.25}))
    assert publish(settings, churn()).details["kind"] == "incremental"
    assert store.layout.pointer.exists()
    assert (store.pointer().store, store.version_numbers()) == (before.store, [1, 2, 3])
    assert content(store) == {**OLD, **CHANGED, "00002": 0.25}
    store.layout.pointer.unlink()
    flip(store.layout.pointer_copy)
    with pytest.raises(DamagedError, match="and its copy"):
        store.pointer()


def test_verify_and_doctor_name_a_copy_of_the_pointer_that_says_something_else(
    settings: Settings, store: Store
) -> None:
    copy = store.layout.pointer_copy
    older = copy.read_bytes()
    store.pin(1)
    copy.write_bytes(older)
    with pytest.raises(DamagedStoresError, match=r"churn pointer\. The file .*CURRENT.copy is not a copy of CURRENT"):
        verify_stores(settings)
    assert "CURRENT.copy is not a copy of CURRENT" in check_stores(settings).found
    publish(settings, churn())
    assert check_stores(settings).state == "ok"
    assert store.pointer().pinned == 1
    with lock_versions(store.layout, action="test"):
        copy.write_bytes(older)
        assert check_stores(settings).state == "ok", "the pointer is being moved"


def test_a_manifest_that_is_lost_is_damage_of_the_version_that_is_current(settings: Settings, store: Store) -> None:
    the(store, "versions/00000002.json").unlink()
    with pytest.raises(DamagedStoresError, match=r"churn 2\. The store of churn has no version 2\.") as caught:
        verify_stores(settings)
    assert "Publish again with --full" in caught.value.remedy
    with pytest.raises(NotFoundError, match="has no version 2"):
        store.snapshot()
    assert store.rollback().version == 1
    assert not any(item.problem for item in verify_stores(settings))


def test_a_store_that_changes_while_it_is_verified_is_verified(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(settings, churn(), full=True)
    open_store(settings, "spend").layout.create()  # as a publish that failed leaves it
    honest, read = verification._verify_files, []

    def while_others_publish(there: Store, manifest: Manifest, *arguments: Any) -> int:
        read.append(manifest.version)
        if manifest.version == 1:
            assert retire_versions(store, keep=0) == [2], "what is being read stays"
        return honest(there, manifest, *arguments)

    monkeypatch.setattr(verification, "_verify_files", while_others_publish)
    found = verify_stores(settings)
    assert read == [1, 3]
    assert [(item.pipeline, item.version, item.problem) for item in found] == [
        ("churn", None, ""), ("churn", 1, ""), ("churn", 3, ""), ("spend", None, ""),
    ]  # fmt: skip
    assert retire_versions(store, keep=0) == [1]


def test_the_remedy_is_that_of_what_is_damaged(settings: Settings, store: Store) -> None:
    publish(settings, churn(), full=True)
    flip(the(store, "segments/*-delta-*/000.mdb"))
    with pytest.raises(DamagedStoresError) as caught:
        verify_stores(settings)
    assert "later publishes remove them" in caught.value.remedy
    assert "--full" not in caught.value.remedy


def test_rollback_and_pin_refuse_a_damaged_version(store: Store) -> None:
    flip(the(store, "segments/*-base-*/000.mdb"))
    with pytest.raises(DamagedError, match=r"000.mdb is damaged: .*Choose another with --to"):
        store.rollback()
    with pytest.raises(DamagedError, match=r"000.mdb is damaged"):
        store.pin(1)
    assert (store.pointer().current, store.pointer().pinned, store.blocked_versions()) == (2, None, {})


def test_verify_and_doctor_name_what_is_damaged(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home_path))
    assert main(["store", "verify", "churn", "--content", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert [(item["version"], item["rows"]) for item in found["versions"]] == [(None, 0), (1, 300), (2, 301)]
    assert check_stores(settings).state == "ok"
    flip(the(store, "segments/*-delta-*/000.mdb"))
    assert main(["store", "verify", "--json"]) == 6
    problems = [item["problem"] for item in json.loads(capsys.readouterr().out)["versions"]]
    assert [bool(problem) for problem in problems] == [False, False, True]
    assert main(["store", "verify"]) == 6
    assert "churn 2. The file" in " ".join(capsys.readouterr().err.split())
    assert check_stores(settings).state == "ok", "sizes alone, at every call"
    with pytest.raises(DamagedStoresError, match="is damaged"):
        check_bytes(settings)
    assert main(["store", "verify", "nope"]) == 3


def test_doctor_names_every_store_of_which_a_file_is_lost(settings: Settings, store: Store) -> None:
    (settings.store_path / "notes.txt").write_text("not a store")
    shutil.copytree(store.layout.root, settings.store_path / "spend")
    assert check_stores(settings).found == "served: churn 2, spend 2"
    the(store, "segments/*-delta-*/000.mdb").unlink()
    the(open_store(settings, "spend"), "versions/00000002.json").unlink()
    found = check_stores(settings)
    assert found.state == "fail"
    assert "churn: The file" in found.found
    assert "spend: The store of spend has no version 2." in found.found


def test_the_verification_job_fails_where_a_version_is_damaged(settings: Settings, store: Store) -> None:
    from forecache.plugins.store_checks.orchestration import build_verification_job
    from resources.settings_resource import SettingsResource

    job, resource = build_verification_job(), SettingsResource(home=str(settings.home_path))

    def run() -> dg.ExecuteInProcessResult:
        return job.execute_in_process(resources={"settings": resource}, raise_on_error=False)

    assert run().success
    flip(the(store, "filters/*.bin"))
    assert not run().success


def test_a_content_that_is_not_what_was_published_is_found_where_checksums_cannot(
    settings: Settings, store: Store
) -> None:
    manifest = store.manifest(2)
    store.layout.manifest(2).write_bytes(replace(manifest, content_hash="0" * 32).to_json())
    assert not any(item.problem for item in verify_store(store))
    [problem] = [item.problem for item in verify_store(store, content=True) if item.problem]
    assert "reads 301 rows" in problem


def test_a_store_of_an_older_format_is_named(settings: Settings, store: Store) -> None:
    store.layout.pointer_copy.unlink()
    store.layout.pointer.write_bytes(b'{"current": 17, "pinned": null, "last": 17, "generation": 3}')
    for act in (lambda: publish(settings, churn()), store.snapshot):
        with pytest.raises(UnavailableError, match=r"CURRENT has no checksum: .* publish again"):
            act()


def test_one_pipeline_that_nothing_is_published_for_keeps_no_other_from_travelling(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home_path))
    monkeypatch.setenv("FORECACHE_STORE_REMOTE", str(tmp_path / "remote"))
    for command in ("push", "pull"):
        assert main(["store", command, "--json"]) == 0
        rows = {row["pipeline"]: row for row in json.loads(capsys.readouterr().out)}
        assert rows["churn"]["version"] == 2
        # A replica pulls what the remote serves, a publisher pushes what is declared.
        assert ("skipped" in rows.get("spend", {})) == (command == "push")
        assert main(["store", command]) == 0
        assert ("Skipped: " in capsys.readouterr().err) == (command == "push")
        assert main(["store", command, "spend"]) == 3
        capsys.readouterr()
        monkeypatch.setenv("FORECACHE_STORE", str(tmp_path / "replica"))
    # One that is broken fails the command, after the others went through.
    replica = Store(tmp_path / "replica" / "spend")
    replica.layout.create()
    replica.layout.pointer.write_bytes(b"{}")
    (tmp_path / "remote" / "spend").mkdir()
    shutil.copy(tmp_path / "remote" / "churn" / "CURRENT", tmp_path / "remote" / "spend" / "CURRENT")
    upsert(settings, predictions({"00002": 0.25}))
    monkeypatch.delenv("FORECACHE_STORE")
    publish(settings, churn())
    push(open_store(settings, "churn"), open_remote(str(tmp_path / "remote"), {}))
    monkeypatch.setenv("FORECACHE_STORE", str(tmp_path / "replica"))
    assert main(["store", "pull"]) == 7
    assert "Done for: churn." in " ".join(capsys.readouterr().err.split())
    assert Store(tmp_path / "replica" / "churn").pointer().current == 3


def test_a_version_that_is_lost_here_comes_from_the_remote_and_one_that_is_lost_there_fails_the_command(
    settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("FORECACHE_HOME", str(settings.home_path))
    monkeypatch.setenv("FORECACHE_STORE_REMOTE", str(tmp_path / "remote"))
    assert main(["store", "push"]) == 0
    content = store.layout.manifest(2).read_bytes()
    store.layout.manifest(2).unlink()
    assert main(["store", "push"]) == 0
    assert store.layout.manifest(2).read_bytes() == content
    monkeypatch.setenv("FORECACHE_STORE", str(tmp_path / "replica"))
    (tmp_path / "remote" / "churn" / "versions" / "00000002.json").unlink()
    assert main(["store", "pull"]) == 3
    assert "The remote has no file churn/versions/00000002.json" in " ".join(capsys.readouterr().err.split())


def test_a_rolled_back_night_stays_refused_when_a_check_is_about_it(settings: Settings, store: Store) -> None:
    store.rollback()
    with pytest.raises(CheckError, match="blocked"):
        publish(settings, churn())
    assert publish_step.on_step is None
