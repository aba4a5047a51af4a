"""Alerts from real runs: a check that fails sends one alert, whoever looks, the sensor or the command line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from alert_receivers import Receiver, receiver

from forecache.base.settings import Settings, load_settings
from forecache.cli.main import main
from forecache.plugins.alerts.journal import read_noted_alerts
from forecache.plugins.alerts.orchestration import build_alerts_sensor
from jobs.definitions import build_definitions
from resources.instance import runner_instance
from resources.settings_resource import SettingsResource

SUPPORT = Path(__file__).parent.parent / "support"
NIGHTS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-06")
BAD: set[str] = set()
"""Partitions whose check fails now."""
BROKEN: set[str] = set()
"""Partitions whose step fails now."""


@dg.asset(
    partitions_def=NIGHTS,
    backfill_policy=dg.BackfillPolicy.multi_run(1),
    check_specs=[dg.AssetCheckSpec("has_rows", asset="orders", blocking=True, partitions_def=NIGHTS)],
)
def orders(context: dg.AssetExecutionContext) -> Any:
    night = context.partition_key
    if night in BROKEN:
        raise dg.Failure(f"The file of {night} cannot be read.", allow_retries=False)
    passed = night not in BAD
    yield dg.MaterializeResult(
        check_results=[
            dg.AssetCheckResult(passed=passed, description="Rows are there." if passed else "0 rows, 1 is needed.")
        ]
    )


JOB = dg.define_asset_job("orders_nightly", selection=[orders], executor_def=dg.in_process_executor)
REPOSITORY = dg.Definitions(assets=[orders], jobs=[JOB]).get_repository_def()


@pytest.fixture
def there() -> Iterator[Receiver]:
    BAD.clear()
    BROKEN.clear()
    with receiver() as found:
        yield found


@pytest.fixture
def home(tmp_path: Path, there: Receiver, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.syspath_prepend(str(SUPPORT))
    monkeypatch.setenv("FORECACHE_ALERT_WEBHOOK", f"{there.url}/hook")
    return load_settings(home=tmp_path / "home", project="shop_project")


def run_night(settings: Settings, night: str) -> str:
    with runner_instance(settings) as instance:
        result = REPOSITORY.get_job("orders_nightly").execute_in_process(
            instance=instance, partition_key=night, raise_on_error=False
        )
    return result.run_id


def tick(settings: Settings) -> str:
    sensor = build_alerts_sensor(settings)
    resource = SettingsResource(home=str(settings.home_path), project=settings.project)
    with runner_instance(settings) as instance:
        result = sensor(dg.build_sensor_context(instance=instance, resources={"settings": resource}))
    assert isinstance(result, dg.SkipReason)
    return str(result.skip_message)


def told(there: Receiver) -> list[list[tuple[str, str, str, str, str]]]:
    names = ("state", "kind", "severity", "name", "occasion")
    return [[tuple(alert[name] for name in names) for alert in each.content["alerts"]] for each in there.posted]


CHECK = ("check_failed", "critical", "orders.has_rows", "2026-01-02")


def test_a_job_whose_check_fails_sends_one_alert_and_one_when_it_passes_again(home: Settings, there: Receiver) -> None:
    BAD.add("2026-01-02")
    run_night(home, "2026-01-01")
    run_id = run_night(home, "2026-01-02")
    assert tick(home) == "Told: 1 to webhook."
    assert told(there) == [[("firing", *CHECK)]]
    (alert,) = there.posted[0].content["alerts"]
    assert alert["summary"] == "orders.has_rows for 2026-01-02: 0 rows, 1 is needed."
    assert alert["details"] == {"asset": "orders", "check": "has_rows", "run_id": run_id}
    assert tick(home) == "Told: nothing new."
    BAD.clear()
    run_night(home, "2026-01-02")
    assert tick(home) == "Told: 1 to webhook."
    assert told(there)[1:] == [[("resolved", *CHECK)]]
    assert read_noted_alerts(home) == []


def test_a_check_that_failed_and_passes_again_between_looks_is_told_whole(home: Settings, there: Receiver) -> None:
    BAD.add("2026-01-02")
    run_night(home, "2026-01-02")
    BAD.clear()
    run_night(home, "2026-01-02")
    tick(home)
    assert told(there) == [[("firing", *CHECK), ("resolved", *CHECK)]]


def test_a_run_that_fails_is_told_with_its_reason_until_a_run_does_its_night(home: Settings, there: Receiver) -> None:
    BROKEN.update({"2026-01-02", "2026-01-03"})
    failed = [run_night(home, f"2026-01-0{day}") for day in (2, 3)]
    tick(home)
    (message,) = told(there)
    occasions = [f"2026-01-0{day} run {run_id[:8]}" for day, run_id in zip((2, 3), failed, strict=True)]
    assert message == [("firing", "run_failed", "critical", "orders_nightly", occasion) for occasion in occasions]
    (group,) = there.posted[0].content["groups"]
    assert group["text"].endswith(
        "The first: orders_nightly for 2026-01-02 failed: orders: The file of 2026-01-02 cannot be read."
    )
    BROKEN.clear()
    run_night(home, "2026-01-01")
    run_night(home, "2026-01-03")
    tick(home)
    assert told(there)[1:] == [[("resolved", "run_failed", "critical", "orders_nightly", occasions[1])]]


def test_the_command_line_goes_on_where_the_sensor_stopped(
    home: Settings, there: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORECACHE_HOME", str(home.home))
    monkeypatch.setenv("FORECACHE_PROJECT", home.project)
    BAD.update({"2026-01-02", "2026-01-03"})
    run_night(home, "2026-01-02")
    tick(home)
    run_night(home, "2026-01-03")
    assert main(["alerts", "--dry-run", "--json"]) == 0
    (dry,) = json.loads(capsys.readouterr().out)
    assert (dry["state"], dry["occasion"]) == ("firing", "2026-01-03")
    assert len(there.posted) == 1
    assert main(["alerts", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [each["occasion"] for each in shown["open"]] == ["2026-01-02", "2026-01-03"]
    assert shown["told"] == [{"sink": "webhook", "messages": 1, "notices": 1, "waiting": 0, "reason": ""}]
    assert told(there)[1:] == [[("firing", *CHECK[:3], "2026-01-03")]]
    assert main(["alerts", "--test"]) == 0
    assert [each[0][1] for each in told(there)[2:]] == ["test"]
    there.code = 503
    assert main(["alerts", "--test"]) == 7
    assert "127.0.0.1 answered 503: ok." in capsys.readouterr().err


def test_a_replaced_event_log_is_read_from_its_beginning(home: Settings, there: Receiver) -> None:
    for day in (1, 3):
        run_night(home, f"2026-01-0{day}")
    tick(home)
    home.dagster_home.rename(home.dagster_home.with_name("replaced"))
    BAD.add("2026-01-02")
    run_night(home, "2026-01-02")
    tick(home)
    assert told(there) == [[("firing", *CHECK)]]


def test_the_sensor_runs_where_a_receiver_is_set(
    home: Settings, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def status(settings: Settings) -> dg.DefaultSensorStatus:
        repository = build_definitions(settings).get_repository_def()
        return repository.get_sensor_def("alerts").default_status

    assert status(home) == dg.DefaultSensorStatus.RUNNING
    monkeypatch.delenv("FORECACHE_ALERT_WEBHOOK")
    assert status(load_settings(home=home.home, project=home.project)) == dg.DefaultSensorStatus.STOPPED
    assert tick(load_settings(home=home.home, project=home.project)).startswith("No FORECACHE_ALERT_")
