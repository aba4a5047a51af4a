"""A reader with something of everything that the status page shows. As a script: FOLDER, the pictures of the docs."""

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import count, islice
from math import sin
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
from ranking_code import transforms
from reader_support import RunningReader, churn_rows, running_reader, today, write_version
from realtime_support import write_views
from release_support import HOUSEHOLD, a_request, make_release
from scoring_support import features_table, make_pipeline, register_model, write_features
from store_tables import churn
from ui_support import browser_page, save_picture
from waiting import beside, eventually

from forecache.base.settings import Settings, load_settings
from forecache.cli.commands.reader import run_committer_sidecar
from forecache.declare import Log
from forecache.declare.realtime.lookups import OrderGiven, Precomputed, Stored
from forecache.declare.realtime.request import RequestField
from forecache.operations.publish_night import publish_night
from forecache.plugins.drift.live_counts import ColumnBins, DriftReference
from forecache.plugins.drift.prediction_drift import check_drift
from forecache.scoring.run import score
from forecache.serve.store import Provenance
from forecache.serve.store.manifest import StalePolicy

CUSTOMERS = 2357
_DEMO = make_pipeline(num_features=4)
CHURN = churn(features=_DEMO.features, gate=_DEMO.gate)
POPULAR = Precomputed(Stored("product", ("product_id",), "popularity"))
NIGHTS = 4
PAID = DriftReference(
    (
        ColumnBins("amount", (10.0, 20.0, 30.0, 45.0, 60.0, 75.0), (16, 15, 14, 19, 14, 12, 10, 0), 0.0, 90.0),
        ColumnBins("spend", (15.0,), (55, 45, 0), 10.0, 20.0),
    ),
    "a training split",
)
"""Bins of `fraud`: the amounts of the traffic are a little larger than those it was trained on."""


def write_sample(settings: Settings) -> None:
    """Two pipelines, of which one is stale, two views, two real-time models, and four nights of the other one."""
    run_nights(settings)
    spend = Provenance("spend", 2, 5, "2026-11-25T01:00:00.000000Z", "run-2")
    old = (today() - timedelta(days=4)).isoformat()
    write_version(
        settings.store_path, "spend", churn_rows(900), as_of=old, policy=StalePolicy(36.0, "flag"), provenance=spend
    )
    write_views(settings)
    release_search(settings)
    make_release(
        settings, name="fraud", features=("amount", "spend"), transform=transforms.fraud, candidates=None,
        request=(RequestField("household_id", "bigint"), RequestField("amount", "double")), lookups=(HOUSEHOLD,),
        warmup=[b'{"household_id":1,"amount":3.0}'], bins=PAID.to_json(),
    )  # fmt: skip


def run_nights(settings: Settings) -> None:
    """Score, measure and publish the last nights by the stages themselves: the ledger has what they write."""
    register_model(settings, CHURN)
    for back in range(NIGHTS, 0, -1):
        night = today() - timedelta(days=back)
        rows = features_table(CUSTOMERS, num_features=4, seed=back, night=night)
        keys = pa.array([f"{number:05d}" for number in range(CUSTOMERS)])
        write_features(
            settings, CHURN, [rows.drop_columns(["user_id"]).add_column(0, "customer_id", keys)], night=night
        )
        score(settings, CHURN, [night], engine="arrow")
        check_drift(settings, CHURN, [night])
        publish_night(settings, CHURN, night=night, unchecked=True)


def release_search(settings: Settings, **declared: Any) -> None:
    fallbacks, log = (POPULAR, OrderGiven()), Log("household_id")
    make_release(settings, name="search", fallbacks=fallbacks, cache_bytes=1 << 20, log=log, **declared)


def ask_some(http: httpx.Client, step: int) -> None:
    """A few requests of each kind, among them for a key that is not there."""
    for number in range(4):
        http.get(f"/v1/churn/{(step * 7 + number) % 2400:05d}")
    http.get(f"/v1/spend/{step % 900:05d}")
    http.post("/v1/churn", json={"keys": [f"{step % 900 + place:05d}" for place in range(20)]})
    http.post("/v1/search", content=a_request(step % 2 + 1, products=("a", "b", "c")[: step % 3 + 1]))
    pay(http, step, times=1)


def pay(http: httpx.Client, step: int, *, times: int = 4) -> None:
    """Requests to `fraud`; so many more that enough are counted for its drift."""
    for number in range(times):
        http.post("/v1/fraud", json={"household_id": step % 2 + 1, "amount": float((step + 7 * number) % 90)})


@contextmanager
def traffic(reader: RunningReader) -> Iterator[None]:
    """Requests whose rate goes up and down while the block runs."""

    def run(stop: threading.Event) -> None:
        steps = count()
        while not stop.is_set():
            with httpx.Client(base_url=reader.url) as http:  # a new connection may be another worker's
                for step in islice(steps, 50):
                    if stop.wait(0.02 + 0.012 * sin(time.time() / 9)):
                        return
                    ask_some(http, step)
                    pay(http, step)

    with beside(run):
        yield


def drift_is_measured(reader: RunningReader) -> bool:
    return any(model["drift"] for model in httpx.get(f"{reader.url}/status.json").json()["models"])


PICTURES = (("desktop", 1280, "light"), ("dark", 1280, "dark"), ("phone", 360, "light"))


def take_pictures(folder: Path, *, seconds: float = 150) -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ["FORECACHE_HOME"] = home
        settings = load_settings(home=home)
        write_sample(settings)
        reading = running_reader(settings, reader_workers=2, project_part=True)
        with run_committer_sidecar(settings), reading as reader, traffic(reader):
            httpx.get(f"{reader.url}/status")  # somebody looks, so that the ledger is read
            time.sleep(seconds)
            assert eventually(lambda: drift_is_measured(reader), 300), "fewer than 300 requests are counted"
            for name, width, scheme in PICTURES:
                with browser_page(width=width, height=800, color_scheme=scheme) as page:
                    page.goto(f"{reader.url}/status")
                    save_picture(page.screenshot(full_page=True), folder / f"status-{name}.png")


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]), seconds=float(sys.argv[2]) if len(sys.argv) > 2 else 150)
