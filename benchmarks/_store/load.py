"""The load generator: wrk, one thread, keep-alive connections, each with one request under way at a time."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from _store.processes import OTHER_CORE, BenchmarkError, on_core, run_checked
from _store.sizes import CONNECTIONS, KEYS_PER_REQUEST

_SCRIPT = Path(__file__).with_name("load.lua")
TIMEOUT_S = 10


@dataclass(frozen=True)
class Target:
    """Where the load goes: `kind` is "get", "many" or "feast", the shape of the request; `token` a bearer token.

    `suffix` stands behind the key in the path of a "get", such as a query.
    """

    port: int
    kind: str
    path: str
    token: str = ""
    suffix: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


@dataclass(frozen=True)
class Load:
    """What one run of the load generator saw; `failed` counts socket errors, timeouts and statuses other than 2xx."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    requests: int
    failed: int
    bytes_per_request: float


def run_load(
    target: Target, workload: str, *, num_keys: int, seconds: float, seed: int, one_core: bool = False
) -> Load:
    """Send requests of `workload` ("one" or "many") for some seconds.

    Raises:
        BenchmarkError: There was no answer at all.
    """
    command = [
        "wrk", "--threads", 1, "--connections", CONNECTIONS[workload], "--timeout", f"{TIMEOUT_S}s", "--latency",
        "--duration", f"{math.ceil(seconds)}s", "--script", _SCRIPT, f"http://127.0.0.1:{target.port}", "--",
        target.kind, target.path, num_keys, KEYS_PER_REQUEST[workload], seed, target.token,
        target.suffix,
    ]  # fmt: skip
    output = run_checked(on_core(list(map(str, command)), OTHER_CORE if one_core else None))
    line = next((line for line in output.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise BenchmarkError(f"wrk said nothing that can be read:\n{output[-500:]}")
    seen = json.loads(line.removeprefix("RESULT "))
    if not seen["requests"]:
        raise BenchmarkError(f"Nothing answered at port {target.port}: {seen}.")
    return Load(
        requests_per_s=seen["requests"] / (seen["duration_us"] / 1e6),
        p50_ms=seen["p50_us"] / 1e3,
        p99_ms=seen["p99_us"] / 1e3,
        p999_ms=seen["p999_us"] / 1e3,
        max_ms=seen["max_us"] / 1e3,
        requests=seen["requests"],
        failed=sum(seen[name] for name in ("connect", "read", "write", "status", "timeout")),
        bytes_per_request=seen["bytes"] / seen["requests"],
    )
