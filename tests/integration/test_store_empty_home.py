"""An incremental publish from an empty home fetches what it needs of the current version, and is that of a full one."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from publish_jobs import killed_publish
from store_services import minio_server
from store_tables import NEXT_NIGHT, OPEN_RULES, append, churn, predictions, scores, write_night

from forecache.base.errors import DamagedError
from forecache.base.folders import BucketFolder, Folder, LocalFolder
from forecache.base.settings import Settings, load_settings
from forecache.base.steps import MERGE_STEPS, publish_step
from forecache.declare import Publish
from forecache.plugins.store_checks.verify_stores import verify_stores
from forecache.serve.store import Store, open_remote, open_store, publish, pull
from forecache.serve.store.remote import read_remote_pointer

KEYS = 30_000


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path_factory.mktemp("minio"), "empty") as options:
        yield options


@pytest.fixture(params=["folder", "s3"])
def first(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of the machine that publishes first."""
    more: dict[str, Any] = {"store_remote": str(tmp_path / "remote")}
    if request.param == "s3":
        options = request.getfixturevalue("s3")
        more = {"store_remote": f"s3://empty/{os.urandom(4).hex()}", "storage_options": options}
    return load_settings(home=tmp_path / "first", lake=str(tmp_path / "lake"), **more)


@pytest.fixture
def empty(first: Settings, tmp_path: Path) -> Settings:
    shared = {name: getattr(first, name) for name in ("lake", "store_remote", "storage_options")}
    return load_settings(home=tmp_path / "empty", **shared)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The bytes that were fetched of each file of a remote; without its small ones."""
    counts = Counter[str]()
    for kind in (LocalFolder, BucketFolder):
        monkeypatch.setattr(kind, "read_range", _count_range(kind.read_range, counts))
        monkeypatch.setattr(kind, "chunks", _count_chunks(kind.chunks, counts))
    return counts


def _count_range(honest: Callable[..., bytes], counts: Counter[str]) -> Callable[..., bytes]:
    def read_range(self: Folder, name: str, *where: int) -> bytes:
        content = honest(self, name, *where)
        counts[name] += len(content)
        return content

    return read_range


def _count_chunks(honest: Callable[..., Iterator[bytes]], counts: Counter[str]) -> Callable[..., Iterator[bytes]]:
    def chunks(self: Folder, name: str, start: int) -> Iterator[bytes]:
        for chunk in honest(self, name, start):
            counts[name] += len(chunk)
            yield chunk

    return chunks


def publish_next(settings: Settings, rows: dict[str, float], rules: Publish = OPEN_RULES) -> dict[str, Any]:
    write_night(settings, predictions(rows, night=NEXT_NIGHT), night=NEXT_NIGHT)
    return publish(settings, churn(rules=rules)).details


def require_served(settings: Settings, rows: dict[str, float], folder: Path) -> None:
    """A replica that pulls what is served has these rows, and each of its files is whole."""
    replica = load_settings(home=folder / f"replica-{os.urandom(4).hex()}")
    store = open_store(replica, "churn")
    pull(store, open_remote(settings.store_remote, settings.storage_options))
    with store.snapshot() as snapshot:
        found = {key.decode(): json.loads(entry)["churn_probability"] for key, entry in snapshot.items()}
        assert found == rows
        assert snapshot.get_many([key.encode() for key in rows]).count(None) == 0
    assert not [result for result in verify_stores(replica, content=True) if result.problem]


def test_bytes_that_are_fetched_follow_the_change_and_not_the_store(
    first: Settings, empty: Settings, fetched: Counter[str], tmp_path: Path
) -> None:
    rows = scores(KEYS)
    write_night(first, predictions(rows))
    publish(first, churn())
    size = open_store(first, "churn").versions()[0].size_bytes
    assert not fetched
    rows = rows | {f"{number:05d}": 0.125 for number in range(0, 300, 3)} | {"new": 0.5}
    del rows["00100"]
    done = publish_next(empty, rows)
    assert (done["version"], done["kind"], done["changed"], done["removed"]) == (2, "incremental", 101, 1)
    assert 0 < fetched.total() < size / 5
    require_served(empty, rows, tmp_path)
    # It has what it made, and goes on from there.
    fetched.clear()
    rows |= {"00007": 0.25, "newer": 0.75}
    done = publish_next(empty, rows)
    assert (done["version"], done["kind"], done["changed"]) == (3, "incremental", 2)
    assert not any("-delta-" in name for name in fetched)
    assert fetched.total() < size / 5
    # Another empty one needs the hashes of the deltas' keys, and the filter.
    shutil.rmtree(empty.home_path)
    fetched.clear()
    rows |= {"00008": 0.25}
    assert publish_next(empty, rows)["kind"] == "incremental"
    assert fetched.total() < size / 5
    require_served(empty, rows, tmp_path)


def test_an_empty_home_that_merges_fetches_all_and_has_the_new_base(
    first: Settings, empty: Settings, tmp_path: Path
) -> None:
    rows = scores(500)
    write_night(first, predictions(rows))
    publish(first, churn())
    rows |= {"00001": 0.125}
    publish_next(first, rows)
    rows |= {"00002": 0.25}
    del rows["00003"]
    done = publish_next(empty, rows, replace(OPEN_RULES, max_segments=2))
    assert (done["kind"], done["why_compacted"]) == ("compacted", "3 segments")
    assert open_store(empty, "churn").layout.has_files(3)
    require_served(empty, rows, tmp_path)


def test_an_empty_home_sees_that_a_key_is_there_more_than_once(first: Settings, empty: Settings) -> None:
    rows = scores(2000)
    write_night(first, predictions(rows))
    publish(first, churn())
    append(first, predictions(rows, night=NEXT_NIGHT))
    append(first, predictions({"00042": 0.5}, night=NEXT_NIGHT))
    for home in (first, empty):
        with pytest.raises(Exception, match="occur more than once"):
            publish(home, churn())


def test_an_empty_home_publishes_in_full_over_a_version_that_is_damaged_in_the_remote(
    first: Settings, empty: Settings, tmp_path: Path
) -> None:
    rows = scores(500)
    write_night(first, predictions(rows))
    publish(first, churn())
    remote = open_remote(first.store_remote, first.storage_options)
    name = next(name for name in remote.names("churn") if name.endswith(".mdb"))
    found = remote.read(name)
    assert found is not None
    remote.write(name, bytes(len(found[0])))
    rows |= {"00001": 0.125}
    done = publish_next(empty, rows)
    assert done["kind"] == "full"
    assert "version 1 is damaged. The file churn/segments/" in done["why_full"]
    require_served(empty, rows, tmp_path)


def test_a_publish_over_a_file_that_the_remote_lost_says_so_and_a_full_one_mends_it(
    first: Settings, empty: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = scores(500)
    write_night(first, predictions(rows))
    publish(first, churn())
    remote = open_remote(first.store_remote, first.storage_options)
    name = next(name for name in remote.names("churn") if name.endswith(".mdb"))
    rows |= {"00001": 0.125}

    def lose(step: str) -> None:
        if step == "verified":
            remote.delete([name])

    with monkeypatch.context() as patch:
        patch.setattr(publish_step, "on_step", lose)
        with pytest.raises(DamagedError, match=f"The remote has lost {name}, which version 2 needs"):
            publish_next(empty, rows)
    pointer = read_remote_pointer(remote, "churn")
    assert pointer is not None
    assert pointer.current == 1
    assert publish(empty, churn(), full=True).details["kind"] == "full"
    require_served(empty, rows, tmp_path)


@pytest.mark.parametrize("how", ["lost", "spoilt", "spoilt beside what is looked up"])
def test_an_empty_home_publishes_in_full_over_a_version_of_which_the_remote_lacks_or_spoilt_a_part(
    first: Settings, empty: Settings, tmp_path: Path, how: str
) -> None:
    """A part that no look-up reads is found when segments are merged."""
    rows = scores(5000)
    write_night(first, predictions(rows))
    publish(first, churn())
    remote = open_remote(first.store_remote, first.storage_options)
    name = next(name for name in remote.names("churn") if name.endswith(".mdb"))
    found = remote.read(name)
    assert found is not None
    content = bytearray(found[0])
    if how == "lost":
        remote.delete([name])
    elif how == "spoilt":
        remote.write(name, bytes(len(content)))
    else:
        content[len(content) // 2] ^= 0xFF
        remote.write(name, bytes(content))
    rows |= {"00001": 0.125}
    merges = how.endswith("looked up")
    done = publish_next(empty, rows, replace(OPEN_RULES, max_segments=1 if merges else 16))
    assert done["kind"] == "full"
    assert "version 1 is damaged" in done["why_full"]
    require_served(empty, rows, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("max_segments", "step"),
    [
        *((16, step) for step in publish_step.names if step not in MERGE_STEPS),
        *((1, step) for step in (*MERGE_STEPS, "manifest written", "pointer moved")),
    ],
)
def test_a_publish_of_an_empty_home_that_is_killed_leaves_one_whole_version_and_the_next_is_clean(
    tmp_path: Path, max_segments: int, step: str
) -> None:
    first = load_settings(home=tmp_path / "home", store_remote=str(tmp_path / "remote"))
    before = scores(1500)
    write_night(first, predictions(before))
    publish(first, churn())
    after = before | {"00001": 0.125, "new": 0.5}
    write_night(first, predictions(after, night=NEXT_NIGHT), night=NEXT_NIGHT)
    store = open_store(first, "churn")
    shutil.rmtree(first.store_path)
    killed_publish(first, step, max_segments=max_segments, remote=first.store_remote)
    pointer = read_remote_pointer(LocalFolder(tmp_path / "remote"), "churn")
    assert pointer is not None
    require_served(first, after if pointer.serving == 2 else before, tmp_path)
    result = publish(first, churn(rules=replace(OPEN_RULES, max_segments=max_segments)))
    assert result.skipped == (pointer.serving == 2)
    assert result.details["version"] == 2
    require_served(first, after, tmp_path)
    with store.hold("look"):
        staged = list(store.layout.staging.iterdir())
    assert all(path.name.startswith("pull-") for path in staged)
    pull(Store(store.layout.root), LocalFolder(tmp_path / "remote"))
    assert not list(store.layout.staging.iterdir())
