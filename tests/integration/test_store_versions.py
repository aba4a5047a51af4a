"""Versions: rollback, block, pin, retention, reads of the past, and what changed between two."""

import subprocess
import sys
from dataclasses import replace

import pytest
from store_tables import NEXT_NIGHT, OPEN_RULES, churn, predictions, scores, upsert, write_night

from forecache.base.errors import CheckError, NotFoundError
from forecache.base.settings import Settings
from forecache.plugins.store_checks.compare_versions import diff_versions
from forecache.serve.store import Store, open_store, publish


def score(store: Store, key: str, version: int | None = None) -> bytes | None:
    with store.snapshot(version) as snapshot:
        return snapshot.get(key.encode())


@pytest.fixture
def store(settings: Settings) -> Store:
    """Three versions: the key `00001` scores 0.25, 0.5 and 0.75 in them."""
    write_night(settings, predictions({**scores(50), "00001": 0.25}))
    publish(settings, churn())
    for value in (0.5, 0.75):
        upsert(settings, predictions({"00001": value}))
        publish(settings, churn())
    return open_store(settings, "churn")


def test_retained_versions_answer_as_they_did(store: Store) -> None:
    answers = [score(store, "00001", version) for version in (1, 2, 3)]
    assert [answer and answer[21:25] for answer in answers] == [b"0.25", b"0.5,", b"0.75"]
    assert score(store, "00001") == answers[2]
    assert [manifest.version for manifest in store.versions()] == [1, 2, 3]
    with pytest.raises(NotFoundError, match="no version 9. It has: 1, 2, 3"):
        store.snapshot(9)


def segment_files(store: Store) -> dict[str, tuple[int, int]]:
    """Inode and time of change of each file of the segments."""
    files = [path for path in store.layout.segments.rglob("*") if path.is_file()]
    assert files
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_a_rollback_serves_the_version_before_at_once_and_blocks_the_one_left(store: Store) -> None:
    before = segment_files(store)
    manifest = store.rollback()
    assert segment_files(store) == before, "it copies nothing"
    assert manifest.version == 2
    current = store.current()
    assert current is not None
    assert current.version == 2
    assert store.state(3) == ("blocked",)
    assert store.rollback().version == 1
    with pytest.raises(
        NotFoundError, match=r"cannot roll back from 1 to an earlier version. Versions it can go to: none"
    ):
        store.rollback()


def test_a_blocked_version_does_not_come_back_by_itself(settings: Settings, store: Store) -> None:
    store.rollback()
    with pytest.raises(NotFoundError, match="Versions it can go to: 1"):
        store.rollback(3)
    with pytest.raises(CheckError, match="those of version 3, which is blocked"):
        publish(settings, churn())
    with pytest.raises(CheckError, match="those of version 3, which is blocked"):
        publish(settings, churn(), full=True)
    assert store.pointer().serving == 2
    store.unblock(3)
    assert publish(settings, churn()).details["version"] == 4
    assert score(store, "00001") == score(store, "00001", 3)


def test_new_predictions_after_a_rollback_build_on_what_is_served(settings: Settings, store: Store) -> None:
    store.rollback()
    upsert(settings, predictions({"00001": 0.625}))
    result = publish(settings, churn())
    manifest = store.current()
    assert manifest is not None
    assert (result.details["version"], result.details["kind"], manifest.parent) == (4, "incremental", 2)
    assert b"0.625" in (score(store, "00001") or b"")


def test_a_pinned_version_is_served_whatever_is_published(settings: Settings, store: Store) -> None:
    store.pin(1)
    upsert(settings, predictions({"00001": 0.875}))
    assert publish(settings, churn()).details["version"] == 4
    current = store.current()
    assert current is not None
    assert current.version == 1
    assert store.state(1) == ("pinned",)
    unpinned = store.unpin()
    assert unpinned is not None
    assert unpinned.version == 4
    assert b"0.875" in (score(store, "00001") or b"")


def test_retention_keeps_current_pinned_and_open_versions(settings: Settings, store: Store) -> None:
    rules = replace(OPEN_RULES, keep=1)
    store.pin(1)
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from forecache.serve.store import Store\n"
            "snapshot = Store(Path(sys.argv[1])).snapshot(2); print('open', flush=True); sys.stdin.read()\n"
            "print(snapshot.get(b'00001'), flush=True)",
            str(store.layout.root),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "open\n"
    assert store.state(2) == ("open",)
    for value in (0.8125, 0.875):
        upsert(settings, predictions({"00001": value}))
        publish(settings, churn(rules=rules))
    assert store.version_numbers() == [1, 2, 4, 5], "3 is neither kept, pinned nor open"
    out, _ = reader.communicate()
    assert "0.5" in out
    upsert(settings, predictions({"00001": 0.9375}))
    result = publish(settings, churn(rules=rules))
    assert result.details["retired"] == [2, 4]
    assert store.version_numbers() == [1, 5, 6]
    assert {path.stem for path in store.layout.versions.glob("*.lease")} == {"00000001", "00000005", "00000006"}


def test_segments_that_no_version_uses_are_removed(settings: Settings, store: Store) -> None:
    rules = replace(OPEN_RULES, keep=0)
    publish(settings, churn(rules=rules), full=True)
    manifest = store.current()
    assert manifest is not None
    assert store.version_numbers() == [4]
    assert [path.name for path in store.layout.segments.iterdir()] == [manifest.segments[0].id]
    assert list(store.layout.filters.iterdir()) == []
    assert len(dict(store.snapshot().items())) == 50


def test_diff_counts_what_changed_and_names_the_top_movers(settings: Settings, store: Store) -> None:
    found = diff_versions(store, 1, 3, top=2)
    assert (found["changed"], found["added"], found["removed"], found["unchanged"]) == (1, 0, 0, 49)
    assert found["top_movers"] == [
        {"key": "00001", "field": "churn_probability", "before": 0.25, "after": 0.75, "change": 0.5}
    ]
    assert found["fields"]["churn_probability"]["shift"] == pytest.approx(0.01)
    assert found["fields"]["risk_segment"] == {"changed": 1}
    tonight = {**scores(49), "00001": 0.75, "new": 0.5}
    write_night(settings, predictions(tonight, night=NEXT_NIGHT), night=NEXT_NIGHT)
    publish(settings, churn(), full=True)
    found = diff_versions(store, 3, 4)
    assert (found["changed"], found["added"], found["removed"], found["unchanged"]) == (0, 1, 1, 49)
    assert (found["before"]["as_of"], found["after"]["as_of"]) == ("1998-06-30", "1998-07-01")
    backwards = diff_versions(store, 3, 1)
    assert backwards["top_movers"][0]["change"] == -0.5
