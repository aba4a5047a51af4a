"""What a version's marks cost a client of a Redis Cluster, and what loading a version costs it and its nodes.

    python benchmarks/redis_cluster.py

Six nodes. Reads: a base of 5,000 keys, with and without a small segment over it, beside plain GETs of the same entries;
processor time of the client, the median of five repetitions; both ways read the same keys in turns. The load: 200,000
keys of a published version, each entry read back; processor time of the client and of all nodes, memory of the nodes.
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

from reader_support import churn_rows, write_version
from redis_nodes import RedisNodes

from forecache.plugins.redis.client import connect, run_pipelined
from forecache.plugins.redis.snapshot import RedisSnapshot, entry_key, mark_names
from forecache.plugins.redis.versions import RedisStore
from forecache.serve.store import Store

KEYS = [b"%06d" % number for number in range(5000)]
SIZES = {1: 800, 100: 30}  # keys at once: reads
REPETITIONS = 5
LOADED = 200_000


def fill(client: Any) -> list[SimpleNamespace]:
    """Write the entries of two segments, and the marks; returns the segments."""
    entries = {entry_key(b"churn:base:", key): b"x" * 60 for key in KEYS}
    entries |= {entry_key(b"churn:delta:", key): b"y" * 60 for key in KEYS[::50]}
    run_pipelined(client, "set", [*entries.items(), *((name, 1) for name in mark_names("churn", in_cluster=True))])
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


def measure_load(nodes: RedisNodes, client: Any, folder: Path) -> tuple[float, float, float, float]:
    """Of loading a version, per key: processor time in microseconds of the client and of the nodes, bytes that a
    primary and its replica need, and bytes of the version's files."""
    write_version(folder, "churn", churn_rows(LOADED))
    store = Store(folder / "churn")
    size = sum(path.stat().st_size for path in store.layout.root.rglob("*") if path.is_file())

    def servers() -> tuple[float, float]:
        infos = [nodes.info(port, "INFO", "everything") for port in nodes.ports]
        used = sum(info["used_cpu_user"] + info["used_cpu_sys"] for info in infos)
        return used, sum(info["used_memory"] for info in infos)

    before, began = servers(), time.process_time()
    loaded = RedisStore(client, "churn").load(store)
    took, after = time.process_time() - began, servers()
    assert loaded["loaded"] >= LOADED
    return took / LOADED * 1e6, (after[0] - before[0]) / LOADED * 1e6, (after[1] - before[1]) / LOADED, size / LOADED


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    nodes = RedisNodes(folder / "nodes")
    try:
        client = connect(nodes.url)
        segments = fill(client)
        for what, some in (("a base", segments[:1]), ("a base and a segment over it", segments)):
            for size in SIZES:
                plain, ours = measure_us(client, some, size)
                print(f"{what}, {size:>3} keys: plain {plain:,.0f} us, ours {ours:,.0f} us, {ours / plain:.2f}")
        client.flushall(target_nodes="primaries")
        ours, theirs, memory, disk = measure_load(nodes, client, folder / "store")
        print(f"a load of {LOADED:,} keys: {ours:.1f} us a key here, {theirs:.1f} us in the nodes together")
        print(f"  {memory:.0f} bytes a key in a primary and its replica, {disk:.0f} in the version's files")
    finally:
        nodes.close()


if __name__ == "__main__":
    main()
