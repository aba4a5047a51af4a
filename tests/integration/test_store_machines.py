"""What several machines, and one whose remote is away, keep of each other's decisions about a store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from store_tables import OPEN_RULES, churn, predictions, scores, write_night

from forecache.base.errors import DamagedError, NotEverywhereError, NotFoundError, UnavailableError
from forecache.base.folders import LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.kit.versioned.leases import remove_old_versions
from forecache.kit.versioned.pointer import pointer_problem, write_pointer
from forecache.operations import publish_night
from forecache.plugins.doctor.checks import check_stores
from forecache.plugins.store_checks.verify_stores import verify_stores
from forecache.serve.store import Store, open_store, publish, pull, push
from forecache.serve.store import remote as files
from forecache.serve.store.live.layer import LiveLayer, layer_from_json, read_layer, write_layer
from forecache.serve.store.pointer import Pointer
from forecache.serve.store.remote import manifest_name, read_remote_pointer
from forecache.serve.store.remote_store import RemoteStore


@pytest.fixture
def remote(tmp_path: Path) -> LocalFolder:
    return LocalFolder(tmp_path / "remote")


@pytest.fixture
def open_home(tmp_path: Path, remote: LocalFolder) -> Callable[[str], Settings]:
    """Settings of a machine with an empty disk over the same lake and the same remote."""
    return lambda name: load_settings(
        home=tmp_path / name, lake=str(tmp_path / "lake"), store_remote=str(tmp_path / "remote")
    )


def publish_scores(settings: Settings, *counts: int, keep: int = 5) -> None:
    for count in counts:
        write_night(settings, predictions(scores(count)))
        publish(settings, churn(rules=replace(OPEN_RULES, keep=keep)))


def pointer_in(remote: LocalFolder) -> Pointer:
    pointer = read_remote_pointer(remote, "churn")
    assert pointer is not None
    return pointer


def test_a_push_keeps_the_blocked_versions_that_the_remote_never_had(settings: Settings, tmp_path: Path) -> None:
    backup, store = LocalFolder(tmp_path / "backup"), open_store(settings, "churn")
    publish_scores(settings, 50)
    push(store, backup)
    publish_scores(settings, 51, 52)
    store.rollback()
    publish_scores(settings, 53)
    push(store, backup)
    assert sorted(store.blocked_versions()) == [3]
    assert store.rollback().version == 2


def test_a_rollback_goes_to_no_blocked_version_that_the_remote_has_forgotten(
    open_home: Callable[[str], Settings], remote: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "RETIRED_S", 0.0)
    first, second = open_home("first"), open_home("second")
    publish_scores(first, 50, 51, keep=1)
    ours, theirs = open_store(first, "churn"), open_store(second, "churn")
    pull(theirs, remote)
    ours.rollback()
    pull(theirs, remote)
    publish_scores(first, 52, 53, 54, keep=1)
    with ours.hold("quarantine"):
        ours.move(ours.pointer().block({4: "bad"}).advance())
    assert theirs.layout.has_files(2)
    with pytest.raises(NotFoundError, match="cannot roll back from 5 to an earlier version"):
        theirs.rollback()
    pull(theirs, remote, keep=5)
    assert sorted(theirs.pointer().bad) == sorted(pointer_in(remote).bad) == ["2", "4"]


def test_a_push_to_an_empty_remote_names_no_version_that_is_not_in_it(
    open_home: Callable[[str], Settings], tmp_path: Path
) -> None:
    home = open_home("first")
    publish_scores(home, 50, 51, 52)
    store, other = Store(open_store(home, "churn").layout.root), LocalFolder(tmp_path / "other")
    manifest = store.manifest(3)
    file = next(store.layout.segment(manifest.segments[-1].id).iterdir())
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(DamagedError):
        push(store, other)
    assert read_remote_pointer(other, "churn") is None
    file.write_bytes(content)
    assert push(store, other)["version"] == 3
    assert all(other.size(manifest_name("churn", number)) for number in (1, 2, 3))
    assert pointer_in(other).retained_versions == [1, 2, 3]


def test_a_publish_whose_removal_of_old_files_fails_has_taken_place(
    open_home: Callable[[str], Settings], remote: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = open_home("first")

    def fail(*_: object) -> None:
        raise OSError("503 Slow Down")

    monkeypatch.setattr(files, "remove_unused", fail)
    publish_scores(home, 50)
    assert pointer_in(remote).serving == open_store(home, "churn").pointer().serving == 1


def fail(*_: object, **__: object) -> None:
    raise ConnectionError("away")


def test_an_empty_machine_whose_remote_is_away_changes_nothing_and_says_so(
    open_home: Callable[[str], Settings], remote: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_scores(open_home("first"), 50, 51)
    store = open_store(open_home("second"), "churn")
    with monkeypatch.context() as patch:
        patch.setattr(RemoteStore, "_upload", fail)
        with pytest.raises(UnavailableError, match="cannot be reached: ConnectionError: away"):
            store.rollback()
    assert (pointer_in(remote).current, store.pointer()) == (2, Pointer())
    store = open_store(open_home("third"), "churn")
    pull(store, remote)
    with store.hold("look"):  # the manifest of version 1 is here now, and its files are not
        pass
    monkeypatch.setattr(LocalFolder, "read", fail)
    for act in (store.rollback, lambda: store.pin(1)):
        with pytest.raises(UnavailableError, match="cannot be reached"):
            act()
    assert store.pointer().serving == 2


def test_a_change_that_only_the_remote_has_says_so(
    open_home: Callable[[str], Settings], remote: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_home("first")
    publish_scores(first, 50)
    open_store(first, "churn").pin(1)
    store = open_store(open_home("second"), "churn")
    pull(store, remote)
    publish_scores(first, 51)
    with monkeypatch.context() as patch:
        patch.setattr(files, "fetch_version", fail)
        with pytest.raises(NotEverywhereError, match="is changed in the remote, but not on this machine"):
            store.unpin()
    assert (pointer_in(remote).serving, store.pointer().serving) == (2, 1)
    pull(store, remote)
    assert store.pointer().serving == 2


def test_a_pull_keeps_a_rollback_that_was_made_here_while_the_remote_was_away(
    open_home: Callable[[str], Settings], remote: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = open_home("first")
    publish_scores(home, 50, 51, 52)
    store = open_store(home, "churn")
    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "read", fail)
        store.rollback(1)
    pull(store, remote)
    assert (store.pointer().current, sorted(store.pointer().bad)) == (1, ["3"])
    push(store, remote)
    assert (pointer_in(remote).current, sorted(pointer_in(remote).bad)) == (1, ["3"])


def test_a_machine_that_is_many_moves_behind_brings_no_old_pin_back(
    open_home: Callable[[str], Settings], remote: LocalFolder
) -> None:
    first = open_home("first")
    publish_scores(first, 50, 51)
    ours, theirs = open_store(first, "churn"), open_store(open_home("second"), "churn")
    ours.pin(1)
    pull(theirs, remote)
    ours.unpin()
    with ours.hold("moves"):
        pointer = ours.pointer()
        for _ in range(150):
            pointer = pointer.advance()
        ours.move(pointer)
    with theirs.hold("sync", needs_remote=True):
        theirs.sync()  # type: ignore[attr-defined]
    assert pointer_in(remote).serving == theirs.pointer().serving == 2


def test_of_two_that_have_both_forgotten_where_they_parted_neither_descends_from_the_other() -> None:
    first = second = Pointer(store="one").advance()
    for _ in range(120):
        first, second = first.advance(), second.advance()
    assert not first.descends_from(second)
    assert not second.descends_from(first)
    for _ in range(120):
        second = second.advance()
    assert second.descends_from(Pointer(store="one", generation=1, moves="begun"))
    assert not replace(second, store="other").descends_from(first)


def test_an_empty_machine_that_has_looked_at_the_remote_has_no_damage_and_no_files(
    open_home: Callable[[str], Settings], remote: LocalFolder
) -> None:
    publish_scores(open_home("first"), 50, 51)
    home = open_home("second")
    store = open_store(home, "churn")
    with store.look():
        pass
    assert store.layout.numbers() == [1, 2]
    assert check_stores(home).state == "ok"
    assert pointer_problem(store.layout) == ""
    assert all(not result.problem for result in verify_stores(home))
    assert remove_old_versions(store.layout, keep=0, needed=()) == [1, 2]
    assert list(store.layout.versions.iterdir()) == []


def test_a_stale_machine_leaves_the_live_layer_of_the_remote_and_its_publisher_replaces_it(
    open_home: Callable[[str], Settings], remote: LocalFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = open_home("first")
    publish_scores(home, 50, 51)
    store = open_store(home, "churn")
    manifest = store.manifest(2)
    old, new = (LiveLayer(name, f"stream_{name}", "rows", manifest.key, manifest.fields) for name in ("old", "new"))
    write_layer(store.layout, old)
    store.pin(1)
    assert layer_in(remote) == old, "it had none"
    remote.write("churn/LIVE", new.to_json())
    store.unpin()
    assert layer_in(remote) == new
    store.layout.live.unlink()
    store.pin(1)
    assert layer_in(remote) == new == read_layer(store.layout)

    def declare(*_: object, **__: object) -> None:
        write_layer(store.layout, old)

    streams = {"old": SimpleNamespace(live_names=["churn"])}
    monkeypatch.setattr(publish_night, "read_project", lambda _: SimpleNamespace(streams=streams))
    monkeypatch.setattr(publish_night, "write_layers", declare)
    publish_night._declare_layer(home, churn())
    assert layer_in(remote) == old


def layer_in(remote: LocalFolder) -> LiveLayer:
    found = remote.read("churn/LIVE")
    assert found is not None
    return layer_from_json(found[0])


def test_the_first_publish_after_an_upgrade_keeps_the_files_of_earlier_versions(
    open_home: Callable[[str], Settings], remote: LocalFolder
) -> None:
    """Earlier pointers list no versions."""
    home = open_home("first")
    publish_scores(home, 50, 51, 52)
    before = replace(pointer_in(remote), versions={})
    remote.write("churn/CURRENT", before.to_json())
    write_pointer(open_store(home, "churn").layout, before)
    second = open_home("second")
    publish_scores(second, 53, keep=1)
    assert pointer_in(remote).retained_versions == [3, 4]
    assert sorted(pointer_in(remote).versions) == ["1", "2", "3", "4"]
    assert all(remote.size(manifest_name("churn", number)) for number in (1, 2, 3, 4))
    assert open_store(second, "churn").rollback().version == 3
