"""Schedules: which days are as-of dates, when runs start (as Dagster starts them), and what is refused at load."""

import dataclasses
from datetime import date, datetime, timedelta, timezone
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from dagster._utils.schedules import schedule_execution_time_iterator
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from forecache.base.errors import InputError, SettingsError
from forecache.base.settings import Settings, load_settings
from forecache.declare import FeatureView, Label, Pipeline, Publish, Schedule, Training, load_pipeline
from forecache.declare.as_of import as_of_range, newest_as_of, require_as_of
from forecache.declare.loading import read_project
from forecache.declare.served import max_age_h
from forecache.lake.training_set import as_of_dates
from forecache.plugins.drift.monitor import newly_labelled_dates

UTC = timezone.utc
WEEKLY = Schedule(every="week", cron="0 3 * * mon")
MONTHLY = Schedule(every="month", cron="0 3 1 * *")


@pytest.fixture
def churn(settings: Settings) -> Pipeline:
    return load_pipeline(settings, "churn")


def going_on(pipeline: Pipeline, **changes: Any) -> Pipeline:
    """The pipeline with sources that start on a Thursday and go on."""
    return dataclasses.replace(with_days(pipeline, date(2026, 1, 1)), **changes)


def with_days(pipeline: Pipeline, start: date, end: date | None = None) -> Pipeline:
    """The pipeline with other days of the sources of its view."""
    assert isinstance(pipeline.features, FeatureView)
    sources = tuple(dataclasses.replace(source, start=start, end=end) for source in pipeline.features.sources)
    return dataclasses.replace(pipeline, features=dataclasses.replace(pipeline.features, sources=sources))


def test_the_default_is_every_night_at_three_and_training_on_sundays(churn: Pipeline) -> None:
    assert churn.schedule == Schedule(every="day", on=None, cron="0 3 * * *", time_zone="UTC", training="0 5 * * 0")
    assert (churn.start, churn.end) == (churn.all_sources[0].start, churn.all_sources[0].end)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (WEEKLY, ["2026-01-04", "2026-01-11", "2026-01-18", "2026-01-25", "2026-02-01"]),
        (Schedule(every="week", on="wednesday"), ["2026-01-07", "2026-01-14", "2026-01-21", "2026-01-28"]),
        (MONTHLY, ["2026-01-31"]),
        (Schedule(every="month", on=28), ["2026-01-28"]),
        (Schedule(every="month", on=1), ["2026-01-01", "2026-02-01"]),
    ],
)
def test_as_of_dates_are_those_of_the_weekday_or_the_day_of_the_month(schedule: Schedule, expected: list[str]) -> None:
    found = schedule.as_of_dates(date(2026, 1, 1), date(2026, 2, 2))
    assert [day.isoformat() for day in found] == expected
    assert schedule.last_as_of_until(date(2026, 2, 2)) == found[-1]
    assert schedule.first_as_of_from(date(2026, 1, 1)) == found[0]


