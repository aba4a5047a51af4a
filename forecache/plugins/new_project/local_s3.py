"""A local MinIO server for `forecache demo --s3`, and the settings that put everything on it."""

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forecache.base.errors import UnavailableError
from forecache.base.settings import PROJECT_ROOT
from forecache.kit.process.child import end_process, wait_until_ready
from forecache.plugins.new_project.reader_process import find_free_port

MINIO = PROJECT_ROOT / ".tools" / "bin" / "minio"
BUCKET = "forecache"
_HOST = "127.0.0.1"
_USER = "forecache"
_START_S = 60.0
_STOP_S = 20.0


@contextmanager
def run_local_s3(home: Path) -> Iterator[None]:
    """Run MinIO on a folder below `home` during the block, and set environment variables so that the settings use it.

    Landing zone, lake, training checkpoints and the store's remote are in the bucket; the rest is in `home`.

    Raises:
        UnavailableError: MinIO is not installed or does not start.
    """
    if not MINIO.is_file():
        raise UnavailableError(f"There is no {MINIO}.", remedy="Run `make demo-s3`, which builds it.")
    folder = home / "minio"
    (folder / "data" / BUCKET).mkdir(parents=True, exist_ok=True)
    endpoint = f"http://{_HOST}:{find_free_port(_HOST, 9000)}"
    password = _read_password(folder / "password")
    with _run_server(folder, endpoint, password):
        given = os.environ.copy()
        os.environ.update(_s3_variables(home, endpoint, password))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(given)


def _s3_variables(home: Path, endpoint: str, password: str) -> dict[str, str]:
    options = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": _USER,
        "AWS_SECRET_ACCESS_KEY": password,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    return {
        "FORECACHE_HOME": str(home),
        "FORECACHE_LANDING": f"s3://{BUCKET}/landing",
        "FORECACHE_LAKE": f"s3://{BUCKET}/lake",
        "FORECACHE_TRAINING_CHECKPOINTS": f"s3://{BUCKET}/checkpoints",
        "FORECACHE_STORE_REMOTE": f"s3://{BUCKET}/store",
        "FORECACHE_STORAGE_OPTIONS": json.dumps(options),
    }


def _read_password(file: Path) -> str:
    """The server's password, made at the first start and stored in a file that only this user can read."""
    if not file.exists():
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(secrets.token_urlsafe(24))
    return file.read_text()


@contextmanager
def _run_server(folder: Path, endpoint: str, password: str) -> Iterator[None]:
    address = endpoint.removeprefix("http://")
    console = f"{_HOST}:{find_free_port(_HOST, 9001)}"
    command = [str(MINIO), "server", str(folder / "data"), "--address", address, "--console-address", console]
    environment = {
        **os.environ,
        "MINIO_ROOT_USER": _USER,
        "MINIO_ROOT_PASSWORD": password,
        "MINIO_BROWSER": "off",
    }
    log = folder / "minio.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        if not wait_until_ready(process, f"{endpoint}/minio/health/ready", within_s=_START_S):
            raise UnavailableError(f"MinIO did not start on {endpoint}.", remedy=f"Its log is {log}.")
        yield
    finally:
        end_process(process, within_s=_STOP_S)
