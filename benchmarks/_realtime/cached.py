"""Section cached: each model with a cache of its answers and without, in one reader, for requests that repeat.

Both get the same requests at the same rate, by turns, and what is compared is the processor time of a request: a rate
near the limit is decided by the machine's pauses, which the cache does not change.

Which of the different requests comes next is drawn by Zipf's law, as pages of the web are asked for (L. Breslau et al.,
"Web caching and Zipf-like distributions", INFOCOM 1999, found exponents from 0.64 to 0.83). The cache holds a tenth of
them, so that the share of requests that it answers does not grow with the length of a run.
"""

from pathlib import Path
from typing import Any

import numpy as np
from _common.processes import cpu_s, reader_at
from _store.processes import SERVER_CORE, BenchmarkError
from _store.progress import say

from _realtime import case, home, load, throughput
from _realtime.metrics import metric
from _realtime.sizes import Sizes

WITHOUT, WITH = "without", "with"
EXPONENT = 0.8
RATE = {"tiny": 100.0, "full": 1_000.0}
_FILL_WINDOWS = 3
"""Before what is measured, the cache fills for so many windows."""
ROUNDS = {"tiny": 1, "full": 4}
_COMPARED = 200


def drawn(distinct: int, count: int, seed: int) -> np.ndarray:
    """Numbers of requests, int64 [count] in [0, distinct), of which the one of rank r comes in proportion to r^-0.8."""
    weights = np.arange(1, distinct + 1, dtype=np.float64) ** -EXPONENT
    return np.random.default_rng(seed).choice(distinct, count, p=weights / weights.sum())


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """What a request takes of each model without and with its cache."""
    from bench_ranking.pipelines import rank

    models = work / "models"
    case.write_models(models)
    settings = home.serving(work / "cached", models, sizes.keys, case.MODELS)
    names = {model: {WITHOUT: model, WITH: f"{model}_cached"} for model in case.MODELS}
    for name in names.values():
        home.released_as_it_is(settings, name[WITH])
    bodies = case.bodies(sizes.distinct, sizes.keys, seed=5)
    found: dict[str, Any] = {
        "keys": sizes.keys, "rate": RATE[sizes.name], "distinct": sizes.distinct, "exponent": EXPONENT,
        "cache_bytes": rank.CACHE_BYTES, "models": {},
    }  # fmt: skip
    every = [name for sides in names.values() for name in sides.values()]
    with home.reader(settings, *every, core=SERVER_CORE) as port:
        for model, sides in names.items():
            say(f"cached: {model}")
            expected = case.Expected(models, model)
            found["models"][model] = _model(port, work, sizes, sides, bodies, expected)
    return found


def _model(
    port: int, work: Path, sizes: Sizes, sides: dict[str, str], bodies: list[dict[str, Any]], expected: case.Expected
) -> dict[str, Any]:
    found: dict[str, Any] = {"in_loop": throughput.runs_in_loop(port, sides[WITH]), WITHOUT: [], WITH: []}
    before = compared(port, sides, bodies[:_COMPARED], expected)
    fill = _FILL_WINDOWS * sizes.window_s
    _run(port, sides[WITH], _written(work, sides[WITH], bodies, sizes, fill, seed=6), sizes, fill)
    for number in range(ROUNDS[sizes.name]):
        for side in (WITHOUT, WITH) if number % 2 else (WITH, WITHOUT):
            # Drawn anew for each round: what a run before has asked for would all be in the cache.
            requests = _written(work, sides[side], bodies, sizes, sizes.final_s, seed=7 + number)
            found[side].append(_run(port, sides[side], requests, sizes, sizes.final_s))
    after = compared(port, sides, bodies[:_COMPARED], expected)
    found["compared"] = {what: before[what] + after[what] for what in before}
    return found


def _written(work: Path, name: str, bodies: list[dict[str, Any]], sizes: Sizes, seconds: float, *, seed: int) -> Path:
    """The requests of a run, as many as it sends."""
    count = round(RATE[sizes.name] * seconds) + 1
    encoded = [case.encoded(bodies[number]) for number in drawn(len(bodies), count, seed)]
    return load.write_requests(work / f"{name}.requests", encoded, f"/v1/{name}")


def _run(port: int, name: str, requests: Path, sizes: Sizes, seconds: float) -> dict[str, Any]:
    """Figures of a run, with the reader's processor time of a request in us and the share that the cache answered."""
    processes = reader_at(port)
    counted, used = answers(port, name), cpu_s(processes)
    done = load.run(port, requests, rate=RATE[sizes.name], seconds=seconds, classes=throughput.CLASSES)
    cpu_us = (cpu_s(processes) - used) / len(done.status) * 1e6
    share = hit_rate(counted, answers(port, name))
    figures = done.figures()
    say(f"  {name}: {cpu_us:.0f} us of processor time, p50 {figures['p50_ms']:.2f}, p99 {figures['p99_ms']:.2f} ms")
    model_share = float(done.with_class(throughput.MODEL).mean())
    return {**figures, "cpu_us": cpu_us, "hit_rate": share, "model_share": model_share}


def answers(port: int, name: str) -> dict[str, float]:
    """How many requests a model's cache has answered, and how many it has not, since the reader's start."""
    hits, joined, misses = (
        metric(port, f"forecache_realtime_cache_{each}_total", name) for each in ("hits", "joined", "misses")
    )
    return {"hits": hits + joined, "misses": misses}


def hit_rate(before: dict[str, float], after: dict[str, float]) -> float | None:
    """Share of the requests between two counts that the cache answered; None: it was asked for none."""
    hits, misses = (after[name] - before[name] for name in ("hits", "misses"))
    return hits / (hits + misses) if hits + misses else None


def compared(port: int, sides: dict[str, str], bodies: list[dict[str, Any]], expected: case.Expected) -> dict[str, int]:
    """Ask for the requests that come most often, twice with the cache, and compare with the answers without it.

    Returns:
        How many answers were compared, how many of these the cache gave, and how many differ in an item or a score.

    Raises:
        BenchmarkError: The answers without the cache are not the model's.
    """
    counted, asked, wrong = answers(port, sides[WITH]), 0, 0
    for body in bodies:
        plain = home.by_model(port, sides[WITHOUT], body)["items"]
        if fault := expected.fault_of(body, plain):
            raise BenchmarkError(f"The answer of {sides[WITHOUT]} is not the model's: {fault}.")
        for _ in range(2):
            asked += 1
            wrong += home.by_model(port, sides[WITH], body)["items"] != plain
    hits = answers(port, sides[WITH])["hits"] - counted["hits"]
    return {"answers": asked, "cached": int(hits), "wrong": wrong}
