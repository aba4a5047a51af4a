"""The versioned folder, as stores and releases use it: its pointer and copy, its lock, leases and retention."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from forecache.base.errors import ConflictError, DamagedError
from forecache.kit.versioned.folder import VersionedFolder
from forecache.kit.versioned.leases import is_open, keep_version, remove_old_versions, take_lease
from forecache.kit.versioned.pointer import (
    earlier_versions,
    lock_versions,
    pointer_problem,
    read_pointer,
    write_pointer,
)
from forecache.plugins.store_checks.verify_stores import verify_versions
from forecache.realtime.release.folder import ReleaseFolder, ReleasePointer
from forecache.serve.store import Pointer
from forecache.serve.store.layout import StoreLayout


class Kind(NamedTuple):
    """A folder with the versions 1 to 5, of which 5 is current, and how a version is quarantined in it."""

    folder: VersionedFolder[Any]
    pointer: Any
    quarantined: Callable[[Any, int], Any]


def make_store(root: Path) -> Kind:
    layout = StoreLayout(root / "churn")
    layout.create()
    for number in range(1, 6):
        layout.manifest(number).write_bytes(b"{}")
        layout.lease(number).touch()

    def quarantine(pointer: Pointer, number: int) -> Pointer:
        return pointer.block({number: "rolled back"})

    return Kind(layout, Pointer("0123", 5, None, 5, 5), quarantine)


def make_releases(root: Path) -> Kind:
    folder = ReleaseFolder(root / "ranking")
    folder.create()
    for number in range(1, 6):
        folder.release(number).mkdir()

    def quarantine(pointer: ReleasePointer, number: int) -> ReleasePointer:
        return replace(pointer, bad=(*pointer.bad, number))

    return Kind(folder, ReleasePointer(5, 5, (), 5), quarantine)


@pytest.fixture(params=[make_store, make_releases], ids=["store", "releases"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    made: Kind = request.param(tmp_path)
    write_pointer(made.folder, made.pointer)
    return made


def moved(kind: Kind, number: int) -> Any:
    return replace(kind.pointer, current=number, generation=kind.pointer.generation + 1)


def test_a_pointer_that_is_lost_or_damaged_is_read_from_its_copy_and_written_again_under_the_lock(kind: Kind) -> None:
    folder, whole = kind.folder, kind.folder.pointer.read_bytes()
    for damage in (Path.unlink, lambda path: path.write_bytes(whole[:40]), lambda path: path.write_bytes(b"")):
        damage(folder.pointer)
        assert read_pointer(folder) == kind.pointer
        assert folder.pointer.name in pointer_problem(folder)
        with lock_versions(folder, action="test"):
            assert folder.pointer.read_bytes() == whole
        assert pointer_problem(folder) == ""


def test_a_pointer_and_a_copy_that_are_both_damaged_are_named_with_a_remedy(kind: Kind) -> None:
    for path in (kind.folder.pointer, kind.folder.pointer_copy):
        path.write_bytes(path.read_bytes().replace(b'"current": 5', b'"current": 4'))
    with pytest.raises(DamagedError, match=r"CURRENT and its copy .*CURRENT\.copy.*`forecache store pull --verify`"):
        read_pointer(kind.folder)
    with lock_versions(kind.folder, action="test"):
        pass  # as a pull that verifies, which replaces both


def test_before_the_first_version_there_is_an_empty_pointer_and_no_problem(tmp_path: Path) -> None:
    for folder, empty in (
        (StoreLayout(tmp_path / "churn"), Pointer()),
        (ReleaseFolder(tmp_path / "r"), ReleasePointer()),
    ):
        assert read_pointer(folder) == empty  # type: ignore[type-var]
        assert pointer_problem(folder) == ""  # type: ignore[type-var]
        with lock_versions(folder, action="test"):  # type: ignore[type-var]
            assert not folder.pointer.exists()


def test_a_move_killed_between_its_two_writes_is_undone_by_the_next_that_holds_the_lock(kind: Kind) -> None:
    kind.folder.pointer_copy.write_bytes(moved(kind, 4).to_json())
    assert read_pointer(kind.folder) == kind.pointer
    assert "is not a copy of CURRENT" in pointer_problem(kind.folder)
    with lock_versions(kind.folder, action="test"):
        assert pointer_problem(kind.folder) == ""
    kind.folder.pointer.unlink()
    assert read_pointer(kind.folder) == kind.pointer


def test_quarantined_versions_are_no_earlier_ones(kind: Kind) -> None:
    pointer = kind.pointer
    for number in (5, 4):
        pointer = kind.quarantined(pointer, number)
    kind.folder.pointer_copy.write_bytes(pointer.to_json())
    kind.folder.pointer.unlink()
    assert read_pointer(kind.folder) == pointer
    assert list(earlier_versions(kind.folder, pointer, than=5)) == [3, 2, 1]
    assert list(earlier_versions(kind.folder, pointer, than=None)) == []


def test_a_second_writer_is_refused_with_the_name_of_the_first(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(kind.folder), "lock_wait_s", 0.0)
    with (
        lock_versions(kind.folder, action="publish"),
        pytest.raises(ConflictError, match=rf"of {kind.folder.name} .*being changed by process \d+ \(publish\)"),
        lock_versions(kind.folder, action="rollback"),
    ):
        pass


def test_old_versions_are_removed_and_never_one_that_is_needed_or_open(kind: Kind) -> None:
    folder = kind.folder
    with keep_version(folder, 2) as is_there:
        assert is_there
        assert is_open(folder, 2)
        assert remove_old_versions(folder, keep=1, needed=(5, 1, None)) == [3]
        assert folder.numbers() == [1, 2, 4, 5]
    assert not is_open(folder, 2)
    assert remove_old_versions(folder, keep=0, needed=(5,)) == [1, 2, 4]
    assert folder.numbers() == [5]
    assert take_lease(folder, 4) is None
    assert {path.name.partition(".")[0] for path in folder.versions.iterdir()} == {"00000005"}
    assert list(folder.staging.iterdir()) == []


def test_a_release_is_open_while_its_folder_is_locked_and_a_look_at_a_removed_one_makes_nothing(tmp_path: Path) -> None:
    folder = make_releases(tmp_path).folder
    assert not is_open(folder, 9)
    assert folder.numbers() == [1, 2, 3, 4, 5]


def test_every_version_is_verified_and_one_that_is_removed_meanwhile_is_left_out(kind: Kind) -> None:
    read: list[int] = []

    def verify(number: int) -> tuple[int, int]:
        read.append(number)
        if number == 1:  # the folder's lock is not held by who verifies
            assert remove_old_versions(kind.folder, keep=1, needed=(5, 4)) == [2], "1 is being read, 3 is retained"
        if number == 4:
            raise DamagedError("It is damaged.")
        return 10 * number, number

    found = verify_versions(kind.folder, verify)
    assert [(each.version, each.problem, each.read_bytes, each.rows) for each in found] == [
        (None, "", 0, 0), (1, "", 10, 1), (3, "", 30, 3), (4, "It is damaged.", 0, 0), (5, "", 50, 5),
    ]  # fmt: skip
    assert [each.state for each in found] == [(), (), (), (), ("current",)]
    kind.folder.remove_version(5)
    assert [each.version for each in verify_versions(kind.folder, lambda number: (0, 0))] == [None, 1, 3, 4, 5]


def test_a_damaged_copy_of_the_pointer_is_a_problem_of_the_pointer(kind: Kind) -> None:
    kind.folder.pointer_copy.write_bytes(b"{}")
    first, *others = verify_versions(kind.folder, lambda number: (0, 0))
    assert "CURRENT.copy has no checksum" in first.problem
    assert len(others) == 5
    kind.folder.pointer.write_bytes(b"{}")
    assert len(verify_versions(kind.folder, lambda number: (0, 0))) == 1
