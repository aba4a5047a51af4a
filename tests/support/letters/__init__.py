"""Mailings about the shelf project's lists, the addresses for them, and runs to kill."""

import dataclasses
import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from deltalake import write_deltalake
from other_machine import stand_still
from shelf_lake import LAST, ingested
from shelf_project.pipelines.letters import letters as declared
from shelf_project.pipelines.shelf import offers
from warm import die, processes, start

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import mail_step
from forecache.base.table_names import MAIL_TABLE

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SERVER_RECORD = "accepted"


def in_log(message_id: str) -> bool:
    """Ask the server of the test, by its record of what it accepted."""
    folder = Path(os.environ["FORECACHE_BENCH_MAIL_RECORD"])
    return any(message["Message-ID"] == message_id for message in accepted(folder))


letters = dataclasses.replace(declared, addresses="contacts")
MAILINGS = {
    "send": letters,
    "skip": dataclasses.replace(letters, in_doubt="skip"),
    "ask": dataclasses.replace(letters, was_accepted=in_log),
}


def contacts(customers: int, more: Mapping[str, Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
    """A row for each customer; `more` has other cells for some."""
    return [
        {"customer": user, "address": f"{user}@example.com", "opted_out": False, "first_name": f"Name {user}"}
        | dict((more or {}).get(user, {}))
        for user in (f"c{number:03d}" for number in range(customers))
    ]


def write_contacts(settings: Settings, rows: list[dict[str, Any]], name: str = "contacts") -> None:
    schema = pa.schema(
        [("customer", pa.string()), ("address", pa.string()), ("opted_out", pa.bool_()), ("first_name", pa.string())]
    )
    write_deltalake(settings.table_uri(name), pa.Table.from_pylist(rows, schema=schema), mode="overwrite")


def published_lake(spark: "SparkSession", home: Path) -> Settings:
    """A home in which the lists of the last day are published, and nobody has an address yet."""
    from forecache.operations.publish_night import publish_night
    from forecache.plugins.recommend.stage import recommend

    settings = ingested(spark, home)
    recommend(settings, offers, [LAST])
    publish_night(settings, offers, unchecked=True)
    return settings


def mail_settings(home: Path, port: int, **more: Any) -> Settings:
    server = {"smtp_host": "127.0.0.1", "smtp_port": port, "smtp_security": "none"}
    return load_settings(home=home, project="shelf_project", code_version="fixed", **{**server, **more})


def accepted(folder: Path) -> list[EmailMessage]:
    """What the server accepted, in order."""
    return [message_from_bytes(path.read_bytes(), policy=SMTP) for path in sorted(folder.glob("*.eml"))]


def ledger_states(settings: Settings) -> dict[str, str]:
    """By user, the state that counts, read by the rule alone: the row of the newest commit."""
    from deltalake import DeltaTable

    rows = DeltaTable(settings.table_uri(MAIL_TABLE)).to_pyarrow_table().to_pylist()
    return {row["user"]: row["state"] for row in sorted(rows, key=lambda row: row["commit_version"])}


def mail_until(
    home: Path, port: int, policy: str, step: str, number: int, record: Path, told: Any, end: int = signal.SIGKILL
) -> None:
    """Send, and get the signal `end` right after a step has been done `number` times; tells the figures at the end."""
    from forecache.base.errors import ForecacheError
    from forecache.plugins.mail.stage import mail

    os.environ["FORECACHE_BENCH_MAIL_RECORD"] = str(record)
    times = 0

    def die(name: str) -> None:
        nonlocal times
        times += name == step
        if name == step and times == number:
            told.send(name)
            stand_still() if end == signal.SIGSTOP else os.kill(os.getpid(), end)

    mail_step.on_step = die
    try:
        result = mail(mail_settings(home, port), MAILINGS[policy])
        told.send(json.dumps(dict(result.details)))
    except ForecacheError as error:
        told.send(f"{type(error).__name__}: {error}")


@contextmanager
def smtp_server(folder: Path, **more: Any) -> Iterator[int]:
    """A real SMTP server in a process of its own, which records in `folder` what it accepts; yields its port."""
    from letters.server import serve

    folder.mkdir(parents=True, exist_ok=True)
    ours, theirs = processes().Pipe(duplex=False)
    process = start(serve, folder, more, theirs)
    theirs.close()
    try:
        yield ours.recv()
    finally:
        die(process)
