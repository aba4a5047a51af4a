"""The broker that tests and the demo of streams use: what was sent to it outlives a kill, and transactions work."""

import subprocess
from pathlib import Path

import pytest
from kafka import KafkaBroker

pytestmark = pytest.mark.faults
SCRIPT = Path(__file__).parents[2] / "scripts" / "kafka.sh"


def test_messages_outlive_a_kill_of_the_broker(kafka: KafkaBroker) -> None:
    topic = kafka.create_topic("kept", partitions=2)
    sent = [b"%d" % number for number in range(500)]
    kafka.send(topic, sent, partition=1)
    kafka.kill()
    kafka.restart()
    kafka.send(topic, [b"after"], partition=0)
    found = kafka.messages(topic)
    assert [message.value() for message in found] == [b"after", *sent]
    assert [message.partition() for message in found] == [0] + [1] * 500


def test_messages_of_an_aborted_transaction_are_not_read(kafka: KafkaBroker) -> None:
    from confluent_kafka import Producer

    topic = kafka.create_topic("answers")
    producer = Producer({"bootstrap.servers": kafka.brokers, "transactional.id": topic, "log_level": 2})
    producer.init_transactions(30)
    for value, is_kept in ((b"first", True), (b"second", False), (b"third", True)):
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(30)  # what was not sent yet would be dropped by an abort
        producer.commit_transaction(30) if is_kept else producer.abort_transaction(30)
    assert [message.value() for message in kafka.messages(topic)] == [b"first", b"third"]
    assert len(kafka.messages(topic, committed_only=False)) == 3


def test_missing_jars_are_named_with_the_command_that_installs_them(tmp_path: Path) -> None:
    copy = tmp_path / "scripts" / "kafka.sh"
    copy.parent.mkdir()
    copy.write_text(SCRIPT.read_text())
    command = ["bash", str(copy), "start", str(tmp_path / "data"), "19999"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "bash scripts/install_test_services.sh kafka" in done.stderr
