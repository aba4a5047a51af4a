"""The rows of a stream's table, commit by commit, from its log or, where that was cleaned, from its files."""

import json
from pathlib import Path

import pyarrow as pa
from topic_job import commit_answers

from forecache.base.settings import Settings
from forecache.kit.delta.log import open_if_exists
from forecache.plugins.stream_answers.send_answers import CommittedRows, row_messages

TABLE = "stream_answers"


def payments(commits: list[tuple[int, pa.Table]]) -> dict[int, list[str]]:
    return {version: rows["payment"].to_pylist() for version, rows in commits}


def test_commits_come_once_and_in_order(settings: Settings) -> None:
    commit_answers(settings, TABLE, 2)
    commit_answers(settings, TABLE, 3)
    committed = CommittedRows(settings, TABLE, -1)
    assert payments(list(committed.read())) == {0: ["0-0", "0-1"], 1: ["1-0", "1-1", "1-2"]}
    assert list(committed.read()) == []
    commit_answers(settings, TABLE, 1)
    assert payments(list(committed.read())) == {2: ["2-0"]}
    assert payments(list(CommittedRows(settings, TABLE, 1).read())) == {2: ["2-0"]}


def test_a_compaction_brings_no_rows_again(settings: Settings) -> None:
    for _ in range(3):
        commit_answers(settings, TABLE, 2)
    delta = open_if_exists(settings, TABLE)
    assert delta is not None
    assert delta.optimize.compact()["numFilesRemoved"] == 3
    committed = CommittedRows(settings, TABLE, 0)
    assert payments(list(committed.read())) == {1: ["1-0", "1-1"], 2: ["2-0", "2-1"]}
    assert committed.version == 3


def test_rows_are_found_by_position_where_the_log_was_cleaned(settings: Settings) -> None:
    for _ in range(4):
        commit_answers(settings, TABLE, 2)
    delta = open_if_exists(settings, TABLE)
    assert delta is not None
    delta.optimize.compact()
    delta.create_checkpoint()
    for version in range(3):
        (Path(settings.table_uri(TABLE)) / "_delta_log" / f"{version:020d}.json").unlink()
    found = payments(list(CommittedRows(settings, TABLE, 0).read()))
    assert found == {position: [f"{position}-0", f"{position}-1"] for position in (1, 2, 3)}


def test_messages_are_json_keyed_by_what_they_are_about() -> None:
    from datetime import datetime, timezone

    rows = pa.table(
        {
            "card": pa.array([7, 8], pa.int64()),
            "shop": ["a", "b"],
            "at": pa.array([datetime(2026, 3, 1, 8, tzinfo=timezone.utc)] * 2, pa.timestamp("us", tz="UTC")),
            "score": [0.25, float("nan")],
        }
    )
    (key, value), (_, other) = row_messages(rows, ("card", "shop"))
    assert key == b"7|a"
    assert json.loads(value) == {"card": 7, "shop": "a", "at": "2026-03-01T08:00:00Z", "score": 0.25}
    assert json.loads(other)["score"] is None
