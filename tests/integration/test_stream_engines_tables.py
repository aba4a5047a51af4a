"""Both engines of streams write the same tables of what a broker has, to the bit."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from spark_stream_jobs import run_with_spark, spark_settings
from stream_avro import AVRO_POISON, avro_payment, avro_topic
from stream_jobs import run_stream
from stream_night import write_customers
from stream_sample import PACE, POISON, a_stream, payment, release, table_rows
from stream_truth import plain

from forecache.plugins.spark_stream.engine import SparkEngine
from forecache.stream.engine.arrow_engine import ArrowEngine
from forecache.stream.table.schema import KAFKA_AT

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow


def test_through_a_broker_avro_a_pipeline_and_a_night_with_keys_give_the_same_tables(
    spark: "SparkSession", kafka: Any, tmp_path: Path
) -> None:
    values = [avro_payment(number) for number in range(60)]
    for place, each in enumerate((*AVRO_POISON, *(avro_payment(number) for number in range(0, 40, 7)))):
        values.insert(4 * place, each)
    topic = kafka.create_topic("avro-payments")
    kafka.send(topic, values)
    stored = {}
    for engine, runs in (("arrow", ArrowEngine), ("spark", SparkEngine)):
        settings = spark_settings(tmp_path / engine, kafka.brokers)
        write_customers(settings)
        stream = a_stream(avro_topic(topic), answers=PACE, engine=engine)
        runs(settings, stream, until_caught_up=True).run()
        tables = ("stream_payments", "stream_quarantine_payments")
        stored[engine] = [[_comparable(row) for row in table_rows(settings, table)] for table in tables]
    assert [len(rows) for rows in stored["arrow"]] == [60, len(AVRO_POISON)]
    assert all("customer=2026-03-01@0" in row for row in stored["arrow"][0])
    assert stored["arrow"] == stored["spark"]


def test_through_a_broker_both_engines_write_the_same_tables(spark: "SparkSession", kafka: Any, tmp_path: Path) -> None:
    values = [payment(number) for number in range(118)] + [payment(118, device="app"), payment(119, device="web")]
    for place, each in enumerate((*POISON, *(payment(number) for number in range(0, 60, 7)))):
        values.insert(5 + 6 * place, each)
    topic = kafka.create_topic("payments")
    kafka.send(topic, values[:60])
    give_up(kafka, topic, [payment(number) for number in range(700, 703)])
    kafka.send(topic, values[60:])
    give_up(kafka, topic, [payment(number) for number in range(703, 705)])
    homes = {"arrow": tmp_path / "arrow", "spark": tmp_path / "spark"}
    stored = {}
    for engine, home in homes.items():
        settings = spark_settings(home, kafka.brokers)
        release(settings)
        if engine == "arrow":
            ran: Any = run_stream(home, kafka.brokers, topic, {})
        else:
            ran = run_with_spark(settings, topic)
        state = ran.figures.state
        assert (state.rows, state.bad, state.repeats, state.unknown) == (120, len(POISON), 9, 2)
        assert (state.lag_events, state.release, state.last_error) == (0, 1, "")
        tables = ("stream_payments", "stream_quarantine_payments")
        stored[engine] = [[_comparable(row) for row in table_rows(settings, table)] for table in tables]
    assert len(stored["arrow"][0]) == 120
    assert len(stored["arrow"][1]) == len(POISON)
    assert stored["arrow"] == stored["spark"]


def give_up(kafka: Any, topic: str, values: list[bytes]) -> None:
    """Send messages in a transaction that is given up: no consumer of committed messages sees them."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": kafka.brokers, "transactional.id": f"given-up-{topic}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, partition=0)
    producer.flush(30)
    producer.abort_transaction(30)


def _comparable(row: dict[str, Any]) -> str:
    values = {name: float(v).hex() if isinstance(v, float) else str(v) for name, v in plain(row).items()}
    return json.dumps({**values, KAFKA_AT: str(row.get(KAFKA_AT))}, sort_keys=True)
