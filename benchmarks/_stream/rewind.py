"""Section rewind: publishes and kills while a stream runs; no update is lost, and no answer goes back."""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from _store.processes import PYTHON, BenchmarkError, run_checked
from _store.progress import say

from _stream import home, nights, publisher, services, settled
from _stream.broker import Broker
from _stream.jobs import Job
from _stream.kills import Kills
from _stream.services import Reader
from _stream.sizes import Sizes
from _stream.supervised import Service
from _stream.swaps import figures, read_swaps
from _stream.traffic import Traffic
from forecache.base.settings import Settings

PIPELINE = "spending"
NICENESS = 10
_START_S, _PUBLISH_S = 180.0, 900.0
_HOT_SHARE = 0.01
_ROLLBACK_AT = 0.7
_AHEAD_S, _MESSAGES_PER_S = 15.0, 100_000
_LONGEST = 20
"""The client goes on for so many times the length of the stream, at most."""
_BENCHMARKS = Path(__file__).resolve().parents[1]


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """A stream of some minutes with publishes, kills and a rollback; then every answer against the truth."""
    settings = home.settings_of(work / "rewind", "bench_spending")
    shutil.rmtree(settings.home_path, ignore_errors=True)
    settings.home_path.mkdir(parents=True)
    night = datetime.now(timezone.utc).date() - timedelta(days=1)
    say(f"rewind: {sizes.published:,} rows and {sizes.publishes} corrections")
    nights.write(settings, sizes.published, sizes.publishes, night)
    nights.write_view(settings, sizes.published, night)
    publish_first(settings)
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(Broker(settings.home_path / "kafka"))
        broker.create_topic(home.TOPIC, home.PARTITIONS)
        # A short run is verified more often than once a minute.
        chosen = {"FORECACHE_STREAM_TAILER": "off", "FORECACHE_STREAM_VERIFY_S": str(min(60.0, sizes.rewind_s / 4))}
        environment = services.environment_of(settings, broker.brokers, **chosen)
        engine = stack.enter_context(services.engine(settings, home.FOLLOWED, environment))
        tailer = stack.enter_context(services.tailer(settings, home.FOLLOWED, environment))
        reader = Reader(settings, environment)
        stack.enter_context(reader.service)
        home.wait_for("the start of the reader", reader.is_ready, seconds=_START_S, services=[engine, tailer])
        return _run(settings, sizes, broker, engine, tailer, reader, environment)


def publish_first(settings: Settings) -> None:
    """The night of the view, and that of the pipeline as its first version, in a process of its own."""
    code = (
        "import sys; from pathlib import Path; from _stream import nights\n"
        "from bench_spending.pipelines.spending import customer, spending\n"
        "from forecache.base.settings import load_settings; from forecache.serve.store import publish\n"
        "settings = load_settings(home=Path(sys.argv[1]), project='bench_spending')\n"
        "publish(settings, customer)\n"
        "publish(settings, spending, full=True)"
    )
    run_checked([PYTHON, "-c", code, settings.home_path], cwd=_BENCHMARKS)


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
    end = settings.home_path / "watched-enough"
    watching = [reader.port, PIPELINE, traffic.to_json(), begin + _LONGEST * sizes.rewind_s, end]
    with (
        Job("_stream.generate", broker.brokers, home.TOPIC, traffic.to_json()) as sender,
        Job("_stream.watched", *watching) as watcher,
    ):
        sender.wait_until_ready()
        publishing = publisher_service(settings, sizes, begin, environment)
        with publishing, Kills([engine, tailer, publishing], sizes.rewind_kill_s) as kills:
            say(f"rewind: {sizes.rewind_rate:,.0f} updates/s for {sizes.rewind_s:g} s, {sizes.publishes} publishes")
            time.sleep(max(0.0, begin + _ROLLBACK_AT * sizes.rewind_s - time.time()))
            home.wait_for("the first publish", lambda: bool(publisher.done(settings)), seconds=_PUBLISH_S)
            rolled_back = roll_back(environment)
            publisher.rolled_back_file(settings).touch()
            sent = sender.result()
            home.wait_for(
                "a kill of each",
                lambda: bool(
                    engine.kills and tailer.kills and (publishing.kills or publishing.is_done) or kills.failed
                ),
                seconds=_PUBLISH_S,
            )
            kills.stop()
            say(f"rewind: all is sent after {len(kills.done)} kills; the rest is published")
            services_up = [engine, tailer, reader.service, publishing]
            home.wait_for("the publishes", lambda: publishing.is_done, seconds=_PUBLISH_S, services=services_up)
        caught_up_s = settled.wait_for_rows(settings, count)
        fresh_s = settled.wait_for_answers(reader.port, PIPELINE, traffic)
        end.touch()
        watched = watcher.result()
    swaps = figures(read_swaps(reader.service.log, begin), watched.pop("spans"))
    return {
        "rate": sizes.rewind_rate, "seconds": sizes.rewind_s, "keys": sizes.published, "sent": sent,
        "publishes": publisher.done(settings), "rolled_back": rolled_back, "kills": kills.counts(),
        "kills_failed": kills.failed, "ended_by_themselves": engine.ended + tailer.ended, "watched": watched,
        **swaps, "caught_up_s": caught_up_s, "fresh_s": fresh_s,
        "table": settled.table_figures(settings, f"stream_{home.FOLLOWED}", count),
        "content": settled.content(reader.port, PIPELINE, traffic, sizes.publishes),
        "verified_s": settled.wait_until_verified(settings, PIPELINE),
    }  # fmt: skip


def publisher_service(settings: Settings, sizes: Sizes, begin: float, environment: Mapping[str, str]) -> Service:
    """The process that publishes one correction after the other, spread over nine tenths of the run."""
    every_s = sizes.rewind_s * 0.9 / sizes.publishes
    arguments = [settings.home_path, sizes.publishes, every_s, begin + every_s / 2, NICENESS]
    paths = os.pathsep.join([environment["PYTHONPATH"], str(_BENCHMARKS)])
    command = [PYTHON, "-m", "_stream.publisher", *map(str, arguments)]
    return Service("publisher", command, settings.home_path / "publisher.log", {**environment, "PYTHONPATH": paths})


def roll_back(environment: Mapping[str, str]) -> dict[str, Any]:
    """`forecache rollback`, tried again while a publish is under way."""
    command = ["rollback", PIPELINE, "--reason", "benchmark", "--keep-model", "--json"]
    for tries in range(1, 200):
        done = services.forecache(environment, *command)
        if done.returncode == 0:
            return {"tries": tries, "said": json.loads(done.stdout)}
        if done.returncode != 5:  # a conflict with another process
            break
        time.sleep(0.2)
    raise BenchmarkError(f"The rollback failed with {done.returncode}: {done.stderr[-800:]}")
