"""How long a reader takes to put new versions in place, from its metrics."""

import contextlib
import re
import threading
import urllib.request

_FIGURES = re.compile(
    r'^(forecache_reader_swaps_total|forecache_reader_swap_seconds)\{[^}]*"spending"[^}]*\} (\S+)$', re.M
)
_LOOK_S = 0.5


class Swaps(contextlib.AbstractContextManager["Swaps"]):
    """Notes how long the reader took to put each new version in place, from its metrics.

    Attributes:
        ms: Of each swap that was seen.
        count: Swaps that the reader has counted.
    """

    def __init__(self, port: int) -> None:
        self.ms: list[float] = []
        self.count = 0
        self._port, self._over = port, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Swaps":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_S):
            with contextlib.suppress(OSError, ValueError):
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10) as answer:
                    found = dict(_FIGURES.findall(answer.read().decode()))
                count = int(float(found.get("forecache_reader_swaps_total", 0)))
                if count > self.count:
                    self.ms.append(float(found["forecache_reader_swap_seconds"]) * 1e3)
                self.count = count
