"""The UI as a person sees it: runs of the command line are there, with layers, row counts and checks."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import psutil
import pytest
from free_ports import free_port
from ui_support import browser_page, find_browser, open_asset, open_graph

ROOT = Path(__file__).parent.parent.parent
SUPPORT = Path(__file__).parent.parent / "support"
FORECACHE = Path(sys.executable).with_name("forecache")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="needs a browser: scripts/install_test_services.sh chromium"),
]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("ui") / "home"
    landing = home / "landing" / "orders"
    landing.mkdir(parents=True)
    for day in (date(2026, 1, number) for number in range(1, 7)):
        (landing / f"{day}.csv").write_text(f"customer,day,amount\nann,{day},10\nbob,{day},-1\neve,{day},700\n")
    return {
        **os.environ,
        "FORECACHE_HOME": str(home),
        "FORECACHE_PROJECT": "shop_project",
        "FORECACHE_SPARK_MASTER": "local[2]",
        "FORECACHE_SPARK_DRIVER_MEMORY": "1g",
        "PYTHONPATH": str(SUPPORT),
    }


@pytest.fixture(scope="module")
def base(environment: dict[str, str]) -> Iterator[str]:
    """Address of a UI on a state that `forecache ingest` wrote."""
    subprocess.run([FORECACHE, "ingest"], env=environment, cwd=ROOT, check=True, timeout=300)
    port = free_port()
    server = subprocess.Popen([FORECACHE, "dev", "--port", str(port)], env=environment, cwd=ROOT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/server_info", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        family = psutil.Process(server.pid).children(recursive=True)
        server.terminate()
        assert server.wait(timeout=60) == 0
        assert len(family) >= 3
        assert not any(each.is_running() for each in family)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, "the UI ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"{url} did not answer in two minutes")


def test_graph_shows_the_group_of_each_declaration_and_the_ingested_source(base: str) -> None:
    with browser_page() as page:
        open_graph(page, base)
        for group in ("sources", "feature_views", "orders"):
            page.get_by_text(group, exact=True).first.wait_for()
        for asset in ("landing_orders", "raw_orders", "features_orders", "model_orders", "published_orders"):
            page.get_by_text(asset).first.wait_for()
        in_order = ("landing_orders", "raw_orders", "model_orders", "published_orders")
        places = [page.get_by_text(asset).last.bounding_box() for asset in in_order]
        lefts = [place["x"] for place in places if place]
        assert len(lefts) == len(in_order)
        assert lefts == sorted(lefts)


def test_asset_page_shows_rows_checks_owner_and_columns(base: str) -> None:
    with browser_page() as page:
        open_asset(page, base, "raw_orders")
        page.get_by_text("Row count").first.wait_for()
        text = page.inner_text("body")
        assert "data@shop.example" in text
        assert "Delta Lake" in text
        assert "source_line" in text
        open_asset(page, base, "raw_orders", "checks")
        page.get_by_text("meets_expectations").first.wait_for()
        page.get_by_text("has_no_warnings").first.click()
        # The amounts above 500 are a declared warning.
        page.get_by_text("amount must be at most 500: 1 rows").first.wait_for()
        page.get_by_text("adds_up_to_what_landed").first.click()
        page.get_by_text("3 landing rows of 1 files = 2 raw + 1 quarantined").first.wait_for()


def test_runs_schedules_and_sensor_are_there(base: str) -> None:
    with browser_page() as page:
        page.goto(f"{base}/runs")
        page.get_by_text("orders_ingest").first.wait_for()
        page.get_by_text("Success").first.wait_for()
        page.goto(f"{base}/automation")
        for name in ("orders_nightly_schedule", "orders_training_schedule", "orders_landed"):
            page.get_by_text(name).first.wait_for()
