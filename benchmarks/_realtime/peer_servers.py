"""The peers' servers, each with one worker, at their better setting."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _store.processes import BenchmarkError, free_port, http_ready, running

from _realtime import peer_data
from _realtime.peer_data import PEERS, python_of


@dataclass(frozen=True)
class Peer:
    """
    Attributes:
        environment: Which of the environments it runs in.
        command: `PORT` and `PYTHON` stand for its port and interpreter.
        paths: Where requests go, by name: the ways to ask Redis. The better counts.
        ready: Answers 200 when it is ready.
        instances: The body is one of a list of instances, and so is the answer.
    """

    name: str
    environment: str
    command: tuple[str, ...]
    paths: dict[str, str]
    ready: str
    instances: bool = False

    def body(self, body: dict[str, Any]) -> dict[str, Any]:
        """The request in the peer's format."""
        return {"instances": [body]} if self.instances else body

    def items(self, answer: dict[str, Any]) -> list[dict[str, Any]]:
        """The ranked items of an answer."""
        items: list[dict[str, Any]] = (answer["predictions"][0] if self.instances else answer)["items"]
        return items


def _uvicorn(application: str) -> tuple[str, ...]:
    return (
        "PYTHON", "-m", "uvicorn", application, "--host", "127.0.0.1", "--port", "PORT", "--workers", "1", "--loop",
        "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning", "--no-server-header",
        "--no-date-header",
    )  # fmt: skip


_ASYNCIO, _BLOCKING = "asyncio", "blocking client"
FASTAPI, BENTO, FEAST = "FastAPI with Redis", "BentoML with Redis", "Feast plus FastAPI"
MLSERVER, KSERVE = "MLServer with Redis", "KServe's Python server with Redis"
PEER_SERVERS = (
    Peer(FASTAPI, "fastapi", _uvicorn("fast_api:app"), {_ASYNCIO: "/rank", _BLOCKING: "/blocking/rank"}, "/ready"),
    Peer(
        BENTO,
        "bento",
        ("PYTHON", "-m", "bentoml", "serve", "bento_service:Ranker", "--host", "127.0.0.1", "--port", "PORT"),
        {_ASYNCIO: "/rank", _BLOCKING: "/rank_blocking"},
        "/readyz",
    ),
    Peer(
        MLSERVER,
        "mlserver",
        ("BIN/mlserver", "start", "."),
        {_ASYNCIO: "/rank", _BLOCKING: "/blocking/rank"},
        "/v2/health/ready",
    ),
    Peer(
        KSERVE,
        "kserve",
        ("PYTHON", str(PEERS / "kserve_server.py"), "PORT"),
        {_ASYNCIO: "/v1/models/ranker:predict", _BLOCKING: "/v1/models/ranker-blocking:predict"},
        "/v1/models/ranker",
        instances=True,
    ),
    Peer(FEAST, "feast", _uvicorn("feast_api:app"), {"its SDK": "/rank"}, "/ready"),
)

Started = Callable[[], Any]


@contextlib.contextmanager
def started(
    peer: Peer, folder: Path, *, model: str, models: Path, redis: str, feast: Path | None, core: int | None
) -> Iterator[int]:
    """A peer's server while the block runs; yields its port."""
    port, place = free_port(), folder / peer.environment
    place.mkdir(parents=True, exist_ok=True)
    if not python_of(peer.environment).exists():
        raise BenchmarkError(f"{peer.name} is not installed.")
    environment = {
        "PYTHONPATH": str(PEERS), "BENCH_MODEL": model, "BENCH_MODELS": str(models), "BENCH_REDIS": redis,
        "BENCH_FEAST": str(feast or ""), "BENTOML_HOME": str(place),
        "BENTOML_DO_NOT_TRACK": "True", "OMP_NUM_THREADS": "1", **peer_data.ENVIRONMENT,
    }  # fmt: skip
    if peer.name == MLSERVER:
        write_mlserver(place, port)
    words = {"PYTHON": str(python_of(peer.environment)), "PORT": str(port)}
    folder_of_programs = str(python_of(peer.environment).parent)
    command = [words.get(part, part).replace("BIN", folder_of_programs) for part in peer.command]
    ready = http_ready(f"http://127.0.0.1:{port}{peer.ready}")
    log = folder / f"{peer.environment}.log"
    with running(command, log=log, ready=ready, core=core, environment=environment, cwd=place):
        yield port


def write_mlserver(place: Path, port: int) -> None:
    """MLServer's settings: no pool of processes, no gRPC in the way, no access log."""
    import json

    settings = {
        "host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(),
        "metrics_endpoint": None, "parallel_workers": 0, "debug": False, "use_structured_logging": False,
    }  # fmt: skip
    (place / "settings.json").write_text(json.dumps(settings))
    model = {"name": "ranker", "implementation": "mlserver_model.Ranker"}
    (place / "model-settings.json").write_text(json.dumps(model))
