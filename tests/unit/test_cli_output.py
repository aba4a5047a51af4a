"""How values read: in JSON, in tables, as sizes and durations."""

import json
from datetime import date, datetime, timezone
from pathlib import Path

import pytest

from forecache.base.results import StageResult
from forecache.cli.base import FLAGS
from forecache.cli.output import (
    describe_outcome,
    format_cell,
    format_dates,
    format_duration,
    print_json,
    size,
    stage_dict,
)
from forecache.cli.progress import StageProgress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (12.4, "12 s"),
        (185, "3 min 5 s"),
        (7440, "2 h 4 min"),
        (86400 * 30, "30 days"),
        (9e8, "29 years"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(7, "7 B"), (9_471_929, "9.5 MB"), (123_000, "123 kB"), (2e12, "2.0 TB")]
)
def test_size(num_bytes: float, text: str) -> None:
    assert size(num_bytes) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (True, "yes"), (23502, "23,502"), (0.75, "0.75"), (1.0, "1"), (123456.7, "123,457"), ("a", "a")],
)
def test_cell(value: object, text: str) -> None:
    assert format_cell(value) == text


def test_json_takes_dates_times_paths_and_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    moment = datetime(1998, 6, 30, 12, tzinfo=timezone.utc)
    print_json({"d": date(1998, 6, 30), "t": moment, "naive": moment.replace(tzinfo=None), "p": Path("a"), "b": b"x"})
    expected = {"d": "1998-06-30", "t": "1998-06-30T12:00:00Z", "naive": "1998-06-30T12:00:00Z", "p": "a", "b": "x"}
    assert json.loads(capsys.readouterr().out) == expected


def test_nights_of_a_range_are_counted() -> None:
    assert format_dates([date(1998, 6, 1), date(1998, 6, 2)]) == "1998-06-01..1998-06-02 (2)"


def test_stage_keys_are_stable() -> None:
    result = StageResult("features", "churn", 5, 1.23456, (date(1998, 6, 30),), "features_churn", 3)
    assert stage_dict(result) == {
        "stage": "features",
        "subject": "churn",
        "nights": ["1998-06-30"],
        "rows": 5,
        "seconds": 1.235,
        "table": "features_churn",
        "delta_version": 3,
        "skipped": False,
        "details": {},
    }


def test_outcome_says_what_was_written_or_that_nothing_was() -> None:
    assert describe_outcome(StageResult("features", "churn", 5, 1.0, table="features_churn", delta_version=3)) == (
        "features_churn at Delta version 3"
    )
    assert describe_outcome(StageResult("features", "churn", 5, 1.0, skipped=True)) == "already current"


@pytest.mark.parametrize(
    ("files", "rows", "aside"),
    [
        ({}, 0, ""),
        ({}, 1, "; in quarantine: 1 row"),
        ({"a.csv": "it is empty", "b.csv": "it is empty"}, 10_000, "; in quarantine: 2 whole files, 10,000 rows"),
    ],
)
def test_outcome_of_an_ingestion_says_what_is_in_quarantine(files: dict[str, str], rows: int, aside: str) -> None:
    details = {"quarantined_files": files, "quarantined_rows": rows}
    found = StageResult("ingest", "orders", 5, 1.0, table="raw_orders", delta_version=3, details=details)
    assert describe_outcome(found) == f"raw_orders at Delta version 3{aside}"


FIGURES = {"rows_per_second": 812_345, "core_s": 36.0, "price_on_demand": 0.0123, "worker_bytes": 310_000_000}


def test_outcome_of_scoring_holds_what_came_of_the_plan_beside_it() -> None:
    details = {"actual": FIGURES, "predicted": FIGURES | {"rows_per_second": 800_000}}
    scored = StageResult("score", "churn", 5, 1.0, table="predictions_churn", delta_version=3, details=details)
    assert describe_outcome(scored) == (
        "predictions_churn at Delta version 3 "
        "(812,345 rows/s, 800,000 predicted, 0.01 core-hours, 0.0123 on demand, 310 MB a worker)"
    )


def test_progress_that_is_no_terminal_says_a_line_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from forecache.scoring.tasks.job import progress_of

    monkeypatch.setattr(FLAGS, "json", False)  # whatever the command before this test was called with
    with StageProgress() as progress:
        for done in range(1, 100):
            progress.update(*progress_of((done // 25, 4), (done, 100), 1.0))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("scoring 100 rows: 0 of 4 shards, 1 rows/s, 99 s left (1%)")
