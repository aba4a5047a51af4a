"""Translates Kafka options of librdkafka to those of the Java client, which Spark uses.

`kafka_options` names options as librdkafka does. Most security options have other names in Java: a user and a password
become a JAAS line, files of certificates become their content, so that executors on other machines need no files.
"""

from collections.abc import Mapping
from pathlib import Path

from forecache.base.errors import InputError

_JAAS = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}
# Options that have the same name in both clients.
_SAME = frozenset(
    {
        *("client.id", "client.rack", "fetch.max.bytes", "fetch.min.bytes", "isolation.level"),
        *("max.partition.fetch.bytes", "metadata.max.age.ms", "reconnect.backoff.max.ms", "reconnect.backoff.ms"),
        *("retry.backoff.ms", "session.timeout.ms", "ssl.key.password"),
    }
)
_SECURITY = frozenset(
    {
        *("security.protocol", "sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password"),
        *("ssl.ca.location", "ssl.ca.pem", "ssl.certificate.location", "ssl.certificate.pem", "ssl.key.location"),
        *("ssl.key.pem", "ssl.endpoint.identification.algorithm", "ssl.key.password"),
    }
)


def java_options(brokers: str, options: Mapping[str, str]) -> dict[str, str]:
    """Return the options of Spark's Kafka source, secrets included, such as `kafka.bootstrap.servers`.

    Options of librdkafka that only control its queues and timers are left out. Both clients read only committed
    messages of transactions, unless `isolation.level` says otherwise.

    Raises:
        InputError: A security option has no counterpart in the Java client, or its file cannot be read.
    """
    given = {name: str(value) for name, value in options.items()}
    for name in given:
        if name.startswith(("ssl.", "sasl.", "enable.ssl")) and name not in _SECURITY:
            raise InputError(
                f"The engine 'spark' cannot take the Kafka option {name!r}: the Java client has no such option.",
                remedy='Leave it out of FORECACHE_KAFKA_OPTIONS, or declare the stream with engine="arrow".',
            )
    java = {"bootstrap.servers": brokers, "isolation.level": "read_committed"}
    java |= {name: value for name, value in given.items() if name in _SAME}
    if "security.protocol" in given:
        java["security.protocol"] = given["security.protocol"].upper()
    java |= _sasl_options(given) | _certificate_options(given)
    return {f"kafka.{name}": value for name, value in java.items()}


def _sasl_options(given: Mapping[str, str]) -> dict[str, str]:
    mechanism = given.get("sasl.mechanism", given.get("sasl.mechanisms", "")).upper()
    if not mechanism:
        return {}
    if mechanism not in _JAAS:
        raise InputError(
            f"The engine 'spark' cannot log in to Kafka with sasl.mechanism={mechanism}.",
            remedy=f'Use one of {", ".join(_JAAS)}, or declare the stream with engine="arrow".',
        )
    user, password = (_quote(given.get(f"sasl.{name}", "")) for name in ("username", "password"))
    line = f"{_JAAS[mechanism]} required username={user} password={password};"
    return {"sasl.mechanism": mechanism, "sasl.jaas.config": line}


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _certificate_options(given: Mapping[str, str]) -> dict[str, str]:
    authority, chain, key = (_read_pem(given, f"ssl.{name}") for name in ("ca", "certificate", "key"))
    java: dict[str, str] = {}
    if authority:
        java |= {"ssl.truststore.type": "PEM", "ssl.truststore.certificates": authority}
    if chain and key:
        java |= {"ssl.keystore.type": "PEM", "ssl.keystore.certificate.chain": chain, "ssl.keystore.key": key}
    if given.get("ssl.endpoint.identification.algorithm") == "none":
        java["ssl.endpoint.identification.algorithm"] = ""
    return java


def _read_pem(given: Mapping[str, str], name: str) -> str:
    path = given.get(f"{name}.location")
    if not path:
        return given.get(f"{name}.pem", "")
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The file {path} of the Kafka option {name}.location cannot be read: {error}.",
            remedy="Name a PEM file that this process may read.",
        ) from error
