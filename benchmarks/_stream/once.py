"""Section once: each payment has one row, whatever is killed, doubled or spoilt, and computed again it is the same."""

import contextlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from _store.processes import BenchmarkError
from _store.progress import say

from _stream import home, services, spoiled
from _stream.broker import Broker
from _stream.computed_again import COLUMNS, computed_again
from _stream.jobs import Job
from _stream.kills import Kills
from _stream.services import Reader
from _stream.sizes import Sizes
from _stream.traffic import Traffic
from _stream.visible import Asked
from forecache.base.settings import Settings

TABLE, QUARANTINE = f"stream_{home.SCORED}", f"stream_quarantine_{home.SCORED}"
_START_S, _CATCH_UP_S = 180.0, 600.0
_AHEAD_S, _MESSAGES_PER_S = 10.0, 20_000
_RESTART_S = 5.0
"""What a kill adds to the pause before the next, where the broker is started again."""
_ASKED, _ASKED_AT_ONCE = 20_000, 1_000
_COLUMNS = ["customer_id", "terminal_id", "at", "amount", "channel"]


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """A stream of careless messages whose processes are killed; then every row against the truth."""
    settings = home.scored_home(
        work / "scored", customers=sizes.customers, terminals=sizes.terminals, payments=sizes.customers
    )
    return run(settings, sizes)


def run(settings: Settings, sizes: Sizes) -> dict[str, Any]:
    """The section over a home whose views are published and whose model is released."""
    home.forget_stream(settings, home.SCORED, "customer", "terminal")
    seconds = sizes.kills * (sizes.once_kill_s + _RESTART_S / 3) * 1.2
    count = int(sizes.once_rate * seconds)
    with contextlib.ExitStack() as stack:
        folder = settings.home_path / "kafka"
        shutil.rmtree(folder, ignore_errors=True)
        broker = stack.enter_context(Broker(folder))
        broker.create_topic(home.TOPIC, home.PARTITIONS)
        chosen = {
            "BENCH_ENGINE": "arrow", "BENCH_FRESHNESS": "event", "BENCH_FEATURES": "kept",
            "FORECACHE_STREAM_TAILER": "off",
        }  # fmt: skip
        environment = services.environment_of(settings, broker.brokers, **chosen)
        engine = stack.enter_context(services.engine(settings, home.SCORED, environment))
        tailer = stack.enter_context(services.tailer(settings, home.SCORED, environment))
        reader = Reader(settings, environment)
        stack.enter_context(reader.service)
        home.wait_for("the start of the reader", reader.listens, seconds=_START_S, services=[engine, tailer])
        begin = time.time() + _AHEAD_S + count / _MESSAGES_PER_S
        traffic = Traffic(
            begin_us=int(begin * 1e6), rate=sizes.once_rate, count=count,
            customers=sizes.customers, terminals=sizes.terminals,
        )  # fmt: skip
        sender = stack.enter_context(Job("_stream.spoiled", broker.brokers, home.TOPIC, traffic.to_json()))
        sender.wait_until_ready()
        time.sleep(max(0.0, begin - time.time()))
        say(f"once: {sizes.once_rate:,.0f} messages/s with {sizes.kills} kills")
        with Kills([broker, engine, tailer], sizes.once_kill_s, most=sizes.kills) as kills:
            sent = sender.result()
            # Where the broker was slow to start, the last kills come while the rest is read.
            home.wait_for("the last kills", lambda: kills.is_over or bool(kills.failed), seconds=_CATCH_UP_S)
        say(f"once: {sent['event']:,} events, {sent['repeat']:,} twice, {sent['poison']:,} no events, {kills.counts()}")
        wanted = (count, sent["poison"])
        caught_up_s = home.wait_for(
            "all rows and all quarantined messages",
            lambda: (home.count_rows(settings, TABLE), home.count_rows(settings, QUARANTINE)) >= wanted,
            seconds=_CATCH_UP_S,
            services=[engine, tailer],
        )
        time.sleep(2.0)  # for rows that should not come
        for service in (engine, tailer, reader.service):
            service.check()
        found = home.rows_of(settings, TABLE, [*_COLUMNS, *COLUMNS])
        answers = live_answers(reader.port, found)
    return {
        "rate": sizes.once_rate, "seconds": seconds, "sent": sent, "kills": kills.counts(),
        "kills_failed": kills.failed, "ended_by_themselves": engine.ended + tailer.ended,
        "first_ends": _tails(engine.ended, engine.log) + _tails(tailer.ended, tailer.log),
        "caught_up_s": caught_up_s, "rows": rows_against(traffic, found), "live": answers,
        "quarantine": quarantined(settings), "recomputed": recomputed(environment),
        "plain": computed_again(settings, traffic, found),
    }  # fmt: skip


