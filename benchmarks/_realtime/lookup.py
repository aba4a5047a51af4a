"""Section lookup: 50 keys of 2 million, 32 features, to a matrix in this process; Redis and Feast beside it."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _store.backends import PEERS
from _store.progress import say

from _realtime import case, peer_data
from _realtime.sizes import Sizes

KEYS = 50
OURS, REDIS, FEAST = "ours", "redis", "feast"
_SIZE = len(case.WIDE_FEATURES)
_WARM = 50


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Nanoseconds of each look-up, ours and Redis's in turns, then Feast's in a process of its own."""
    found: dict[str, Any] = {"keys": sizes.lookup_keys, "feast_keys": sizes.feast_keys, "features": _SIZE}
    with peer_data.redis(work / "redis-wide", {"wide": sizes.lookup_keys}, 1) as socket:
        found["nanoseconds"] = in_turns(work / "wide", socket, sizes)
    say("look-ups: Feast")
    with peer_data.feast(work, {"wide": sizes.feast_keys}, 1) as repository:
        calls = max(50, sizes.lookups // 20)
        found["nanoseconds"][FEAST] = peer_data.feast_side("look", repository, sizes.feast_keys, calls)["nanoseconds"]
    return found


def in_turns(folder: Path, socket: str, sizes: Sizes) -> dict[str, list[int]]:
    """Our store and Redis asked for the same keys, one after the other, so that a busier moment meets both."""
    sys.path.append(str(PEERS))  # hiredis
    import redis
    from bench_ranking.pipelines import rank

    from _realtime import home
    from forecache.serve.store import Store
    from forecache.serve.store.keys import encode_columns

    settings = home.published(folder, {"wide": sizes.lookup_keys})
    say("look-ups: our store and Redis")
    snapshot = Store(settings.store_path / rank.wide.name).snapshot()
    snapshot.warm()  # as the reader does before it serves a version; Redis has its rows in memory too
    schema, matrix = snapshot.manifest.key, snapshot.matrix
    client = redis.Redis(unix_socket_path=socket)

    def ours(ids: np.ndarray) -> np.ndarray:
        found, known = matrix(encode_columns(schema, [ids]))
        return found

    def from_redis(ids: np.ndarray) -> np.ndarray:
        values = client.mget([b"w:%d" % each for each in ids.tolist()])
        return np.frombuffer(b"".join(values), np.float32).reshape(KEYS, _SIZE)

    return timed({OURS: ours, REDIS: from_redis}, sizes.lookup_keys, sizes.lookups)


def timed(ways: dict[str, Callable[[np.ndarray], np.ndarray]], keys: int, calls: int) -> dict[str, list[int]]:
    """Each way's nanoseconds for random keys; every matrix is compared with what the keys have."""
    rng = np.random.default_rng(3)
    took: dict[str, list[int]] = {name: [] for name in ways}
    for number in range(calls + _WARM):
        ids = rng.integers(0, keys, KEYS)
        wanted = case.features_of("wide_id", ids, _SIZE)
        for name, way in ways.items():
            started = time.perf_counter_ns()
            found = way(ids)
            nanoseconds = time.perf_counter_ns() - started
            assert found.tobytes() == wanted.tobytes(), name
            if number >= _WARM:
                took[name].append(nanoseconds)
    return took
