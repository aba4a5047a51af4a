"""The project loads, and its made-up data are what the source declares."""

from datetime import datetime, timedelta, timezone

from forecache import load_settings, read_project
from new_project.landing import landing_days


def test_the_project_loads() -> None:
    project = read_project(load_settings(project="new_project"))
    assert not project.broken
    assert project.nightly


def test_the_made_up_data_have_rows_of_every_day_until_yesterday() -> None:
    days, ids = [], []
    for source, day, rows in landing_days():
        assert all(len(row) == len(source.columns) for row in rows)
        assert {row[-1].date() for row in rows} == {day}
        days.append(day)
        ids += [row[0] for row in rows]
    assert days[-1] == datetime.now(timezone.utc).date() - timedelta(days=1)
    assert len(days) == (days[-1] - days[0]).days + 1
    assert len(set(ids)) == len(ids)
