"""Real servers for tests, each on a free port in a folder of its own: Redis, MinIO, PostgreSQL, MLflow."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from free_ports import free_port

_MINIO = Path(__file__).parents[2] / ".tools" / "bin" / "minio"
_NODES = 3
INSTALL = "bash scripts/install_test_services.sh"


def _wait(check: Callable[[], bool], what: str, *, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not become ready in {seconds} s")
        time.sleep(0.05)


@contextmanager
def _process(command: list[str], folder: Path, *, stop: int = signal.SIGTERM, **environment: str) -> Iterator[None]:
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **environment})
    try:
        yield
    finally:
        process.send_signal(stop)
        process.wait(timeout=60)


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
    user, password = "forecache", f"secret-{secrets.token_hex(8)}"  # tests at once look for their own
    command = [str(_MINIO), "server", "data", "--address", f"127.0.0.1:{port}", "--console-address"]
    environment = {"MINIO_ROOT_USER": user, "MINIO_ROOT_PASSWORD": password, "MINIO_BROWSER": "off"}
    with _process([*command, f"127.0.0.1:{console}"], folder, **environment):

        def ready() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/minio/health/ready", timeout=2) as answer:
                    return answer.status == 200
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                return False

        _wait(ready, "MinIO")
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": user,
            "AWS_SECRET_ACCESS_KEY": password,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }


@contextmanager
def postgres_server(folder: Path, *, password: str) -> Iterator[str]:
    """A PostgreSQL server that asks for a password; yields the URL of its database, with it."""
    import psycopg

    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if not binaries:
        pytest.fail(f"PostgreSQL is not installed: {INSTALL} postgres")
    folder.mkdir(parents=True)
    # The server refuses to run as root, and another user does not see pytest's folders.
    own = Path(tempfile.mkdtemp(prefix="fc-pg-"))
    prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    (own / "password").write_text(password)
    if prefix:
        for path in (own, own / "password"):
            shutil.chown(path, "postgres", "postgres")
    port = free_port()
    try:
        initdb = [*prefix, str(binaries[-1] / "initdb"), "-D", str(own / "data"), "-U", "shop", "--no-sync"]
        options = ["--auth=scram-sha-256", f"--pwfile={own / 'password'}", "--encoding=UTF8", "--locale=C"]
        subprocess.run([*initdb, *options], check=True, capture_output=True, timeout=300, cwd=own)
        command = [*prefix, str(binaries[-1] / "postgres"), "-D", str(own / "data"), "-p", str(port), "-c", "fsync=off"]
        with _process([*command, "-c", f"unix_socket_directories={own}"], folder, stop=signal.SIGINT):
            url = f"postgresql://shop:{password}@127.0.0.1:{port}/postgres"

            def ready() -> bool:
                try:
                    psycopg.connect(url, connect_timeout=2).close()
                except psycopg.OperationalError:
                    return False
                return True

            _wait(ready, "PostgreSQL")
            yield url
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """An MLflow server that keeps the artifacts; yields its URI."""
    folder.mkdir()
    port = free_port()
    options = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # Its runner of jobs is more processes that import MLflow, and nothing here has a job for it.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options], stdout=log, stderr=log, env=environment, start_new_session=True
        )
    uri = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        _wait(answers, "MLflow")
        yield uri
    finally:
        os.killpg(process.pid, 15)
        process.wait(120)
