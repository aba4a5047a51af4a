"""Sections network and trees: the best rate of every server at the same limits, for the same model and answer."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _store.processes import OTHER_CORE, SERVER_CORE, BenchmarkError
from _store.progress import say

from _realtime import best_rate, case, home, load, peer_data, peer_servers
from _realtime.best_rate import LIMITS, OURS, Limits
from _realtime.metrics import metric
from _realtime.peer_servers import Peer
from _realtime.sizes import Sizes

PEER_P99_MS = (5.0, 10.0, 25.0, 50.0)
"""A peer is held to the first 99th percentile that it keeps to at any rate, and to no p99.9."""
CLASSES = ('"answered_by_counts":{', "}")
MODEL = f'"model":{case.CANDIDATES}'
"""The class of an answer whose items are all the model's."""
REQUESTS = 5_000
_CHECKED, _PATIENCE = 20, 100
_FIRST_OURS, _FIRST_PEER, _FIRST_FEAST = 2_000.0, 300.0, 50.0


def measure(work: Path, sizes: Sizes, model: str) -> dict[str, Any]:
    """The best rate of ours and of every peer that is installed, one after the other."""
    models = work / "models"
    case.write_models(models)
    expected = case.Expected(models, model)
    bodies = case.bodies(REQUESTS, sizes.keys, seed=2)
    record: dict[str, Any] = {"keys": sizes.keys, "limits": vars(LIMITS), "servers": {}, "absent": {}}
    record["versions"] = {name: peer_data.versions_of(name) for name in peer_data.NAMES}
    settings = home.serving(work / "home", models, sizes.keys, (model,))
    record["ceiling"] = load.ceiling(work, case.encoded(bodies[0]), (10_000, 30_000), sizes.probe_s)
    with home.reader(settings, model, core=SERVER_CORE) as port:
        path = f"/v1/{model}"
        check(port, path, bodies, expected, lambda body: body, lambda answer: answer["items"])
        requests = load.write_requests(work / "ours.requests", [*map(case.encoded, bodies)], path)
        record["in_loop"] = runs_in_loop(port, model)
        record["servers"][OURS] = best(port, requests, sizes, LIMITS, _FIRST_OURS)
        record["servers"][OURS]["timings_ms"] = timings(port, path, bodies)
        anywhere = case.bodies(REQUESTS, sizes.keys, seed=12, scattered=True)
        requests = load.write_requests(work / "ours.requests", [*map(case.encoded, anywhere)], path)
        rate = record["servers"][OURS]["rate"] or _FIRST_OURS
        record["scattered"] = searched(port, requests, sizes, LIMITS, rate, of_model=True)
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
            file = work / f"{peer.environment}-{len(found)}.requests"
            load.write_requests(file, [case.encoded(peer.body(body)) for body in bodies], path)
            first = _FIRST_FEAST if peer.environment == "feast" else _FIRST_PEER
            found[f"{peer.name}, {way}"] = {
                **at_first_limit(port, file, sizes, first), "peer": peer.name, "runs": []
            }  # fmt: skip
        # The better way is measured; the rate that was found is what the other's row shows.
        order = sorted(found, key=lambda name: (found[name]["p99_limit_ms"], -found[name]["rate"]))
        best = found[order[0]]
        if best["rate"]:
            file = work / f"{peer.environment}-{list(found).index(order[0])}.requests"
            best["runs"] = finals(port, file, sizes, Limits(best["p99_limit_ms"]), best)
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
        answer = home.ask(port, path, body_of(body))
        for _ in range(_PATIENCE):  # on a busy machine ours may come from a fallback
            if answer.get("answered_by", "model") == "model":
                break
            answer = home.ask(port, path, body_of(body))
        fault = expected.fault_of(body, items_of(answer))
        if fault:
            raise BenchmarkError(f"The answer at {path} is not the model's: {fault}.")


def at_first_limit(port: int, requests: Path, sizes: Sizes, first: float) -> dict[str, Any]:
    """The rate of a peer at the first limit that it keeps to."""
    found: dict[str, Any] = {}
    for p99_ms in PEER_P99_MS:
        found = {**searched(port, requests, sizes, Limits(p99_ms), first), "p99_limit_ms": p99_ms}
        if found["rate"]:
            break
    return found


def best(port: int, requests: Path, sizes: Sizes, limits: Limits, first: float) -> dict[str, Any]:
    """Our best rate: the tries that led to it, and the runs at it. All but one answer in a thousand are the model's."""
    found = searched(port, requests, sizes, limits, first, of_model=True)
    found["runs"] = finals(port, requests, sizes, limits, found, of_model=True) if found["rate"] else []
    return found


def searched(
    port: int, requests: Path, sizes: Sizes, limits: Limits, first: float, *, of_model: bool = False
) -> dict[str, Any]:
    """The highest rate that short runs hold, and those runs."""
    tries: list[dict[str, Any]] = []
    run = _runner(port, requests, sizes.probe_s, tries, of_model=of_model)
    load.run(port, requests, rate=min(first, 200.0), seconds=sizes.probe_s)
    return {"rate": best_rate.search(run, limits.times(sizes.slack), first=first), "tries": tries}


def finals(
    port: int, requests: Path, sizes: Sizes, limits: Limits, found: dict[str, Any], *, of_model: bool = False
) -> list[dict[str, Any]]:
    """Longer runs at the rate that was found, or below it; `found["rate"]` becomes theirs, 0.0 where there are none."""
    run = _runner(port, requests, sizes.final_s, found["tries"], of_model=of_model)
    runs = best_rate.measured(run, limits.times(sizes.slack), found["rate"], sizes.finals)
    found["rate"] = runs[0]["rate"] if runs else 0.0
    return runs


def _runner(port: int, requests: Path, seconds: float, tries: list[dict[str, Any]], *, of_model: bool) -> best_rate.Run:
    def run(rate: float) -> dict[str, Any]:
        done = load.run(port, requests, rate=rate, seconds=seconds, classes=CLASSES)
        figures = done.figures()
        if of_model:
            figures["lower_share"] = float((~done.with_class(MODEL)).mean())
        tries.append(figures)
        say(
            f"  {rate:,.0f}/s: p50 {figures['p50_ms']:.2f}, p99 {figures['p99_ms']:.2f}, "
            f"p99.9 {figures['p999_ms']:.2f} ms, {figures['failed']} failed, "
            f"{figures.get('lower_share', 0.0):.2%} lower "
            f"{figures['problem'][:60]!r}"
        )
        return figures

    return run


def runs_in_loop(port: int, model: str) -> bool:
    """Whether the reader has decided to ask a model in its event loop, as its metrics say."""
    return metric(port, "forecache_realtime_runs_in_loop", model) > 0


def timings(port: int, path: str, bodies: list[dict[str, Any]]) -> dict[str, list[float]]:
    """What our answers say of their stages, in ms, one request at a time."""
    answers = [home.ask(port, path, body)["timings_ms"] for body in bodies[:200]]
    return {stage: [answer[stage] for answer in answers] for stage in answers[0]}
