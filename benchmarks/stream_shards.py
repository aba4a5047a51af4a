"""How many events a second one, two and more processes of one stream take in from a full topic of Kafka.

python benchmarks/stream_shards.py 2 1000000 3      processes, events, rounds; some minutes

Each round measures all ways one after the other: one engine with all partitions, then 1, 2, ... processes with as many
shards, at least 2. A stream of a view of 100,000 keys with ids goes through one topic of 8 partitions, on a lake of its
own each time. A way begins once each shard has committed a row, and ends when the last row is committed: starts do not
count. It needs a core for each process, and one for the broker.
"""

import json
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from _stream.broker import Broker

from forecache.base.settings import Settings, load_settings
from forecache.declare import Column, FeatureView, Live, Publish, Source, Stream, Table, Topic, Window
from forecache.kit.process.usage import tree_cpu_s
from forecache.stream.engine.engine import engine_of
from forecache.stream.kafka.client import produce
from forecache.stream.state import StreamState, read_state
from forecache.stream.table.schema import shards_of

PARTITIONS, KEYS, NOW = 8, 100_000, datetime.now(timezone.utc)
SOURCE = Source(
    "payments",
    columns=(
        Column("payment_id", "bigint"), Column("customer_id", "bigint"), Column("at", "timestamp"),
        Column("amount", "double"),
    ),
    event_time="at",
    unique=("payment_id",),
    start=NOW.date(),
)  # fmt: skip
VIEW = FeatureView(
    "customer",
    ("customer_id",),
    (SOURCE,),
    windows=(Window("spent_7d", "sum", 7, "amount"), Window("times_15m", "count", minutes=15)),
    publish=Publish(),
    live=Live(),
)
STREAM = Stream(
    "payments", Topic("payments", topic="payments", source=SOURCE, key=("customer_id",)), views=(VIEW,), to=(Table(),)
)


def main() -> None:
    """Print the events a second of each way and round, and the median of the ratios to one engine."""
    processes, events, rounds = (int(each) for each in (*sys.argv[1:], *("2", "1000000", "3")[len(sys.argv) - 1 :]))
    ways = {"one engine": (1, 1), "1 process, 2 shards": (1, 2)}
    ways |= {f"{count} processes, {count} shards": (count, count) for count in range(2, processes + 1)}
    found: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder, Broker(Path(folder) / "kafka") as broker:
        broker.create_topic("payments", PARTITIONS)
        send(broker.brokers, events)
        for number in range(rounds):
            for name, (count, shards) in ways.items():
                home = Path(folder) / f"{number}-{count}-{shards}"
                settings = load_settings(home=home, kafka_brokers=broker.brokers)
                rate, cpu = measure(settings, count, shards, events)
                found[name].append(rate)
                load = os.getloadavg()[0]
                print(f"{name}: {rate:,.0f} events/s, {cpu:.1f} us of CPU an event (load {load:.1f})", flush=True)
    first = found["one engine"]
    for name, rates in found.items():
        ratio = statistics.median(rate / before for rate, before in zip(rates, first, strict=True))
        print(f"{name}: median {statistics.median(rates):,.0f} events/s, {ratio:.2f} times one engine")


def send(brokers: str, events: int) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 20})
    at = NOW.isoformat()
    for number in range(events):
        customer = number * 7919 % KEYS
        value = {"payment_id": number, "customer_id": customer, "at": at, "amount": round(number % 997 / 7, 2)}
        produce(producer, "payments", json.dumps(value).encode(), b"", partition=customer % PARTITIONS)
    producer.flush()


def measure(settings: Settings, count: int, shards: int, events: int) -> tuple[float, float]:
    """Run a stream of some shards in some processes over the whole topic; returns events/s and CPU time an event."""
    stream, context = replace(STREAM, shards=shards), multiprocessing.get_context("spawn")
    processes = [context.Process(target=run, args=(settings, stream)) for _ in range(count)]
    for process in processes:
        process.start()
    names = [shard.name_of(stream.name) for shard in shards_of(stream)]
    began, rows, began_cpu = 0.0, 0, 0.0
    while True:
        states = [read_state(settings, name) or StreamState() for name in names]
        there, cpu = sum(state.rows for state in states), sum(tree_cpu_s(each.pid or 0) for each in processes)
        if not began and all(state.rows for state in states):
            began, rows, began_cpu = time.monotonic(), there, cpu
        if there >= events:
            seconds = max(state.committed_at for state in states) - time.time() + time.monotonic() - began
            break
        time.sleep(0.05)
    for process in processes:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    return (events - rows) / seconds, (cpu - began_cpu) / (events - rows) * 1e6


def run(settings: Settings, stream: Stream) -> None:
    engine_of(stream)(settings, stream).run()


if __name__ == "__main__":
    main()
