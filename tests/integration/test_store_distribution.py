"""Distribution: publishers push to a folder and to a real S3-compatible server, replicas pull, broken pulls go on."""

import itertools
import os
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

from forecache.base.errors import CheckError, ConflictError, NotFoundError, SettingsError
from forecache.base.folders import BucketFolder, Folder, LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.kit.versioned.pointer import write_pointer
from forecache.serve.reader.versions.damage import DamagedVersions, open_newest_undamaged
from forecache.serve.store import Store, open_remote, open_store, publish, pull, push, sync_targets
from forecache.serve.store.remote import remote_pipelines

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
    honest = kind.chunks

    def breaks(self: Any, name: str, start: int) -> Iterator[bytes]:
        for chunk in honest(self, name, start):
            yield bytes(chunk)[: len(chunk) // 2]
            raise ConnectionError("the line is down")

    with monkeypatch.context() as patch:
        patch.setattr(kind, "chunks", breaks)
        with pytest.raises(ConnectionError):
            pull(replica, remote)
    assert replica.current() is None
    size = open_store(remote_settings, "churn").versions()[0].size_bytes
    again = pull(replica, remote)
    assert again["bytes"] == size - size // 2
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
    monkeypatch.setattr(type(remote), "swap", lambda *_: None)
    with pytest.raises(ConflictError, match="another publisher"):
        publish(remote_settings, churn())


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


@pytest.mark.parametrize("moment", ["read", "names"])
def test_a_push_that_was_begun_before_a_publish_takes_nothing_back(
    settings: Settings, tmp_path: Path, replica: Store, moment: str
) -> None:
    """Before it looks at the remote, and before it looks for what the remote no longer needs."""
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


def test_the_remote_forgets_what_the_publisher_has_retired(
    remote_settings: Settings, remote: Folder, replica: Store
) -> None:
    rules = replace(OPEN_RULES, keep=0)
    write_night(remote_settings, predictions(scores(100)))
    publish(remote_settings, churn(rules=rules))
    pull(replica, remote)
    publish(remote_settings, churn(rules=rules), full=True)
    publisher = open_store(remote_settings, "churn")
    assert [name for name in remote.names("churn/versions") if name.endswith(".json")] == [
        "churn/versions/00000002.json"
    ]
    assert len(remote.names("churn/segments")) == 1
    assert content(replica) == content(publisher), "a replica goes on serving what it has"
    assert pull(replica, remote, keep=0)["version"] == 2
    assert replica.version_numbers() == [2]


@pytest.fixture
def other_home(remote_settings: Settings, tmp_path: Path) -> Settings:
    """A home with an empty disk over the same lake and the same remote."""
    names = ("store_remote", "storage_options")
    shared = {name: getattr(remote_settings, name) for name in names}
    return load_settings(home=tmp_path / "other", lake=remote_settings.lake_uri, **shared)


def publish_scores(settings: Settings, count: int) -> None:
    write_night(settings, predictions(scores(count)))
    publish(settings, churn())


def test_an_empty_home_publishes_over_a_store_in_the_remote_only_after_a_pull_or_if_told(
    remote_settings: Settings, other_home: Settings, remote: Folder, replica: Store
) -> None:
    publish_scores(remote_settings, 100)
    write_night(remote_settings, predictions(scores(200)))
    before = {name: remote.read(name) for name in remote.names()}
    with pytest.raises(ConflictError, match=r"The remote has version 1 of churn.*`forecache pull churn`"):
        publish(other_home, churn())
    assert {name: remote.read(name) for name in remote.names()} == before
    theirs, ours = open_store(other_home, "churn"), open_store(remote_settings, "churn")
    assert theirs.pointer().current is None
    pull(theirs, remote)
    assert publish(other_home, churn()).details["version"] == 2
    assert theirs.pointer().store == ours.pointer().store
    for act in (lambda: publish(remote_settings, churn()), lambda: push(ours, remote)):
        with pytest.raises(ConflictError, match=r"moved by another publisher.*`forecache pull churn`"):
            act()
    pull(replica, remote)
    shutil.rmtree(theirs.layout.root)
    assert publish(other_home, churn(), replace_remote=True).details["version"] == 3
    assert theirs.pointer().store != ours.pointer().store
    assert pull(replica, remote) == {"version": 3, "files": 1, "bytes": theirs.manifest(3).size_bytes, "moved": True}
    assert content(replica) == content(theirs)


def test_quarantine_and_pin_of_a_remote_hold_in_every_home_that_pulls(
    remote_settings: Settings, other_home: Settings, remote: Folder, replica: Store
) -> None:
    ours, theirs = open_store(remote_settings, "churn"), open_store(other_home, "churn")
    publish_scores(remote_settings, 100)
    publish_scores(remote_settings, 200)
    ours.rollback()
    sync_targets(remote_settings, churn(), ours)
    pull(theirs, remote)
    with pytest.raises(CheckError, match="those of version 2, which is quarantined"):
        publish(other_home, churn())
    ours.pin(1)
    sync_targets(remote_settings, churn(), ours)
    for store in (theirs, replica):
        pull(store, remote)
    publish_scores(other_home, 300)
    assert (theirs.pointer().current, theirs.pointer().pinned) == (3, 1)
    assert len(content(theirs)) == 100
    assert pull(replica, remote)["version"] == 1
    theirs.unpin()
    sync_targets(other_home, churn(), theirs)
    for store in (ours, replica):
        assert pull(store, remote)["version"] == 3
        assert len(content(store)) == 300
    assert sorted(ours.quarantined_versions()) == [2]
    ours.unquarantine(2)
    sync_targets(remote_settings, churn(), ours)
    pull(theirs, remote)
    write_night(other_home, predictions(scores(200)))
    assert publish(other_home, churn()).details["version"] == 4


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
    "from forecache.serve.store import push_pull\n"
    "def kill(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
    "for module in (push_pull, files):\n"
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
