"""What it costs to read a request and to answer it, without a handler's own work: our connections beside Granian.

.venv/bin/python benchmarks/connections.py      about two minutes; two cores, and nothing else at work

A body of some 330 bytes comes, 4,000 bytes go back. The server has one core, the load generator the other. The time is
that of all threads of the server's processes, in user and kernel mode.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from _common import command
from _realtime import case, load
from _store.processes import PYTHON, SERVER_CORE, free_port

ANSWER = b"x" * 4000
FIELDS = (("content-type", "application/json"), ("cache-control", "no-store"))
RATES, SECONDS, ROUNDS = (1000.0, 2000.0, 4000.0), 4.0, 3
SERVERS = ("ours", "granian")


def main() -> None:
    """Print a line for each server and rate."""
    if len(sys.argv) == 4:
        (serve_ours if sys.argv[2] == "ours" else serve_granian)(int(sys.argv[3]))
        return
    command.measure_this_tree()
    work = command.ROOT / ".forecache" / "bench-connections"
    work.mkdir(parents=True, exist_ok=True)
    bodies = [case.encoded(body) for body in case.bodies(2000, 100_000, seed=2)]
    requests = load.write_requests(work / "requests", bodies, "/v1/echo")
    found: dict[tuple[str, float], list[tuple[float, float, float]]] = {}
    for _ in range(ROUNDS):
        for server in SERVERS:
            for rate, figures in measured(server, requests):
                found.setdefault((server, rate), []).append(figures)
    print(f"body {median(map(len, bodies)):.0f} bytes, answer {len(ANSWER)} bytes; medians of {ROUNDS} rounds")
    for (server, rate), rounds in found.items():
        cpu_us, p50_ms, p99_ms = (median(values) for values in zip(*rounds, strict=True))
        print(f"{server:8} {rate:5.0f}/s: {cpu_us:4.0f} us a request, p50 {p50_ms:.3f} ms, p99 {p99_ms:.2f} ms")


def measured(server: str, requests: Path) -> list[tuple[float, tuple[float, float, float]]]:
    """By rate: microseconds of processor time a request, p50 and p99 in ms."""
    port, found = free_port(), []
    process = subprocess.Popen(
        ["taskset", "-c", str(SERVER_CORE), str(PYTHON), __file__, "serve", server, str(port)], start_new_session=True
    )
    try:
        _wait(port)
        load.run(port, requests, rate=500.0, seconds=1.0)
        for rate in RATES:
            before = _processor_s(process.pid)
            figures = load.run(port, requests, rate=rate, seconds=SECONDS).figures()
            used_s = _processor_s(process.pid) - before
            found.append((rate, (used_s / SECONDS / rate * 1e6, figures["p50_ms"], figures["p99_ms"])))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return found


def serve_ours(port: int) -> None:
    """Answer with the reader's own connections."""
    import uvloop

    from forecache.kit.http.call import BodyMemory, HttpCall
    from forecache.kit.http.connections import Connections

    memory = BodyMemory(1 << 26)

    def answer(call: HttpCall) -> None:
        assert call.whole_body(1 << 20, memory) is not None or call.method == "GET"
        call.respond(200, FIELDS, ANSWER)

    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    listener.setblocking(False)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    connections = Connections(loop, listener, answer, most=4096, timeout_s=10.0)
    loop.call_soon(connections.start)
    loop.run_forever()


def serve_granian(port: int) -> None:
    """Answer with Granian, by its own interface, on uvloop."""
    from granian import Granian

    Granian("connections:granian_app", "127.0.0.1", port, interface="rsgi", websockets=False, log_enabled=False).serve()


async def granian_app(scope: Any, protocol: Any) -> None:
    if scope.method == "POST":
        await protocol()
    protocol.response_bytes(200, list(FIELDS), ANSWER)


def _wait(port: int) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return


def _processor_s(group: int) -> float:
    """Seconds that the processes of a group have used."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
