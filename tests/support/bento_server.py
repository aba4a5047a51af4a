"""The real BentoML, in its own environment, serving what `forecache release bento` wrote."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from free_ports import free_port

from forecache.base.settings import Settings

ROOT = Path(__file__).parents[2]
BENTOML = ROOT / ".tools" / "bentoml" / "bin" / "bentoml"


def bentoml_environment(settings: Settings) -> dict[str, str]:
    """Environment variables of a process of BentoML that reads these stores; the project comes from its sources."""
    return {
        "PATH": f"{BENTOML.parent}:{ROOT / '.tools' / 'uv' / 'bin'}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "BENTOML_HOME": str(settings.home / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "true",
        "FORECACHE_STORE": str(settings.store_path),
    }


@contextmanager
def bento_server(folder: Path, settings: Settings) -> Iterator[str]:
    """`bentoml serve` in a folder; yields its URL once it is ready."""
    if not BENTOML.exists():
        pytest.fail("BentoML is not installed: bash scripts/install_test_services.sh bentoml")
    port = free_port()
    log = folder.parent / f"{folder.name}.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [str(BENTOML), "serve", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder, env=bentoml_environment(settings), stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while not _is_ready(url):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.1)
        yield url
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False
