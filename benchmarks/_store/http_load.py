"""Sections http-one and http-many: every server under the same load, at its default setting and held to one core."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from _store import answers, servers
from _store.load import run_load
from _store.processes import SETTINGS
from _store.progress import say
from _store.sizes import KEYS_PER_REQUEST, Sizes


def measure(workloads: list[str], work: Path, sizes: Sizes, number: int) -> dict[str, dict[str, Any]]:
    """One pass: for each workload, surface and setting the load runs, and once the check of the answers.

    The second pass goes through the servers in the opposite order, so that no peer always runs in the same place.
    """
    everyone = servers.servers(work, sizes.http_keys)
    found: dict[str, dict[str, Any]] = {workload: {} for workload in workloads}
    rng = np.random.default_rng(number)
    for server in everyone if number % 2 else everyone[::-1]:
        for setting in SETTINGS if server.workers == 1 else SETTINGS[:1]:
            say(f"pass {number}: {server.name}, {setting}")
            one_core = setting == "one core"
            with servers.started(server, one_core=one_core) as port:
                for surface in server.surfaces:
                    for workload in workloads:
                        record = found[workload].setdefault(surface.name, {})
                        target, batch = surface.target(workload, port), KEYS_PER_REQUEST[workload]
                        if "content" not in record:
                            # A whole number of requests, at least one.
                            count = max(sizes.checked_keys // batch, 1) * batch
                            keys = [f"{index:08d}" for index in rng.integers(0, sizes.http_keys, count).tolist()]
                            record["content"] = answers.check(surface.name, target, keys, batch)
                        record[setting] = _load(target, workload, sizes, number, one_core)
    return found


def _load(target: Any, workload: str, sizes: Sizes, number: int, one_core: bool) -> list[dict[str, Any]]:
    arguments = {"num_keys": sizes.http_keys, "one_core": one_core}
    run_load(target, workload, seconds=sizes.warm_s, seed=100 * number, **arguments)
    return [
        asdict(run_load(target, workload, seconds=sizes.load_s, seed=100 * number + repeat, **arguments))
        for repeat in range(1, sizes.repeats + 1)
    ]
