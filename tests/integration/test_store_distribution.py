"""Distribution: publishers push to a folder and to a real S3-compatible server, replicas pull, broken pulls go on."""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from second_process import running
from store_services import minio_server
from store_tables import OPEN_RULES, churn, predictions, scores, upsert, write_night

from forecache.base.errors import (
    CheckError,
    ConflictError,
    DamagedError,
    NotFoundError,
    SettingsError,
    UnavailableError,
)
from forecache.base.folders import BucketFolder, Folder, LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.kit import lease
from forecache.kit.versioned import blocks
from forecache.kit.versioned.pointer import write_pointer
from forecache.plugins.maintenance.lake import pinned_versions
from forecache.serve.reader.versions.damage import DamagedVersions, open_newest_undamaged
from forecache.serve.store import Store, open_remote, open_store, publish, pull, push, remote_store, sync_targets
from forecache.serve.store import remote as files
from forecache.serve.store.pointer import Pointer
from forecache.serve.store.push_pull import open_fetched_store
from forecache.serve.store.remote import read_remote_pointer, remote_pipelines
from forecache.serve.store.remote_store import RemoteStore

_FOLDERS = itertools.count()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path_factory.mktemp("minio"), "versions") as options:
        yield options


@pytest.fixture(params=["folder", "s3"])
def remote_settings(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Settings:
    """Settings of a publisher whose remote is a folder, or a prefix of a bucket of its own."""
    if request.param == "folder":
        return settings.model_copy(update={"store_remote": str(tmp_path / "remote")})
    options = request.getfixturevalue("s3")
    uri = f"s3://versions/test-{next(_FOLDERS)}"
    # The lake stays local: its reader ignores the options that it does not know.
    return settings.model_copy(update={"store_remote": uri, "storage_options": options})


@pytest.fixture
def remote(remote_settings: Settings) -> Folder:
    return open_remote(remote_settings.store_remote, remote_settings.storage_options)


@pytest.fixture
def replica(tmp_path: Path) -> Store:
    return Store(tmp_path / "replica" / "churn")


def content(store: Store) -> dict[bytes, bytes]:
    with store.snapshot() as snapshot:
        return dict(snapshot.items())


def test_a_replica_serves_what_was_published_and_pulls_only_what_changed(
    remote_settings: Settings, remote: Folder, replica: Store
) -> None:
    write_night(remote_settings, predictions(scores(2000)))
    pushed = publish(remote_settings, churn()).details["targets"]["remote"]
    assert (pushed["version"], pushed["files"]) == (1, 1)
    first = pull(replica, remote)
    publisher = open_store(remote_settings, "churn")
    assert (first["version"], first["files"], first["moved"]) == (1, 1, True)
    assert content(replica) == content(publisher)
    assert replica.current() == publisher.current()
    upsert(remote_settings, predictions({"00001": 0.125}))
    publish(remote_settings, churn())
    second = pull(replica, remote)
    assert (second["version"], second["files"]) == (2, 3)
    assert second["bytes"] < first["bytes"] / 10
    assert content(replica) == content(publisher)
    assert pull(replica, remote) == {"version": 2, "files": 0, "bytes": 0, "moved": False}


def test_a_rollback_reaches_the_replica_without_a_byte_of_data(
    remote_settings: Settings, remote: Folder, replica: Store
) -> None:
    write_night(remote_settings, predictions(scores(100)))
    publish(remote_settings, churn())
    pull(replica, remote)
    upsert(remote_settings, predictions({"00001": 0.125}))
    publish(remote_settings, churn())
    pull(replica, remote)
    publisher = open_store(remote_settings, "churn")
    publisher.rollback()
    sync_targets(remote_settings, churn(), publisher)
    assert pull(replica, remote) == {"version": 1, "files": 0, "bytes": 0, "moved": True}
    assert content(replica) == content(publisher)


def test_a_broken_pull_goes_on_where_it_stopped(
    remote_settings: Settings, remote: Folder, replica: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_night(remote_settings, predictions(scores(2000)))
    publish(remote_settings, churn())
    kind = type(remote)
    honest, requests = kind.read_range, list[int]()

    def breaks(self: Any, name: str, start: int, length: int) -> bytes:
        if len(requests) == 3:
            raise ConnectionError("the line is down")
        requests.append(length)
        return honest(self, name, start, length)

    monkeypatch.setattr(blocks, "_RUN_BLOCKS", 2)
    with monkeypatch.context() as patch:
        patch.setattr(kind, "read_range", breaks)
        with pytest.raises(ConnectionError):
            pull(replica, remote)
    assert replica.current() is None
    size = open_store(remote_settings, "churn").versions()[0].size_bytes
    assert 0 < sum(requests) < size
    again = pull(replica, remote)
    assert again["bytes"] == size - sum(requests)
    assert len(content(replica)) == 2000
    assert list(replica.layout.staging.iterdir()) == []


def test_a_file_that_is_not_what_the_manifest_says_is_refused_and_fetched_anew(
    remote_settings: Settings, remote: Folder, replica: Store
) -> None:
    write_night(remote_settings, predictions(scores(100)))
    publish(remote_settings, churn())
    pull(replica, remote)
    upsert(remote_settings, predictions({"00001": 0.125}))
    publish(remote_settings, churn())
    manifest = open_store(remote_settings, "churn").current()
    assert manifest is not None
    name = f"churn/segments/{manifest.segments[1].id}/000.mdb"
    found = remote.read(name)
    assert found is not None
    remote.write(name, b"\0" * len(found[0]))
    with pytest.raises(CheckError, match=r"000.mdb does not have the checksum"):
        pull(replica, remote)
    assert replica.pointer().serving == 1
    remote.write(name, found[0])
    assert pull(replica, remote)["version"] == 2


def test_two_publishers_to_one_remote_one_wins(
    remote_settings: Settings, remote: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.swap("churn/CURRENT", b"first", None)
    seen = remote.read("churn/CURRENT")
    assert seen is not None
    assert remote.swap("churn/CURRENT", b"second", None) is None
    tag = remote.swap("churn/CURRENT", b"second", seen[1])
    assert tag is not None
    assert remote.swap("churn/CURRENT", b"third", seen[1]) is None
    assert remote.read("churn/CURRENT") == (b"second", tag)
    remote.delete(["churn/CURRENT"])
    write_night(remote_settings, predictions(scores(10)))
    honest = type(remote).swap

    def refuse(self: Any, name: str, *rest: Any) -> Any:
        return None if name == "churn/CURRENT" else honest(self, name, *rest)

    monkeypatch.setattr(type(remote), "swap", refuse)
    with pytest.raises(ConflictError, match="another publisher"):
        publish(remote_settings, churn())
    assert open_store(remote_settings, "churn").pointer() == Pointer(), "nothing is served that the remote lacks"


_PUSHES_SLOWLY = """
import sys, time
from pathlib import Path
from forecache.base.folders import LocalFolder
from forecache.serve.store import Store, push
store, remote, go, moment = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
honest = getattr(LocalFolder, moment)
def waits(self, *arguments):
    print(flush=True)
    while not go.exists():
        time.sleep(0.005)
    return honest(self, *arguments)
setattr(LocalFolder, moment, waits)
push(Store(store), LocalFolder(remote))
"""


@pytest.mark.parametrize("moment", ["read", "sizes"])
def test_a_push_that_was_begun_before_a_publish_takes_nothing_back(
    settings: Settings, tmp_path: Path, replica: Store, moment: str
) -> None:
    """Before it looks at the remote, and before it looks for what the remote lacks."""
    remote, go = tmp_path / "remote", tmp_path / "go"
    current = settings.model_copy(update={"store_remote": str(remote)})
    write_night(current, predictions(scores(100)))
    publish(current, churn())
    publisher = open_store(current, "churn")
    upsert(current, predictions({"00001": 0.125}))

    def told(message: str, _: float | None) -> None:
        if message.startswith("Waiting for process"):
            go.touch()

    with running(_PUSHES_SLOWLY, publisher.layout.root, remote, go, moment) as pushing:
        publish(current, churn(), progress=told)
        go.touch()
        assert pushing.wait(120) == 0
    assert pull(replica, LocalFolder(remote))["version"] == 2
    assert content(replica) == content(publisher)


def test_the_remote_forgets_what_was_retired_once_no_pull_can_need_it(
    remote_settings: Settings, remote: Folder, replica: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = replace(OPEN_RULES, keep=0)
    write_night(remote_settings, predictions(scores(100)))
    publish(remote_settings, churn(rules=rules))
    pull(replica, remote)
    publish(remote_settings, churn(rules=rules), full=True)
    assert manifests(remote) == ["00000001.json", "00000002.json"]
    assert len(remote.names("churn/segments")) == 2
    remote.write("churn/segments/00000002-base-0123456789abcdef/000.mdb", b"of a publish that was killed")
    remote.write("churn/segments/00000009-base-0123456789abcdef/000.mdb", b"of a publish that goes on")
    monkeypatch.setattr(files, "RETIRED_S", 0.0)
    publish(remote_settings, churn(rules=rules), full=True)
    publisher = open_store(remote_settings, "churn")
    assert manifests(remote) == ["00000003.json"]
    names = sorted(name.split("/")[2] for name in remote.names("churn/segments"))
    assert names == [publisher.manifest(3).segments[0].id, "00000009-base-0123456789abcdef"]
    assert content(replica) == content(publisher), "a replica goes on serving what it has"
    assert pull(replica, remote, keep=0)["version"] == 3
    assert replica.version_numbers() == [3]


def manifests(remote: Folder) -> list[str]:
    return sorted(name.split("/")[2] for name in remote.names("churn/versions") if name.endswith(".json"))


def test_a_pull_that_takes_as_long_as_many_publishes_ends(
    remote_settings: Settings, remote: Folder, replica: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = replace(OPEN_RULES, keep=0)
    write_night(remote_settings, predictions(scores(100)))
    publish(remote_settings, churn(rules=rules))
    kind = type(remote)
    honest, requests = kind.read_range, list[str]()

    def slow(self: Any, name: str, start: int, length: int) -> bytes:
        for _ in range(0 if requests else 2):
            publish(remote_settings, churn(rules=rules), full=True)
        requests.append(name)
        return honest(self, name, start, length)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "read_range", slow)
        assert pull(replica, remote)["version"] == 1
    assert len(content(replica)) == 100
    assert pull(replica, remote)["version"] == 3


@pytest.fixture
def other_home(remote_settings: Settings, tmp_path: Path) -> Settings:
    """A home with an empty disk over the same lake and the same remote."""
    names = ("store_remote", "storage_options")
    shared = {name: getattr(remote_settings, name) for name in names}
    return load_settings(home=tmp_path / "other", lake=remote_settings.lake_uri, **shared)


def publish_scores(settings: Settings, count: int) -> None:
    write_night(settings, predictions(scores(count)))
    publish(settings, churn())


def test_an_empty_home_goes_on_with_the_store_in_the_remote(
    remote_settings: Settings, other_home: Settings, remote: Folder, replica: Store
) -> None:
    publish_scores(remote_settings, 2000)
    upsert(remote_settings, predictions({"00001": 0.125}))
    publish(remote_settings, churn())
    pull(replica, remote)
    upsert(remote_settings, predictions({"00002": 0.25}))
    done = publish(other_home, churn()).details
    theirs, ours = open_store(other_home, "churn"), open_store(remote_settings, "churn")
    assert (done["version"], done["kind"], done["targets"]["remote"]["files"]) == (3, "incremental", 3)
    assert (theirs.pointer(), theirs.layout.has_files(3)) == (
        Pointer(),
        False,
    )  # it has served nothing, and does not now
    # A home with an earlier state goes on from there, too, and fetches what it lacks.
    upsert(remote_settings, predictions({"00003": 0.5}))
    assert publish(remote_settings, churn()).details["kind"] == "incremental"
    assert pull(replica, remote)["version"] == 4
    assert content(replica) == content(ours)
    assert content(ours)[b"00002"].startswith(b'{"churn_probability":0.25')


def test_what_was_published_and_rolled_back_elsewhere_binds_an_empty_home(
    remote_settings: Settings, other_home: Settings, tmp_path: Path, remote: Folder
) -> None:
    for count in (100, 110, 120):
        publish_scores(remote_settings, count)
    ours, theirs = open_store(remote_settings, "churn"), open_store(other_home, "churn")
    assert theirs.rollback().version == 2
    assert content(theirs) == content_of(remote, 2, tmp_path)
    assert sorted(theirs.blocked_versions()) == [3]
    shutil.rmtree(other_home.home_path)
    for home in (remote_settings, other_home):
        with pytest.raises(CheckError, match="those of version 3, which is blocked"):
            publish(home, churn())
    write_night(remote_settings, predictions(scores(300)))
    with pytest.raises(CheckError, match="the rows go from 110 to 300"):
        publish(other_home, churn(rules=replace(OPEN_RULES, max_row_change=0.1)))
    assert theirs.pin(1).version == 1
    shutil.rmtree(other_home.home_path)
    assert theirs.unblock(3) == (ours.manifest(3), True)
    assert theirs.pointer() == Pointer()
    assert theirs.unpin() == ours.manifest(2)
    assert publish(other_home, churn()).details["version"] == 4
    pointer = read_remote_pointer(remote, "churn")
    assert pointer is not None
    assert (pointer.current, pointer.pinned, pointer.bad, pointer.retained_versions) == (4, None, {}, [1, 2, 3, 4])


def test_maintenance_on_an_empty_machine_keeps_what_versions_in_the_remote_name(
    remote_settings: Settings, other_home: Settings
) -> None:
    for count in (100, 110):
        publish_scores(remote_settings, count)
    named = {version.source.delta_version for version in open_store(remote_settings, "churn").versions()}
    assert {pin.version for pin in pinned_versions(other_home)["predictions_churn"]} == named
    assert len(named) == 2


def content_of(remote: Folder, version: int, folder: Path) -> dict[bytes, bytes]:
    """The rows of a version in a remote, whether or not it is served."""
    store = RemoteStore(folder / "looks" / "churn", lambda **_: remote)
    with store.hold("look"):
        store.fetch(version)
        with store.snapshot(version) as snapshot:
            return dict(snapshot.items())


def test_a_home_with_another_store_than_the_remote_publishes_only_if_told(
    remote_settings: Settings, other_home: Settings, remote: Folder, replica: Store
) -> None:
    publish_scores(remote_settings, 100)
    alone = other_home.model_copy(update={"store_remote": ""})
    publish(alone, churn())
    publish_scores(remote_settings, 200)
    pull(replica, remote)
    before = {name: remote.read(name) for name in remote.names("churn")}
    for act in (lambda: publish(other_home, churn()), lambda: push(open_store(alone, "churn"), remote)):
        told = r"another store of churn.*`forecache store pull churn`.*--replace-remote"
        with pytest.raises(ConflictError, match=told):
            act()
    assert {name: remote.read(name) for name in remote.names("churn")} == before
    replaced = publish(other_home, churn(), replace_remote=True).details
    assert (replaced["version"], replaced["kind"]) == (3, "full")
    theirs, ours = open_store(other_home, "churn"), open_store(remote_settings, "churn")
    assert theirs.pointer().store != ours.pointer().store
    assert pull(replica, remote) == {"version": 3, "files": 1, "bytes": theirs.manifest(3).size_bytes, "moved": True}
    assert content(replica) == content(theirs)
    publish_scores(remote_settings, 300)
    assert ours.pointer().store == theirs.pointer().store


def test_a_damaged_pointer_of_a_remote_is_replaced_if_told(
    remote_settings: Settings, remote: Folder, replica: Store
) -> None:
    publish_scores(remote_settings, 100)
    remote.write("churn/CURRENT", b"damaged")
    with pytest.raises(DamagedError, match="The remote's churn/CURRENT"):
        publish(remote_settings, churn())
    assert publish(remote_settings, churn(), replace_remote=True).details["version"] == 2
    assert pull(replica, remote)["version"] == 2
    publish_scores(remote_settings, 200)
    assert pull(replica, remote)["version"] == 3


def test_quarantine_and_pin_of_a_remote_hold_in_every_home(
    remote_settings: Settings, other_home: Settings, remote: Folder, replica: Store
) -> None:
    ours, theirs = open_store(remote_settings, "churn"), open_store(other_home, "churn")
    publish_scores(remote_settings, 100)
    publish_scores(remote_settings, 200)
    ours.rollback()
    with pytest.raises(CheckError, match="those of version 2, which is blocked"):
        publish(other_home, churn())
    ours.pin(1)
    pull(replica, remote)
    publish_scores(other_home, 300)
    assert pull(theirs, remote)["version"] == 1
    assert (theirs.pointer().current, theirs.pointer().pinned) == (3, 1)
    assert len(content(theirs)) == 100
    assert pull(replica, remote)["version"] == 1
    theirs.unpin()
    for store in (ours, replica):
        assert pull(store, remote)["version"] == 3
        assert len(content(store)) == 300
    assert sorted(ours.blocked_versions()) == [2]
    ours.unblock(2)
    write_night(other_home, predictions(scores(200)))
    assert publish(other_home, churn()).details["version"] == 4


def test_a_rollback_while_the_remote_is_away_is_brought_there_by_the_next_change(
    remote_settings: Settings, other_home: Settings, remote: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_scores(remote_settings, 100)
    publish_scores(remote_settings, 200)
    ours, before = open_store(remote_settings, "churn"), {name: remote.read(name) for name in remote.names("churn")}
    with monkeypatch.context() as patch:
        patch.setattr(type(remote), "read", away)
        write_night(remote_settings, predictions(scores(300)))
        with pytest.raises(UnavailableError, match="The remote of churn cannot be reached: ConnectionError: away"):
            publish(remote_settings, churn())
        assert ours.pointer().current == 2
        assert ours.rollback().version == 1
        with pytest.raises(UnavailableError, match="cannot be reached"):
            sync_targets(remote_settings, churn(), ours)
    assert {name: remote.read(name) for name in remote.names("churn")} == before
    assert (ours.pointer().current, sorted(ours.blocked_versions())) == (1, [2])
    # Meanwhile another machine has gone on: the decision about version 2 stays, and so does what it published.
    publish(other_home, churn())
    push(ours, remote)
    pointer = read_remote_pointer(remote, "churn")
    assert pointer is not None
    assert (pointer.current, sorted(pointer.bad)) == (3, ["2"])
    assert ours.pointer() == pointer
    with monkeypatch.context() as patch:
        patch.setattr(type(remote), "read", away)
        ours.rollback()
    assert push(ours, remote)["version"] == 1
    pointer = read_remote_pointer(remote, "churn")
    assert pointer is not None
    assert (pointer.current, sorted(pointer.bad)) == (1, ["2", "3"])


def test_a_machine_that_reads_follows_the_remote_and_keeps_its_own_rollback(
    remote_settings: Settings, other_home: Settings, remote: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_scores(remote_settings, 100)
    assert open_fetched_store(other_home, "churn").pointer().serving == 1
    publish_scores(remote_settings, 200)
    assert open_fetched_store(other_home, "churn").pointer().serving == 2, "also if something is served here"
    with monkeypatch.context() as patch:
        patch.setattr(type(remote), "read", away)
        assert open_fetched_store(other_home, "churn").pointer().serving == 2
        with pytest.raises(ConnectionError, match="away"):
            open_fetched_store(other_home, "spend")
        open_store(other_home, "churn").rollback()
    assert open_fetched_store(other_home, "churn").pointer().serving == 1
    assert open_fetched_store(other_home, "churn", 7).pointer().serving == 1, "a version that is nowhere"


def test_a_publish_that_has_waited_long_names_the_process_that_changes_the_store(
    remote_settings: Settings, remote: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_scores(remote_settings, 100)
    monkeypatch.setattr(lease, "LEASE", replace(lease.LEASE, every_s=0.3))
    monkeypatch.setattr(remote_store, "WAIT_S", 0.5)
    said: list[str] = []
    named = rf"process {os.getpid()} on .* \(publish of churn"
    with (
        lease.hold_lease(remote, "store/churn", action="publish of churn"),
        pytest.raises(ConflictError, match=rf"'store/churn' is being held by {named}"),
    ):
        publish(remote_settings, churn(), full=True, progress=lambda message, _: said.append(message))
    assert re.search(rf"Waiting for {named}.*, which changes the store of churn", " ".join(said))
    assert publish(remote_settings, churn(), full=True).details["version"] == 2


def away(*_: object) -> None:
    raise ConnectionError("away")


def test_a_replica_takes_another_content_of_the_same_number(settings: Settings, tmp_path: Path, replica: Store) -> None:
    """Of a home that was restored from a copy, say, and its remote with it."""
    publish_scores(settings, 100)
    copy = load_settings(home=tmp_path / "copy")
    shutil.copytree(settings.home_path, copy.home_path)
    for home, count in ((settings, 200), (copy, 300)):
        publish_scores(home, count)
    ours, theirs = open_store(settings, "churn"), open_store(copy, "churn")
    push(ours, LocalFolder(tmp_path / "remote"))
    pull(replica, LocalFolder(tmp_path / "remote"))
    write_pointer(theirs.layout, ours.pointer())
    push(theirs, LocalFolder(tmp_path / "copied"))
    with open_newest_undamaged(replica, replica.pointer(), None, DamagedVersions()) as served:
        assert pull(replica, LocalFolder(tmp_path / "copied"))["version"] == 2
        assert content(replica) == content(theirs)
        with open_newest_undamaged(replica, replica.pointer(), served, DamagedVersions()) as reopened:
            assert dict(reopened.items()) == content(theirs), "a reader that has the first content open"


def test_a_push_removes_what_killed_pushes_left_in_a_folder(settings: Settings, tmp_path: Path) -> None:
    current = settings.model_copy(update={"store_remote": str(tmp_path / "remote")})
    publish_scores(current, 100)
    folder = tmp_path / "remote" / "churn"
    names = [f"{place}.{stem}.{'0a' * 8}.tmp{ending}" for place, stem, ending in
             (("", "CURRENT", ""), ("segments/gone/", "000", ".mdb"), ("versions/", "00000002", ".json"))]  # fmt: skip
    for name, age_s in [(name, 4000) for name in names] + [(f".CURRENT.{'1b' * 8}.tmp", 60)]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    push(open_store(current, "churn"), LocalFolder(tmp_path / "remote"))
    assert [path.name for path in folder.rglob("*.tmp*")] == [f".CURRENT.{'1b' * 8}.tmp"]


def test_a_replica_that_has_pinned_goes_on_serving_that(
    remote_settings: Settings, remote: Folder, replica: Store
) -> None:
    write_night(remote_settings, predictions(scores(10)))
    publish(remote_settings, churn())
    pull(replica, remote)
    replica.pin(1)
    upsert(remote_settings, predictions({"00001": 0.125}))
    publish(remote_settings, churn())
    assert pull(replica, remote, keep=0)["version"] == 2
    assert replica.pointer().serving == 1
    assert b"0.125" not in content(replica)[b"00001"]


_KILLED_PULL = (
    "import os, signal, sys\nfrom pathlib import Path\n"
    "from forecache.kit.versioned import transfer as files\n"
    "from forecache.serve.store import Store, open_remote, pull\n"
    "from forecache.serve.store import push_pull, remote\n"
    "def kill(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
    "for module in (push_pull, remote, files):\n"
    "    if hasattr(module, sys.argv[3]):\n"
    "        setattr(module, sys.argv[3], kill)\n"
    "pull(Store(Path(sys.argv[1])), open_remote(sys.argv[2], {}))"
)


def killed_pull(replica: Store, remote: str, place: str) -> None:
    """Pull in a process that is killed where it calls the named function of the modules that pull."""
    command = [sys.executable, "-c", _KILLED_PULL, str(replica.layout.root), remote, place]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_pull_that_was_killed_after_it_moved_the_pointer_leaves_nothing_for_ever(
    settings: Settings, tmp_path: Path, replica: Store
) -> None:
    current = settings.model_copy(update={"store_remote": str(tmp_path / "remote")})
    remote = open_remote(current.store_remote, {})
    write_night(current, predictions(scores(100)))
    publish(current, churn())
    upsert(current, predictions({"00001": 0.125}))
    publish(current, churn())
    pull(replica, remote)
    publisher = open_store(current, "churn")
    shutil.rmtree(publisher.layout.root)  # lost, and published anew: another store
    publish(current, churn(), replace_remote=True)
    (replica.layout.staging / "pull-another").mkdir()
    killed_pull(replica, current.store_remote, "_clean_and_retire")
    assert content(replica) == content(publisher)
    assert replica.version_numbers() == [2, 3]
    assert pull(replica, remote) == {"version": 3, "files": 0, "bytes": 0, "moved": False}
    assert replica.version_numbers() == [3]
    assert len(list(replica.layout.segments.iterdir())) == 1
    assert list(replica.layout.filters.iterdir()) == list(replica.layout.staging.iterdir()) == []
    assert content(replica) == content(publisher)


@pytest.mark.slow
def test_a_pull_that_was_killed_leaves_the_replica_serving_and_goes_on(settings: Settings, tmp_path: Path) -> None:
    current = settings.model_copy(update={"store_remote": str(tmp_path / "remote")})
    write_night(current, predictions(scores(2000)))
    publish(current, churn())
    replica = Store(tmp_path / "replica" / "churn")
    for place in ("file_checksum", "move_durably", "write_durably", "write_pointer"):
        killed_pull(replica, current.store_remote, place)
        assert replica.current() is None
    pulled = pull(replica, open_remote(current.store_remote, {}))
    assert (pulled["version"], pulled["bytes"]) == (1, 0)
    assert content(replica) == content(open_store(current, "churn"))


def test_the_pipelines_of_a_remote_are_found_without_listing_their_files(
    remote: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert remote_pipelines(remote) == []
    for name in ("spend/CURRENT", "churn/CURRENT", "churn/segments/a/000.mdb", "half/versions/1.json", "note.txt"):
        remote.write(name, b"x")

    def listed(*_: object) -> list[str]:
        raise AssertionError("a remote holds thousands of files")

    monkeypatch.setattr(type(remote), "names", listed)
    assert remote_pipelines(remote) == ["churn", "spend"]


def test_a_remote_without_versions_or_of_an_unknown_kind_is_named(tmp_path: Path, replica: Store) -> None:
    with pytest.raises(NotFoundError, match="serves nothing for churn"):
        pull(replica, open_remote(str(tmp_path / "empty"), {}))
    with pytest.raises(NotFoundError, match="Nothing is published for churn"):
        push(replica, open_remote(str(tmp_path / "empty"), {}))
    with pytest.raises(SettingsError, match="ftp://elsewhere"):
        open_remote("ftp://elsewhere/versions", {})
    assert isinstance(open_remote("file:///tmp/versions", {}), LocalFolder)
    assert isinstance(open_remote("s3a://bucket/versions", {"AWS_REGION": "eu-west-1"}), BucketFolder)
