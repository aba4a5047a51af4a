"""What it costs to ask a model in a process of its own: `python benchmarks/process_path.py` prints docs' table.

The same release (a small network, 50 candidates) is asked in this process and over shared memory, in turns, so that
both see the same machine; then with several requests under way, which shows the batches.
"""

import asyncio
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import uvloop
from _common.machine import circumstances

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]
from release_support import a_request, make_release  # noqa: E402 - found through the line above

from forecache.base.settings import load_settings  # noqa: E402
from forecache.declare.realtime.request_rows import RequestArrays  # noqa: E402
from forecache.realtime.metrics import BATCHES, PathCounters  # noqa: E402
from forecache.realtime.release.folder import open_releases  # noqa: E402
from forecache.realtime.release.load import LoadedRelease, load_release  # noqa: E402
from forecache.realtime.request.request_answer import LookupResult, ParsedRequest  # noqa: E402
from forecache.realtime.request.request_parser import RequestParser  # noqa: E402
from forecache.realtime.workers.worker_path import WorkerPath, open_worker_path  # noqa: E402

CANDIDATES, TURNS, CALLS, TOGETHER = 50, 20, 200, 6000


def main() -> int:
    print(circumstances())
    with tempfile.TemporaryDirectory() as home:
        settings = load_settings(home=home)
        body = a_request(1, [f"product-{number}" for number in range(CANDIDATES)])
        make_release(settings, runs="process", warmup=[body])
        loaded = load_release(open_releases(settings, "ranking"), 1)
        request = RequestParser(loaded.release).parse(body)
        loop = uvloop.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        counters = PathCounters()
        path = open_worker_path(loaded, settings=settings, loop=loop, counters=counters)
        try:
            print("| | this process | a process of its own |\n| --- | --- | --- |")
            here, there = [], []
            for _ in range(TURNS):
                here += _asked_here(loaded, request)
                there += asyncio.run_coroutine_threadsafe(_asked_there(path, request), loop).result()
            for name, share in (("fastest of ten", 0.1), ("median", 0.5), ("99th percentile", 0.99)):
                print(
                    f"| {name} | {np.quantile(here, share) * 1e6:.0f} us | {np.quantile(there, share) * 1e6:.0f} us |"
                )
            print(
                "\n| under way | requests/s | requests a call | reader's CPU | process's CPU |\n" + "| --- " * 5 + "|"
            )
            for width in (1, 4, 16, 64):
                _report(width, path, counters, request, loop)
            kill = [_replaced_s(path) for _ in range(5)]
            print(f"\nA killed process is replaced after {statistics.median(kill):.2f} s (median of {len(kill)}).")
        finally:
            path.close()
    return 0


def _found() -> LookupResult:
    return LookupResult(
        {"household": np.zeros((1, 2), np.float32), "product": np.zeros((CANDIDATES, 1), np.float32)},
        {"household": np.ones(1, np.bool_), "product": np.ones(CANDIDATES, np.bool_)},
    )


def _asked_here(loaded: LoadedRelease, request: ParsedRequest) -> list[float]:
    found, took = _found(), []
    for _ in range(CALLS):
        began = time.perf_counter()
        loaded.score(
            loaded.builder.build_rows(RequestArrays(request.length, request.columns), found.views, found.known)
        )
        took.append(time.perf_counter() - began)
    return took


async def _asked_there(path: WorkerPath, request: ParsedRequest, calls: int = CALLS) -> list[float]:
    found, took = _found(), []
    for _ in range(calls):
        began = time.perf_counter()
        await path.score(request, found, time.monotonic() + 10)
        took.append(time.perf_counter() - began)
    return took


def _report(
    width: int, path: WorkerPath, counters: PathCounters, request: ParsedRequest, loop: asyncio.AbstractEventLoop
) -> None:
    async def together() -> None:
        await asyncio.gather(*(_asked_there(path, request, TOGETHER // width) for _ in range(width)))

    process = psutil.Process(path.pool.workers[0].process.pid)
    calls, cpu, own, began = _calls(counters), sum(process.cpu_times()[:2]), time.process_time(), time.perf_counter()
    asyncio.run_coroutine_threadsafe(together(), loop).result()
    asked, took = TOGETHER // width * width, time.perf_counter() - began
    print(
        f"| {width} | {asked / took:,.0f} | {asked / (_calls(counters) - calls):.1f} "
        f"| {(time.process_time() - own) / asked * 1e6:.0f} us "
        f"| {(sum(process.cpu_times()[:2]) - cpu) / asked * 1e6:.0f} us |"
    )


def _calls(counters: PathCounters) -> int:
    return sum(counters.get(f"batches_{bound}") for bound in (*BATCHES, "more"))


def _replaced_s(path: WorkerPath) -> float:
    known = {worker.process.pid for worker in path.pool.workers}
    psutil.Process(path.pool.workers[0].process.pid).kill()
    began = time.monotonic()
    while len(path.pool.workers) < 2 or {worker.process.pid for worker in path.pool.workers} == known:
        time.sleep(0.002)
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
