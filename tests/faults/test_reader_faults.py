"""The reader when things go wrong: told to stop, killed, its port taken, its store damaged, its clients slow."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from free_ports import free_port
from reader_support import RunningReader, churn_rows, running_reader, start_reader, write_version
from small_disks import within_small_disk

from forecache.errors import ConflictError, SettingsError
from forecache.reader.processes.server import serve
from forecache.settings import Settings, load_settings
from forecache.store import Store
from forecache.store.pointer import read_pointer, write_pointer


def eventually(holds: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return False


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


def status(reader: RunningReader, path: str = "/v1/churn/00001") -> int:
    try:
        return httpx.get(f"{reader.url}{path}").status_code
    except httpx.TransportError:
        return 0


def metric(reader: RunningReader, name: str) -> float:
    text = httpx.get(f"{reader.url}/metrics", timeout=60).text
    [value] = [line.split()[-1] for line in text.splitlines() if line.startswith(f"forecache_reader_{name} ")]
    return float(value)


@contextmanager
def connected(reader: RunningReader) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", reader.port), timeout=60) as connection:
        yield connection


def begin_post(connection: socket.socket, length: int) -> None:
    """Send a request's head, and return once its handler waits for the body."""
    head = "POST /v1/churn HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n"
    connection.sendall(head.format(length).encode())
    assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")


def listens(reader: RunningReader) -> bool:
    connections = psutil.Process(reader.process.pid).net_connections("tcp")
    return any(each.status == psutil.CONN_LISTEN for each in connections)


def read_to_end(connection: socket.socket) -> bytes:
    answer = b""
    try:
        while chunk := connection.recv(65536):
            answer += chunk
    except ConnectionResetError:
        pass
    return answer


def test_sigterm_turns_readiness_off_first_then_drains_and_exits_0(store: Settings) -> None:
    drain_s = 4.0
    reader = start_reader(store, reader_workers=2, drain_s=drain_s)
    workers = reader.workers()
    said: list[tuple[float, str, int, str]] = []
    signalled = threading.Event()

    def ask(path: str) -> None:
        with httpx.Client(base_url=reader.url) as http:
            while not signalled.is_set() or time.monotonic() < started + drain_s:
                try:
                    answer = http.get(path)
                    found = (answer.status_code, answer.text)
                except httpx.TransportError as error:
                    found = (0, repr(error))
                said.append((time.monotonic(), path, *found))
                time.sleep(0.005)

    asking = [threading.Thread(target=ask, args=(path,)) for path in ("/v1/churn/00001", "/readyz")]
    started = time.monotonic()
    for thread in asking:
        thread.start()
    assert eventually(lambda: {path for _, path, *_ in said} == {"/v1/churn/00001", "/readyz"})
    started = time.monotonic()
    signalled.set()
    reader.process.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join()
    # A balancer takes the reader out meanwhile, and requests are answered. What came after that proves nothing.
    in_time = [found for at, *found in said if at < started + drain_s]
    assert {code for path, code, _ in in_time if path != "/readyz"} == {200}
    readiness = [code for path, code, _ in in_time if path == "/readyz"]
    assert (set(readiness), readiness == sorted(readiness)) == ({200, 503}, True)
    assert all("draining" in text for _, code, text in in_time if code == 503)
    assert reader.process.wait(timeout=60) == 0
    assert time.monotonic() - started >= drain_s
    assert len(workers) == 2
    assert not any(psutil.pid_exists(pid) for pid in workers)
    assert status(reader) == 0


def test_a_request_under_way_is_answered_before_the_exit(store: Settings) -> None:
    reader = start_reader(store, drain_s=0.2)
    body = b'{"keys": ["00001"]}'
    with connected(reader) as connection:
        begin_post(connection, len(body))
        connection.sendall(body[:5])
        reader.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: not listens(reader))
        connection.sendall(body[5:])
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"found":true' in answer
    assert reader.process.wait(timeout=60) == 0


def test_a_second_signal_ends_the_wait(store: Settings) -> None:
    reader = start_reader(store, drain_s=600)
    reader.process.send_signal(signal.SIGINT)
    assert eventually(lambda: status(reader, "/readyz") == 503)
    reader.process.send_signal(signal.SIGINT)
    assert reader.process.wait(timeout=60) == 0


def test_a_reader_whose_parent_ignores_sigterm_ends_all_the_same(store: Settings) -> None:
    """Dagster passes on to SIGTERM what a shell has done with SIGINT."""
    ignore = "import os, signal, sys; signal.signal(15, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    reader = start_reader(store, within=[sys.executable, "-c", ignore])
    assert reader.stop() == 0


