"""The control interface of a running cluster: machines are started, listed and killed over HTTP, by people and Dagster.

The address and a token are in a file of the cluster's folder that only its user can read.
"""

import json
import secrets
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from _cluster.machines import Machines, write_json

CONTROL_FILE = "control.json"


class _Handler(BaseHTTPRequestHandler):
    machines: Machines
    token: str

    def do_GET(self) -> None:
        self._answer(lambda: [machine.describe() for machine in self.machines.list_machines()])

    def do_POST(self) -> None:
        self._answer(lambda: self.machines.start(**self._body()).describe())

    def do_DELETE(self) -> None:
        self._answer(lambda: self.machines.kill(self.path.lstrip("/")))

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, act: Any) -> None:
        status, content = 200, None
        if not secrets.compare_digest(self.headers.get("Authorization", ""), self.token):
            status, content = 401, "Wrong token."
        else:
            try:
                content = act()
            except KeyError as error:
                status, content = 404, f"There is no machine {error}."
            except ValueError as error:
                status, content = 409, str(error)
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def serve_control(folder: Path, machines: Machines) -> Iterator[None]:
    """Serve the control interface during the block."""
    token = secrets.token_hex(16)
    handler = type("Handler", (_Handler,), {"machines": machines, "token": token})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        write_json(folder / CONTROL_FILE, {"address": address, "token": token})
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            (folder / CONTROL_FILE).unlink(missing_ok=True)
            server.shutdown()


class Control:
    """A client of the control interface of the cluster in a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises FileNotFoundError if no cluster runs there."""
        self._given: dict[str, str] = json.loads((folder / CONTROL_FILE).read_text())

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        is_replaced: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Start a machine; raises ValueError if one of this name runs."""
        body = {"name": name, "command": list(command), "is_replaced": is_replaced, "environment": environment}
        return self._call("POST", body=body)

    def list_machines(self) -> list[dict[str, Any]]:
        """All machines, those that have ended included."""
        return self._call("GET")

    def find(self, name: str) -> dict[str, Any] | None:
        """A machine; None if there was none."""
        return next((each for each in self.list_machines() if each["name"] == name), None)

    def kill(self, name: str) -> bool:
        """Kill a machine; False if it had ended. Raises ValueError if there was none."""
        return self._call("DELETE", name)

    def _call(self, method: str, name: str = "", *, body: object = None) -> Any:
        request = urllib.request.Request(
            f"{self._given['address']}/{name}", method=method, data=json.dumps(body).encode() if body else None,
            headers={"Authorization": self._given["token"]},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise ValueError(json.loads(error.read())) from None
