"""Section rewind: publishes and kills while a stream runs; no update is lost, and no answer goes back."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
from _store.processes import PYTHON, BenchmarkError
from _store.progress import say

from _stream import home, nights, publisher, services
from _stream.jobs import Job
from _stream.services import Reader
from _stream.sizes import Sizes
from _stream.supervised import Broker, Kills, Service
from _stream.traffic import Traffic, Truth
from _stream.visible import Asked
from forecache.settings import Settings

PIPELINE = "spending"
NICENESS = 10
_START_S, _CATCH_UP_S, _PUBLISH_S, _VERIFIED_S = 180.0, 300.0, 900.0, 180.0
_HOT_SHARE = 0.01
_ROLLBACK_AT = 0.7
_AHEAD_S, _MESSAGES_PER_S = 15.0, 100_000
_ASKED_AT_ONCE = 1_000
_UNCHANGED_ASKED = 20_000
_BENCHMARKS = Path(__file__).resolve().parents[1]
_SWAPS = re.compile(
    r'^(forecache_reader_swaps_total|forecache_reader_swap_seconds)\{[^}]*"spending"[^}]*\} (\S+)$', re.M
)


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """A stream of some minutes with publishes, kills and a rollback; then every answer against the truth."""
    settings = home.settings_of(work / "rewind", "bench_spending")
    shutil.rmtree(settings.home_path, ignore_errors=True)
    settings.home_path.mkdir(parents=True)
    night = datetime.now(timezone.utc).date() - timedelta(days=1)
    say(f"rewind: {sizes.published:,} rows and {sizes.publishes} corrections")
    nights.write(settings, sizes.published, sizes.publishes, night)
    publish_first(settings)
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(Broker(settings.home_path / "kafka"))
        broker.create_topic(home.TOPIC, home.PARTITIONS)
        environment = services.environment_of(settings, broker.brokers, FORECACHE_STREAM_TAILER="off")
        engine = stack.enter_context(services.engine(settings, home.FOLLOWED, environment))
        tailer = stack.enter_context(services.tailer(settings, home.FOLLOWED, environment))
        reader = Reader(settings, environment)
        stack.enter_context(reader.service)
        home.wait_for("the start of the reader", reader.listens, seconds=_START_S, services=[engine, tailer])
        return _run(settings, sizes, broker, engine, tailer, reader, environment)


def publish_first(settings: Settings) -> None:
    """The night as the first version, in a process of its own."""
    code = (
        "import sys; from pathlib import Path; from _stream import nights\n"
        "from bench_spending.pipelines.spending import spending\n"
        "from forecache.settings import load_settings; from forecache.store import publish\n"
        "publish(load_settings(home=Path(sys.argv[1]), project='bench_spending'), spending, full=True)"
    )
    done = subprocess.run(
        [PYTHON, "-c", code, settings.home_path], cwd=_BENCHMARKS, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"The first night was not published: {done.stderr[-1500:]}")


def _run(
    settings: Settings, sizes: Sizes, broker: Broker, engine: Service, tailer: Service, reader: Reader,
    environment: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    count = int(sizes.rewind_rate * sizes.rewind_s)
    begin = time.time() + _AHEAD_S + count / _MESSAGES_PER_S
    traffic = Traffic(
        begin_us=int(begin * 1e6), rate=sizes.rewind_rate, count=count,
        customers=sizes.published, hot=max(1, int(sizes.published * _HOT_SHARE)),
    )  # fmt: skip
    sender = Job("_stream.generate", broker.brokers, home.TOPIC, traffic.to_json())
    sender.wait_until_ready()
    end = settings.home_path / "watched-enough"
    watcher = Job("_stream.watched", reader.port, PIPELINE, traffic.to_json(), begin + 10 * sizes.rewind_s, end)
    every_s = sizes.rewind_s * 0.9 / sizes.publishes
    arguments = [settings.home_path, sizes.publishes, every_s, begin + every_s / 2, NICENESS]
    command = [PYTHON, "-m", "_stream.publisher", *arguments]
    swaps = Swaps(reader.port)
    with contextlib.ExitStack() as stack:
        publishes = stack.enter_context(Service("publisher", command, settings.home_path / "publisher.log", {
            **environment, "PYTHONPATH": f"{environment['PYTHONPATH']}:{_BENCHMARKS}"}))  # fmt: skip
        stack.enter_context(swaps)
        with Kills([engine, tailer, publishes], sizes.rewind_kill_s) as kills:
            say(f"rewind: {sizes.rewind_rate:,.0f} updates/s for {sizes.rewind_s:g} s, {sizes.publishes} publishes")
            time.sleep(max(0.0, begin + _ROLLBACK_AT * sizes.rewind_s - time.time()))
            rolled_back = roll_back(settings, environment)
            sent = sender.result()
        say(f"rewind: all is sent after {len(kills.done)} kills; the rest is published")
        home.wait_for("the publishes", lambda: publishes.is_done or publishes.check() is not None, seconds=_PUBLISH_S)
    for service in (engine, tailer, reader.service):
        service.check()
    caught_up_s = _wait_for_rows(settings, count)
    fresh_s = _wait_for_answers(reader.port, traffic)
    end.touch()
    watched = watcher.result()
    return {
        "rate": sizes.rewind_rate, "seconds": sizes.rewind_s, "keys": sizes.published, "sent": sent,
        "publishes": publisher.done(settings), "rolled_back": rolled_back, "kills": kills.counts(),
        "kills_failed": kills.failed, "watched": watched, "swap_ms": swaps.ms, "swaps": swaps.count,
        "caught_up_s": caught_up_s, "fresh_s": fresh_s,
        "table": table_figures(settings, f"stream_{home.FOLLOWED}", count),
        "content": content(reader.port, traffic, sizes.publishes),
        "verified_s": _wait_until_verified(settings, reader.port),
    }  # fmt: skip


def _wait_for_rows(settings: Settings, count: int) -> float:
    table = f"stream_{home.FOLLOWED}"
    return home.wait_for("all rows", lambda: home.count_rows(settings, table) >= count, seconds=_CATCH_UP_S)


def _wait_for_answers(port: int, traffic: Traffic) -> float:
    """Until the customers of the last payments have them in their answers."""
    asked, truth = Asked(port, PIPELINE), Truth(traffic)
    last = np.unique(traffic.customer_of(traffic.numbers[-_ASKED_AT_ONCE:]))

    def there() -> bool:
        results = asked.results(last.tolist())
        return all(r["found"] and r["value"]["spent"] == truth.totals[c] for c, r in zip(last, results, strict=True))

    return home.wait_for("the last payments in the answers", there, seconds=_CATCH_UP_S)


def roll_back(settings: Settings, environment: Mapping[str, str]) -> dict[str, Any]:
    """`forecache rollback`, tried again while a publish is under way."""
    command = [
        PYTHON,
        "-m",
        "forecache.cli.main",
        "rollback",
        PIPELINE,
        "--reason",
        "benchmark",
        "--keep-model",
        "--json",
    ]
    for tries in range(1, 200):
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=services.ROOT,
            env={**os.environ, **environment},
        )  # fmt: skip
        if done.returncode == 0:
            return {"tries": tries, "said": json.loads(done.stdout)}
        if done.returncode != 5:  # a conflict with another process
            break
        time.sleep(0.2)
    raise BenchmarkError(f"The rollback failed with {done.returncode}: {done.stderr[-800:]}")


def table_figures(settings: Settings, table: str, count: int) -> dict[str, int]:
    """Rows of a stream's table, and distinct events among them."""
    found = home.rows_of(settings, table, ["transaction_id"])["transaction_id"].to_numpy()
    return {"sent": count, "rows": len(found), "distinct": len(np.unique(found))}


