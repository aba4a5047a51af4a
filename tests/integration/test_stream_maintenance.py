"""Closed hours of a stream are merged without a row that changes, and what is named stays."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from maintenance_lake import age
from warm import assert_valid_log, log_of
from watched_streams import StreamTable

from forecache.base.settings import Settings
from forecache.kit.delta.log import active_files, removed_files
from forecache.kit.delta.stream_tables import KEPT, hour_of, read_stream_bases
from forecache.kit.delta.tables import open_table
from forecache.plugins.maintenance import table as maintain
from forecache.plugins.maintenance.lake import pinned_versions
from forecache.plugins.maintenance.table import maintain_table

TABLE = "stream_cards"


def rows_of(settings: Settings) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = open_table(settings, TABLE).to_pyarrow_table().to_pylist()
    return sorted(rows, key=lambda row: (row["position"], row["place"]))


def files(settings: Settings) -> dict[str, int]:
    """Number of files by hour."""
    found: dict[str, int] = {}
    for file in active_files(open_table(settings, TABLE)):
        hour = str(file.partition["hour"])
        found[hour] = found.get(hour, 0) + 1
    return found


@pytest.fixture
def now() -> datetime:
    return datetime.now(timezone.utc)


def write(settings: Settings, now: datetime, commits: int = 12) -> StreamTable:
    """Commits in the hour that is two hours ago and in that of now, in turns."""
    table = StreamTable(settings)
    for number in range(commits):
        at = now - timedelta(hours=2 * (number % 2))
        table.commit([at, at], at=at, base=f"customer=2026-01-01@{number // 4}")
    return table


def test_small_files_of_closed_hours_become_one_in_order_and_no_row_changes(settings: Settings, now: datetime) -> None:
    table = write(settings, now)
    before = rows_of(settings)
    old, open_ = hour_of(now - timedelta(hours=2)), hour_of(now)
    assert files(settings) == {old: 6, open_: 6}
    done = maintain_table(settings, TABLE, ())
    assert (done.merged, done.removed, files(settings)) == (6, 0, {old: 1, open_: 6})
    assert rows_of(settings) == before
    [merged] = [file for file in active_files(open_table(settings, TABLE)) if file.partition["hour"] == old]
    inside = pq.read_table(Path(settings.table_uri(TABLE)) / merged.path)
    assert inside["position"].to_pylist() == sorted(inside["position"].to_pylist())
    assert_valid_log(settings.table_uri(TABLE))
    entry = log_of(settings.table_uri(TABLE))[-1]
    changes = [action[kind]["dataChange"] for action in entry for kind in ("add", "remove") if kind in action]
    assert changes == [False] * 7, "a tailer passes it over"
    assert maintain_table(settings, TABLE, ()).merged == 0
    # The stream goes on: a position is the version of its own commit.
    position = table.commit([now], at=now)
    assert rows_of(settings)[-1]["position"] == position == len(log_of(settings.table_uri(TABLE))) - 1


def test_rows_up_to_a_position_are_the_table_at_that_version(settings: Settings, now: datetime) -> None:
    write(settings, now)
    delta = open_table(settings, TABLE)
    states = {}
    for version in range(12):
        delta.load_as_version(version)
        states[version] = sorted(delta.to_pyarrow_table()["payment_id"].to_pylist())
    maintain_table(settings, TABLE, ())
    for version, expected in states.items():
        assert sorted(row["payment_id"] for row in rows_of(settings) if row["position"] <= version) == expected


def test_merged_files_stay_for_a_day_and_go_then(settings: Settings, now: datetime) -> None:
    write(settings, now)
    before = rows_of(settings)
    maintain_table(settings, TABLE, ())
    age(settings)
    again = maintain_table(settings, TABLE, ())
    assert (again.removed, again.files_after) == (6, 7)
    assert rows_of(settings) == before


def test_files_that_were_merged_moments_ago_stay_though_they_are_old(settings: Settings, now: datetime) -> None:
    write(settings, now)
    age(settings)
    maintain_table(settings, TABLE, ())
    assert maintain_table(settings, TABLE, ()).removed == 0
    assert len(removed_files(settings, TABLE) or ()) == 6


@pytest.mark.parametrize("hint", ["fresh", "stale", "stale, its checkpoint gone", "lost", "torn", "empty"])
@pytest.mark.parametrize("parts", [1, 2])
def test_files_that_were_merged_moments_ago_stay_whatever_the_log_s_hint_says(
    settings: Settings, now: datetime, hint: str, parts: int
) -> None:
    table, log = write(settings, now), Path(settings.table_uri(TABLE)) / "_delta_log"
    age(settings)
    DeltaTable(settings.table_uri(TABLE)).create_checkpoint()
    old = (log / "_last_checkpoint").read_bytes()
    reader = DeltaTable(settings.table_uri(TABLE))  # such as a tailer, or a query that goes on
    before = sorted(reader.to_pyarrow_table()["payment_id"].to_pylist())
    assert maintain_table(settings, TABLE, ()).merged == 6
    table.commit([now], at=now)
    DeltaTable(settings.table_uri(TABLE)).create_checkpoint()
    split_checkpoint(log, 13, parts)
    table.commit([now], at=now)
    # As a commit cleans the log: what is older than the newest checkpoint goes.
    for path in log.glob("0*"):
        if int(path.name[:20]) < 13 and (path.suffix == ".json" or hint != "stale"):
            path.unlink()
    content = {"fresh": None, "lost": None, "torn": old[: len(old) // 2], "empty": b""}.get(hint, old)
    if content is not None:
        (log / "_last_checkpoint").write_bytes(content)
    elif hint == "lost":
        (log / "_last_checkpoint").unlink()
    assert maintain_table(settings, TABLE, ()).removed == 0
    assert sorted(reader.to_pyarrow_table()["payment_id"].to_pylist()) == before
    assert len(removed_files(settings, TABLE) or ()) == 6
    assert len(rows_of(settings)) == 26


def split_checkpoint(log: Path, version: int, parts: int) -> None:
    """Write a checkpoint in several files, as Spark may."""
    whole = log / f"{version:020d}.checkpoint.parquet"
    if parts > 1:
        rows = pq.read_table(whole)
        whole.unlink()
        size = -(-rows.num_rows // parts)
        for part in range(parts):
            name = f"{version:020d}.checkpoint.{part + 1:010d}.{parts:010d}.parquet"
            pq.write_table(rows.slice(part * size, size), log / name)
        last = json.loads((log / "_last_checkpoint").read_text())
        (log / "_last_checkpoint").write_text(json.dumps({"version": version, "size": last["size"], "parts": parts}))


def test_nothing_is_removed_if_the_log_does_not_say_what_was_removed_lately(settings: Settings, now: datetime) -> None:
    table, log = write(settings, now), Path(settings.table_uri(TABLE)) / "_delta_log"
    age(settings)
    maintain_table(settings, TABLE, ())
    table.commit([now], at=now)
    delta = open_table(settings, TABLE)
    delta.create_checkpoint()
    (log / f"{12:020d}.json").unlink()  # the merge's
    assert len(removed_files(settings, TABLE) or ()) == 6
    (log / f"{13:020d}.checkpoint.parquet").rename(log / f"{13:020d}.checkpoint.0000000001.0000000002.parquet")
    assert removed_files(settings, TABLE) is None, "the checkpoint is not whole"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(maintain, "open_table", lambda *_: delta)
        assert maintain.removable_files(settings, TABLE, (), KEPT) == []


@pytest.mark.slow
def test_checkpoints_keep_the_log_short_and_remember_what_was_removed(settings: Settings, now: datetime) -> None:
    table, log = StreamTable(settings), Path(settings.table_uri(TABLE)) / "_delta_log"
    old = now - timedelta(hours=2)
    for _ in range(90):
        table.commit([old], at=old)
    maintain_table(settings, TABLE, ())
    for _ in range(30):
        table.commit([now], at=now)
    last = json.loads((log / "_last_checkpoint").read_text())
    assert last["version"] >= 99
    assert len(removed_files(settings, TABLE) or ()) == 90, "read from the checkpoint"
    before = rows_of(settings)
    # A day later: the log's entries are old, and the next checkpoint removes them.
    import os

    past = (now - KEPT - timedelta(hours=1)).timestamp()
    for entry in log.glob("*.json"):
        os.utime(entry, (past, past))
        actions = [json.loads(line) for line in entry.read_text().splitlines()]
        for action in actions:
            if "commitInfo" in action:
                action["commitInfo"]["timestamp"] = int(past * 1000)
        entry.write_text("\n".join(map(json.dumps, actions)) + "\n")
        os.utime(entry, (past, past))
    for _ in range(101):
        table.commit([now], at=now)
    left = sorted(int(entry.stem) for entry in log.glob("*.json"))
    assert left[0] >= 99
    assert len(left) < 150
    assert rows_of(settings)[: len(before)] == before
    assert sorted(DeltaTable(settings.table_uri(TABLE)).to_pyarrow_table()["payment_id"].to_pylist()) == list(
        range(221)
    )


def test_nights_that_rows_stand_on_are_pinned(settings: Settings, now: datetime) -> None:
    table = StreamTable(settings)
    for days, base in (
        (40, "customer=2025-11-01@3"),
        (20, "customer=2026-01-01@17"),
        (0, "customer=2026-01-02@18"),
        (0, "customer="),
        (0, ""),
    ):
        at = now - timedelta(days=days)
        table.commit([at], at=at, base=base)
    assert read_stream_bases(settings, TABLE) == {"customer=2026-01-01@17", "customer=2026-01-02@18", "customer="}
    assert read_stream_bases(settings, "stream_none") == set()
    pins = pinned_versions(settings.model_copy(update={"project": "watched_project"}))["features_customer"]
    assert {(pin.version, pin.partition) for pin in pins} == {(17, "2026-01-01"), (18, "2026-01-02")}
