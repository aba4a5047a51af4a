"""An HTTP proxy before an object store that answers 503, resets connections, and loses answers to what was done.

Which request gets which fault is drawn from a seeded generator. A lost answer is the ambiguous case: the server has
done what it was asked for, and the client sees its connection reset.
"""

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("busy", "reset", "lost")
_BUSY = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
_PER_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}


@dataclass
class Faults:
    """How often a request fails, by what happens to it.

    Args:
        busy: Share of requests answered 503 without reaching the server.
        reset: Share of requests whose connection is reset before they reach the server.
        lost: Share of requests that the server answers and whose connection is reset then.
        matching: Only requests for which this holds (method, path) fail.
    """

    busy: float = 0.0
    reset: float = 0.0
    lost: float = 0.0
    seed: int = 0
    matching: Callable[[str, str], bool] = lambda method, path: True
    injected: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random, self._lock = random.Random(self.seed), threading.Lock()

    def draw(self, method: str, path: str) -> str:
        """The fault of a request; an empty word where it has none."""
        with self._lock:
            number = self._random.random()
        if not self.matching(method, path):
            return ""
        for fault in FAULTS:
            number -= getattr(self, fault)
            if number < 0:
                with self._lock:
                    self.injected[fault] += 1
                    self.injected[f"{fault} {_kind(method, path)}"] += 1
                return fault
        return ""


def is_commit(method: str, path: str) -> bool:
    """Whether a request writes a version of a Delta table."""
    return method == "PUT" and "/_delta_log/" in path and path.split("?")[0].endswith(".json")


def _kind(method: str, path: str) -> str:
    return "commit" if is_commit(method, path) else method


@contextmanager
def fault_proxy(endpoint: str, faults: Faults) -> Iterator[str]:
    """Serve an address that passes on to an endpoint; yields it."""
    upstream = urlsplit(endpoint)

    class Handler(_Handler):
        server_address = (upstream.hostname or "", upstream.port or 80)
        drawn = faults

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed leave broken connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_address: tuple[str, int]
    drawn: Faults

    def setup(self) -> None:
        super().setup()
        self._server = http.client.HTTPConnection(*self.server_address, timeout=60)

    def finish(self) -> None:
        self._server.close()
        super().finish()

    def handle_one_request(self) -> None:
        self.close_connection = True
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            return
        body = self._body()
        fault = self.drawn.draw(self.command, self.path)
        if fault == "busy":
            self._answer(503, [("Content-Type", "application/xml")], _BUSY)
        elif fault == "reset":
            self._reset()
        else:
            status, headers, content = self._forward(body)
            if fault == "lost":
                self._reset()
            else:
                self._answer(status, headers, content)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        self._server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _PER_HOP:
                self._server.putheader(name, value)
        if body or self.command in ("PUT", "POST"):
            self._server.putheader("Content-Length", str(len(body)))
        self._server.endheaders(body or None)
        answer = self._server.getresponse()
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _PER_HOP]
        if self.command == "HEAD" and answer.getheader("Content-Length"):
            headers.append(("Content-Length", answer.getheader("Content-Length") or "0"))
        return answer.status, headers, answer.read()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD" and status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.wfile.flush()
        self.close_connection = self.headers.get("Connection", "").lower() == "close"

    def _reset(self) -> None:
        """Close with RST instead of FIN: linger on, for no time."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
