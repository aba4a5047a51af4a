"""Section bento: one release on the same stores, served by the reader and by what `forecache release bento` writes.

The service runs in an environment of its own, with the versions of uv.lock and with the BentoML that the section
`network` measures. It keeps no access log and no metrics, which cost time and are BentoML's defaults: the command
leaves them to whoever runs the service. One server at a time has core 0 to itself, the load generator has core 1.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _common.processes import cpu_s, reader_at, with_children
from _store.processes import PYTHON, ROOT, SERVER_CORE, BenchmarkError, free_port, http_ready, run_checked, running
from _store.progress import say

from _realtime import case, home, load, peer_data, throughput
from _realtime.bento_rows import SERVICE
from _realtime.best_rate import LIMITS, OURS, Limits
from _realtime.sizes import Sizes
from forecache.base.settings import Settings

ENVIRONMENT = "bento_service"
LOW_RATE = 100.0
"""Requests a second that both servers answer with time to spare."""
COMPARED = 200
_MODEL = case.NETWORK
_TIMES_A_TRY = 2
"""Runs at the best rate are shorter than in the section `network`, whose limits on p99.9 need longer ones."""
_FIRST_OURS, _FIRST_SERVICE = 2_000.0, 300.0
_PACKAGES = ("bentoml", "starlette", "uvicorn", "uvloop", "httptools", "orjson", "numpy", "onnxruntime", "lmdb")
_QUIET = {"metrics": {"enabled": False}, "logging": {"access": {"enabled": False}}}


def measure(work: Path, sizes: Sizes, *, python: Path | None = None) -> dict[str, Any]:
    """The best rate of both, what a request takes at a low rate, and how many of their answers differ.

    Args:
        python: The interpreter of an environment with BentoML; None: the benchmark's own, which is then installed.
    """
    if python is None:
        peer_data.install(ENVIRONMENT)
        python = peer_data.python_of(ENVIRONMENT)
    models, name = work / "models", _MODEL
    case.write_models(models, [name])
    expected = case.Expected(models, name)
    bodies = case.bodies(throughput.REQUESTS, sizes.keys, seed=8)
    settings = home.serving(work / "home", models, sizes.keys, (name,))
    folder = written(work / "bento" / name, settings, name)
    sizes_at_best = replace(sizes, final_s=_TIMES_A_TRY * sizes.probe_s)
    requests = load.write_requests(work / "bento.requests", [*map(case.encoded, bodies)], f"/v1/{name}")
    servers: dict[str, Any] = {}
    say(f"bento: {OURS}")
    with home.reader(settings, name, core=SERVER_CORE) as port:
        wanted = [home.by_model(port, name, body) for body in bodies[:COMPARED]]
        for body, answer in zip(bodies, wanted, strict=False):
            if fault := expected.fault_of(body, answer["items"]):
                raise BenchmarkError(f"The reader's answer is not the model's: {fault}.")
        in_loop = throughput.runs_in_loop(port, name)
        low = _low(port, requests, sizes, reader_at(port))
        found = throughput.best(port, requests, sizes_at_best, Limits(LIMITS.p99_ms), _FIRST_OURS)
        servers[OURS] = {**found, "p99_limit_ms": LIMITS.p99_ms, "low": low}
    say(f"bento: {SERVICE}")
    with served(folder, settings, python, name) as (port, processes):
        wrong = differing(port, name, bodies, wanted)
        low = _low(port, requests, sizes, processes)
        found = throughput.at_first_limit(port, requests, sizes, _FIRST_SERVICE)
        if found["rate"]:
            found["runs"] = throughput.finals(port, requests, sizes_at_best, Limits(found["p99_limit_ms"]), found)
        servers[SERVICE] = {"runs": [], **found, "low": low}
        wrong += differing(port, name, bodies, wanted)
    return {
        "keys": sizes.keys, "model": name, "release": wanted[0]["release"], "low_rate": LOW_RATE, "in_loop": in_loop,
        "versions": versions(python), "servers": servers, "compared": {"answers": 2 * COMPARED, "wrong": wrong},
    }  # fmt: skip


def written(folder: Path, settings: Settings, name: str) -> Path:
    """The folder of the current release's service, which `forecache release bento` writes."""
    command = [PYTHON, "-m", "forecache.cli.main", "release", "bento", name, folder]
    run_checked(command, environment={"FORECACHE_HOME": str(settings.home_path)})
    return folder


