"""The stage ledger: the last row is that of the newest commit, whatever the clocks say."""

import shutil
import subprocess
import sys
from datetime import date, datetime, timedelta, timezone

import pytest

from forecache.base.settings import Settings
from forecache.kit.delta import small_tables
from forecache.kit.delta.tables import open_table
from forecache.lake import ledger
from forecache.lake.ledger import StageRecord, append_records, last_record, last_records

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
        append_records(settings, [row(f"inputs {number}")])
        Clock.behind += timedelta(minutes=5)
    found = last_record(settings, "score", "orders", NIGHT)
    assert found is not None
    assert found.inputs == "inputs 3"
    assert last_records(settings, "score", "orders")[NIGHT].inputs == "inputs 3"


def test_rows_of_two_writers_at_once_have_the_order_of_their_commits(settings: Settings) -> None:
    from concurrent.futures import ThreadPoolExecutor

    append_records(settings, [row("first")])
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: append_records(settings, [row(f"{number}")]), range(8)))
    written = open_table(settings, ledger.LEDGER_TABLE).to_pyarrow_table().sort_by("commit_version").to_pylist()
    assert [r["commit_version"] for r in written] == list(range(9))
    found = last_record(settings, "score", "orders", NIGHT)
    assert found is not None
    assert found.inputs == written[-1]["inputs"]


def test_a_stage_without_nights_is_told_from_its_nights(settings: Settings) -> None:
    append_records(settings, [row("night"), row("none", None)])
    without, with_night = last_record(settings, "score", "orders"), last_record(settings, "score", "orders", NIGHT)
    assert without is not None
    assert with_night is not None
    assert (without.inputs, with_night.inputs) == ("none", "night")
    assert last_record(settings, "score", "orders", date(2026, 1, 2)) is None


def test_a_look_up_sees_what_another_process_has_committed(settings: Settings) -> None:
    script = (
        "import sys\nfrom datetime import date\nfrom forecache.lake.ledger import StageRecord, append_records\n"
        "from forecache.base.settings import load_settings\nsettings = load_settings(home=sys.argv[1])\n"
        "for line in sys.stdin:\n"
        "    night = date(2026, 1, 1)\n"
        "    append_records(settings, [StageRecord('score', 'orders', night, line.strip(), 't', 1, 10, 0.1)])\n"
        "    print('recorded', flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(settings.home_path)]
    assert last_records(settings, "score", "orders") == {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        for number in range(20):
            print(f"inputs {number}", file=other.stdin, flush=True)
            assert other.stdout.readline() == "recorded\n"
            found = last_record(settings, "score", "orders", NIGHT)
            assert found is not None
            assert found.inputs == f"inputs {number}"
        other.stdin.close()


def test_a_look_up_sees_a_table_that_was_removed_and_made_anew(settings: Settings) -> None:
    for number in range(3):
        append_records(settings, [row(f"old {number}")])
    assert last_record(settings, "score", "orders", NIGHT) is not None
    shutil.rmtree(settings.table_uri(ledger.LEDGER_TABLE))
    assert last_record(settings, "score", "orders", NIGHT) is None
    for number in range(3):
        append_records(settings, [row(f"new {number}")])
    found = last_record(settings, "score", "orders", NIGHT)
    assert found is not None
    assert found.inputs == "new 2"


def test_many_small_files_are_merged_and_nothing_is_lost(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_tables, "MOST_SMALL_FILES", 10)
    monkeypatch.setattr(small_tables, "_SMALL_FILE_ROWS", 25)
    nights = [NIGHT + timedelta(days=number) for number in range(70)]
    for number, night in enumerate(nights):
        append_records(
            settings, [StageRecord(f"stage {number % 3}", f"p{number % 7}", night, f"{number}", "t", 1, 1, 0.1)]
        )
        found = last_record(settings, f"stage {number % 3}", f"p{number % 7}", night)
        assert found is not None
        assert found.inputs == f"{number}"
    rows = [
        (row.stage, row.subject, row.as_of, row.inputs)
        for stage in range(3)
        for subject in range(7)
        for row in last_records(settings, f"stage {stage}", f"p{subject}").values()
    ]
    wanted = [(f"stage {number % 3}", f"p{number % 7}", night, f"{number}") for number, night in enumerate(nights)]
    assert sorted(rows) == sorted(wanted)
    assert len(open_table(settings, ledger.LEDGER_TABLE).file_uris()) < 20


def test_writers_at_once_merge_and_lose_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr(small_tables, "MOST_SMALL_FILES", 5)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: append_records(settings, [row(f"{number}")]), range(40)))
    written = open_table(settings, ledger.LEDGER_TABLE).to_pyarrow_table().sort_by("commit_version").to_pylist()
    assert [r["commit_version"] for r in written] == list(range(40))
    assert sorted(int(r["inputs"]) for r in written) == list(range(40))
