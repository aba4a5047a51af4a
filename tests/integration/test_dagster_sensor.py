"""The ingest sensor on a real landing zone: what it asks for, and that it asks once."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from forecache.base.settings import Settings, load_settings
from jobs.definitions import build_definitions
from resources.instance import ensure_instance
from resources.settings_resource import SettingsResource


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "support"))
    return load_settings(home=tmp_path / "home", project="shop_project")


Tick = Callable[[str | None], Any]


@pytest.fixture
def tick(shop: Settings) -> Tick:
    definitions = build_definitions(shop)
    sensor = definitions.get_repository_def().get_sensor_def("orders_landed")
    resource = SettingsResource(home=str(shop.home_path), project=shop.project)

    def evaluate(cursor: str | None) -> Any:
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"settings": resource})
            return sensor(context)

    return evaluate


def _land(settings: Settings, *names: str) -> None:
    folder = Path(settings.landing_uri) / "orders"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("customer,day,amount\n")


def test_skips_while_the_landing_zone_is_empty_or_files_are_being_written(shop: Settings, tick: Tick) -> None:
    assert "No new file" in tick(None).skip_message
    _land(shop, ".2026-01-02.csv")
    assert "No new file" in tick(None).skip_message


def test_a_file_outside_the_sources_dates_goes_with_the_last_day_where_it_is_quarantined(
    shop: Settings, tick: Tick
) -> None:
    _land(shop, "2027-01-01.csv")
    assert [request.tags for request in tick(None).run_requests] == [{"dagster/partition": "2026-01-06"}]


def test_asks_for_one_run_over_days_without_a_file_and_only_once(shop: Settings, tick: Tick) -> None:
    _land(shop, "2026-01-01.csv", "2026-01-02.csv", "2026-01-02.b.csv", "2026-01-05.csv")
    first = tick(None)
    assert [request.tags for request in first.run_requests] == [
        {"dagster/asset_partition_range_start": "2026-01-01", "dagster/asset_partition_range_end": "2026-01-05"}
    ]
    seen, names = first.asset_events
    assert names.passed
    assert seen.asset_key == dg.AssetKey("landing_orders")
    assert seen.metadata["files"].value == 4
    assert "were requested before" in tick(first.cursor).skip_message

    _land(shop, "2026-01-06.csv")
    again = tick(first.cursor)
    assert len(again.run_requests) == 1
    assert not {r.run_key for r in again.run_requests} & {r.run_key for r in first.run_requests}


def test_a_file_whose_name_has_no_day_goes_with_the_newest_day(shop: Settings, tick: Tick) -> None:
    _land(shop, "orders.csv")
    result = tick(None)
    (request,) = result.run_requests
    assert request.tags == {"dagster/partition": "2026-01-06"}
    _, names = result.asset_events
    assert (names.check_name, names.passed) == ("names_match", False)
    assert names.description.endswith(": orders.csv.")


def test_definitions_validate_as_dagster_loads_them(tmp_path: Path) -> None:
    workspace = ensure_instance(load_settings(home=tmp_path / "home")) / "workspace.yaml"
    done = subprocess.run(
        [Path(sys.executable).with_name("dagster"), "definitions", "validate", "-w", workspace],
        env={**os.environ, "FORECACHE_HOME": str(tmp_path / "home"), "DAGSTER_HOME": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "All code locations passed validation" in done.stdout + done.stderr
