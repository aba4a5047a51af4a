"""A pipeline whose sources wait: the schedule skips a night that is not there yet, and a sensor runs it once it is."""

import dataclasses
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings, load_settings
from forecache.declare import Schedule, load_pipeline
from jobs.definitions import pipeline_definitions, source_definitions
from resources.dagster_internals import PARTITION_NAME_TAG
from resources.settings_resource import SettingsResource

LAST = date(2026, 1, 6)
SENSOR = "orders_nightly_delivered"
NOT_YET = f"Not yet: orders has not delivered {LAST}. The sensor {SENSOR} runs it once that is there."


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "support"))
    return load_settings(home=tmp_path / "home", project="shop_project")


@pytest.fixture
def repository(shop: Settings) -> dg.RepositoryDefinition:
    orders = load_pipeline(shop, "orders")
    [source] = orders.all_sources
    waits = dataclasses.replace(source, missing="wait")
    resource = SettingsResource(home=str(shop.home_path), project=shop.project)
    defined = dg.Definitions.merge(
        source_definitions(waits),
        pipeline_definitions(dataclasses.replace(orders, sources=(waits,))),
        dg.Definitions(resources={"settings": resource}),
    )
    return defined.get_repository_def()


def land(settings: Settings) -> None:
    folder = Path(settings.landing_uri) / "orders"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{LAST}.csv").write_text("customer,day,amount\n")


def evaluate(repository: dg.RepositoryDefinition, shop: Settings, instance: dg.DagsterInstance) -> Any:
    resource = SettingsResource(home=str(shop.home_path), project=shop.project)
    context = dg.build_sensor_context(instance=instance, resources={"settings": resource})
    return repository.get_sensor_def(SENSOR)(context)


def test_schedule_skips_a_night_that_is_not_delivered_yet(repository: dg.RepositoryDefinition, shop: Settings) -> None:
    schedule = repository.get_schedule_def("orders_nightly_schedule")
    resource = SettingsResource(home=str(shop.home_path), project=shop.project)

    def tick() -> Any:
        moment = datetime(2026, 1, 7, 3, tzinfo=timezone.utc)
        context = dg.build_schedule_context(scheduled_execution_time=moment, resources={"settings": resource})
        return schedule.evaluate_tick(context)

    assert tick().skip_message == NOT_YET
    land(shop)
    [request] = tick().run_requests
    assert request.tags[PARTITION_NAME_TAG] == "2026-01-06"


def test_schedule_runs_a_night_of_which_it_cannot_tell(
    repository: dg.RepositoryDefinition, shop: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick that failed would leave the night without a run."""

    def unavailable(*_: Any) -> Any:
        raise UnavailableError("The object store does not answer.", remedy="Run again.")

    monkeypatch.setattr("forecache.lake.sources.find_awaited_sources", unavailable)
    resource = SettingsResource(home=str(shop.home_path), project=shop.project)
    moment = datetime(2026, 1, 7, 3, tzinfo=timezone.utc)
    context = dg.build_schedule_context(scheduled_execution_time=moment, resources={"settings": resource})
    [request] = repository.get_schedule_def("orders_nightly_schedule").evaluate_tick(context).run_requests or []
    assert request.tags[PARTITION_NAME_TAG] == "2026-01-06"


def test_sensor_runs_a_night_once_it_is_delivered_and_not_where_it_was_run(
    repository: dg.RepositoryDefinition, shop: Settings
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert evaluate(repository, shop, instance).skip_message == NOT_YET
        land(shop)
        # A run that came too early.
        tags = {PARTITION_NAME_TAG: "2026-01-06"}
        create_run_for_test(instance, job_name="orders_nightly", tags=tags, status=dg.DagsterRunStatus.FAILURE)
        request = evaluate(repository, shop, instance)
        assert (request.run_key, request.tags[PARTITION_NAME_TAG]) == ("2026-01-06", "2026-01-06")
        create_run_for_test(instance, job_name="orders_nightly", tags=request.tags)
        assert evaluate(repository, shop, instance).skip_message == "As-of date 2026-01-06 was run."


def test_pipeline_whose_sources_do_not_wait_has_no_such_sensor(shop: Settings) -> None:
    orders = load_pipeline(shop, "orders")
    assert list(pipeline_definitions(orders).sensors or []) == []


def test_a_run_for_several_nights_waits_for_each_of_them(shop: Settings) -> None:
    orders = load_pipeline(shop, "orders")
    [source] = orders.all_sources
    schedule, waits = Schedule(cron="0 3 * * mon"), dataclasses.replace(source, missing="wait")
    weekly = dataclasses.replace(orders, sources=(waits,), schedule=schedule)
    resource = SettingsResource(home=str(shop.home_path), project=shop.project)
    [nightly] = [s for s in pipeline_definitions(weekly).schedules or [] if s.name == "orders_nightly_schedule"]

    def tick() -> Any:
        moment = datetime(2026, 1, 12, 3, tzinfo=timezone.utc)  # after Monday and Tuesday, the last day of the data
        context = dg.build_schedule_context(scheduled_execution_time=moment, resources={"settings": resource})
        return nightly.evaluate_tick(context)

    land(shop)
    assert "Not yet: orders has not delivered 2026-01-05." in tick().skip_message
    (Path(shop.landing_uri) / "orders" / "2026-01-05.csv").write_text("customer,day,amount\n")
    [request] = tick().run_requests
    assert {value for name, value in request.tags.items() if "partition" in name} == {"2026-01-05", "2026-01-06"}