def test_a_signal_to_the_whole_process_group_drains_too(store: Settings) -> None:
    """Ctrl-C in a terminal."""
    port = free_port()
    code = (
        "import sys; from forecache.settings import load_settings; from forecache.reader import serve;"
        "serve(load_settings(home=sys.argv[1]), port=int(sys.argv[2]), drain_s=float(sys.argv[3]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(store.home), str(port), "600"], start_new_session=True, text=True
    )
    reader = RunningReader(process, port)
    reader.wait_until_ready()
    os.killpg(process.pid, signal.SIGINT)
    assert eventually(lambda: status(reader, "/readyz") == 503)
    assert status(reader) == 200
    process.send_signal(signal.SIGINT)  # no need to wait for the end of the drain
    assert process.wait(timeout=60) == 0


def test_a_killed_worker_is_replaced_and_its_counts_stay(store: Settings) -> None:
    with running_reader(store) as reader:
        assert [status(reader) for _ in range(5)] == [200] * 5
        [worker] = reader.workers()
        killed = psutil.Process(worker)
        killed.kill()
        assert psutil.wait_procs([killed], timeout=60)[0]
        for _ in range(3):  # while it is replaced, connections wait; none is refused
            assert httpx.get(f"{reader.url}/v1/churn/00001", timeout=60).status_code == 200
        assert reader.workers() not in ([], [worker])
        assert metric(reader, 'hits_total{pipeline="churn"}') == 8
        assert metric(reader, "worker_crashes_total") == 1
        assert "open" in Store(store.store_path / "churn").state(1)


def test_workers_end_when_the_main_process_is_killed(store: Settings) -> None:
    reader = start_reader(store, reader_workers=2)
    workers = reader.workers()
    assert len(workers) == 2
    reader.process.kill()
    reader.process.wait()
    assert eventually(lambda: not any(psutil.pid_exists(pid) for pid in workers))
    assert "open" not in Store(store.store_path / "churn").state(1)


def test_a_taken_port_is_said_and_left_alone(store: Settings) -> None:
    with running_reader(store) as reader:
        with pytest.raises(ConflictError, match=f"Port {reader.port} .* in use.*--port"):
            serve(store, port=reader.port)
        assert status(reader) == 200
    with pytest.raises(SettingsError, match=r"203\.0\.113\.1"):
        serve(store, host="203.0.113.1", port=free_port())


