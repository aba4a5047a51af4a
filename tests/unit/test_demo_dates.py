"""The dates of `make demo`: whole weeks after those of the data, in a home always the same."""

import json
import os
import subprocess
import sys
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from dagster_project.landing import move_dates
from dagster_project.purchases import FIRST_DAY, LAST_DAY, read_shift

DAYS = [date(2026, 12, 1) + timedelta(days=number) for number in range(7)]
SHOW = """
import json
from dagster_project.landing import landing_days
from dagster_project.pipelines.churn import churn
days = list(landing_days())
print(json.dumps([[str(day), rows[0]] for _, day, rows in (days[0], days[-1])] + [str(churn.start), str(churn.end)]))
"""


@pytest.mark.parametrize("today", DAYS, ids=str)
def test_yesterday_has_data_on_each_weekday_and_later_runs_move_nothing(tmp_path: Path, today: date) -> None:
    move_dates(tmp_path, today)
    shift = read_shift(tmp_path)
    assert shift % timedelta(weeks=1) == timedelta()
    assert 1 - 7 < (today - (LAST_DAY + shift)).days <= 1
    move_dates(tmp_path, today + timedelta(days=30))
    assert read_shift(tmp_path) == shift


@pytest.mark.parametrize("landed", ["landing", "demo-s3"])
def test_a_home_with_landed_data_keeps_its_dates(tmp_path: Path, landed: str) -> None:
    (tmp_path / landed).mkdir()
    move_dates(tmp_path, DAYS[0])
    assert read_shift(tmp_path) == timedelta()


@pytest.mark.parametrize("is_moved", [True, False])
def test_files_rows_and_declared_days_move_together_until_yesterday(tmp_path: Path, is_moved: bool) -> None:
    environment = {**os.environ, "FORECACHE_HOME": str(tmp_path)}
    yesterday = {datetime.now(timezone.utc).date() - timedelta(days=1)}
    if is_moved:
        subprocess.run([sys.executable, "-m", "dagster_project.landing"], env=environment, check=True)
    shown = subprocess.run([sys.executable, "-c", SHOW], env=environment, check=True, capture_output=True, text=True)
    yesterday.add(datetime.now(timezone.utc).date() - timedelta(days=1))  # midnight may have passed meanwhile
    (first, first_row), (last, last_row), start, end = json.loads(shown.stdout)
    shift = read_shift(tmp_path)
    assert (start, end) == (str(FIRST_DAY + shift), str(LAST_DAY + shift))
    assert (first, first_row) == (start, ["00001", start, "1", "11.77"])
    assert last == last_row[1]
    assert last in {str(min(LAST_DAY + shift, day)) for day in yesterday}
