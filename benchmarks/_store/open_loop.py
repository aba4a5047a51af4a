"""Section open: latencies at a constant rate of requests that do not wait for one another, with and without publishes.

A request's latency is counted from the moment it was due, so what a stalled server could not be sent is in it.
"""

import base64
import csv
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from _store import answers, backends, rows, servers
from _store.load import Target
from _store.processes import ROOT, BenchmarkError, free_port
from _store.progress import say
from _store.sizes import Sizes
from _store.swaps import NICENESS, Swaps

VEGETA = ROOT / ".tools" / "bin" / "vegeta"
_TARGETS = 20_000
_SLOW = (*servers.FEAST_NAMES.values(), servers.FEAST_TWO)
_EVERYONE = (
    servers.OURS, servers.OURS_FEAST, servers.OURS_TOKENS, servers.FASTAPI, servers.RSGI, *servers.STORES,
    *servers.FEAST_NAMES.values(),
)  # fmt: skip
_PUBLISH_EVERY_S = 3.0
_QUANTILES = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}


def measure(work: Path, sizes: Sizes, swaps: Swaps) -> dict[str, Any]:
    """Every server at the low rate, those that can at the high one; then some of them while rows are replaced."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for server in servers.servers(work, sizes.http_keys):
        chosen = [surface for surface in server.surfaces if surface.name in _EVERYONE]
        if not chosen:
            continue
        with servers.started(server) as port:
            for surface in chosen:
                say(f"open loop: {surface.name}")
                rates = sizes.rates[:1] if surface.name in _SLOW else sizes.rates
                record = found.setdefault(surface.name, {})
                target = surface.target("one", port)
                attack(work, target, sizes, rates[0], sizes.warm_s + 1.0)
                for rate in rates:
                    record[str(rate)] = [
                        attack(work, target, sizes, rate, sizes.open_s) for _ in range(sizes.open_repeats)
                    ]
    return {
        "rates": list(sizes.rates),
        "seconds": sizes.open_s,
        "servers": found,
        "publishing": {
            servers.OURS: _ours_publishing(work, sizes, swaps),
            servers.REDIS_BLOCKING: _other_publishing(work, sizes, "redis", f"/blocking/{rows.NAME}/"),
            servers.POSTGRES: _other_publishing(work, sizes, "postgres", f"/v1/{rows.NAME}/"),
        },
        "niceness": NICENESS,
        "changed": int(sizes.http_keys * sizes.changed_share),
    }


def attack(work: Path, target: Target, sizes: Sizes, rate: int, seconds: float) -> dict[str, Any]:
    """One run of vegeta at a constant rate: quantiles of all answers, counted from when each request was due."""
    if not VEGETA.exists():
        raise BenchmarkError("vegeta is missing; `bash benchmarks/peers_env.sh programs` builds it, with Go")
    requests = work / "requests.json"
    requests.write_text("\n".join(_requests(target, sizes.http_keys)))
    command = [
        VEGETA, "attack", "-format", "json", "-targets", requests, "-rate", f"{rate}/s", "-duration", f"{seconds}s",
        "-timeout", "10s", "-max-workers", "4000", "-max-body", "0", "-output", work / "attack.bin",
    ]  # fmt: skip
    subprocess.run(list(map(str, command)), check=True, stdin=subprocess.DEVNULL)
    encoded = subprocess.run(
        [str(VEGETA), "encode", "--to", "csv", str(work / "attack.bin")], check=True, capture_output=True, text=True
    )
    return latencies(encoded.stdout, rate)


def _requests(target: Target, num_keys: int) -> list[str]:
    found = []
    url = f"http://127.0.0.1:{target.port}{target.path}"
    for index in np.random.default_rng(0).integers(0, num_keys, _TARGETS).tolist():
        key = rows.key_text(index)
        header = {name: [value] for name, value in target.headers.items()}
        if target.kind == "get":
            request: dict[str, Any] = {"method": "GET", "url": url + key}
        else:
            body = base64.b64encode(answers.body_of(target.kind, [key]).encode()).decode()
            header["Content-Type"] = ["application/json"]
            request = {"method": "POST", "url": url, "body": body}
        found.append(json.dumps({**request, "header": header}))
    return found


def latencies(results: str, rate: int) -> dict[str, Any]:
    """Quantiles in ms from vegeta's CSV; a request was due at its number times the interval after the first."""
    lines = list(csv.reader(results.splitlines()))
    sent = np.array([int(line[0]) for line in lines], np.int64)
    code = np.array([int(line[1]) for line in lines])
    took = np.array([int(line[2]) for line in lines], np.int64)
    number = np.array([int(line[8]) for line in lines], np.int64)
    after = number * (1_000_000_000 // rate)
    due = (sent - after).min() + after
    waited_ms = np.sort((sent + took - due) / 1e6)
    return {
        "rate": rate,
        "requests": len(lines),
        "failed": int((code != 200).sum()),
        **{name: float(np.quantile(waited_ms, share)) for name, share in _QUANTILES.items()},
        "max_ms": float(waited_ms[-1]),
    }


def _window(sizes: Sizes) -> tuple[int, float]:
    """How many publishes, and the seconds of load they fall into."""
    count = min(sizes.swaps, max(2, round(2 * sizes.open_s / _PUBLISH_EVERY_S)))
    return count, count * _PUBLISH_EVERY_S + 1.0


def _ours_publishing(work: Path, sizes: Sizes, swaps: Swaps) -> list[dict[str, Any]]:
    count, window_s = _window(sizes)
    found = []
    for _ in range(sizes.open_repeats):
        say(f"open loop: Forecache with {count} publishes")
        with swaps.served() as (target, _base):
            attack(work, target, sizes, sizes.rates[1], sizes.warm_s + 1.0)
            load, publishes = swaps.with_publishes(
                lambda target=target: attack(work, target, sizes, sizes.rates[1], window_s),  # type: ignore[misc]
                count,
                window_s,
            )
        found.append({**load, "planned": count, "publishes": sum(each["under_load"] for each in publishes)})
    return found


def _other_publishing(work: Path, sizes: Sizes, backend: str, path: str) -> list[dict[str, Any]]:
    """The handler over another store while as many of its keys are replaced as often, by a client at our niceness."""
    count, window_s = _window(sizes)
    folder, home = work / "backends", servers.published_home(work, sizes.http_keys)
    file = folder / f"changes.{backend}"
    rng = np.random.default_rng(0)
    index = np.sort(rng.choice(sizes.http_keys, int(sizes.http_keys * sizes.changed_share), replace=False))
    table = rows.table(index, np.ones(len(index), np.uint16), rows.FIRST_NIGHT).combine_chunks()
    keys, values = table[rows.KEY].chunk(0), backends.json_values(table)
    found = []
    for _ in range(sizes.open_repeats):
        say(f"open loop: {backend} with {count} times as many keys replaced")
        with backends.loaded(backend, folder, sizes.http_keys) as place:
            redis = backend == "redis"
            file.write_bytes(backends.redis_commands(keys, values) if redis else backends.text_lines([keys, values]))
            change = backends.pipe_command(place) if redis else backends.update_command(place, file)
            port = free_port()
            with servers.direct_handler(home, backend, place)(port, None):
                target = Target(port, "get", path)
                attack(work, target, sizes, sizes.rates[1], sizes.warm_s + 1.0)
                load = _while_setting(
                    lambda target=target: attack(work, target, sizes, sizes.rates[1], window_s),  # type: ignore[misc]
                    lambda change=change: _step_back_and_run(change, file),  # type: ignore[misc]
                    count,
                )
        found.append({**load, "planned": count, "publishes": count})
    return found


def _step_back_and_run(command: list[str], file: Path) -> None:
    with open(file, "rb") as given:
        nice = ["nice", "-n", str(NICENESS), *command]
        subprocess.run(nice, check=True, stdin=given, capture_output=True, start_new_session=True)


def _while_setting(load: Callable[[], dict[str, Any]], change: Callable[[], None], count: int) -> dict[str, Any]:
    def run() -> None:
        begin = time.time()
        for number in range(count):
            time.sleep(max(0.0, begin + number * _PUBLISH_EVERY_S - time.time()))
            change()

    thread = threading.Thread(target=run)
    thread.start()
    found = load()
    thread.join()
    return found
