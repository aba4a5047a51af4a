"""The reader's clients are slow, silent, too many, too large, or leave."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import psutil
import pytest
from faulty_reader import begin_post, connected, metric, read_to_end, status
from reader_support import RunningReader, churn_rows, running_reader, write_version
from waiting import eventually

from forecache.base.settings import Settings, load_settings


@pytest.fixture
def store(settings: Settings) -> Settings:
    write_version(settings.store_path, "churn", churn_rows(100))
    return settings


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReader]:
    """A reader that gives a client a second for its request."""
    settings = load_settings(home=tmp_path_factory.mktemp("impatient") / "home")
    write_version(settings.store_path, "churn", churn_rows(100))
    with running_reader(settings, reader_request_timeout_s=1.0) as reader:
        yield reader


def takes_less_than_by_default(run: Callable[[], object]) -> bool:
    """Return whether one of some runs takes less than the ten seconds for which a reader waits unless told otherwise.

    A machine that stands still may make one longer.
    """
    for _ in range(3):
        began = time.monotonic()
        run()
        if time.monotonic() - began < 9:
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"", b""),
        (b"PRI * HTTP/2.0\r\n", b""),
        (b"GET /v1/churn/00001 HTTP/1.1\r\nHost: x\r\n", b""),
        (b"POST /v1/churn HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", b"HTTP/1.1 408 "),
        (b"POST /v1/churn HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", b"HTTP/1.1 408 "),
    ],
)
def test_slow_clients_are_let_go_and_hold_up_nobody(impatient: RunningReader, sent: bytes, answered: bytes) -> None:
    def ask_slowly() -> None:
        with connected(impatient) as slow:
            slow.sendall(sent)
            until = time.monotonic() + 0.6
            while time.monotonic() < until:
                assert status(impatient) == 200
            answer = read_to_end(slow)
            assert answer.startswith(answered)
            assert bool(answer) == bool(answered)

    assert takes_less_than_by_default(ask_slowly)


@pytest.mark.slow
def test_a_client_that_drips_its_request_is_let_go(impatient: RunningReader) -> None:
    def drip() -> None:
        with connected(impatient) as slow:
            slow.sendall(b"GET /v1/churn/00001 HTTP/1.1\r\n")

            def is_closed() -> bool:
                try:
                    slow.sendall(b"X: y\r\n")
                except ConnectionError:
                    return True
                time.sleep(0.2)
                return False

            assert eventually(is_closed)

    assert takes_less_than_by_default(drip)


@pytest.mark.slow
def test_a_thousand_silent_connections_hold_up_nobody(store: Settings) -> None:
    with running_reader(store, reader_request_timeout_s=6.0) as reader:
        [worker] = reader.workers()
        for _ in range(5):  # a slow machine may let the first go before the last have come
            with ExitStack() as silent:
                for _ in range(1000):
                    silent.enter_context(socket.create_connection(("127.0.0.1", reader.port)))
                assert status(reader) == 200
                at_once = len(psutil.Process(worker).net_connections("tcp"))
                assert eventually(lambda: len(psutil.Process(worker).net_connections("tcp")) < 20)
            if at_once >= 1000:
                break
        assert at_once >= 1000


@pytest.mark.slow
def test_one_client_that_takes_all_connections_keeps_nobody_waiting(store: Settings) -> None:
    # The silent ones have ten minutes: they go since others come.
    with running_reader(store, reader_max_connections=200, reader_request_timeout_s=600.0) as reader:
        silent = []
        for _ in range(600):
            connection = socket.socket()
            connection.bind(("127.0.0.2", 0))
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", reader.port))
            silent.append(connection)
        try:
            assert [status(reader) for _ in range(5)] == [200] * 5
            assert eventually(lambda: metric(reader, "silent_connections_closed_total") >= 400)
        finally:
            for connection in silent:
                connection.close()


def test_bodies_under_way_take_no_more_memory_than_they_may(store: Settings) -> None:
    limits = {"reader_max_body_bytes": 100_000, "reader_max_bodies_bytes": 250_000, "reader_request_timeout_s": 600}
    with running_reader(store, **limits) as reader, ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(connected(reader))
            connection.sendall(b"POST /v1/churn HTTP/1.1\r\nHost: x\r\nContent-Length: 99000\r\n\r\n" + b" " * 98_000)
        body = b" " * 60_000 + b'{"keys": ["00001"]}'

        def ask() -> httpx.Response:
            return httpx.post(f"{reader.url}/v1/churn", content=body)

        assert eventually(lambda: ask().status_code == 503)
        refused = ask()
        assert refused.json()["type"] == "urn:forecache:problem:overloaded"
        assert refused.headers["retry-after"] == "1"
        assert metric(reader, "bodies_refused_total") >= 2
        assert status(reader) == 200
        assert httpx.post(f"{reader.url}/v1/churn", json={"keys": ["00001"]}).status_code == 200
        stack.close()
        assert eventually(lambda: ask().status_code == 200)


def test_heads_that_are_too_large_are_refused(store: Settings) -> None:
    with running_reader(store) as reader:
        for head in (b"X: " + b"a" * 20_000, b"\r\n".join(b"X%d: a" % i for i in range(150))):
            with connected(reader) as connection:
                connection.sendall(b"GET /v1/churn/00001 HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
                assert read_to_end(connection).startswith(b"HTTP/1.1 431 ")
        assert status(reader) == 200


def test_clients_that_leave_in_the_middle_are_counted_and_not_logged(
    store: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    with running_reader(store) as reader:
        for _ in range(3):
            with connected(reader) as connection:
                begin_post(connection, 100)

        def counted() -> bool:
            return 'requests_total{route="other",status="499"} 3' in httpx.get(f"{reader.url}/metrics").text

        assert eventually(counted)
        assert status(reader) == 200
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
