"""What Dagster makes of a pipeline's schedule: partitions, schedules, freshness."""

import dataclasses
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time

from assets.partitions import nightly_freshness, pipeline_partitions, source_dependencies
from forecache import Recommender
from forecache.base.settings import PROJECT_ROOT, Settings, load_settings
from forecache.declare import FeatureView, Pipeline, Publish, Schedule, load_pipeline, load_served
from forecache.plugins.drift.orchestration import define_monitoring
from forecache.plugins.recommend.orchestration import define_recommender
from jobs.definitions import pipeline_definitions

UTC = timezone.utc


@pytest.fixture
def declare(settings: Settings) -> Callable[..., Pipeline]:
    """Churn with sources that go on from a Thursday, and a schedule."""
    churn = load_pipeline(settings, "churn")

    def declared(end: date | None = None, **schedule: Any) -> Pipeline:
        assert isinstance(churn.features, FeatureView)
        sources = tuple(dataclasses.replace(s, start=date(2026, 1, 1), end=end) for s in churn.features.sources)
        view = dataclasses.replace(churn.features, sources=sources)
        return dataclasses.replace(churn, features=view, publish=Publish(), schedule=Schedule(**schedule))

    return declared


def keys(pipeline: Pipeline, *now: int) -> list[str]:
    with freeze_time(datetime(*now, tzinfo=UTC)):
        return list(pipeline_partitions(pipeline).get_partition_keys())


def test_partitions_are_the_as_of_dates_that_have_ended(declare: Callable[..., Pipeline]) -> None:
    weekly = declare(every="week")
    assert keys(weekly, 2026, 1, 18, 23, 58) == ["2026-01-04", "2026-01-11"]
    assert keys(weekly, 2026, 1, 19) == ["2026-01-04", "2026-01-11", "2026-01-18"]
    assert keys(declare(every="week", on="wednesday"), 2026, 1, 22)[-1] == "2026-01-21"
    assert keys(declare(every="month"), 2026, 4, 1) == ["2026-01-31", "2026-02-28", "2026-03-31"]
    assert keys(declare(every="month", on=15), 2026, 4, 1) == ["2026-01-15", "2026-02-15", "2026-03-15"]
    assert keys(declare(every="month", on=1), 2026, 3, 2) == ["2026-01-01", "2026-02-01", "2026-03-01"]
    assert keys(declare(), 2026, 1, 4) == ["2026-01-01", "2026-01-02", "2026-01-03"]


def test_partitions_end_with_the_data(declare: Callable[..., Pipeline]) -> None:
    for every, last in (("day", "2026-03-20"), ("week", "2026-03-15"), ("month", "2026-02-28")):
        ended = declare(end=date(2026, 3, 20), every=every)
        for now in ((2026, 3, 21), (2026, 3, 30), (2026, 6, 1)):
            shown = [key for key in keys(ended, *now) if key <= last]
            assert shown[-1] == last, (every, now)
        assert keys(ended, 2026, 6, 1)[-1] == last


def test_an_as_of_date_depends_on_the_raw_days_up_to_it(declare: Callable[..., Pipeline]) -> None:
    weekly = declare(every="week")
    raw = dg.DailyPartitionsDefinition("2026-01-01", timezone="UTC")
    [dependency] = source_dependencies(weekly.schedule, weekly.all_sources)
    with freeze_time(datetime(2026, 3, 2, tzinfo=UTC)):
        own = pipeline_partitions(weekly)
        wanted = own.subset_with_partition_keys(["2026-03-01"])
        found = dependency.partition_mapping.get_upstream_mapped_partitions_result_for_partitions(wanted, own, raw)
        days = sorted(found.partitions_subset.get_partition_keys())
    assert days[-1] == "2026-03-01"
    assert set(days) >= {f"2026-02-{day}" for day in range(23, 29)}
    assert not found.required_but_nonexistent_subset.get_partition_keys()


def schedules(pipeline: Pipeline | Recommender) -> dict[str, dg.ScheduleDefinition]:
    if isinstance(pipeline, Pipeline):
        parts = dg.Definitions.merge(pipeline_definitions(pipeline), define_monitoring(pipeline))
    else:
        parts = define_recommender(pipeline)
    return {found.name: found for found in parts.schedules or [] if isinstance(found, dg.ScheduleDefinition)}


def tick(schedule: dg.ScheduleDefinition, *moment: int) -> set[str]:
    """The as-of dates that the run of a tick is for: the first and the last."""
    context = dg.build_schedule_context(scheduled_execution_time=datetime(*moment, tzinfo=UTC))
    [request] = schedule.evaluate_tick(context).run_requests or []
    return {value for name, value in request.tags.items() if "partition" in name}


