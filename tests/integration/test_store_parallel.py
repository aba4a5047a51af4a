"""Publishing in worker processes gives what publishing in one process gives, and passes on what goes wrong."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from store_tables import NEXT_NIGHT, append, churn, predictions, scores, upsert, write_night

from forecache.base.errors import ForecacheError, InputError
from forecache.base.settings import Settings
from forecache.serve.store import open_store, publish
from forecache.serve.store.publishing import worker_pool as pool
from forecache.serve.store.publishing.full import shards_of
from forecache.serve.store.segment import writer as build


@pytest.fixture
def many_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small shards and worker processes, however few the rows."""
    monkeypatch.setattr(build, "SHARD_ROWS", 500)
    monkeypatch.setattr(pool, "INLINE_ROWS", 0)


def test_workers_and_shards_change_nothing_about_the_content(
    settings: Settings, many_shards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in range(0, 8000, 2000):
        append(settings, predictions(scores(2000, start=start)))
    parallel = publish(settings, churn())
    store = open_store(settings, "churn")
    manifest = store.current()
    assert manifest is not None
    assert len(manifest.segments[0].shards) == 16
    assert min(shard.entries for shard in manifest.segments[0].shards) > 300
    with store.snapshot() as snapshot:
        content = dict(snapshot.items())
        assert all(snapshot.get(key) == value for key, value in content.items())
    monkeypatch.setattr(pool, "INLINE_ROWS", 10**9)
    monkeypatch.setattr(build, "SHARD_ROWS", 10**9)
    one = publish(settings, churn(), full=True)
    assert one.details["content_hash"] == parallel.details["content_hash"]
    with store.snapshot() as snapshot:
        assert dict(snapshot.items()) == content


def test_a_new_night_is_compared_shard_by_shard(settings: Settings, many_shards: None) -> None:
    write_night(settings, predictions(scores(8000)))
    publish(settings, churn())
    upsert(settings, predictions({"00001": 0.125, "later": 0.5}))
    publish(settings, churn())
    tonight = {**scores(7990), "00003": 0.875, "new": 0.5}
    write_night(settings, predictions(tonight, night=NEXT_NIGHT), night=NEXT_NIGHT)
    result = publish(settings, churn())
    details = result.details
    assert (details["changes_from"], details["segments"]) == ("partition", 3)
    assert (details["changed"], details["added"], details["removed"]) == (3, 1, 11)
    with open_store(settings, "churn").snapshot() as snapshot:
        assert {key.decode() for key, _ in snapshot.items()} == set(tonight)
        assert snapshot.get(b"later") is None
        assert snapshot.get(b"00001") == f'{{"churn_probability":{tonight["00001"]},"risk_segment":"high"}}'.encode()


def test_duplicates_are_found_in_whatever_files_they_lie(settings: Settings, many_shards: None) -> None:
    append(settings, predictions(scores(3000)))
    append(settings, predictions({"01234": 0.5}))
    with pytest.raises(InputError, match="'01234'"):
        publish(settings, churn())
    assert open_store(settings, "churn").current() is None


def test_a_worker_that_dies_stops_the_publish_in_words(settings: Settings) -> None:
    with pool.ProcessPool(1) as workers:
        (process,) = workers.processes.values()
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(ForecacheError, match="worker process died"):
            workers.map(shards_of, [{"keys": [b"a"], "shards": 2}])


def test_workers_die_with_the_publisher(tmp_path: Path) -> None:
    script = (
        "import os, signal\nfrom forecache.serve.store.publishing.worker_pool import ProcessPool\n"
        "pool = ProcessPool(2)\nprint(*[process.pid for process in pool.processes.values()], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    publisher = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert publisher.returncode == -signal.SIGKILL
    for pid in map(int, publisher.stdout.split()):
        _wait_until_gone(pid)


def _wait_until_gone(pid: int) -> None:
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            process.wait(timeout=60)
    except psutil.NoSuchProcess:
        pass


def test_a_null_key_in_a_worker_is_named_by_file_and_row(settings: Settings, many_shards: None) -> None:
    keys: list[str | None] = [*scores(10)]
    keys[7] = None
    append(settings, predictions(scores(10), keys={"customer_id": pa.array(keys)}))
    with pytest.raises(InputError, match=r"parquet \(row group 0\), row 7"):
        publish(settings, churn())
