"""A rollout, parity, costs and a stream as Dagster shows them. As a script: FOLDER, the pictures of the docs."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from free_ports import free_port
from logged_answers import DAY, Answering, logged, publish_views, release, write_log
from pictured_project.pipelines.cards import cards
from pictured_project.pipelines.ordered import STEPS, ranking, search
from reader_support import today
from rollout_support import answered, begin, looked, two_releases
from ui_support import browser_page, open_asset, save_picture
from waiting import wait_for
from watched_reader import make_stream

from assets.streams import layer_materializations, stream_evaluations, stream_materialization
from forecache.base.settings import Settings, load_settings
from forecache.lake.ledger import StageRecord, append_records
from forecache.plugins.cost.orchestration import build_cost
from forecache.plugins.parity.orchestration import build_parity, parity_name
from forecache.plugins.rollouts.orchestration import rollout_metadata, rollout_name
from forecache.plugins.status.page.report import render_report
from forecache.plugins.status.report_document import describe_name
from forecache.stream.state import read_state, write_state
from forecache.stream.status import read_stream_status
from resources.instance import ensure_instance, runner_instance
from resources.settings_resource import SettingsResource

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOUR = timedelta(hours=1)
PRICES = {"cpu": (0.04, 0.012), "H100": (3.0, 1.1), "replica": (0.05, 0.015), "storage": (0.08, 0.023)}


def roll_out(settings: Settings, instance: dg.DagsterInstance) -> None:
    """A release that passes three steps and does harm in the fourth, with an event for each look."""
    two_releases(settings)
    state = begin(settings, STEPS, at=datetime.now(timezone.utc) - 5 * HOUR)
    number = 0
    while not state.is_over:
        harm = {"candidate": {"score": 0.6}} if state.share == STEPS.shares[1] else {}
        smaller = min(state.share, 1 - state.share)
        answered(settings, int(1.3 * STEPS.requests / smaller), keys=8000, first=number, **harm)
        number += 1_000_000
        state = looked(settings, after=HOUR)
        made = dg.AssetMaterialization(rollout_name(ranking), metadata=rollout_metadata(state))
        instance.report_runless_asset_event(made)


def compare(settings: Settings, instance: dg.DagsterInstance) -> None:
    """A day of answers, of which one was logged with the scores of another."""
    publish_views(settings)
    release(settings, name="search")
    answering = Answering(settings, "search")
    rows = logged(answering, 400)
    answering.close()
    write_log(settings, [*rows, {**rows[0], "request_id": "4f0c1d", "scores": rows[1]["scores"]}], "search")
    config = {"ops": {parity_name(search): {"config": {"day": DAY.isoformat()}}}}
    materialize(settings, instance, build_parity(search), run_config=config)


def count_costs(settings: Settings, instance: dg.DagsterInstance) -> None:
    """Two nights, a training on an H100, and what they cost."""
    for number in range(2):
        night = today() - timedelta(days=2 - number)
        stages = [
            StageRecord("features", "customer", night, f"{number}", "", -1, 900_000, 420.0),
            StageRecord(
                "score", "churn", night, f"{number}", "", -1, 900_000, 300.0, {"cost": {"core_s": 4300.0 + number}}
            ),
        ]
        if not number:
            spent = {"attempts": 2, "device_s": 5400.0, "wasted_s": 600.0, "steps_repeated": 5}
            details = {"device_name": "NVIDIA H100 80GB HBM3", "cost": spent}
            stages.append(StageRecord("train", "churn", night, "t", "", -1, 1, 5400.0, details))
        append_records(settings, stages)
        materialize(settings, instance, build_cost([]))


def watch(settings: Settings, instance: dg.DagsterInstance) -> None:
    """What the sensor reports of a stream that does well but for bad messages."""
    make_stream(settings)
    state = read_state(settings, "cards")
    assert state is not None
    write_state(settings.home_path, "cards", replace(state, rows=90_000, rows_per_s=1500.0, bad=1_200))
    now = read_stream_status(settings, cards)
    for event in (stream_materialization(settings, now), *layer_materializations(now), *stream_evaluations(now)):
        instance.report_runless_asset_event(event)


def materialize(settings: Settings, instance: dg.DagsterInstance, asset: dg.AssetsDefinition, **more: Any) -> None:
    resource = SettingsResource(home=str(settings.home_path), project=settings.project)
    dg.materialize([asset], instance=instance, resources={"settings": resource}, raise_on_error=False, **more)


@contextmanager
def webserver(settings: Settings) -> Iterator[str]:
    """Dagster's UI on the home folder, without its daemon: no sensor looks at what the sample left behind."""
    home, port = ensure_instance(settings), free_port()
    command = [Path(sys.executable).with_name("dagster-webserver"), "-w", home / "workspace.yaml", "-p", str(port)]
    server = subprocess.Popen(command, env={**os.environ, "DAGSTER_HOME": str(home)})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: _answers(f"{url}/server_info"), seconds=120)
        yield url
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def take_pictures(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        names = {"HOME": home, "PROJECT": "pictured_project", "PRICES": json.dumps(PRICES)}
        os.environ |= {f"FORECACHE_{name}": value for name, value in names.items()}
        settings = load_settings(home=home, project="pictured_project")
        with runner_instance(settings) as instance:
            for make in (count_costs, roll_out, compare, watch):
                began = time.monotonic()
                make(settings, instance)
                print(f"{make.__name__}: {time.monotonic() - began:.0f} s")
        save_page(settings, "cards", folder / "page-stream.png")
        with webserver(settings) as url:
            for asset, height in (("parity_search", 560), ("stream_cards", 560)):
                with browser_page(height=height) as page:
                    open_asset(page, url, asset, "checks")
                    page.wait_for_timeout(3000)
                    save_picture(page.screenshot(), folder / f"asset-{asset.partition('_')[0]}.png")
            for asset in ("rollout_ranking", "cost"):
                with browser_page(width=2000, height=2000) as page:
                    open_asset(page, url, asset)
                    page.wait_for_timeout(3000)
                    save_picture(_metadata(page), folder / f"asset-{asset.partition('_')[0]}.png")


def save_page(settings: Settings, name: str, path: Path) -> None:
    """Save a picture of the page on a name, as `forecache report` writes it."""
    file = settings.home_path / f"{name}.html"
    file.write_bytes(render_report(describe_name(settings, name), in_server=False))
    with browser_page(width=1280, height=400) as page:
        page.goto(file.as_uri())
        save_picture(page.screenshot(full_page=True), path)


def _metadata(page: "Page") -> bytes:
    """The table of an asset's metadata, with its title."""
    top, table = page.get_by_placeholder("Filter metadata keys").bounding_box(), page.locator("table").first
    box = table.bounding_box()
    assert top is not None
    assert box is not None
    above = top["y"] - 60
    return page.screenshot(
        clip={"x": box["x"] - 15, "y": above, "width": box["width"] + 30, "height": box["y"] + box["height"] - above}
    )


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]))
