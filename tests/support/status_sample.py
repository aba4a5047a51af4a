"""A reader with something of everything that the status page shows. As a script: FOLDER, the pictures of the docs."""

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from math import sin
from pathlib import Path

import httpx
from ranking_code import transforms
from reader_support import RunningReader, churn_rows, running_reader, today, write_version
from realtime_support import write_views
from release_support import HOUSEHOLD, a_request, make_release
from ui_support import browser_page
from waiting import beside

from forecache.lake.ledger import StageRecord, record
from forecache.pipeline import Log
from forecache.pipeline.realtime.ladder import LastNight, OrderGiven, Stored
from forecache.pipeline.realtime.request import RequestField
from forecache.settings import Settings, load_settings
from forecache.store import Provenance
from forecache.store.manifest import Policy

POPULAR = LastNight(Stored("product", ("product_id",), "popularity"))
NIGHTS = 4


def write_sample(settings: Settings) -> None:
    """Two pipelines, of which one is stale, two views, two real-time models, and four nights in the ledger."""
    write_version(settings.store_path, "churn", churn_rows(2357))
    spend = Provenance("spend", 2, 5, "2026-11-25T01:00:00.000000Z", "run-2")
    old = (today() - timedelta(days=4)).isoformat()
    write_version(
        settings.store_path, "spend", churn_rows(900), as_of=old, policy=Policy(36.0, "flag"), provenance=spend
    )
    write_views(settings)
    make_release(settings, name="search", ladder=(POPULAR, OrderGiven()), cache_bytes=1 << 20, log=Log("household_id"))
    make_release(
        settings, name="fraud", features=("amount", "spend"), transform=transforms.fraud, candidates=None,
        request=(RequestField("household_id", "bigint"), RequestField("amount", "double")), lookups=(HOUSEHOLD,),
        warmup=[b'{"household_id":1,"amount":3.0}'],
    )  # fmt: skip
    for back in range(NIGHTS, 0, -1):
        night = today() - timedelta(days=back)
        rows = [("ingest", "purchases", 120_000), ("features", "customer", 2357), ("score", "churn", 2357),
                ("check", "churn", 2357), ("publish", "churn", 2357)]  # fmt: skip
        record(settings, [StageRecord(stage, of, night, f"{back}", of, 1, n, 3.5) for stage, of, n in rows])


def ask_some(http: httpx.Client, step: int) -> None:
    """A few requests of each kind, among them for a key that is not there."""
    for number in range(4):
        http.get(f"/v1/churn/{(step * 7 + number) % 2400:05d}")
    http.get(f"/v1/spend/{step % 900:05d}")
    http.post("/v1/churn", json={"keys": [f"{step % 900 + place:05d}" for place in range(20)]})
    http.post("/v1/search", content=a_request(step % 2 + 1, products=("a", "b", "c")[: step % 3 + 1]))
    http.post("/v1/fraud", json={"household_id": step % 2 + 1, "amount": float(step % 90)})


@contextmanager
def traffic(reader: RunningReader) -> Iterator[None]:
    """Requests whose rate goes up and down while the block runs."""

    def run(stop: threading.Event) -> None:
        with httpx.Client(base_url=reader.url) as http:
            step = 0
            while not stop.wait(0.02 + 0.012 * sin(time.time() / 9)):
                ask_some(http, step)
                step += 1

    with beside(run):
        yield


PICTURES = (("desktop", 1280, "light"), ("dark", 1280, "dark"), ("phone", 360, "light"))


def take_pictures(folder: Path, *, seconds: float = 150) -> None:
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings(home=home)
        write_sample(settings)
        with running_reader(settings, reader_workers=2, project_part=True) as reader, traffic(reader):
            httpx.get(f"{reader.url}/status")  # somebody looks, so that the ledger is read
            time.sleep(seconds)
            for name, width, scheme in PICTURES:
                with browser_page(width=width, height=800, color_scheme=scheme) as page:
                    page.goto(f"{reader.url}/status")
                    page.screenshot(path=folder / f"status-{name}.png", full_page=True)


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]), seconds=float(sys.argv[2]) if len(sys.argv) > 2 else 150)
