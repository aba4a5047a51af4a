"""Kafka's options, as librdkafka names them, for Spark's Java client."""

from pathlib import Path

import pytest

from forecache.base.errors import InputError
from forecache.plugins.spark_stream.engine import java_options


def test_without_options_spark_reads_what_is_committed() -> None:
    assert java_options("kafka:9092", {"queued.min.messages": "5"}) == {
        "kafka.bootstrap.servers": "kafka:9092",
        "kafka.isolation.level": "read_committed",
    }


def test_a_login_becomes_a_jaas_line_whose_text_is_quoted() -> None:
    given = {
        "security.protocol": "sasl_ssl",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": "app",
        "sasl.password": 'se"cr\\et',
    }
    java = java_options("kafka:9092", given)
    assert java["kafka.security.protocol"] == "SASL_SSL"
    assert java["kafka.sasl.mechanism"] == "SCRAM-SHA-512"
    assert java["kafka.sasl.jaas.config"] == (
        'org.apache.kafka.common.security.scram.ScramLoginModule required username="app" password="se\\"cr\\\\et";'
    )
    assert not any("password" in name or "username" in name for name in java)


def test_files_of_certificates_become_their_content(tmp_path: Path) -> None:
    for name in ("ca", "certificate", "key"):
        (tmp_path / name).write_text(f"-----BEGIN {name}-----")
    given = {f"ssl.{name}.location": str(tmp_path / name) for name in ("ca", "certificate", "key")}
    java = java_options("kafka:9092", {**given, "ssl.key.password": "secret"})
    assert java["kafka.ssl.truststore.certificates"] == "-----BEGIN ca-----"
    assert java["kafka.ssl.keystore.certificate.chain"] == "-----BEGIN certificate-----"
    assert java["kafka.ssl.keystore.key"] == "-----BEGIN key-----"
    assert java["kafka.ssl.key.password"] == "secret"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"enable.ssl.certificate.verification": "false"}, "enable.ssl.certificate.verification"),
        ({"sasl.mechanism": "GSSAPI"}, "GSSAPI"),
        ({"ssl.ca.location": "/no/such/file"}, "/no/such/file"),
    ],
)
def test_an_option_that_the_java_client_has_not_is_refused_and_named(options: dict[str, str], named: str) -> None:
    with pytest.raises(InputError, match=named):
        java_options("kafka:9092", options)
