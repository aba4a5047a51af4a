"""What a version's marks cost a client of a Redis Cluster: its reads beside plain GETs of the same entries.

    python benchmarks/redis_cluster.py

Six nodes, a base of 5,000 keys, with and without a small segment over it. Processor time of the client, the median of
five repetitions; both ways read the same keys in turns.
"""

import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from redis_nodes import RedisNodes

from forecache.plugins.redis.client import connect, run_pipelined
from forecache.plugins.redis.versions import RedisSnapshot, entry_key, mark_names

KEYS = [b"%06d" % number for number in range(5000)]
SIZES = {1: 800, 100: 30}  # keys at once: reads
REPETITIONS = 5


def fill(client: Any) -> list[SimpleNamespace]:
    """Write the entries of two segments, and the marks; returns the segments."""
    entries = {entry_key(b"churn:base:", key): b"x" * 60 for key in KEYS}
    entries |= {entry_key(b"churn:delta:", key): b"y" * 60 for key in KEYS[::50]}
    run_pipelined(client, "set", [*entries.items(), *((name, 1) for name in mark_names("churn"))])
    return [SimpleNamespace(id="base"), SimpleNamespace(id="delta")]


def measure_us(client: Any, segments: list[SimpleNamespace], size: int) -> tuple[float, float]:
    """Processor time in microseconds of a plain read and of a version's read of so many keys."""
    manifest: Any = SimpleNamespace(pipeline="churn", segments=segments, carried=False)
    snapshot = RedisSnapshot(client, manifest, load=1)
    prefixes = [f"churn:{segment.id}:".encode() for segment in segments]
    plain, ours = list[float](), list[float]()
    for _ in range(REPETITIONS):
        reads = [random.sample(KEYS, size) for _ in range(SIZES[size])]
        began = time.process_time()
        for keys in reads:
            run_pipelined(client, "get", [(entry_key(prefix, key),) for key in keys for prefix in prefixes])
        middle = time.process_time()
        for keys in reads:
            snapshot.get_entries(keys)
        plain.append((middle - began) / len(reads) * 1e6)
        ours.append((time.process_time() - middle) / len(reads) * 1e6)
    return statistics.median(plain), statistics.median(ours)


def main() -> None:
    nodes = RedisNodes(Path(tempfile.mkdtemp()))
    try:
        client = connect(nodes.url)
        segments = fill(client)
        for what, some in (("a base", segments[:1]), ("a base and a segment over it", segments)):
            for size in SIZES:
                plain, ours = measure_us(client, some, size)
                print(f"{what}, {size:>3} keys: plain {plain:,.0f} us, ours {ours:,.0f} us, {ours / plain:.2f}")
    finally:
        nodes.close()


if __name__ == "__main__":
    main()
