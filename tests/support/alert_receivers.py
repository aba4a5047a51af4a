"""Real receivers of alerts for tests: an HTTP server that records what it is posted, and answers as it is told."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Posted:
    """One request."""

    path: str
    headers: dict[str, str]
    content: Any


@dataclass
class Receiver:
    """An HTTP server of a test.

    Attributes:
        url: Without a path.
        posted: What it took, or refused, in order.
        code: What it answers from now on.
        answer_headers: Further headers of its answers.
        body: Of its answers.
        before: Called with each request before it is answered.
    """

    url: str = ""
    posted: list[Posted] = field(default_factory=list)
    code: int = 200
    answer_headers: dict[str, str] = field(default_factory=dict)
    body: str = "ok"
    before: Callable[[Posted], None] = lambda _: None


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A server on a port of its own."""
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"]))
            posted = Posted(self.path, dict(self.headers), json.loads(text))
            found.posted.append(posted)
            found.before(posted)
            self.send_response(found.code)
            for name, value in found.answer_headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(found.body.encode())))
            self.end_headers()
            self.wfile.write(found.body.encode())

        def do_GET(self) -> None:
            found.posted.append(Posted(self.path, dict(self.headers), None))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
