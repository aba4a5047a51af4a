"""A small HTTP server that makes a page of metrics for each scrape."""

import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from forecache.metrics.page import CONTENT_TYPE

logger = logging.getLogger("forecache.metrics")


def export_server(host: str, port: int, make: Callable[[], str]) -> ThreadingHTTPServer:
    """Make a server whose `/metrics` returns the page of `make`, one call at a time; 503 if that fails.

    Args:
        port: 0: a free one; see `server_address`.

    Raises:
        OSError: The port is taken.
    """
    making = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self._reply(404, "There is nothing here but /metrics.\n")
                return
            try:
                with making:
                    page = make()
            except Exception as error:
                logger.exception("The metrics could not be read.")
                self._reply(503, f"The metrics could not be read: {type(error).__name__}.\n")
                return
            self._reply(200, page)

        def _reply(self, status: int, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Do not log scrapes."""

    return ThreadingHTTPServer((host, port), Handler)
