"""Ask readers from several threads until told to stop, and count each request that did not get its answer.

Half of the threads keep their connection, as an application's pool does; the others open one for each request, so that
a Service chooses a reader each time. A request whose kept connection the server closes before it answers is sent once
more on a new connection, as HTTP lets clients do (RFC 9112, 9.3.1); those are counted as `resent`. No other request is
tried again.

Usage: python3 load.py STOP_FILE THREADS KEYS URL...      (with the token in the variable TOKEN; prints JSON)
"""

import http.client
import json
import os
import select
import sys
import threading
import time
import urllib.parse
from pathlib import Path


class Thread(threading.Thread):
    """Requests one after the other, on one connection or on one each."""

    def __init__(self, url: str, keys: int, *, is_kept: bool, has_ended: threading.Event) -> None:
        super().__init__(daemon=True)
        parts = urllib.parse.urlparse(url)
        self.host, self.path = parts.netloc, parts.path
        self.keys, self.is_kept, self.has_ended = keys, is_kept, has_ended
        self.times_ms: list[float] = []
        self.lost: list[str] = []
        self.resent = 0
        self.connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        key = 0
        while not self.has_ended.is_set():
            key = (key + 1) % self.keys
            began = time.perf_counter()
            try:
                self.ask(f"{self.path}/{key}")
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.lost.append(f"{time.strftime('%T')} {'kept' if self.is_kept else 'new'} connection: {error!r}")
                self.connection = None
                time.sleep(0.05)
            self.times_ms.append((time.perf_counter() - began) * 1000)

    def ask(self, path: str) -> None:
        if self.connection is not None and not self.has_closed():
            try:
                return self.exchange(path)
            except (ConnectionError, http.client.RemoteDisconnected):
                self.resent += 1
        self.connection = http.client.HTTPConnection(self.host, timeout=10)
        return self.exchange(path)

    def exchange(self, path: str) -> None:
        assert self.connection is not None
        headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"} if "TOKEN" in os.environ else {}
        self.connection.request("GET", path, headers=headers)
        answer = self.connection.getresponse()
        body = answer.read()
        if not self.is_kept or answer.will_close:
            self.connection.close()
            self.connection = None
        if answer.status not in (200, 404):  # a key that nobody has is an answer too
            raise ValueError(f"{answer.status} {body[:80]!r}")

    def has_closed(self) -> bool:
        """Whether the server has ended the connection: what is readable before a request is its end."""
        connection = self.connection
        return connection is None or connection.sock is None or bool(select.select([connection.sock], [], [], 0)[0])


def main(stop_file: str, threads: str, keys: str, *urls: str) -> None:
    has_ended = threading.Event()
    workers = [
        Thread(urls[number % len(urls)], int(keys), is_kept=number % 2 == 0, has_ended=has_ended)
        for number in range(int(threads))
    ]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    while not Path(stop_file).exists():
        time.sleep(0.1)
    has_ended.set()
    for worker in workers:
        worker.join(15)
    seconds = time.perf_counter() - began
    times = sorted(time_ms for worker in workers for time_ms in worker.times_ms)
    lost = [text for worker in workers for text in worker.lost]
    resent = sum(worker.resent for worker in workers)
    figures = {
        "requests": len(times),
        "lost": len(lost),
        "resent": resent,
        "seconds": round(seconds, 1),
        "examples": lost[:5],
    }
    figures |= {f"p{share}_ms": round(times[len(times) * share // 100], 1) for share in (50, 99) if times}
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
