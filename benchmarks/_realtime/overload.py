"""Section overload: several times as many requests as a worker holds; which are answered, how late, which refused."""

from pathlib import Path
from typing import Any

from _store.processes import SERVER_CORE, BenchmarkError
from _store.progress import say

from _realtime import best_rate, case, home, load, throughput
from _realtime.best_rate import LIMITS, Limits
from _realtime.sizes import Sizes

FACTORS = (1, 2, 5, 10)
WITHIN_MS = 50.0


def measure(work: Path, sizes: Sizes, model: str = case.NETWORK) -> dict[str, Any]:
    """The best rate of the model path, then multiples of it; each request says when it was due, as with a balancer."""
    models = work / "models"
    case.write_models(models)
    settings = home.serving(work / "home", models, sizes.keys, (model,))
    bodies = [case.encoded(body) for body in case.bodies(throughput.REQUESTS, sizes.keys, seed=4)]
    path = f"/v1/{model}"
    with home.reader(settings, model, core=SERVER_CORE) as port:
        plain = load.write_requests(work / "overload.requests", bodies, path)
        best = throughput.best(port, plain, sizes, LIMITS, 2_000.0)
        if not best["rate"]:
            raise BenchmarkError("The model path held no rate within its limits: measure again on a quieter machine.")
        stamped = load.write_requests(work / "overload.requests", bodies, path, stamped=True)

        def run(rate: float, seconds: float) -> dict[str, Any]:
            say(f"overload: {rate:,.0f} requests/s")
            done = load.run(port, stamped, rate=rate, seconds=seconds, classes=throughput.CLASSES)
            return {**done.figures(), **shares(done, seconds)}

        runs = {str(factor): run(factor * best["rate"], sizes.window_s) for factor in FACTORS}
        in_time = Limits(WITHIN_MS, WITHIN_MS).times(sizes.slack)
        most = best_rate.search(lambda rate: run(rate, sizes.probe_s), in_time, first=1.5 * best["rate"])
        held = run(most, sizes.window_s) if most else {}
        values = of_values(work, port, sizes)
    hardest = max(FACTORS) * best["rate"]
    alone = load.ceiling(work, bodies[0], (int(hardest / 2), int(hardest)), sizes.probe_s)
    found = {"best_rate": best["rate"], "best": best, "within_ms": WITHIN_MS, "factors": runs, "held": held}
    return {**found, "values": values, "ceiling": alone}


def of_values(work: Path, port: int, sizes: Sizes) -> dict[str, Any]:
    """The best rate of reads of one key, and what becomes of twice as many; the generator cannot send more."""
    reads = [None] * min(throughput.REQUESTS, sizes.keys)
    requests = load.write_requests(work / "values.requests", reads, "/v1/household/{}")
    rate = throughput.searched(port, requests, sizes, LIMITS, 5_000.0)["rate"]
    if not rate:
        raise BenchmarkError("The reader held no rate within its limits: measure again on a quieter machine.")
    done = load.run(port, requests, rate=2 * rate, seconds=sizes.window_s)
    in_time = (done.status == 200) & (done.latency_ms <= WITHIN_MS)
    return {
        **done.figures(),
        "late": late(done),
        "best_rate": rate,
        "in_time_per_s": float(in_time.sum() / sizes.window_s),
    }


def late(done: load.Load) -> int:
    """The requests of a run that were accepted, and answered too late."""
    return int(((done.status == 200) & (done.latency_ms > WITHIN_MS)).sum())


def shares(done: load.Load, seconds: float) -> dict[str, Any]:
    """Of a run: requests answered late, by the model wholly, and by what their items were."""
    items: dict[str, int] = {}
    for number, name in enumerate(done.names):
        answers = int((done.classes == number).sum())
        for answered_by, count in counts_of(name).items():
            items[answered_by] = items.get(answered_by, 0) + count * answers
    total = sum(items.values())
    model = done.with_class(throughput.MODEL) & (done.latency_ms <= WITHIN_MS)
    return {
        "late": late(done),
        "model_per_s": float(model.sum() / seconds),
        "answered_by": {answered_by: count / total for answered_by, count in items.items()} if total else {},
    }


def counts_of(text: str) -> dict[str, int]:
    """The items by answered_by of an answer's class, such as `"model":40,"order_given":10`."""
    pairs = (part.rpartition(":") for part in text.split(",") if part)
    return {name.strip('"'): int(count) for name, _, count in pairs}
