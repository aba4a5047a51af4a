"""How long processes stood still that a test does nothing to."""

import http.client
import threading
import time

_PAUSE_S = 0.01
_AT_ONCE_S = 0.05


class StoodStill:
    """Asks servers for what costs them nothing, again and again while the block runs.

    Attributes:
        seconds: How much longer than 50 ms the answers took, all together: a server stood still, or this process did.
    """

    def __init__(self, *asked: tuple[int, str]) -> None:
        """`asked`: port and path of each."""
        self._over, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=each, daemon=True) for each in asked]
        self.seconds = 0.0

    def __enter__(self) -> "StoodStill":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, port: int, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while not self._over.is_set():
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
