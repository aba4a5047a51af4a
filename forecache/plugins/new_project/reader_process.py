"""A reader as a child process, for the demo: on a free port, queried over HTTP, stopped at the end."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from forecache.base.errors import UnavailableError
from forecache.base.settings import Settings
from forecache.cli.base import is_port_free
from forecache.kit.process.child import end_process, wait_until_ready

START_S = 30.0
STOP_S = 10.0
AGAIN_S = 0.1


def find_free_port(host: str, wanted: int) -> int:
    """The wanted port if it is free, else one that the system picks."""
    if is_port_free(host, wanted):
        return wanted
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class ReaderProcess:
    """`forecache serve` as a child process; a context manager that stops it at the end unless `keep` was called."""

    def __init__(self, settings: Settings) -> None:
        self.host = settings.reader_host
        self.port = find_free_port(self.host, settings.reader_port)
        self.log: Path = settings.home_path / "reader.log"
        self._keep = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> "ReaderProcess":
        command = [sys.executable, "-m", "forecache.cli.main", "serve", "--host", self.host, "--port", str(self.port)]
        with open(self.log, "wb") as log:
            # A separate session, so that with --keep the reader outlives the terminal.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._keep or error is not None:
            self.stop()

    def keep_running(self) -> None:
        self._keep = True

    def get(self, path: str) -> Any:
        """The JSON document at a path of the reader."""
        with urllib.request.urlopen(f"{self.address}{path}", timeout=10) as response:
            return json.load(response)

    def get_answer(self, pipeline: str, key: str, *, limit: int | None = None) -> dict[str, Any]:
        """The answer for a key; with `limit`, the first items of its lists."""
        found: dict[str, Any] = self.get(self.answer_path(pipeline, key, limit=limit))
        return found

    def answer_path(self, pipeline: str, key: str, *, limit: int | None = None) -> str:
        return f"/v1/{pipeline}/{quote(key, safe='')}{f'?limit={limit}' if limit else ''}"

    def post_request(self, name: str, request: str) -> dict[str, Any]:
        """The answer of a real-time model to a request in JSON."""
        posted = urllib.request.Request(
            f"{self.address}/v1/{name}", request.encode(), {"content-type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(posted, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    def stop(self) -> None:
        """Send SIGTERM twice, so that it does not wait for a load balancer; then SIGKILL to its process group."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        time.sleep(AGAIN_S)  # pending signals of the same kind arrive as one
        end_process(self._process, within_s=STOP_S)

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        if wait_until_ready(self._process, f"{self.address}/readyz", within_s=START_S):
            return
        lines = self.log.read_text(errors="replace").strip().splitlines()
        raise UnavailableError(
            f"The reader did not start on {self.address}: {lines[-1] if lines else 'it printed nothing'}.",
            remedy=f"Its log is {self.log}.",
        )
