"""Files that are replaced in one step, locks, and folders by their URI."""

import multiprocessing
import stat
from pathlib import Path

import pytest

from forecache.base.errors import ConflictError, SettingsError
from forecache.base.files import is_locked, lock, replace_file, write_durably
from forecache.base.folders import BucketFolder, LocalFolder, open_folder


def test_a_write_that_fails_leaves_the_old_content_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    write_durably(path, "old")

    def fail() -> None:
        with replace_file(path) as unfinished:
            assert unfinished.suffix == ".json"
            unfinished.write_text("half of")
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_permissions_that_are_asked_for(tmp_path: Path) -> None:
    write_durably(tmp_path / "secret", b"x", mode=0o600)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


def _hold(path: Path, held: "multiprocessing.synchronize.Event", end: "multiprocessing.synchronize.Event") -> None:
    with lock(path, holder="process 7 (test)"):
        held.set()
        end.wait(120)


def test_a_lock_refuses_with_its_holder_or_waits_for_it(tmp_path: Path) -> None:
    path, spawn = tmp_path / "locks" / "LOCK", multiprocessing.get_context("spawn")
    held, end = spawn.Event(), spawn.Event()
    process = spawn.Process(target=_hold, args=(path, held, end))
    process.start()
    assert held.wait(120)
    told: list[str] = []

    def waiting(holder: str) -> None:
        told.append(holder)
        end.set()

    with pytest.raises(ConflictError, match=r"process 7 \(test\)"), lock(path, refused=ConflictError, wait_s=0.1):
        pass
    with lock(path, waiting=waiting):
        assert told == ["process 7 (test)"]
    process.join()


def test_a_folder_is_local_or_in_a_bucket_by_its_uri(tmp_path: Path) -> None:
    for uri in (str(tmp_path), f"file://{tmp_path}"):
        assert isinstance(open_folder(uri, {}, setting="A_SETTING"), LocalFolder)
    bucket = open_folder("s3a://bucket/checkpoints", {"AWS_REGION": "eu-west-1"}, setting="A_SETTING")
    assert isinstance(bucket, BucketFolder)
    with pytest.raises(SettingsError, match="A_SETTING is 'ftp://elsewhere'"):
        open_folder("ftp://elsewhere", {}, setting="A_SETTING")


def test_a_lock_is_seen_by_others_while_it_is_held_and_a_missing_file_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "LOCK"
    assert not is_locked(path)
    assert not path.exists()
    with lock(path):
        assert is_locked(path)
        assert is_locked(path)
    assert not is_locked(path)
    with pytest.raises(NotADirectoryError):
        is_locked(path / "LOCK")  # that it cannot be read does not say that it is free
