"""Sections network and trees: the best rate of every server at the same limits, for the same model and answer."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _store.processes import OTHER_CORE, SERVER_CORE, BenchmarkError
from _store.progress import say

from _realtime import best_rate, case, home, load, peer_data, peer_servers
from _realtime.best_rate import LIMITS, OURS, Limits
from _realtime.peer_servers import Peer
from _realtime.sizes import Sizes

PEER_P99_MS = (5.0, 10.0, 25.0, 50.0)
"""A peer is held to the first 99th percentile that it keeps to at any rate, and to no p99.9."""
CLASSES = ('"rungs":{', "}")
MODEL = f'"model":{case.CANDIDATES}'
"""The class of an answer whose items are all the model's."""
REQUESTS = 5_000
_CHECKED = 20
_FIRST_OURS, _FIRST_PEER = 2_000.0, 300.0


def measure(work: Path, sizes: Sizes, model: str) -> dict[str, Any]:
    """The best rate of ours and of every peer that is installed, one after the other."""
    models = work / "models"
    case.write_models(models)
    expected = case.Expected(models, model)
    bodies = case.bodies(REQUESTS, sizes.keys, seed=2)
    record: dict[str, Any] = {"keys": sizes.keys, "limits": vars(LIMITS), "servers": {}, "absent": {}}
    settings = home.serving(work / "home", models, sizes.keys, (model,))
    record["ceiling"] = load.ceiling(work, case.encoded(bodies[0]), (10_000, 30_000), sizes.probe_s)
    with home.reader(settings, model, core=SERVER_CORE) as port:
        path = f"/v1/{model}"
        check(port, path, bodies, expected, lambda body: body, lambda answer: answer["items"])
        requests = load.write_requests(work / "ours.requests", [*map(case.encoded, bodies)], path)
        record["servers"][OURS] = best(port, requests, sizes, LIMITS, _FIRST_OURS, of_model=True)
        record["servers"][OURS]["timings_ms"] = timings(port, path, bodies)
    views = {"household": sizes.keys, "product": sizes.keys}
    # Redis runs beside the load generator, so that the server has its core to itself.
    with peer_data.redis(work / "redis", views, OTHER_CORE) as socket:
        for peer in peer_servers.PEER_SERVERS:
            feast = peer_data.feast(work, views, OTHER_CORE) if peer.environment == "feast" else no_repository()
            try:
                peer_data.install(peer.environment)
                with feast as repository:
                    found = _peer(peer, work, sizes, model, models, socket, repository, bodies, expected)
                record["servers"].update(found)
            except BenchmarkError as error:
                say(f"{peer.name} is not measured: {error}")
                record["absent"][peer.name] = str(error)[-300:]
    return record


@contextlib.contextmanager
def no_repository() -> Iterator[None]:
    yield None


def _peer(
    peer: Peer, work: Path, sizes: Sizes, model: str, models: Path, socket: str, feast: Path | None,
    bodies: list[dict[str, Any]], expected: case.Expected,
) -> dict[str, Any]:  # fmt: skip
    found = {}
    started = peer_servers.started(
        peer, work / "peers", model=model, models=models, redis=socket, feast=feast, core=SERVER_CORE
    )
    with started as port:
        for way, path in peer.paths.items():
            check(port, path, bodies, expected, peer.body, peer.items)
            requests = load.write_requests(
                work / "peer.requests", [case.encoded(peer.body(body)) for body in bodies], path
            )
            for p99_ms in PEER_P99_MS:
                limits, first = Limits(p99_ms), _FIRST_PEER if peer.environment != "feast" else 50.0
                measured = best(port, requests, sizes, limits, first)
                if measured["runs"]:
                    break
            found[f"{peer.name}, {way}"] = {**measured, "p99_limit_ms": p99_ms, "peer": peer.name}
    return found


def check(
    port: int,
    path: str,
    bodies: list[dict[str, Any]],
    expected: case.Expected,
    body_of: Callable[[dict[str, Any]], Any],
    items_of: Callable[[dict[str, Any]], list[dict[str, Any]]],
) -> None:
    """Compare a server's answers with what the model gives.

    Raises:
        BenchmarkError: One differs.
    """
    for body in bodies[:_CHECKED]:
        fault = expected.fault_of(body, items_of(home.ask(port, path, body_of(body))))
        if fault:
            raise BenchmarkError(f"The answer at {path} is not the model's: {fault}.")


def best(
    port: int, requests: Path, sizes: Sizes, limits: Limits, first: float, *, of_model: bool = False
) -> dict[str, Any]:
    """The best rate of a server, with the tries that led to it.

    Args:
        of_model: Every item of every answer has to be the model's.
    """
    tries: list[dict[str, Any]] = []

    def run(seconds: float) -> best_rate.Run:
        def run_at(rate: float) -> dict[str, Any]:
            done = load.run(port, requests, rate=rate, seconds=seconds, classes=CLASSES)
            figures = done.figures()
            if of_model and not figures["failed"]:
                figures["failed"] = int((~done.with_class(MODEL)).sum())
            tries.append(figures)
            say(
                f"  {rate:,.0f}/s: p50 {figures['p50_ms']:.2f}, p99 {figures['p99_ms']:.2f}, "
                f"p99.9 {figures['p999_ms']:.2f} ms, {figures['failed']} failed {figures['problem'][:60]!r}"
            )
            return figures

        return run_at

    limits = limits.times(sizes.slack)
    load.run(port, requests, rate=min(first, 200.0), seconds=sizes.probe_s)
    rate = best_rate.search(run(sizes.probe_s), limits, first=first)
    runs = best_rate.measured(run(sizes.final_s), limits, rate, sizes.finals) if rate else []
    return {"rate": runs[0]["rate"] if runs else 0.0, "runs": runs, "tries": tries}


def timings(port: int, path: str, bodies: list[dict[str, Any]]) -> dict[str, list[float]]:
    """What our answers say of their stages, in ms, one request at a time."""
    answers = [home.ask(port, path, body)["timings_ms"] for body in bodies[:200]]
    return {stage: [answer[stage] for answer in answers] for stage in answers[0]}
