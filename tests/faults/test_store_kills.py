"""A publish killed with SIGKILL at any step leaves the old version served, and the next publish clean."""

import json
import os
from dataclasses import replace

import pytest
from publish_jobs import killed_publish
from store_tables import NEXT_NIGHT, OPEN_RULES, churn, predictions, scores, upsert, write_night
from view_tables import Row, features, household, require_rows, write_features

from forecache.base.settings import Settings
from forecache.base.steps import MERGE_STEPS, publish_step
from forecache.serve.store import Store, open_store, publish

pytestmark = pytest.mark.faults


def content(store: Store) -> dict[bytes, bytes]:
    with store.snapshot() as snapshot:
        return dict(snapshot.items())


def files(store: Store) -> set[str]:
    """Names of everything in the store that is not a lock."""
    root = store.layout.root
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != "LOCK"}


def referenced(store: Store) -> set[str]:
    """The files that the retained versions and the pointer need."""
    names = {"CURRENT", "CURRENT.copy"}
    for manifest in store.versions():
        names |= {f"versions/{manifest.version:08d}.json", f"versions/{manifest.version:08d}.lease"}
        names |= {f"filters/{manifest.filter.file}"} if manifest.filter else set()
        for segment in manifest.segments:
            names |= {f"segments/{segment.id}/{shard.file}" for shard in segment.shards}
            names |= {f"segments/{segment.id}/{segment.hashes.file}"} if segment.hashes else set()
    return names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "step"),
    [
        *(("full", step) for step in publish_step.names if step not in MERGE_STEPS),
        *(("feed", step) for step in ("encoded", "built", "segments moved", "verified", "manifest written")),
        *(("partition", step) for step in ("built", "segments moved", "manifest written")),
        *(("merge", step) for step in ("verified", *MERGE_STEPS, "manifest written", "pointer moved")),
    ],
)
def test_a_publish_killed_at_any_step_leaves_one_whole_version_and_the_next_is_clean(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, step: str, kind: str
) -> None:
    from forecache.serve.store.segment import writer as build

    monkeypatch.setattr(build, "SHARD_ROWS", 200)
    before = scores(1500)
    write_night(settings, predictions(before))
    publish(settings, churn())
    store = open_store(settings, "churn")
    old = content(store)
    after = {**before, "00001": 0.125}
    if kind in ("feed", "merge"):
        upsert(settings, predictions({"00001": 0.125}))
    else:
        if kind == "full":
            after = {key: value / 2 for key, value in before.items()}
        write_night(settings, predictions(after, night=NEXT_NIGHT), night=NEXT_NIGHT)
    max_segments = 1 if kind == "merge" else 16
    killed_publish(settings, step, shard_rows=200, max_segments=max_segments)
    flipped = publish_step.names.index(step) >= publish_step.names.index("pointer moved")
    pointer = store.pointer()
    assert pointer.serving == (2 if flipped else 1)
    found = content(store)
    assert (found != old) == flipped
    result = publish(settings, churn(rules=replace(OPEN_RULES, max_segments=max_segments)))
    assert result.skipped == flipped
    assert result.details["version"] == 2
    assert (result.details["kind"] == "compacted") == (kind == "merge")
    found = content(store)
    assert {key.decode(): json.loads(entry)["churn_probability"] for key, entry in found.items()} == after
    assert files(store) == referenced(store)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "step"),
    [
        *(("full", step) for step in publish_step.names if step not in MERGE_STEPS),
        *(("partition", step) for step in ("encoded", "built", "segments moved", "verified", "manifest written")),
        *(("merge", step) for step in ("verified", *MERGE_STEPS, "manifest written", "pointer moved")),
    ],
)
def test_a_publish_of_features_killed_at_any_step_leaves_one_whole_version_and_the_next_is_clean(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, step: str, kind: str
) -> None:
    from forecache.serve.store.segment import writer as build

    monkeypatch.setattr(build, "SHARD_ROWS", 200)
    before: dict[tuple[str, int], Row] = {("s", number): (number / 3, number, None) for number in range(1500)}
    write_features(settings, features(before))
    publish(settings, household())
    after = before | {("s", 1): (0.5, None, [1.0, None, -0.0]), ("new", 1): (1.0, 1, None)}
    del after["s", 2]
    if kind == "full":
        after = {key: (9.0, row[1], row[2]) for key, row in after.items()}
    write_features(settings, features(after, night=NEXT_NIGHT), night=NEXT_NIGHT)
    max_segments = 1 if kind == "merge" else 16
    killed_publish(settings, step, shard_rows=200, max_segments=max_segments, name="household")
    store = open_store(settings, "household")
    flipped = publish_step.names.index(step) >= publish_step.names.index("pointer moved")
    assert store.pointer().serving == (2 if flipped else 1)
    with store.snapshot() as snapshot:
        require_rows(snapshot, after if flipped else before)
    result = publish(settings, household(replace(OPEN_RULES, max_segments=max_segments)))
    assert (result.skipped, result.details["version"]) == (flipped, 2)
    assert result.details["kind"] == {"full": "full", "merge": "compacted"}.get(kind, "incremental")
    with store.snapshot() as snapshot:
        require_rows(snapshot, after)
    assert files(store) == referenced(store)


