"""Ingestions of one source that overlap as on two machines, without a lock: the three tables agree in the end.

Rows are judged here in Python and written from Arrow, so that many overlaps take seconds; the commits are real.
"""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from forecache.base.settings import Settings, load_settings
from forecache.declare import Column, Source
from forecache.kit.delta.partitions import take_snapshot
from forecache.kit.delta.tables import open_table, table_exists
from forecache.kit.delta.writers import write_rows
from forecache.lake.ingest import ingest as ingest_commit
from forecache.lake.ingest.ingest import commit_quarantine, commit_raw, require_newest, retry_if_overtaken
from forecache.lake.ingest.ingested_files import FILES_TABLE, IngestedFile, ingested_files, record_files
from forecache.lake.ingest.landing import LandingFile

ORDERS = Source(
    "orders",
    columns=(Column("order_id", "string"), Column("day", "date")),
    event_time="day",
    unique=("order_id",),
    start=date(2026, 1, 1),
)
NOW = datetime(2026, 2, 1, tzinfo=timezone.utc)
Files = dict[str, list[str]]  # ids by file name; all of one day


SCHEMA = pa.schema(
    [("order_id", "string"), ("event_day", "date32"), ("source_file", "string"), ("source_line", "int64")]
)


def write(rows: list[dict[str, Any]], settings: Settings, name: str, partition_by: list[str]) -> Any:
    from deltalake import Schema

    return Schema.from_arrow(SCHEMA), write_rows(
        pa.Table.from_pylist(rows, SCHEMA), settings, name, partition_by=partition_by
    )


def judge(settings: Settings, files: Files, raw_exists: bool) -> tuple[list[Any], list[Any]]:
    """Good and bad rows: an id that a file before, or another file of the raw table, has is bad."""
    seen = set()
    if raw_exists:
        before = open_table(settings, ORDERS.raw_table).to_pyarrow_table().to_pylist()
        seen = {row["order_id"] for row in before if row["source_file"] not in files}
    good, bad = [], []
    for name in sorted(files):
        for line, order in enumerate(files[name], start=2):
            row = {"order_id": order, "event_day": ORDERS.start, "source_file": name, "source_line": line}
            (bad if order in seen else good).append(row)
            seen.add(order)
    return good, bad


def ingest(settings: Settings, landed: Files, pause: Any) -> None:
    """What `forecache.lake.ingest.ingest.ingest` does, with a pause between its steps."""
    known = {file.file for file in ingested_files(settings, ORDERS)}
    pending = {name: ids for name, ids in landed.items() if name not in known}
    files = [LandingFile(name, ORDERS.start, 1, NOW) for name in pending]

    def attempt() -> None:
        seen = take_snapshot(settings, ORDERS.raw_table, "event_day")
        good, bad = judge(settings, pending, seen.version >= 0)
        pause()
        raw = write(good, settings, ORDERS.raw_table, ["event_day"])
        version = commit_raw(settings, ORDERS, raw, files, seen=seen, run_id="")
        pause()
        quarantine = write(bad, settings, ORDERS.quarantine_table, []) if bad else None
        commit_quarantine(settings, ORDERS, quarantine, files, raw_version=version, run_id="")
        pause()
        done = []
        for file in files:
            counts = [sum(row["source_file"] == file.name for row in rows) for rows in (good, bad)]
            rows = (sum(counts), *counts, None, version, NOW, "", "")
            done.append(IngestedFile("orders", file.name, file.day, 1, NOW, "", *rows))
        record_files(settings, done, require=lambda: require_newest(settings, ORDERS, version))

    if files:
        retry_if_overtaken(attempt, tries=20)


def expect_agreement(settings: Settings, landed: Files) -> None:
    """Each file once, each id once in raw, each row once, and the entries count what is there."""
    raw = open_table(settings, ORDERS.raw_table).to_pyarrow_table().to_pylist()
    bad = []
    if table_exists(settings, ORDERS.quarantine_table):
        bad = open_table(settings, ORDERS.quarantine_table).to_pyarrow_table().to_pylist()
    ids = [row["order_id"] for row in raw]
    assert sorted(ids) == sorted({order for some in landed.values() for order in some})
    places = sorted((row["source_file"], row["source_line"]) for row in [*raw, *bad])
    assert places == sorted((name, line) for name, some in landed.items() for line in range(2, len(some) + 2))
    entered = open_table(settings, FILES_TABLE).to_pyarrow_table().to_pylist()
    assert sorted(row["file"] for row in entered) == sorted(landed)
    for row in entered:
        assert row["raw_rows"] == sum(r["source_file"] == row["file"] for r in raw)
        assert row["quarantined_rows"] == sum(r["source_file"] == row["file"] for r in bad)


@pytest.mark.parametrize("seed", range(8))
def test_ingestions_that_overlap_without_a_lock_leave_tables_that_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    sleep = time.sleep
    monkeypatch.setattr(ingest_commit.time, "sleep", lambda seconds: sleep(seconds / 10))
    chance, settings = random.Random(seed), load_settings(home=tmp_path / "home")
    landed: Files = {}

    def land(number: int) -> Files:
        for _ in range(2):
            landed[f"2026-01-01.{chance.random():.6f}.csv"] = chance.choices("abcdefghij", k=4)
        return {name: list(dict.fromkeys(ids)) for name, ids in landed.items()}

    with ThreadPoolExecutor(3) as threads:
        # Each begins with what had landed by then; the last of them has seen everything.
        runs = [land(number) for number in range(3)]
        landed.update(runs[-1])
        waits = [random.Random(f"{seed} {number}") for number in range(3)]
        calls = [
            threads.submit(ingest, settings, run, lambda wait=wait: sleep(wait.choice([0, 0, 0.3])))
            for run, wait in zip(runs, waits, strict=True)
        ]
        for call in calls:
            call.result()
    ingest(settings, landed, lambda: None)
    expect_agreement(settings, landed)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_ingestion_that_is_overtaken_whole_at_a_step_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    settings = load_settings(home=tmp_path / "home")
    earlier: Files = {"2026-01-01.b.csv": ["a", "b"], "2026-01-01.c.csv": ["b", "c"]}
    later: Files = {"2026-01-01.a.csv": ["a", "c", "d"], **earlier}
    steps = 0

    def overtaken() -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            ingest(settings, later, lambda: None)

    ingest(settings, earlier, overtaken)
    expect_agreement(settings, later)
