"""Section log: the same model with and without a log of every answer, by turns in one reader.

Throughput is a closed loop of eight connections; latency is an open loop at a rate that both hold. The committer runs
on the load generator's core, with lower priority, as it runs beside the workers where there are more cores.
"""

import json
import time
from pathlib import Path
from typing import Any

from _common.processes import cpu_s, reader_at
from _realtime import case, load
from _realtime.metrics import metric
from _store.processes import OTHER_CORE, SERVER_CORE, BenchmarkError, on_core, run_checked
from _store.progress import say

from _operate import home
from _operate.sizes import Sizes
from forecache.base.settings import Settings
from forecache.realtime.log.spool_files import spooled_bytes

SIDES = (home.WITHOUT, home.WITH)
CONNECTIONS = 8
_SCRIPT = Path(__file__).with_name("closed_loop.lua")
_REQUESTS = 2_000
_LITTLE_BYTES, _PATIENCE_S = 1 << 20, 20.0


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Runs of both sides, in pairs whose order changes."""
    settings = home.serving(work, sizes.keys)
    bodies = [case.encoded(body) for body in case.bodies(_REQUESTS, sizes.keys, seed=2)]
    lines = work / "bodies.jsonl"
    lines.write_bytes(b"\n".join(bodies) + b"\n")
    files = {
        side: load.write_requests(work / f"{side}.requests", [*bodies], f"/v1/{side}") for side in SIDES
    }  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with home.reader(settings, core=SERVER_CORE) as port, home.committer(settings):
        for side in SIDES:
            closed_loop(port, side, lines, 1.0)
        for number in range(sizes.pairs):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                found[side].append(_run(settings, port, side, lines, files[side], sizes))
            without, with_log = (found[side][-1] for side in SIDES)
            say(
                f"log, pair {number + 1} of {sizes.pairs}: {without['requests_per_s']:,.0f} -> "
                f"{with_log['requests_per_s']:,.0f} requests/s, p99 {without['p99_ms']:.2f} -> "
                f"{with_log['p99_ms']:.2f} ms, {without['cpu_us']:.0f} -> {with_log['cpu_us']:.0f} us a request"
            )
        lost = metric(port, "forecache_request_log_rows_lost_total", home.WITH)
        accepted = metric(port, "forecache_request_log_rows_total", home.WITH)
    home.forget_log(settings)
    return {"keys": sizes.keys, "paced_rate": sizes.paced_rate, "sides": found, "lost": lost, "accepted": accepted}


def _run(settings: Settings, port: int, side: str, lines: Path, requests: Path, sizes: Sizes) -> dict[str, Any]:
    processes = reader_at(port)
    before, answered = cpu_s(processes), metric(port, "forecache_realtime_answers_total", side)
    closed = closed_loop(port, side, lines, sizes.window_s)
    used = cpu_s(processes) - before
    answered = metric(port, "forecache_realtime_answers_total", side) - answered
    _wait_until_committed(settings)
    paced = load.run(port, requests, rate=sizes.paced_rate, seconds=sizes.window_s).figures()
    return {
        "requests_per_s": closed["requests"] / (closed["duration_us"] / 1e6),
        "cpu_us": used / max(1.0, answered) * 1e6,
        "failed": closed["failed"] + paced["failed"],
        "p50_ms": paced["p50_ms"],
        "p99_ms": paced["p99_ms"],
        "generator_late_p99_ms": paced["late_p99_ms"],
    }


def _wait_until_committed(settings: Settings) -> None:
    """A committer that still has rows of the closed loop would take the generator's core."""
    until = time.monotonic() + _PATIENCE_S
    while spooled_bytes(settings.request_log_path) > _LITTLE_BYTES and time.monotonic() < until:
        time.sleep(0.1)


def closed_loop(port: int, side: str, lines: Path, seconds: float) -> dict[str, Any]:
    """What wrk says of a run."""
    command = [
        "wrk", "--threads", 1, "--connections", CONNECTIONS, "--timeout", "10s",
        "--duration", f"{max(1, seconds):.0f}s", "--script", _SCRIPT, f"http://127.0.0.1:{port}",
        "--", f"/v1/{side}", lines,
    ]  # fmt: skip
    output = run_checked(on_core(list(map(str, command)), OTHER_CORE))
    told = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if told is None:
        raise BenchmarkError(f"wrk said nothing that can be read:\n{output[-500:]}")
    found: dict[str, Any] = json.loads(told.removeprefix("RESULT "))
    return found