def test_a_full_folder_for_temporary_files_neither_stops_a_reader_nor_ends_its_workers(
    store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    monkeypatch.setenv("TMPDIR", str(full))
    with running_reader(store, within=within_small_disk(full, "64k", filled=True), reader_workers=2) as reader:
        assert [status(reader) for _ in range(5)] == [200] * 5
        os.kill(reader.workers()[0], signal.SIGKILL)
        assert eventually(lambda: metric(reader, "worker_crashes_total") == 1 and metric(reader, "workers") == 2)
        assert metric(reader, 'hits_total{pipeline="churn"}') == 5


@pytest.mark.slow
def test_workers_that_end_again_and_again_stop_the_reader_with_an_error(
    store: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    reader = start_reader(store)
    try:
        while reader.process.poll() is None:
            for pid in reader.workers():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGBUS)
            time.sleep(0.05)
    finally:
        reader.process.kill()
    assert reader.process.returncode == 1
    assert "its workers ended 11 times, the last by SIGBUS" in capfd.readouterr().err


def test_of_readers_started_at_one_instant_one_takes_the_port(store: Settings, tmp_path: Path) -> None:
    port, go = free_port(), tmp_path / "go"
    code = (
        "import sys, time; from pathlib import Path; from forecache.settings import load_settings;"
        "from forecache.reader.processes.server import serve;"
        "s = load_settings(home=sys.argv[1], reader_port=int(sys.argv[2]))\n"
        "print(flush=True)\n"
        "while not Path(sys.argv[3]).exists(): pass\n"
        "serve(s, drain_s=0.1)"
    )
    command = [sys.executable, "-c", code, str(store.home), str(port), str(go)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        go.touch()
        assert eventually(lambda: sum(process.poll() is not None for process in started) == 2)
        [serving] = [process for process in started if process.poll() is None]
        RunningReader(serving, port).wait_until_ready()
        assert all("is in use" in process.communicate()[1] for process in started if process is not serving)
    finally:
        for process in started:
            process.terminate()
            process.communicate()


def test_a_damaged_version_leaves_the_old_one_served(store: Settings) -> None:
    with running_reader(store) as reader:
        layout = Store(store.store_path / "churn").layout
        write_version(store.store_path, "spend", churn_rows(3))
        assert eventually(lambda: status(reader, "/v1/spend/00001") == 200)
        layout.manifest(2).write_text("{ not a manifest")
        layout.lease(2).touch()
        write_pointer(layout, read_pointer(layout).moved(current=2, last=2))

        def failures() -> bool:
            return 'swap_failures_total{pipeline="churn"} 0' not in httpx.get(f"{reader.url}/metrics").text

        assert eventually(failures)
        assert httpx.get(f"{reader.url}/v1/churn/00001").json()["store_version"] == 1
        assert status(reader, "/v1/spend/00001") == 200
        layout.manifest(2).unlink()
        assert write_version(store.store_path, "churn", churn_rows(100)) == 3
        assert eventually(lambda: httpx.get(f"{reader.url}/v1/churn").json()["store_version"] == 3)


def test_a_store_that_is_damaged_at_the_start_keeps_the_reader_unready_until_it_heals(store: Settings) -> None:
    layout = Store(store.store_path / "churn").layout
    good = layout.manifest(1).read_bytes()
    layout.manifest(1).write_text("{}")
    write_version(store.store_path, "spend", churn_rows(3))
    with running_reader(store, wait=False) as reader:
        assert eventually(lambda: status(reader, "/v1/spend/00001") == 200)
        answer = httpx.get(f"{reader.url}/v1/churn/00001")
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:forecache:problem:not-readable")
        assert eventually(lambda: "churn is damaged" in httpx.get(f"{reader.url}/readyz").json().get("detail", ""))
        assert status(reader, "/readyz") == 503
        layout.manifest(1).write_bytes(good)
        assert eventually(lambda: status(reader) == 200)
        assert eventually(lambda: status(reader, "/readyz") == 200)


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
    with connected(impatient) as slow:
        started = time.monotonic()
        slow.sendall(sent)
        while time.monotonic() - started < 0.6:
            assert status(impatient) == 200
        answer = read_to_end(slow)
        assert time.monotonic() - started < 9  # unless told otherwise, a reader waits for ten seconds
        assert answer.startswith(answered)
        assert bool(answer) == bool(answered)


@pytest.mark.slow
def test_a_client_that_drips_its_request_is_let_go(impatient: RunningReader) -> None:
    with connected(impatient) as slow:
        started = time.monotonic()
        slow.sendall(b"GET /v1/churn/00001 HTTP/1.1\r\n")
        closed = False
        while not closed and time.monotonic() - started < 20:
            try:
                slow.sendall(b"X: y\r\n")
            except ConnectionError:
                closed = True
            time.sleep(0.2)
        assert closed
        assert time.monotonic() - started < 9


@pytest.mark.slow
def test_a_thousand_silent_connections_hold_up_nobody(store: Settings) -> None:
    with running_reader(store, reader_request_timeout_s=6.0) as reader:
        [worker] = reader.workers()
        silent = [socket.create_connection(("127.0.0.1", reader.port)) for _ in range(1000)]
        try:
            assert status(reader) == 200
            assert len(psutil.Process(worker).net_connections("tcp")) >= 1000  # none had to go before
            assert eventually(lambda: len(psutil.Process(worker).net_connections("tcp")) < 20)
        finally:
            for connection in silent:
                connection.close()


@pytest.mark.slow
def test_one_client_that_takes_all_connections_keeps_nobody_waiting(store: Settings) -> None:
    with running_reader(store, reader_max_connections=200) as reader:
        silent = []
        for _ in range(600):
            connection = socket.socket()
            connection.bind(("127.0.0.2", 0))
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", reader.port))
            silent.append(connection)
        try:
            for _ in range(5):
                started = time.monotonic()
                assert status(reader) == 200
                assert time.monotonic() - started < 9  # before the silent ones have had their ten seconds
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


def test_a_store_that_blinks_away_is_served_on_and_followed_again(store: Settings) -> None:
    with running_reader(store) as reader:
        away = store.store_path.with_name("elsewhere")
        store.store_path.rename(away)
        assert eventually(lambda: metric(reader, 'swap_failures_total{pipeline="churn"}') > 0)
        assert [status(reader), status(reader, "/readyz")] == [200, 200]
        away.rename(store.store_path)
        write_version(store.store_path, "churn", churn_rows(100))
        assert eventually(lambda: httpx.get(f"{reader.url}/v1/churn").json()["store_version"] == 2)


@pytest.mark.slow
def test_a_request_that_never_ends_does_not_keep_the_reader_from_stopping(store: Settings) -> None:
    reader = start_reader(store, drain_s=0.1, reader_request_timeout_s=120)
    workers = reader.workers()
    with connected(reader) as connection:
        begin_post(connection, 100)
        started = time.monotonic()
        assert reader.stop() == 0
        assert 8 < time.monotonic() - started < 60  # its client has two minutes
    assert not any(psutil.pid_exists(pid) for pid in workers)


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
