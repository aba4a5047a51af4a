"""What a client sees of a stream while it runs: how long after it was sent a payment's score is served, and the lag."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_POLL_S, _GIVE_UP_S, _LAG_S = 0.005, 60.0, 0.25


@dataclass
class Seen:
    """Lists of equal length in the order of time; seconds since the watch began, unless said otherwise.

    Attributes:
        delays: (time at which it was sent, delay in seconds) of each payment that was waited for.
        lags: (time, messages of the topic whose row was not committed).
    """

    delays: list[tuple[float, float]] = field(default_factory=list)
    lags: list[tuple[float, int]] = field(default_factory=list)
    lost: int = 0


class Reader:
    """One connection to a reader, kept open."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)

    def get(self, path: str) -> tuple[int, Any]:
        return self._ask("GET", path, None)

    def post(self, path: str, document: Any) -> tuple[int, Any]:
        return self._ask("POST", path, json.dumps(document))

    def _ask(self, method: str, path: str, body: str | None) -> tuple[int, Any]:
        headers = {"content-type": "application/json"} if body else {}
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
        except ConnectionError:  # a reader closes connections that were idle for long
            self._connection.close()
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
        return response.status, json.loads(response.read())


class Watch:
    """Asks for the newest payment that was sent until its score is there, then for the next one: a sample of all.

    `sent` is what the sender calls. A context manager: the threads end with it.
    """

    def __init__(self, address: str, path_of: Callable[[int], str], lag: Callable[[], int | None]) -> None:
        """
        Args:
            path_of: The reader's path of the score of a payment, by its place in the day.
            lag: Messages whose row is not committed; None where that is not known.
        """
        self.seen = Seen()
        self._reader, self._path_of, self._lag = Reader(address), path_of, lag
        self._newest: tuple[int, float] | None = None
        self._new, self._stop = threading.Event(), threading.Event()
        self.began = time.monotonic()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._follow_scores, self._follow_lag)]

    def __enter__(self) -> "Watch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._new.set()
        for thread in self._threads:
            thread.join()

    def sent(self, place: int, at: float) -> None:
        self._newest = (place, at)
        self._new.set()

    def _follow_scores(self) -> None:
        while True:
            self._new.wait()
            self._new.clear()
            if self._stop.is_set():
                return
            newest = self._newest
            assert newest is not None
            self._wait_for(*newest)

    def _wait_for(self, place: int, at: float) -> None:
        path = self._path_of(place)
        while time.monotonic() < at + _GIVE_UP_S and not self._stop.is_set():
            status, _ = self._reader.get(path)
            if status == http.HTTPStatus.OK:
                self.seen.delays.append((at - self.began, time.monotonic() - at))
                return
            time.sleep(_POLL_S)
        self.seen.lost += 1

    def _follow_lag(self) -> None:
        while not self._stop.wait(_LAG_S):
            lag = self._lag()
            if lag is not None:
                self.seen.lags.append((time.monotonic() - self.began, lag))
