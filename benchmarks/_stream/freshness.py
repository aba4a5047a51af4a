"""Sections event, commit and spark: how long it takes from an event to its answer, and the highest rate."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _realtime.best_rate import Limits, search
from _store.processes import BenchmarkError
from _store.progress import say

from _stream import home, processor, services
from _stream.broker import Broker
from _stream.jobs import Job
from _stream.services import Reader
from _stream.sizes import Sizes
from _stream.supervised import Service
from _stream.traffic import Traffic
from forecache.base.settings import Settings

SECTIONS = {"event": ("arrow", "event"), "commit": ("arrow", "commit"), "spark": ("spark", "commit")}
"""By section, the engine and when an answer is visible."""
PAUSE_S = {"event": 0.002, "commit": 0.01, "spark": 0.02}
"""Between two requests of the client that waits for answers: it asks for all that are missing at once."""
BOUNDED = {"event": Limits(1_000.0), "commit": Limits(2_500.0), "spark": Limits(4_000.0)}
"""A lag is bounded where the second half of a run keeps to this."""
_BOUNDS_A_RUN = 8
"""A run lasts at least so many times as long: at a rate that is an eighth too high it would end over the bound."""
_SAMPLES_PER_S = 20
_PATIENCE_S, _CATCH_UP_S, _START_S = 30.0, 300.0, 180.0
_AHEAD_S, _MESSAGES_PER_S = 4.0, 100_000
_LEAST_RATE = 50.0


@dataclass
class Running:
    """A stream whose processes run, and the payments that it has been sent."""

    settings: Settings
    broker: Broker
    reader: Reader
    engine: Service
    name: str
    customers: int
    terminals: int
    sent: int = 0

    def metered(self, rate: float, seconds: float) -> dict[str, Any]:
        """Figures of a run, with the CPU seconds of each process from its first payment until all are in the table."""
        looks: list[processor.Look] = []
        found = self.run(rate, seconds, at_begin=lambda: looks.append(self.look()))
        self.catch_up()
        return {**found, "events": int(rate * seconds), "processor_s": processor.used_s(looks[0], self.look())}

    def look(self) -> processor.Look:
        return processor.look(self.engine.pid, self.reader.service.pid, self.broker.pid)

    def run(
        self,
        rate: float,
        seconds: float,
        *,
        patience_s: float = _PATIENCE_S,
        at_begin: Callable[[], object] = lambda: None,
    ) -> dict[str, Any]:
        """Figures of so many seconds of payments at a constant rate.

        Args:
            at_begin: Called when the first payment is due.
        """
        count = int(rate * seconds)
        begin = time.time() + _AHEAD_S + count / _MESSAGES_PER_S
        traffic = Traffic(
            begin_us=int(begin * 1e6), rate=rate, count=count, first=self.sent,
            customers=self.customers, terminals=self.terminals,
        )  # fmt: skip
        self.sent += count
        every = max(1, int(rate / _SAMPLES_PER_S))
        arguments = [home.SCORED, traffic.to_json(), every, PAUSE_S[self.name], patience_s]
        with (
            Job("_stream.generate", self.broker.brokers, home.TOPIC, traffic.to_json()) as sender,
            Job("_stream.visible", self.reader.port, *arguments) as client,
        ):
            sender.wait_until_ready()
            if time.time() > begin:
                raise BenchmarkError("The generator was not ready in time: the machine is too busy.")
            time.sleep(max(0.0, begin - time.time()))
            at_begin()
            asked, sent = client.result(), sender.result()
        for each in (self.engine, self.reader.service):
            each.check()
        return figures(asked, sent, rate, seconds)

    def catch_up(self) -> None:
        """Wait until all that was sent is in the table."""
        table = f"stream_{home.SCORED}"
        home.wait_for(
            f"the stream's {self.sent:,} rows in its table",
            lambda: home.count_rows(self.settings, table) >= self.sent,
            seconds=_CATCH_UP_S,
            every_s=1.0,
            services=[self.engine],
        )


def figures(asked: dict[str, Any], sent: dict[str, Any], rate: float, seconds: float) -> dict[str, Any]:
    """Quantiles of the delays in ms, of which an event that was not seen has an infinite one.

    `late_half_p99_ms` is the p99 of the second half.
    """
    delays = np.array([np.inf if each is None else each * 1e3 for each in asked["delays_s"]])
    quantiles = np.quantile(delays, [0.5, 0.9, 0.99, 0.999, 1.0], method="higher")
    found = dict(zip(("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms"), map(_finite, quantiles), strict=True))
    return {
        "rate": rate,
        "seconds": seconds,
        "sampled": len(delays),
        "failed": int(np.isinf(delays).sum()) + sent["undelivered"],
        **found,
        "late_half_p99_ms": _finite(np.quantile(delays[len(delays) // 2 :], 0.99, method="higher")),
        "generator_late_p99_ms": sent["late_p99_ms"],
        "generator_late_max_ms": sent["late_max_ms"],
        "requests": asked["requests"],
        "problems": asked["problems"],
        "first_problems": asked["first_problems"],
    }


def _finite(value: float) -> float:
    return float(value) if np.isfinite(value) else 1e9


@contextlib.contextmanager
def running(settings: Settings, name: str, *, customers: int, terminals: int) -> Iterator[Running]:
    """The stream with its processes while the block runs, once it has answered."""
    engine_name, freshness = SECTIONS[name]
    folder = settings.home_path / "kafka"
    home.forget_stream(settings, home.SCORED, "customer", "terminal")
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(Broker(folder))
        broker.create_topic(home.TOPIC, home.PARTITIONS)
        chosen = {"BENCH_ENGINE": engine_name, "BENCH_FRESHNESS": freshness}
        environment = services.environment_of(settings, broker.brokers, **chosen)
        engine = stack.enter_context(services.engine(settings, home.SCORED, environment))
        reader = Reader(settings, environment)
        stack.enter_context(reader.service)
        home.wait_for("the start of the reader", reader.listens, seconds=_START_S, services=[engine, reader.service])
        found = Running(settings, broker, reader, engine, name, customers, terminals)
        say(f"{name}: first events")
        first = found.run(50.0, 2.0, patience_s=_START_S)
        if first["failed"]:
            engine.check()
            raise BenchmarkError(f"{first['failed']} of the first {first['sampled']} events were not answered: {first}")
        yield found


def measure(work: Path, sizes: Sizes, name: str) -> dict[str, Any]:
    """A long run at the rate that is asked for, then short ones for the highest."""
    rate = sizes.spark_rate if name == "spark" else sizes.rate
    settings = home.scored_home(
        work / "scored", customers=sizes.customers, terminals=sizes.terminals, payments=sizes.customers
    )
    with running(settings, name, customers=sizes.customers, terminals=sizes.terminals) as stream:
        say(f"{name}: {rate:,.0f} events/s for {sizes.answer_s:g} s")
        found = stream.metered(rate, sizes.answer_s)
        sent = stream.sent
        rows = home.rows_of(settings, f"stream_{home.SCORED}", ["transaction_id"])["transaction_id"].to_numpy()
        tried: list[dict[str, Any]] = []
        best = _highest(stream, rate, sizes.search_s, tried) if sizes.search_s else 0.0
    return {
        "engine": SECTIONS[name][0], "freshness": SECTIONS[name][1], "run": found,
        "rows": len(rows), "distinct": len(np.unique(rows)), "sent": sent,
        "highest_rate": best, "bound_ms": BOUNDED[name].p99_ms, "tried": tried,
    }  # fmt: skip


def _highest(stream: Running, rate: float, seconds: float, tried: list[dict[str, Any]]) -> float:
    """The highest rate whose lag is bounded, by runs of so many seconds at least."""
    bound = BOUNDED[stream.name]
    length = max(seconds, _BOUNDS_A_RUN * bound.p99_ms / 1e3)

    def run(rate: float) -> dict[str, Any]:
        say(f"{stream.name}: {rate:,.0f} events/s for {length:g} s")
        found = stream.run(rate, length)
        tried.append(found)
        stream.catch_up()
        # A burst at the start is no lag that grows.
        return {**found, "p99_ms": found["late_half_p99_ms"]}

    return search(run, bound, first=rate, least=_LEAST_RATE, tries=1)
