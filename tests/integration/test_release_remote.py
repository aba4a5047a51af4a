"""Releases on a remote and on replicas: pushed, pulled, damaged, and pushed by two at once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from asked_project.pipelines.payments import payments
from released_payments import changed, scores

from forecache.base.errors import CheckError, ConflictError, DamagedError, NotEverywhereError, UnreachableError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.kit.versioned.pointer import read_pointer
from forecache.operations.release import release_model, roll_back_release
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.lake_state import read_lake_state
from forecache.realtime.release.replicas import pull_releases, push_releases
from forecache.serve.store.remote import list_remote_models


def test_a_replica_pulls_what_was_pushed_and_nothing_twice(settings: Settings, tmp_path: Path) -> None:
    remote, replica = LocalFolder(tmp_path / "remote"), load_settings(home=tmp_path / "replica")
    here, there = open_releases(settings, "payments"), open_releases(replica, "payments")
    release_model(settings, payments)
    assert push_releases(here, remote)["release"] == 1
    left = tmp_path / f"remote/.realtime/payments/.CURRENT.{'0a' * 8}.tmp"  # by a push that was killed long ago
    left.touch()
    os.utime(left, (0, 0))
    assert push_releases(here, remote)["files"] == 0
    assert not left.exists()
    assert list_remote_models(remote) == ["payments"]
    pulled = pull_releases(there, remote)
    assert (pulled["release"], pulled["moved"]) == (1, True)
    assert scores(replica, 1).tolist() == [10.0]
    again = pull_releases(there, remote)
    assert (again["files"], again["moved"]) == (0, False)
    release_model(settings, changed(deadline_ms=20.0))
    push_releases(here, remote)
    generation = read_pointer(there).generation
    assert pull_releases(there, remote)["release"] == 2
    assert read_pointer(there).generation > generation
    roll_back_release(settings, "payments")
    push_releases(here, remote)
    assert pull_releases(there, remote) == {"release": 1, "files": 0, "bytes": 0, "moved": True}
    assert read_pointer(there).bad == (2,)


def test_a_file_that_was_changed_on_the_remote_is_not_taken(settings: Settings, tmp_path: Path) -> None:
    remote, replica = LocalFolder(tmp_path / "remote"), load_settings(home=tmp_path / "replica")
    release_model(settings, payments)
    push_releases(open_releases(settings, "payments"), remote)
    (code,) = (tmp_path / "remote").rglob("scales.py")
    code.write_text(code.read_text().replace("log1p", "expm1"))
    there = open_releases(replica, "payments")
    with pytest.raises(CheckError, match="scales.py does not have the checksum"):
        pull_releases(there, remote)
    assert read_pointer(there).current is None
    assert there.numbers() == []


def test_a_damaged_release_is_pulled_again(settings: Settings, tmp_path: Path) -> None:
    remote, replica = LocalFolder(tmp_path / "remote"), load_settings(home=tmp_path / "replica")
    release_model(settings, payments)
    push_releases(open_releases(settings, "payments"), remote)
    there = open_releases(replica, "payments")
    pull_releases(there, remote)
    (there.release(1) / "model.bin").write_bytes(b"x")
    assert not pull_releases(there, remote)["moved"]
    assert pull_releases(there, remote, verify=True)["files"] > 0
    assert scores(replica, 1).tolist() == [10.0]


class Interrupted(LocalFolder):
    """A remote to which something else happens just before something is done to it."""

    def __init__(self, root: Path, before: str, then: Callable[[], object]) -> None:
        super().__init__(root)
        self.before, self.then = before, then

    def _interrupt(self, at: str) -> None:
        if at == self.before:
            self.before = ""
            self.then()

    def swap(self, name: str, content: bytes, tag: str | None) -> str | None:
        self._interrupt("swap")
        return super().swap(name, content, tag)

    def write(self, name: str, content: bytes) -> None:
        self._interrupt("write")
        super().write(name, content)

    def delete(self, names: list[str]) -> None:
        self._interrupt("delete")
        super().delete(names)

    def names(self, prefix: str = "") -> list[str]:
        self._interrupt("names")
        return super().names(prefix)


@pytest.mark.parametrize("before", ["write", "swap", "names", "delete"])
def test_two_pushes_at_once_leave_the_newest_release_whole(settings: Settings, tmp_path: Path, before: str) -> None:
    plain, folder = LocalFolder(tmp_path / "remote"), open_releases(settings, "payments")

    def release_another() -> None:
        release_model(settings, changed(deadline_ms=20.0))
        push_releases(folder, plain)

    release_model(settings, payments)
    remote = Interrupted(tmp_path / "remote", before, release_another)
    push_releases(folder, remote, read_lake_state(settings, "payments"))
    assert remote.before == ""
    there = open_releases(load_settings(home=tmp_path / "replica"), "payments")
    assert pull_releases(there, plain)["release"] == 2
    assert scores(load_settings(home=tmp_path / "replica"), 2).tolist() == [10.0]


def test_a_push_does_not_undo_that_of_another_publisher(settings: Settings, tmp_path: Path) -> None:
    other = load_settings(home=tmp_path / "other")
    plain = LocalFolder(tmp_path / "remote")

    def push_another() -> None:
        release_model(other, changed(deadline_ms=20.0))
        push_releases(open_releases(other, "payments"), plain)

    release_model(settings, payments)
    with pytest.raises(ConflictError, match="moved by another process"):
        push_releases(open_releases(settings, "payments"), Interrupted(tmp_path / "remote", "swap", push_another))


def test_a_damaged_pointer_is_read_from_its_copy_and_both_can_be_had_again(settings: Settings, tmp_path: Path) -> None:
    remote, replica = LocalFolder(tmp_path / "remote"), load_settings(home=tmp_path / "replica")
    here, there = open_releases(settings, "payments"), open_releases(replica, "payments")
    release_model(settings, payments)
    push_releases(here, remote)
    pull_releases(there, remote)
    for folder in (here, there):
        known = read_pointer(folder)
        for torn in (b"", folder.pointer_copy.read_bytes()[:40]):
            folder.pointer.write_bytes(torn)
            assert read_pointer(folder) == known
        folder.pointer_copy.write_bytes(b"{}")
        with pytest.raises(DamagedError, match=r"CURRENT and .*CURRENT\.copy.*`forecache store pull --verify`"):
            read_pointer(folder)
    with pytest.raises(DamagedError):
        pull_releases(there, remote)
    assert pull_releases(there, remote, verify=True)["moved"]
    assert read_pointer(there).current == 1
    for path in (here.pointer, here.pointer_copy):
        path.unlink()
    assert release_model(settings, payments).details["release"] == 1
    assert read_pointer(here).current == 1


def test_with_a_remote_a_release_and_its_rollback_are_there_too(settings: Settings, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    distributed = load_settings(home=settings.home, store_remote=str(remote))
    there = open_releases(load_settings(home=tmp_path / "replica"), "payments")
    for deadline in (10.0, 20.0):
        release_model(distributed, changed(deadline_ms=deadline))
    assert pull_releases(there, LocalFolder(remote))["release"] == 2
    roll_back_release(distributed, "payments")
    assert pull_releases(there, LocalFolder(remote))["release"] == 1


def test_while_the_remote_is_away_nothing_is_released_and_a_rollback_is_made_up_for(
    settings: Settings, tmp_path: Path
) -> None:
    remote = tmp_path / "remote"
    distributed = load_settings(home=settings.home, store_remote=str(remote))
    release_model(distributed, payments)
    remote.rename(tmp_path / "aside")
    remote.write_text("no folder")
    with pytest.raises(UnreachableError, match="The remote .+ could not be reached for the releases of payments"):
        release_model(distributed, changed(deadline_ms=20.0))
    assert read_pointer(open_releases(settings, "payments")).current == 1
    remote.unlink()
    (tmp_path / "aside").rename(remote)
    assert release_model(distributed, changed(deadline_ms=20.0)).details["release"] == 3  # 2 was taken
    remote.rename(tmp_path / "aside")
    remote.write_text("no folder")
    with pytest.raises(NotEverywhereError, match="Release 1 of payments is current. That is done here"):
        roll_back_release(distributed, "payments")
    remote.unlink()
    (tmp_path / "aside").rename(remote)
    assert release_model(distributed, payments).skipped
    there = open_releases(load_settings(home=tmp_path / "replica"), "payments")
    assert pull_releases(there, LocalFolder(remote))["release"] == 1