def content(port: int, traffic: Traffic, corrections: int) -> dict[str, Any]:
    """Every customer with a payment, and some without one, as the reader answers; how many answers are wrong."""
    truth, asked = Truth(traffic), Asked(port, PIPELINE)
    expected = np.where(truth.counts > 0, truth.totals, nights.stamps(corrections, traffic.customers) * nights.STEP)
    paid, unpaid = np.flatnonzero(truth.counts > 0), np.flatnonzero(truth.counts == 0)
    some = np.random.default_rng(0).permutation(unpaid)[:_UNCHANGED_ASKED]
    wrong, first = 0, list[str]()
    customers = np.concatenate([paid, some])
    for start in range(0, len(customers), _ASKED_AT_ONCE):
        keys = customers[start : start + _ASKED_AT_ONCE].tolist()
        for key, result in zip(keys, asked.results(keys), strict=True):
            value = result["value"]["spent"] if result["found"] else None
            if value != expected[key]:
                wrong += 1
                first = [*first, f"customer {key}: {value} instead of {expected[key]}"][:5]
    return {"with_payments": len(paid), "without": len(some), "wrong": wrong, "first_wrong": first}


def _wait_until_verified(settings: Settings, port: int) -> float:
    """Until an answer says that the live layer was compared with the table at its last version."""
    from deltalake import DeltaTable

    asked = Asked(port, PIPELINE)
    version = DeltaTable(settings.table_uri(f"stream_{home.FOLLOWED}")).version()

    def verified() -> bool:
        result = asked.answer([0])
        return bool(result.get("verified_through", -1) >= version)

    return home.wait_for(f"the verification through version {version}", verified, seconds=_VERIFIED_S)


class Swaps(contextlib.AbstractContextManager["Swaps"]):
    """Notes how long the reader took to put each new version in place, from its metrics.

    Attributes:
        ms: Of each swap that was seen.
        count: Swaps that the reader has counted.
    """

    def __init__(self, port: int) -> None:
        self.ms: list[float] = []
        self.count = 0
        self._port, self._over = port, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Swaps":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            with contextlib.suppress(OSError, ValueError):
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
                    found = dict(_SWAPS.findall(answer.read().decode()))
                count = int(float(found.get("forecache_reader_swaps_total", 0)))
                if count > self.count:
                    self.ms.append(float(found["forecache_reader_swap_seconds"]) * 1e3)
                self.count = count
