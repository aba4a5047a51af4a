"""Figures of scripts/kubernetes: what counts as a lost request, and the metric that scales readers."""

import importlib.util
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from waiting import wait_for

from forecache.base.settings import PROJECT_ROOT

SCRIPTS = PROJECT_ROOT / "scripts/kubernetes"


def load_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"kubernetes_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Reader(BaseHTTPRequestHandler):
    """Answers; key 3 with an error, key 5 with a connection that ends."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[int] = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.path.endswith("/5"):
            self.close_connection = True
            return
        self.send_response(503 if self.path.endswith("/3") else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(("keys", "is_lossless"), [(3, True), (6, False)])
def test_load_counts_each_request_without_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: int, is_lossless: bool
) -> None:
    monkeypatch.setattr(Reader, "asked", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Reader)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stop = tmp_path / "stop"
    url = f"http://127.0.0.1:{server.server_port}/v1/risk"
    with subprocess.Popen(
        [sys.executable, str(SCRIPTS / "load.py"), str(stop), "2", str(keys), url], stdout=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: Reader.asked > 20)
        stop.touch()
        figures = json.loads(process.communicate(timeout=60)[0])
    server.shutdown()
    assert figures["requests"] > 6
    assert (figures["lost"] == 0) == is_lossless
    if not is_lossless:  # two of six keys, for each of the threads
        assert abs(figures["lost"] - figures["requests"] / 3) <= 4


def test_rate_of_time_in_flight_is_the_mean_number_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics: Any = load_module("metrics")
    samples = metrics.Samples()
    now = time.monotonic()
    samples.of_pod["one"].extend([(now - 10, 2.0), (now - 5, 5.0), (now, 8.0)])
    samples.of_pod["new"].append((now, 4.0))
    samples.of_pod["gone"].extend([(now - 100, 2.0), (now - 90, 5.0)])
    assert samples.get_rate("one") == pytest.approx(0.6)
    assert samples.get_rate("new") is None
    assert samples.get_rate("gone") is None
