"""How long processes stood still that a test does nothing to."""

import http.client
import threading
import time
from functools import partial

from waiting import ThreadsBeside

_PAUSE_S = 0.01
_AT_ONCE_S = 0.05


class StoodStill(ThreadsBeside):
    """Asks servers for what costs them nothing, again and again while the block runs.

    Attributes:
        seconds: How much longer than 50 ms the answers took, all together: a server stood still, or this process did.
    """

    def __init__(self, *asked: tuple[int, str]) -> None:
        """`asked`: port and path of each."""
        super().__init__(*(partial(self._ask, *each) for each in asked))
        self.seconds, self._lock = 0.0, threading.Lock()

    def _ask(self, port: int, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                connection.request("GET", path)
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection.close()
            took_s = time.monotonic() - began
            with self._lock:
                self.seconds += max(0.0, took_s - _AT_ONCE_S)
            time.sleep(_PAUSE_S)
        connection.close()
