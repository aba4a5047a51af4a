"""The engine `spark` keeps each event once, whatever becomes of its driver and of its checkpoint."""

import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from spark_stream_jobs import run_until, run_with_spark, spark_settings
from stream_jobs import state_of
from stream_sample import release, some_values, table_rows
from stream_truth import assert_tables_hold
from waiting import wait_for
from warm import start

from forecache.base.settings import Settings
from forecache.plugins.spark_stream.engine import checkpoints_of

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.usefixtures("spark")]


@pytest.fixture
def ready(tmp_path: Path, kafka: Any) -> Settings:
    settings = spark_settings(tmp_path / "home", kafka.brokers)
    release(settings)
    return settings


def checkpoints(settings: Settings) -> Path:
    from stream_sample import a_stream

    return Path(checkpoints_of(settings, a_stream()))


def test_a_driver_killed_before_its_commit_and_a_deleted_checkpoint_lose_and_repeat_nothing(
    ready: Settings, kafka: Any
) -> None:
    topic, values = kafka.create_topic("payments"), some_values(60)
    kafka.send(topic, values)
    process = start(run_until, ready.home_path, kafka.brokers, topic, "rows written", 2, {})
    process.join(180)
    assert process.exitcode == -signal.SIGKILL
    shutil.rmtree(checkpoints(ready))
    run_with_spark(ready, topic)
    assert_tables_hold(ready, values, topic=topic)
    # Batches are numbered from 0 again: by batch number, what comes now would count as written.
    shutil.rmtree(checkpoints(ready))
    more = some_values(10, first=60)
    kafka.send(topic, more)
    run_with_spark(ready, topic)
    assert_tables_hold(ready, [*values, *more], topic=topic)


def test_a_checkpoint_of_another_stream_is_left_where_it_would_lose_events(
    ready: Settings, kafka: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    topic, values = kafka.create_topic("payments"), some_values(40)
    kafka.send(topic, values)
    other = spark_settings(tmp_path / "other", kafka.brokers)
    release(other)
    run_with_spark(other, topic)
    more = some_values(10, first=40)
    kafka.send(topic, more)
    run_with_spark(other, topic)
    shutil.copytree(checkpoints(other), checkpoints(ready))  # it has read everything; this table has nothing
    run_with_spark(ready, topic)
    assert_tables_hold(ready, [*values, *more], topic=topic)
    assert "resumes partition 0 at offset" in caplog.text
    assert {path.name for path in checkpoints(ready).iterdir()} == {"0", "1"}
    # One that is behind the table is gone on with.
    shutil.rmtree(checkpoints(ready))
    early = checkpoints(other) / "0"
    for kind in ("offsets", "commits"):
        for number in sorted(int(p.name) for p in (early / kind).iterdir() if p.name.isdigit())[1:]:
            (early / kind / str(number)).unlink()
            (early / kind / f".{number}.crc").unlink(missing_ok=True)
    shutil.copytree(checkpoints(other), checkpoints(ready))
    run_with_spark(ready, topic)
    assert {path.name for path in checkpoints(ready).iterdir()} == {"0"}
    assert_tables_hold(ready, [*values, *more], topic=topic)


def test_a_table_that_is_made_anew_below_a_running_query_ends_it_and_then_gets_all_events(
    ready: Settings, kafka: Any
) -> None:
    topic, values, more = kafka.create_topic("payments"), some_values(40), some_values(10, first=40)
    kafka.send(topic, values)
    raised: list[Exception] = []

    def run() -> None:
        try:
            run_with_spark(ready, topic, stop=threading.Event())
        except Exception as error:  # noqa: BLE001  # as the table handle that it keeps finds out
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: state_of(ready).offsets.get("0") == len(values))
    for table in ("stream_payments", "stream_quarantine_payments"):
        shutil.rmtree(Path(ready.table_uri(table)))
    kafka.send(topic, more)
    thread.join(300)
    assert raised
    assert table_rows(ready, "stream_payments") == []
    run_with_spark(ready, topic)
    assert_tables_hold(ready, [*values, *more], topic=topic)
    assert {path.name for path in checkpoints(ready).iterdir()} == {"0", "1"}
