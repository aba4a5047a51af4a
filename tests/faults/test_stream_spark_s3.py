"""The engine `spark` with its table and its checkpoints in an object store (MinIO)."""

import signal
from pathlib import Path
from typing import Any

import pytest
from spark_stream_jobs import run_until, spark_settings
from store_services import minio_server
from stream_sample import POISON, payment, release, table_rows
from stream_truth import assert_tables_hold
from warm import start

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def test_a_batch_that_spark_repeats_after_a_kill_is_recognised_by_the_tables_offsets(
    tmp_path: Path, kafka: Any
) -> None:
    topic, values = kafka.create_topic("payments"), [*(payment(number) for number in range(70)), *POISON]
    with minio_server(tmp_path / "minio", "cloud") as options:
        given = {"lake": "s3://cloud/lake", "storage_options": options, "stream_checkpoints": "s3://cloud/checkpoints"}
        given["spark_jvm"] = "short"  # a remote lake would have one for long work
        settings = spark_settings(tmp_path / "home", kafka.brokers, **given)
        release(settings)
        kafka.send(topic, values)
        process = start(run_until, settings.home_path, kafka.brokers, topic, "rows committed", 2, given)
        process.join(240)
        assert process.exitcode == -signal.SIGKILL
        checkpoint = tmp_path / "minio" / "data" / "cloud" / "checkpoints" / "payments" / "0"
        # The second batch is in the table, and Spark has not noted that it is done.
        assert (checkpoint / "offsets" / "1").exists()
        assert not (checkpoint / "commits" / "1").exists()
        before = table_rows(settings, "stream_payments")
        assert len(before) > 30
        more = [payment(number) for number in range(60, 90)]
        kafka.send(topic, more)
        process = start(run_until, settings.home_path, kafka.brokers, topic, "rows committed", 1000, given)
        process.join(240)
        assert process.exitcode == 0
        assert assert_tables_hold(settings, [*values, *more], topic=topic)[: len(before)] == before
        assert (checkpoint / "commits" / "1").exists()
        assert not (checkpoint.parent / "1").exists()  # the checkpoint was gone on with
