"""A small lake whose files are old, and what it holds; run by processes that are killed while they maintain it."""

import json
import os
import time
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, Schema

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import lake_step
from forecache.kit.delta.tables import append_rows, replace_table, table_names
from forecache.kit.delta.writers import write_rows
from forecache.lake.ledger import StageRecord, append_records
from forecache.plugins.maintenance.lake import maintain_lake

DAY = date(2026, 1, 1)
TRAINING = "training_set_orders"
_OLD_S = 30 * 86_400


def write_lake(settings: Settings) -> None:
    """Raw rows in several files a day, ledger rows, five training sets of which the ledger names the third."""
    for number in range(6):
        add_raw(settings, number)
        append_records(
            settings, [StageRecord("score", f"p{number % 2}", DAY + timedelta(days=number), "i", "", -1, 1, 0.1)]
        )
        append_rows(settings, "quarantine_orders", pa.table({"source_file": [f"f{number}"], "line": [number]}))
    for number in range(5):
        version = write_training_set(settings, number)
        if number == 2:
            append_records(settings, [StageRecord("training_set", "orders", None, "i", TRAINING, version, 3, 0.1)])


def add_raw(settings: Settings, number: int) -> None:
    days = pa.array([DAY + timedelta(days=number % 2)] * 5, pa.date32())
    rows = pa.table({"key": [f"{number}-{i}" for i in range(5)], "event_day": days})
    append_rows(settings, "raw_orders", rows, partition_by=["event_day"])


def write_training_set(settings: Settings, number: int) -> int:
    rows = pa.table({"x": pa.array([number] * 3, pa.int64())})
    schema = Schema.from_arrow(rows.schema)
    return replace_table(settings, TRAINING, schema, write_rows(rows, settings, TRAINING))


def age(settings: Settings) -> None:
    """Make all that was written and removed so far a month older."""
    old = time.time() - _OLD_S
    for path in Path(settings.lake_uri).rglob("*"):
        if path.suffix == ".json" and path.parent.name == "_delta_log":
            actions = [json.loads(line) for line in path.read_text().splitlines()]
            for action in actions:
                if "remove" in action:
                    action["remove"]["deletionTimestamp"] -= 1000 * _OLD_S
            path.write_text("\n".join(map(json.dumps, actions)) + "\n")
        if path.is_file():
            os.utime(path, (old, old))


def contents(settings: Settings) -> dict[str, Counter[str]]:
    """The rows of every table, whatever their order."""
    return {
        name: Counter(str(row) for row in DeltaTable(settings.table_uri(name)).to_pyarrow_table().to_pylist())
        for name in table_names(settings)
    }


def data_files(settings: Settings, name: str) -> set[Path]:
    return set(Path(settings.table_uri(name)).rglob("*.parquet")) - set(
        Path(settings.table_uri(name), "_delta_log").glob("*")
    )


def maintain_until(home: Path, last: int, told: Any) -> None:
    """Maintain, tell each step, and end at once after the step of that number."""
    done = 0

    def tell(name: str) -> None:
        nonlocal done
        told.send(name)
        if done == last:
            os.kill(os.getpid(), 9)
        done += 1

    lake_step.on_step = tell
    maintain_lake(load_settings(home=home, code_version="fixed"))


def maintain_often(home: Path, barrier: Any, rounds: int) -> None:
    settings = load_settings(home=home, code_version="fixed")
    for _ in range(rounds):
        barrier.wait(120)
        maintain_lake(settings)


def write_often(home: Path, barrier: Any, rounds: int) -> None:
    """A nightly run beside it: rows, ledger and a training set, while the old files are merged and removed."""
    settings = load_settings(home=home, code_version="fixed")
    for number in range(rounds):
        barrier.wait(120)
        for each in range(3):
            add_raw(settings, 100 + 3 * number + each)
            night = DAY + timedelta(days=100 + 3 * number + each)
            append_records(settings, [StageRecord("score", "beside", night, "i", "", -1, 1, 0.1)])
        write_training_set(settings, 100 + number)