@contextlib.contextmanager
def served(
    folder: Path, settings: Settings, python: Path, name: str, *, core: int | None = SERVER_CORE
) -> Iterator[tuple[int, list[psutil.Process]]]:
    """`bentoml serve` in the folder, with one worker, while the block runs; yields its port and all its processes."""
    port = free_port()
    environment = {
        "PYTHONPATH": str(ROOT), "FORECACHE_STORE": str(settings.store_path),
        "BENTOML_HOME": str(folder.parent / "home"), "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_CONFIG_OVERRIDES": json.dumps({"services": {name: _QUIET}}),
    }  # fmt: skip
    command = [python, "-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)]
    ready, log = http_ready(f"http://127.0.0.1:{port}/readyz"), folder.parent / "service.log"
    with running(command, log=log, ready=ready, core=core, environment=environment, cwd=folder) as pid:
        yield port, with_children(psutil.Process(pid))


def differing(port: int, name: str, bodies: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> int:
    """How many of the service's answers differ from the reader's in an item, its place, or a bit of its score.

    Raises:
        BenchmarkError: Another model, release or version of a store answers.
    """
    wrong = 0
    for body, reader in zip(bodies, wanted, strict=False):
        answer = home.ask(port, f"/v1/{name}", body)
        if (origin := origin_of(answer)) != origin_of(reader):
            raise BenchmarkError(f"The service answers from {origin}, the reader from {origin_of(reader)}.")
        wrong += _bits(answer) != _bits(reader)
    return wrong


def origin_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The model, the release and the versions of the stores that an answer comes from."""
    stores = {view: each["version"] for view, each in answer["stores"].items()}
    return {"model": answer["model"], "release": answer["release"], "stores": stores}


def _bits(answer: dict[str, Any]) -> list[tuple[int, bytes]]:
    """Of float32 scores, which the two write with a different number of digits."""
    return [(item[case.PRODUCT], np.float32(item["score"]).tobytes()) for item in answer["items"]]


def _low(port: int, requests: Path, sizes: Sizes, processes: list[psutil.Process]) -> list[dict[str, Any]]:
    """Runs at the low rate, with the server's processor time of a request in us; the first one warms it."""
    load.run(port, requests, rate=LOW_RATE, seconds=sizes.probe_s)
    return [_low_run(port, requests, sizes, processes) for _ in range(sizes.finals)]


def _low_run(port: int, requests: Path, sizes: Sizes, processes: list[psutil.Process]) -> dict[str, Any]:
    used = cpu_s(processes)
    figures = load.run(port, requests, rate=LOW_RATE, seconds=sizes.final_s).figures()
    cpu_us = (cpu_s(processes) - used) / figures["requests"] * 1e6
    say(f"  {LOW_RATE:,.0f}/s: p50 {figures['p50_ms']:.2f}, p99 {figures['p99_ms']:.2f} ms, {cpu_us:.0f} us CPU")
    return {**figures, "cpu_us": cpu_us}


def versions(python: Path) -> dict[str, str]:
    """What is installed in an environment of what decides about the service's speed."""
    code = (
        "import json, sys, importlib.metadata as m; "
        "print(json.dumps({d.name: d.version for d in m.distributions() if d.name in sys.argv[1:]}))"
    )
    found: dict[str, str] = json.loads(run_checked([python, "-c", code, *_PACKAGES]))
    return {name: found[name] for name in _PACKAGES if name in found}
