"""What processes of their own do that send a stream's answers to a topic, and may kill themselves at a step."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from forecache.base import steps
from forecache.base.settings import Settings, load_settings
from forecache.kit.delta.commit import Change, TableState, Target, commit
from forecache.kit.delta.writers import write_rows
from forecache.plugins.stream_answers.send_answers import send_until
from forecache.stream.table.schema import HOUR, PLACE, POSITION

KEY = ("payment",)
_SCHEMA = pa.schema(
    [
        (POSITION, pa.int64()),
        (PLACE, pa.int32()),
        (HOUR, pa.string()),
        ("payment", pa.string()),
        ("score", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Sent:
    """What of a declared stream the sending of its answers reads."""

    name: str
    table: str
    topic: str

    @property
    def to_topic(self) -> Any:
        return SimpleNamespace(topic=self.topic)

    @property
    def key(self) -> tuple[str, ...]:
        return KEY


def commit_answers(settings: Settings, table: str, count: int, *, hour: str = "2026-03-01T08") -> int:
    """Commit so many rows of a stream; returns the Delta version, which is their position."""
    from deltalake import Schema

    def decide(state: TableState) -> Change:
        position = state.version + 1
        rows = pa.table(
            {
                POSITION: [position] * count,
                PLACE: list(range(count)),
                HOUR: [hour] * count,
                "payment": [f"{position}-{place}" for place in range(count)],
                "score": [position + place / 8 for place in range(count)],
            },
            schema=_SCHEMA,
        )
        files = write_rows(rows, settings, table, partition_by=[HOUR])
        return Change(files=[*state.files, *files])

    target = Target(settings, table, Schema.from_arrow(_SCHEMA), partition_by=(HOUR,))
    return commit(target, decide)


def send_answers(home: Path, brokers: str, table: str, topic: str, step: str, times: int) -> None:
    """Send what is in the table, and die at a step, when it comes for the `times`th time; 0: never."""
    left = times

    def die(name: str) -> None:
        nonlocal left
        left -= name == step
        if times and not left:
            os.kill(os.getpid(), signal.SIGKILL)

    steps.topic_step.on_step = die
    sent: Any = Sent(topic, table, topic)
    send_until(load_settings(home=home), sent, {"bootstrap.servers": brokers}, lambda _: True)