def _tails(ended: int, log: Path) -> list[str]:
    return [log.read_text(errors="replace")[-1000:]] if ended else []


def rows_against(traffic: Traffic, found: pa.Table) -> dict[str, int]:
    """Rows, distinct events, and those whose columns are not what was sent."""
    order = pc.sort_indices(found, [("transaction_id", "ascending")])
    rows = found.take(order)
    ids = rows["transaction_id"].to_numpy()
    known = (ids >= traffic.first) & (ids < traffic.first + traffic.count)
    rows, ids = rows.filter(pa.array(known)), ids[known]
    times = rows["at"].cast(pa.timestamp("us")).to_numpy().astype(np.int64)
    wanted_channel = [spoiled.channel_of((number - traffic.first) / traffic.count) for number in ids.tolist()]
    differ = (
        (rows["customer_id"].to_numpy() != traffic.customer_of(ids))
        | (rows["terminal_id"].to_numpy() != traffic.terminal_of(ids))
        | (rows["amount"].to_numpy() != traffic.amount_of(ids))
        | (times != traffic.due_us(ids))
        | np.array([a != b for a, b in zip(rows["channel"].to_pylist(), wanted_channel, strict=True)], bool)
    )
    return {
        "events": traffic.count, "rows": len(found), "distinct": len(np.unique(ids)), "foreign": int((~known).sum()),
        "differ": int(differ.sum()), "without_score": rows["score"].null_count,
    }  # fmt: skip


def live_answers(port: int, found: pa.Table) -> dict[str, Any]:
    """Some payments as the reader answers them, against their rows."""
    some = found.take(np.sort(np.random.default_rng(0).permutation(len(found))[:_ASKED]))
    asked, wrong, first = Asked(port, home.SCORED), 0, list[str]()
    ids, scores = some["transaction_id"].to_pylist(), some["score"].to_pylist()
    for start in range(0, len(ids), _ASKED_AT_ONCE):
        keys = ids[start : start + _ASKED_AT_ONCE]
        for key, score, result in zip(keys, scores[start:], asked.results(keys), strict=False):
            value = result["value"]["score"] if result["found"] else None
            if value != score:
                wrong += 1
                first = [*first, f"payment {key}: {value} instead of {score}"][:5]
    return {"asked": len(ids), "wrong": wrong, "first_wrong": first}


def quarantined(settings: Settings) -> dict[str, int]:
    """Messages in quarantine, and distinct ones among them."""
    found = home.rows_of(settings, QUARANTINE, ["kafka_partition", "kafka_offset"])
    places = set(zip(found.column(0).to_pylist(), found.column(1).to_pylist(), strict=True))
    return {"rows": len(found), "distinct": len(places)}


def recomputed(environment: Mapping[str, str]) -> dict[str, Any]:
    """What `forecache stream NAME --recompute` says: every row computed again from the table alone."""
    began = time.monotonic()
    done = services.forecache(environment, "stream", home.SCORED, "--recompute", "--json")
    if not done.stdout.strip():
        raise BenchmarkError(f"The recomputation failed with {done.returncode}: {done.stderr[-800:]}")
    return {"exit_code": done.returncode, "seconds": time.monotonic() - began, "said": json.loads(done.stdout)}
