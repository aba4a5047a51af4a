"""Section in-process: reads without a network, against Redis on this machine and the Feast SDK."""

import json
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from _store import feast_peer, publishing, rows
from _store.inprocess_job import quantiles
from _store.processes import PYTHON, free_port, run_checked
from _store.progress import say
from _store.sizes import Sizes

_REDIS_KEYS = 200_000
_BENCHMARKS = Path(__file__).resolve().parents[1]


def measure(work: Path, sizes: Sizes, number: int) -> dict[str, Any]:
    home = publishing.ensure_published(work, sizes)
    say(f"pass {number}: reads in process")
    command = [PYTHON, "-m", "_store.inprocess_job", home, sizes.big_keys, sizes.gets, number]
    output = run_checked(command, cwd=_BENCHMARKS)
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    fewest, *more = json.loads(line.removeprefix("RESULT "))
    found: dict[str, Any] = {"forecache": fewest, "with deltas": more[0] if more else None}
    say(f"pass {number}: Redis GET and the Feast SDK")
    found["redis"] = redis_get(work, sizes, number)
    for online_store in feast_peer.ONLINE_STORES:
        repository = feast_peer.loaded(work, online_store, sizes.http_keys)
        with repository.redis():
            taken = repository.get_ns(sizes.http_keys, sizes.feast_gets, number)
        found[f"feast {online_store}"] = {"get_ns": quantiles(np.array(taken)), "gets": len(taken)}
    return found


def redis_get(work: Path, sizes: Sizes, number: int) -> dict[str, Any]:
    """GET of the same JSON from a Redis on this machine through redis-py, one call at a time."""
    import redis

    num_keys = min(_REDIS_KEYS, sizes.big_keys)
    port, folder = free_port(), work / "redis"
    folder.mkdir(parents=True, exist_ok=True)
    with feast_peer.redis_server(folder, port):
        client = redis.Redis("127.0.0.1", port)
        for start in range(0, num_keys, 20_000):
            index = np.arange(start, min(start + 20_000, num_keys))
            keys = rows.key_bytes(index)
            client.mset({key: json.dumps(row).encode() for key, row in zip(keys, _rows(index), strict=True)})
        calls = min(sizes.gets, 50_000)
        taken = []
        for key in rows.key_bytes(np.random.default_rng(number).integers(0, num_keys, calls)):
            started = perf_counter_ns()
            client.get(key)
            taken.append(perf_counter_ns() - started)
        client.close()
    return {"get_ns": quantiles(np.array(taken)), "gets": calls, "keys": num_keys}


def _rows(index: np.ndarray) -> list[dict[str, Any]]:
    columns = rows.values(index, np.zeros(len(index), np.uint16))
    lists = [columns[name].tolist() for name in rows.FIELDS[:3]]
    lists.append([rows.LABELS[place] for place in columns[rows.FIELDS[3]].tolist()])
    return [dict(zip(rows.FIELDS, row, strict=True)) for row in zip(*lists, strict=True)]