def test_jobs_start_in_the_pipelines_time_zone_for_the_as_of_dates_since_the_run_before(
    declare: Callable[..., Pipeline],
) -> None:
    weekly = schedules(declare(every="week", cron="30 2 * * mon", time_zone="Europe/Berlin", training="0 6 1 * *"))
    assert {name: (s.cron_schedule, s.execution_timezone) for name, s in weekly.items()} == {
        "churn_nightly_schedule": ("30 2 * * mon", "Europe/Berlin"),
        "churn_monitor_schedule": ("30 3 * * mon", "Europe/Berlin"),
        "churn_training_schedule": ("0 6 1 * *", "Europe/Berlin"),
    }
    assert tick(weekly["churn_nightly_schedule"], 2026, 3, 2, 1, 30) == {"2026-03-01"}
    assert tick(weekly["churn_monitor_schedule"], 2026, 3, 2, 2, 30) == {"2026-03-01"}
    weekdays = schedules(declare(cron="0 3 * * mon-fri"))
    assert tick(weekdays["churn_nightly_schedule"], 2026, 3, 2, 3) == {"2026-02-27", "2026-03-01"}
    assert tick(weekdays["churn_monitor_schedule"], 2026, 3, 2, 4) == {"2026-02-27", "2026-03-01"}


def test_monitoring_after_midnight_is_about_the_run_before_it(declare: Callable[..., Pipeline]) -> None:
    late = schedules(declare(every="week", cron="30 23 * * mon"))["churn_monitor_schedule"]
    assert late.cron_schedule == "30 0 * * *"
    assert tick(late, 2026, 3, 3, 0, 30) == tick(late, 2026, 3, 5, 0, 30) == {"2026-03-01"}
    nightly = schedules(declare(cron="30 23 * * *"))
    assert tick(nightly["churn_nightly_schedule"], 2026, 3, 3, 23, 30) == {"2026-03-02"}
    assert tick(nightly["churn_monitor_schedule"], 2026, 3, 4, 0, 30) == {"2026-03-02"}


def test_the_first_run_of_a_young_pipeline_starts_with_its_first_as_of_date(declare: Callable[..., Pipeline]) -> None:
    nightly = schedules(declare(cron="0 3 * * mon"))["churn_nightly_schedule"]
    assert tick(nightly, 2026, 1, 5, 3) == {"2026-01-01", "2026-01-04"}
    context = dg.build_schedule_context(scheduled_execution_time=datetime(2026, 1, 1, 3, tzinfo=UTC))
    assert "starts on 2026-01-01" in (nightly.evaluate_tick(context).skip_message or "")


def test_a_pipeline_that_never_trains_by_itself_has_no_training_schedule(declare: Callable[..., Pipeline]) -> None:
    assert set(schedules(declare(training="never"))) == {"churn_nightly_schedule", "churn_monitor_schedule"}


def test_data_are_fresh_three_hours_after_the_run_starts(declare: Callable[..., Pipeline]) -> None:
    assert nightly_freshness(declare()) == dg.FreshnessPolicy.cron("0 6 * * *", lower_bound_delta=timedelta(hours=6))
    weekly = declare(every="week", cron="30 2 * * mon", time_zone="Europe/Berlin")
    assert nightly_freshness(weekly) == dg.FreshnessPolicy.cron(
        "30 5 * * mon", lower_bound_delta=timedelta(hours=6), timezone="Europe/Berlin"
    )
    late = declare(every="week", cron="0 22 * * mon")
    assert nightly_freshness(late) == dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=7 * 24 + 3))
    assert nightly_freshness(declare(end=date(2026, 3, 20))) is None


def test_a_recommender_has_a_schedule_too(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.syspath_prepend(str(PROJECT_ROOT / "examples" / "shop"))
    shop = load_settings(home=settings.home_path, project="shop")
    recommended = load_served(shop, "recommended")
    assert isinstance(recommended, Recommender)
    weekly = dataclasses.replace(
        recommended, publish=Publish(), schedule=Schedule(every="week", on="saturday", cron="0 4 * * sun")
    )
    assert weekly.start.weekday() == 5
    [nightly] = schedules(weekly).values()
    assert nightly.cron_schedule == "0 4 * * sun"


def test_one_setting_switches_all_schedules_on(
    declare: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {each.default_status for each in schedules(declare()).values()} == {dg.DefaultScheduleStatus.STOPPED}
    monkeypatch.setenv("FORECACHE_SCHEDULES", "on")
    assert {each.default_status for each in schedules(declare()).values()} == {dg.DefaultScheduleStatus.RUNNING}
