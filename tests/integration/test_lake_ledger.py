"""The stage ledger: the last row is that of the newest commit, whatever the clocks say."""

from datetime import date, datetime, timedelta, timezone

import pytest

from forecache.lake import ledger
from forecache.lake.ledger import StageRecord, last_record, last_records, record
from forecache.settings import Settings

NIGHT = date(2026, 1, 1)


def row(inputs: str, night: date | None = NIGHT) -> StageRecord:
    return StageRecord("score", "orders", night, inputs, "t", 1, 10, 0.1)


def test_the_last_commit_counts_where_a_clock_went_back(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        behind = timedelta(0)

        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(timezone.utc) - cls.behind

    monkeypatch.setattr(ledger, "datetime", Clock)
    for number in range(4):
        record(settings, [row(f"inputs {number}")])
        Clock.behind += timedelta(minutes=5)
    found = last_record(settings, "score", "orders", NIGHT)
    assert found is not None
    assert found.inputs == "inputs 3"
    assert last_records(settings, "score", "orders")[NIGHT].inputs == "inputs 3"


def test_rows_of_two_writers_at_once_have_the_order_of_their_commits(settings: Settings) -> None:
    from concurrent.futures import ThreadPoolExecutor

    record(settings, [row("first")])
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: record(settings, [row(f"{number}")]), range(8)))
    from forecache.lake.delta.tables import open_table

    written = open_table(settings, ledger.LEDGER_TABLE).to_pyarrow_table().sort_by("commit_version").to_pylist()
    assert [r["commit_version"] for r in written] == list(range(9))
    found = last_record(settings, "score", "orders", NIGHT)
    assert found is not None
    assert found.inputs == written[-1]["inputs"]


def test_a_stage_without_nights_is_told_from_its_nights(settings: Settings) -> None:
    record(settings, [row("night"), row("none", None)])
    without, with_night = last_record(settings, "score", "orders"), last_record(settings, "score", "orders", NIGHT)
    assert without is not None
    assert with_night is not None
    assert (without.inputs, with_night.inputs) == ("none", "night")
    assert last_record(settings, "score", "orders", date(2026, 1, 2)) is None
