"""Real servers for the store's tests, each on a free port in a folder of its own: Redis, Redis Cluster, MinIO."""

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

_MINIO = Path(__file__).parents[2] / ".tools" / "bin" / "minio"
_NODES = 3
INSTALL = "bash scripts/install_test_services.sh"


def free_port(*, below: int = 50000) -> int:
    """A free port; Redis Cluster also needs the one 10,000 above it."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < below:
            return port


def _wait(check: Callable[[], bool], what: str, *, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not become ready in {seconds} s")
        time.sleep(0.05)


@contextmanager
def _process(command: list[str], folder: Path, **environment: str) -> Iterator[None]:
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **environment})
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[int]:
    """A Redis server without persistence; yields its port."""
    if shutil.which("redis-server") is None:
        pytest.skip(f"redis-server is not installed: {INSTALL} redis")
    import redis

    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with _process([*command, "--dir", str(folder), *options], folder):
        client = redis.Redis(port=port)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        _wait(answers, "redis-server")
        client.close()
        yield port


@contextmanager
def redis_cluster(folder: Path) -> Iterator[int]:
    """Three masters of a Redis Cluster; yields the port of one."""
    import redis

    with ExitStack() as stack:
        ports = [
            stack.enter_context(redis_server(folder / str(node), "--cluster-enabled", "yes")) for node in range(_NODES)
        ]
        nodes = [f"127.0.0.1:{port}" for port in ports]
        subprocess.run(
            ["redis-cli", "--cluster", "create", *nodes, "--cluster-yes"], check=True, capture_output=True, timeout=60
        )
        clients = [redis.Redis(port=port) for port in ports]
        _wait(lambda: all(client.cluster("info")["cluster_state"] == "ok" for client in clients), "the Redis cluster")
        yield ports[0]


@contextmanager
def minio_server(folder: Path, bucket: str) -> Iterator[dict[str, str]]:
    """A MinIO server with one bucket; yields the storage options that reach it."""
    if not _MINIO.exists():
        pytest.fail(f"MinIO is not installed: {INSTALL} minio")
    (folder / "data" / bucket).mkdir(parents=True)
    port, console = free_port(), free_port()
    user, password = "forecache", "forecache-secret"
    command = [str(_MINIO), "server", "data", "--address", f"127.0.0.1:{port}", "--console-address"]
    environment = {"MINIO_ROOT_USER": user, "MINIO_ROOT_PASSWORD": password, "MINIO_BROWSER": "off"}
    with _process([*command, f"127.0.0.1:{console}"], folder, **environment):

        def ready() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/minio/health/ready", timeout=2) as answer:
                    return answer.status == 200
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                return False

        _wait(ready, "MinIO", seconds=60)
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": user,
            "AWS_SECRET_ACCESS_KEY": password,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
