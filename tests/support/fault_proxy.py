"""An HTTP proxy before an object store that is far away, answers 503, resets connections, and loses answers to what
was done.

Which request gets which fault is drawn from a seeded generator. A lost answer is the ambiguous case: the server has
done what it was asked for, and the client sees its connection reset. The proxy is a process of its own: delta-rs's file
system waits for answers with Python's global lock in its hands.
"""

import http.client
import json
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

FAULTS = ("busy", "reset", "lost")
_BUSY = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
_PER_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}
_TELL = "/proxy/counts"

Kind = Literal["commit", "end of upload", "other"]


@dataclass(frozen=True)
class Faults:
    """How often requests of a kind fail, by what happens to them.

    Args:
        kind: "commit" writes a version of a Delta table, "end of upload" makes an object of the parts of an upload.
        busy: Share of requests answered 503 without reaching the server.
        reset: Share of requests whose connection is reset before they reach the server.
        lost: Share of requests that the server answers and whose connection is reset then.
        most: Faults after which there are no more; None: no limit.
    """

    kind: Kind
    busy: float = 0.0
    reset: float = 0.0
    lost: float = 0.0
    most: int | None = None


@dataclass(frozen=True)
class Distance:
    """The time that each request takes more, and the bytes that pass in a second in all, 0: any number of them."""

    latency_s: float = 0.0
    bytes_per_s: float = 0.0


class Proxy:
    """A proxy that runs."""

    def __init__(self, port: int, pid: int) -> None:
        self.address, self.pid = f"http://127.0.0.1:{port}", pid

    def injected(self, kind: Kind) -> dict[str, int]:
        """The faults so far in requests of a kind, by fault."""
        counts = self._counts()
        return {fault: counts.get(f"{fault} {kind}", 0) for fault in FAULTS}

    def requests(self) -> dict[str, int]:
        """The requests so far by method, those for copies as COPY, and the bytes of all bodies as `bytes`."""
        counts = self._counts()
        return {name: counts.get(name, 0) for name in ("GET", "HEAD", "PUT", "POST", "DELETE", "COPY", "bytes")}

    def _counts(self) -> dict[str, int]:
        with urllib.request.urlopen(self.address + _TELL, timeout=60) as answer:
            counts: dict[str, int] = json.load(answer)
        return counts


@contextmanager
def fault_proxy(endpoint: str, *faults: Faults, seed: int = 0, distance: Distance = Distance()) -> Iterator[Proxy]:
    """Run a proxy that passes on to an endpoint; kinds of requests that are not given do not fail."""
    failing = [asdict(some) for some in faults]
    told = json.dumps({"endpoint": endpoint, "faults": failing, "seed": seed, "distance": asdict(distance)})
    with subprocess.Popen([sys.executable, __file__, told], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Proxy(int(process.stdout.readline()), process.pid)
        finally:
            process.send_signal(signal.SIGKILL)


def kind_of(method: str, path: str) -> Kind:
    name, _, query = path.partition("?")
    if method == "PUT" and "/_delta_log/" in name and name.endswith(".json"):
        return "commit"
    return "end of upload" if method == "POST" and "uploadId=" in query else "other"


class Dice:
    """Draws the fault of each request."""

    def __init__(self, faults: list[Faults], seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._faults = {some.kind: some for some in faults}
        self._left = {some.kind: some.most for some in faults if some.most is not None}
        self._random, self._lock = random.Random(seed), threading.Lock()

    def count(self, what: str, num_bytes: int) -> None:
        with self._lock:
            self.counts.update({what: 1, "bytes": num_bytes})

    def draw(self, method: str, path: str) -> str:
        """The fault of a request; an empty word where it has none."""
        kind = kind_of(method, path)
        with self._lock:
            if kind not in self._faults or self._left.get(kind) == 0:
                return ""
            number = self._random.random()
            for fault in FAULTS:
                number -= getattr(self._faults[kind], fault)
                if number < 0:
                    self.counts[f"{fault} {kind}"] += 1
                    if kind in self._left:
                        self._left[kind] = (self._left[kind] or 0) - 1
                    return fault
        return ""


_CHUNK_BYTES = 1 << 16


class Line:
    """A line of limited width; answers that pass at once share it."""

    def __init__(self, distance: Distance) -> None:
        self.distance = distance
        self._free_s, self._lock = 0.0, threading.Lock()

    def wait(self, size: int) -> None:
        """Wait until so many bytes have passed."""
        if self.distance.bytes_per_s:
            with self._lock:
                self._free_s = max(self._free_s, time.monotonic()) + size / self.distance.bytes_per_s
                passed_s = self._free_s
            time.sleep(max(0.0, passed_s - time.monotonic()))


def serve(endpoint: str, faults: list[Faults], seed: int, distance: Distance) -> None:
    """Print the port and serve until killed."""
    upstream = urlsplit(endpoint)

    class Handler(_Handler):
        server_address = (upstream.hostname or "", upstream.port or 80)
        dice = Dice(faults, seed)
        line = Line(distance)

    server = _Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed leave broken connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_address: tuple[str, int]
    dice: Dice
    line: Line

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
        if self.path == _TELL:
            self._answer(200, [], json.dumps(dict(self.dice.counts)).encode())
            return
        self.dice.count("COPY" if "x-amz-copy-source" in self.headers else self.command, len(body))
        time.sleep(self.line.distance.latency_s)
        fault = self.dice.draw(self.command, self.path)
        if fault == "busy":
            self._answer(503, [("Content-Type", "application/xml")], _BUSY)
        elif fault == "reset":
            self._reset()
        else:
            status, headers, content = self._forward(body)
            self.dice.count("answers", len(content))
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
        for start in range(0, len(content) if self.command != "HEAD" else 0, _CHUNK_BYTES):
            chunk = memoryview(content)[start : start + _CHUNK_BYTES]
            self.line.wait(len(chunk))
            self.wfile.write(chunk)
        self.wfile.flush()
        self.close_connection = self.headers.get("Connection", "").lower() == "close"

    def _reset(self) -> None:
        """Close with RST instead of FIN: linger on, for no time."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    faults = [Faults(**some) for some in given["faults"]]
    serve(given["endpoint"], faults, given["seed"], Distance(**given["distance"]))
