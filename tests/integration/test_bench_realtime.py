"""The load generator of `make bench-realtime` counts a stall in every latency, and all look-ups are compared."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

from _realtime import load  # noqa: E402  # the benchmarks are no package

BODY = b'{"answered_by_counts":{"model":50}}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)


@contextmanager
def server(answer: Callable[[int, bytes], bytes | None]) -> Iterator[int]:
    """Answers request number i (by arrival) with what `answer` returns; None closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    count, lock = iter(range(1_000_000)), threading.Lock()

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65_536):
                with lock:
                    number = next(count)
                found = answer(number, data)
                if found is None:
                    return
                connection.sendall(found)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=[connection], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def requests(folder: Path, **arguments: bool) -> Path:
    return load.write_requests(folder / "requests", [b'{"a":1}', b'{"a":2}'], "/v1/x", **arguments)


def test_a_stall_is_in_the_latency_of_every_request_that_was_due_in_it(tmp_path: Path) -> None:
    stalled = threading.Event()

    def answer(number: int, data: bytes) -> bytes:
        if number == 100:
            stalled.set()
            time.sleep(0.5)
            stalled.clear()
        while stalled.is_set():
            time.sleep(0.01)
        return ANSWER

    with server(answer) as port:
        found = load.run(port, requests(tmp_path), rate=200.0, seconds=2.0, most=4, core=None,
                         classes=('"answered_by_counts":{', "}"))  # fmt: skip
    assert found.failed == 0
    assert len(found.status) == 400
    assert found.names == ["", '"model":50']
    assert found.share("model") == 1.0
    # A hundred requests were due in the half second; a closed loop would have sent four.
    assert (found.latency_ms > 100).sum() >= 60
    assert found.latency_ms.max() >= 450


def test_broken_connections_and_other_statuses_are_failures(tmp_path: Path) -> None:
    def answer(number: int, data: bytes) -> bytes | None:
        if number % 10 == 3:
            return None
        return b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n" if number % 10 == 6 else ANSWER

    with server(answer) as port:
        found = load.run(port, requests(tmp_path), rate=200.0, seconds=1.0, core=None)
    statuses = found.figures()["statuses"]
    assert statuses == {"-1": 20, "200": 160, "503": 20}
    assert found.failed == 40
    assert np.isinf(found.latency_ms).sum() == 20


def test_a_request_says_when_it_was_due(tmp_path: Path) -> None:
    seen = []

    def answer(number: int, data: bytes) -> bytes:
        seen.append((time.time(), data))
        return ANSWER

    with server(answer) as port:
        load.run(port, requests(tmp_path, stamped=True), rate=50.0, seconds=1.0, core=None)
    stamps = []
    for moment, data in seen:
        line = next(line for line in data.split(b"\r\n") if line.startswith(b"X-Request-Start: t="))
        stamp = int(line.partition(b"t=")[2]) / 1e6
        assert -0.001 < moment - stamp < 30
        assert data.endswith((b'{"a":1}', b'{"a":2}'))
        stamps.append(stamp)
    assert np.allclose(np.diff(sorted(stamps)), 0.02, atol=1e-5)


def test_requests_that_are_never_answered_are_counted(tmp_path: Path) -> None:
    def answer(number: int, data: bytes) -> bytes:
        time.sleep(60 if number == 5 else 0)
        return ANSWER

    with server(answer) as port:
        found = load.run(port, requests(tmp_path), rate=100.0, seconds=0.5, drain_s=10.0, core=None)
    assert found.figures()["statuses"] == {"0": 1, "200": 49}


def test_every_looked_up_matrix_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    from _realtime import case
    from _realtime.lookup import timed

    def right(ids: np.ndarray) -> np.ndarray:
        return case.features_of("wide_id", ids, 32)

    found = timed({"ours": right, "redis": right}, 1_000, 5)
    assert [len(values) for values in found.values()] == [5, 5]
    with pytest.raises(AssertionError, match="redis"):
        timed({"ours": right, "redis": lambda ids: right(ids + 1)}, 1_000, 5)