def test_the_last_day_of_a_month_knows_leap_years() -> None:
    days = MONTHLY.as_of_dates(date(2024, 1, 1), date(2024, 4, 30))
    assert [day.isoformat() for day in days] == ["2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30"]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"cron": "0 * * * *"}, r"cron='0 \* \* \* \*', which runs more often than once a day.*hourly.*not supported"),
        ({"cron": "0,30 3 * * *"}, "more often than once a day"),
        ({"cron": "* 3 * * *"}, "more often than once a day"),
        ({"cron": "0 3 * *"}, "which is no cron expression. Write five fields"),
        ({"cron": "0 24 * * *"}, "'24' is not a number from 0 to 23"),
        ({"cron": "0 3 * * funday"}, "'funday' is not a number from 0 to 7"),
        ({"cron": "0 3 5-2 * *"}, "'5-2' ends before it starts"),
        ({"cron": "0 3 * * 5/1"}, "'5/1' has a step without a range"),
        ({"cron": "0 3 */0 * *"}, "'0' is not a number from 1 to 31"),
        ({"cron": "0 3 30 2 *"}, "which never runs"),
        ({"cron": "0 3 1 * mon"}, "names days of the month and weekdays: cron runs on either. Name one"),
        ({"cron": "@daily"}, "no cron expression"),
        ({"training": "sometimes"}, "training='sometimes', which is no cron expression"),
        ({"time_zone": "Europe/Bärlin"}, "time_zone='Europe/Bärlin', which is not known here"),
        ({"time_zone": "../etc/passwd"}, "which is not known here"),
        ({"time_zone": ""}, "which is not known here"),
        ({"on": "monday"}, "Every day is an as-of date"),
        ({"every": "week", "on": "mon"}, "on='mon'. Give one of monday, tuesday"),
        ({"every": "week", "on": 1}, "on=1. Give one of monday"),
        ({"every": "month", "on": 29}, "on=29. Give a day from 1 to 28, or 'last'"),
        ({"every": "month", "on": "monday"}, "from 1 to 28, or 'last'"),
        ({"every": "hour"}, "every='hour'. It is one of 'day', 'week', 'month'"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_when_it_loads(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Schedule(**declared)


ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia")
_weekdays = st.sampled_from(["*", "0", "7", "mon", "mon-fri", "1-5/2", "*/2", "SUN,wed"]).map(
    lambda weekdays: ("*", weekdays)
)
_days = st.sampled_from(["1", "L", "15,31", "*/10", "3-9/3", "28-31", "20-31/5"]).map(lambda days: (days, "*"))
_months = st.sampled_from(["*", "1", "feb", "*/3", "6-12", "jan,JUL"])


def _moments(schedule: Schedule, after: datetime, number: int) -> list[datetime]:
    return list(islice(schedule.run_cron.run_moments(schedule.zone, after), number))


def _ticks(schedule: Schedule, after: datetime, number: int) -> list[datetime]:
    """What Dagster's scheduler makes of it."""
    found = schedule_execution_time_iterator(after.timestamp() + 1, schedule.cron, schedule.time_zone)
    return [next(found).astimezone(UTC) for _ in range(number)]


@hypothesis_settings(max_examples=200)
@given(
    st.integers(0, 59), st.integers(0, 23), st.one_of(_days, _weekdays), _months, st.sampled_from(ZONES),
    st.datetimes(datetime(2021, 1, 1), datetime(2029, 1, 1)),
)  # fmt: skip
def test_runs_start_when_dagster_starts_them(
    minute: int, hour: int, days: tuple[str, str], months: str, zone: str, after: datetime
) -> None:
    schedule = Schedule(cron=f"{minute} {hour} {days[0]} {months} {days[1]}", time_zone=zone)
    moment = after.replace(tzinfo=UTC)
    ours = _moments(schedule, moment, 4)
    assert ours == _ticks(schedule, moment, 4)
    assert schedule.latest_run(ours[3]) == ours[2]


def test_at_half_past_two_in_berlin_each_day_has_one_run_also_where_the_clock_changes() -> None:
    schedule = Schedule(cron="30 2 * * *", time_zone="Europe/Berlin")
    spring = _ticks(schedule, datetime(2026, 3, 27, 12, tzinfo=UTC), 3)
    assert [tick.isoformat() for tick in spring] == [
        "2026-03-28T01:30:00+00:00",
        "2026-03-29T01:00:00+00:00",  # 03:00: half past two does not exist
        "2026-03-30T00:30:00+00:00",
    ]
    autumn = _ticks(schedule, datetime(2026, 10, 24, 12, tzinfo=UTC), 2)
    assert [tick.isoformat() for tick in autumn] == [
        "2026-10-25T01:30:00+00:00",  # the second of two
        "2026-10-26T01:30:00+00:00",
    ]


@hypothesis_settings(max_examples=100)
@given(
    st.sampled_from([("Europe/Berlin", 3, 28), ("Europe/Berlin", 10, 24), ("America/New_York", 3, 7),
                     ("America/New_York", 10, 31), ("Australia/Lord_Howe", 4, 3), ("Australia/Lord_Howe", 10, 2),
                     ("Asia/Beirut", 3, 28), ("America/Sao_Paulo", 3, 3), ("Africa/Cairo", 4, 23)]),
    st.integers(0, 4), st.integers(0, 59),
)  # fmt: skip
def test_runs_start_when_dagster_starts_them_where_the_clock_changes(
    change: tuple[str, int, int], hour: int, minute: int
) -> None:
    zone, month, day = change
    schedule = Schedule(cron=f"{minute} {hour} * * *", time_zone=zone)
    before = datetime(2026, month, day, tzinfo=UTC) - timedelta(days=1)
    assert _moments(schedule, before, 4) == _ticks(schedule, before, 4)


@pytest.mark.parametrize(
    "cron", ["30 2 * * *", "30 1 * * *", "30 0 * * *", "0 12 * * *", "45 23 * * *", "0 3 * * 1-5", "0 3 * * 2"]
)
@pytest.mark.parametrize("every", ["day", "week"])
@pytest.mark.parametrize("zone", ZONES)
def test_a_year_of_runs_has_every_as_of_date_once_it_has_ended(cron: str, every: Any, zone: str) -> None:
    schedule = Schedule(every=every, cron=cron, time_zone=zone)
    taken: list[date] = []
    for tick in _ticks(schedule, datetime(2026, 1, 10, tzinfo=UTC), 400 if cron.endswith("* * *") else 60):
        first, last = schedule.due_as_of_dates(tick)
        assert datetime.combine(last + timedelta(days=1), datetime.min.time(), UTC) <= tick
        taken += schedule.as_of_dates(first, last)
    assert taken == sorted(taken)
    assert sorted(set(taken)) == list(schedule.as_of_dates(taken[0], taken[-1]))
    # A run early in the day may find that none has ended since the one before it, and takes the newest again.
    assert len(taken) <= len(set(taken)) + (2 if every == "day" else 400)


def test_a_run_takes_all_as_of_dates_since_the_one_before_it() -> None:
    def due(schedule: Schedule, *moment: int) -> tuple[str, ...]:
        return tuple(day.isoformat() for day in schedule.due_as_of_dates(datetime(*moment, tzinfo=UTC)))

    assert due(Schedule(), 2026, 3, 1, 3) == ("2026-02-28", "2026-02-28")
    weekdays = Schedule(cron="0 3 * * mon-fri")
    assert due(weekdays, 2026, 3, 2, 3) == ("2026-02-27", "2026-03-01")
    assert due(weekdays, 2026, 3, 3, 3) == ("2026-03-02", "2026-03-02")
    assert due(WEEKLY, 2026, 3, 2, 3) == ("2026-03-01", "2026-03-01")
    assert due(Schedule(every="week"), 2026, 3, 5, 3) == ("2026-03-01", "2026-03-01")
    assert due(MONTHLY, 2026, 3, 1, 3) == ("2026-02-28", "2026-02-28")
    # 01:30 in Berlin is before midnight UTC from spring to autumn: one date again in spring, and two in autumn.
    early = Schedule(cron="30 1 * * *", time_zone="Europe/Berlin")
    assert due(early, 2026, 10, 26, 0, 30) == ("2026-10-24", "2026-10-25")


@pytest.mark.parametrize(
    ("schedule", "longest", "default"),
    [
        (Schedule(), 27, 36),
        (WEEKLY, 171, 180),
        (Schedule(every="week"), 171, 180),
        (MONTHLY, 747, 756),
        (Schedule(cron="0 3 * * mon-fri"), 75, 84),
        (Schedule(cron="30 2 * * *", time_zone="Europe/Berlin"), 25.5, 34.5),
    ],
)
def test_answers_are_stale_only_after_the_next_run(schedule: Schedule, longest: float, default: float) -> None:
    assert (schedule.longest_age_h, schedule.max_age_h) == (longest, default)


def test_a_declared_age_that_is_over_before_the_next_run_is_refused(churn: Pipeline) -> None:
    with pytest.raises(
        SettingsError,
        match=r"max_age_h=36, and answers are up to 171 hours old when the next run starts \(every Sunday, '0 3 \* \* "
        r"mon' in UTC\)\. Leave it out, which gives 180, or give more",
    ):
        dataclasses.replace(churn, schedule=WEEKLY)
    weekly = dataclasses.replace(churn, schedule=WEEKLY, publish=Publish())
    assert max_age_h(weekly) == 180
    assert max_age_h(dataclasses.replace(weekly, publish=Publish(max_age_h=200))) == 200
    assert max_age_h(dataclasses.replace(churn, publish=Publish())) == 36


def test_the_first_and_the_last_as_of_date_lie_within_the_sources_days(churn: Pipeline) -> None:
    open_rules = {"publish": Publish(), "schedule": WEEKLY}
    weekly = going_on(churn, **open_rules)
    assert (weekly.start, weekly.end) == (date(2026, 1, 4), None)
    ended = with_days(weekly, date(2026, 1, 1), date(2026, 1, 23))
    assert ended.end == date(2026, 1, 18)
    with pytest.raises(SettingsError, match=r"no as-of date: its schedule has every Sunday, .* end before 2026-01-04"):
        with_days(weekly, date(2026, 1, 1), date(2026, 1, 3))


def test_the_newest_as_of_date_has_ended_in_utc(churn: Pipeline) -> None:
    weekly = going_on(churn, schedule=WEEKLY, publish=Publish())
    assert newest_as_of(weekly, datetime(2026, 3, 1, 23, 59, tzinfo=UTC)) == date(2026, 2, 22)
    assert newest_as_of(weekly, datetime(2026, 3, 2, 0, 0, tzinfo=UTC)) == date(2026, 3, 1)
    assert newest_as_of(weekly, datetime(2026, 3, 2, 0, 30, tzinfo=ZoneInfo("Europe/Berlin"))) == date(2026, 2, 22)
    assert newest_as_of(churn) == churn.end


def test_a_day_that_is_no_as_of_date_names_the_nearest_ones(churn: Pipeline) -> None:
    weekly = going_on(churn, schedule=WEEKLY, publish=Publish())
    require_as_of(weekly, [date(2026, 1, 4), date(2026, 1, 11)])
    with pytest.raises(
        InputError,
        match=r"2026-01-07 is no as-of date of 'churn', which has every Sunday\. Give 2026-01-04 or ",
    ):
        require_as_of(weekly, [date(2026, 1, 4), date(2026, 1, 7)])
    with pytest.raises(InputError, match="2026-01-01 lies outside 'churn'.*from 2026-01-04"):
        require_as_of(weekly, [date(2026, 1, 1)])
    ended = with_days(weekly, date(2026, 1, 1), date(2026, 1, 13))
    with pytest.raises(InputError, match="2026-01-07 is no as-of date"):
        require_as_of(ended, [date(2026, 1, 7)])


def test_a_range_of_days_is_that_of_its_as_of_dates(churn: Pipeline) -> None:
    weekly = going_on(churn, schedule=WEEKLY, publish=Publish())
    assert as_of_range(weekly, date(2026, 1, 1), date(2026, 1, 31)) == (date(2026, 1, 4), date(2026, 1, 25))
    with pytest.raises(InputError, match=r"2026-01-05 is no as-of date.* Give 2026-01-04 or 2026-01-11"):
        as_of_range(weekly, date(2026, 1, 5), date(2026, 1, 10))
    with pytest.raises(InputError, match="2025-12-28 lies outside"):
        as_of_range(weekly, date(2025, 12, 24), date(2026, 1, 31))
    with pytest.raises(InputError, match="lies outside 'churn'. Its dates go from 2026-01-04 to 20"):
        as_of_range(weekly, date(2026, 1, 4), date(2999, 1, 1))


def test_training_dates_are_as_of_dates_with_a_horizon_between_the_splits(churn: Pipeline) -> None:
    for schedule in (WEEKLY, MONTHLY, Schedule(every="month", on=15)):
        pipeline = going_on(
            churn,
            schedule=schedule,
            publish=Publish(),
            label=dataclasses.replace(churn.label, horizon_days=30),
            training=Training(num_as_of=4, every_days=30),
        )
        found = as_of_dates(pipeline, schedule.last_as_of_until(date(2027, 1, 31)))
        days = [day for split in ("train", "validation", "test") for day in found[split]]
        assert len(found["train"]) == 4
        assert days == sorted(set(days))
        assert all(schedule.is_as_of(day) for day in days)
        apart = [found["validation"][0] - found["train"][-1], found["test"][0] - found["validation"][0]]
        assert min(apart) >= timedelta(days=30)
    with pytest.raises(InputError, match=r"its data starts on 2026-01-15\. .*train on 2026-05-15 or later"):
        as_of_dates(pipeline, date(2026, 2, 15))
    assert as_of_dates(pipeline, date(2026, 5, 15))["train"]


def test_every_as_of_date_has_its_performance_with_the_first_one_by_which_its_labels_are_known(churn: Pipeline) -> None:
    for schedule in (Schedule(), WEEKLY, MONTHLY):
        for horizon in (1, 7, 30, 90):
            label: Label = dataclasses.replace(churn.label, horizon_days=horizon)
            pipeline = going_on(churn, schedule=schedule, publish=Publish(), label=label)
            nights = schedule.as_of_dates(date(2026, 1, 1), date(2027, 6, 30))
            found = [(night, day) for night in nights for day in newly_labelled_dates(pipeline, night)]
            days = [day for _, day in found]
            assert days == list(schedule.as_of_dates(days[0], days[-1]))
            assert all(schedule.first_as_of_from(day + timedelta(days=horizon)) == night for night, day in found)


def test_pipelines_that_share_a_view_have_the_same_as_of_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shared_view" / "pipelines"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "both.py").write_text(
        "from dataclasses import replace\nfrom dagster_project.pipelines.churn import churn\n"
        "from forecache.declare import Publish, Schedule\n"
        "weekly = replace(churn, name='weekly', publish=Publish(), schedule=Schedule(every='week'))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    project = read_project(load_settings(home=tmp_path, project="shared_view"))
    assert "'churn' and 'weekly' share the feature view 'customer'" in str(project.broken["shared_view.pipelines.both"])
    assert "differ: every day, and every Sunday" in str(project.broken["shared_view.pipelines.both"])