@pytest.mark.slow
def test_a_publish_killed_while_workers_build_leaves_the_old_version(settings: Settings) -> None:
    write_night(settings, predictions(scores(1500)))
    publish(settings, churn())
    store = open_store(settings, "churn")
    old = content(store)
    write_night(settings, predictions({key: value / 2 for key, value in scores(1500).items()}))
    killed_publish(settings, "encoded", shard_rows=200, inline_rows=0)
    assert content(store) == old
    assert not publish(settings, churn()).skipped
    assert content(store) != old
    assert files(store) == referenced(store)


def test_a_torn_segment_is_refused_by_the_reader_in_words(settings: Settings) -> None:
    from forecache.base.errors import UnavailableError

    write_night(settings, predictions(scores(10)))
    publish(settings, churn())
    store = open_store(settings, "churn")
    manifest = store.current()
    assert manifest is not None
    segment = manifest.segments[0]
    path = store.layout.segment(segment.id) / segment.shards[0].file
    os.truncate(path, 100)
    with pytest.raises(UnavailableError, match="has 100 bytes where"):
        store.snapshot()


def test_a_corrupted_shard_does_not_pass_the_verification(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from forecache.base.errors import CheckError
    from forecache.serve.store.publishing import full as work

    write_night(settings, predictions(scores(10)))
    publish(settings, churn())
    honest = work.write_shard

    def lossy(path, keys, entries, **options):  # type: ignore[no-untyped-def]
        return honest(path, keys, entries.take([0] * len(entries)), **options)

    monkeypatch.setattr(work, "write_shard", lossy)
    with pytest.raises(CheckError, match="does not read back as the source has it: 10 rows of 10"):
        publish(settings, churn(), full=True)
    assert open_store(settings, "churn").pointer().serving == 1


def test_a_corrupted_small_segment_does_not_pass_the_verification(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forecache.base.errors import CheckError
    from forecache.serve.store.publishing import incremental

    write_night(settings, predictions(scores(50)))
    publish(settings, churn())
    upsert(settings, predictions({"00001": 0.125, "00002": 0.25}))
    honest = incremental.write_shard

    def lossy(path, keys, entries):  # type: ignore[no-untyped-def]
        return honest(path, keys, entries.take([0] * len(entries)))

    monkeypatch.setattr(incremental, "write_shard", lossy)
    with pytest.raises(CheckError, match="does not read back as the source has it: 50 rows of 50"):
        publish(settings, churn())
    assert open_store(settings, "churn").pointer().serving == 1
