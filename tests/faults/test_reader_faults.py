"""The reader is told to stop, or killed, its workers are, its port is taken, or its disk is full."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from faulty_reader import begin_post, connected, metric, read_to_end, status
from free_ports import free_port
from reader_support import RunningReader, churn_rows, running_reader, start_reader, write_version
from small_disks import within_small_disk
from waiting import eventually

from forecache.base.errors import ConflictError, SettingsError
from forecache.base.settings import Settings
from forecache.serve.reader.server import serve
from forecache.serve.store import Store


@pytest.fixture
def store(settings: Settings) -> Settings:
    write_version(settings.store_path, "churn", churn_rows(100))
    return settings


def listens(reader: RunningReader) -> bool:
    connections = psutil.Process(reader.process.pid).net_connections("tcp")
    return any(each.status == psutil.CONN_LISTEN for each in connections)


def test_sigterm_turns_readiness_off_first_then_drains_and_exits_0(store: Settings) -> None:
    # A machine that stands still while the reader drains asks it nothing.
    assert any(answers_until_it_is_stopped(store) for _ in range(3))


def answers_until_it_is_stopped(store: Settings, drain_s: float = 4.0) -> bool:
    """Stop a reader that is asked all the while; returns whether it was asked while it drained."""
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
    assert (set(readiness) <= {200, 503}, readiness == sorted(readiness)) == (True, True)
    assert all("draining" in text for _, code, text in in_time if code == 503)
    assert reader.process.wait(timeout=60) == 0
    assert time.monotonic() - started >= drain_s
    assert len(workers) == 2
    assert not any(psutil.pid_exists(pid) for pid in workers)
    assert status(reader) == 0
    return 503 in readiness


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


def test_a_reader_goes_on_while_requests_come_and_no_longer(store: Settings) -> None:
    """As long as a balancer that is slow to notice still sends them, each is answered, on a connection that ends."""
    for _ in range(10):  # a machine that stood still for `drain_s` sent none, and the reader was right to stop
        drain_s, longest_s, answers = 1.0, 0.0, []
        reader = start_reader(store, drain_s=drain_s, reader_max_drain_s=600.0)
        reader.process.send_signal(signal.SIGTERM)
        assert eventually(lambda reader=reader: status(reader, "/readyz") == 503)
        began = last = time.monotonic()
        with suppress(httpx.TransportError):
            while time.monotonic() < began + 4 * drain_s:
                answers.append(httpx.get(f"{reader.url}/v1/churn/00001"))
                last, longest_s = time.monotonic(), max(longest_s, time.monotonic() - last)
        longest_s = max(longest_s, time.monotonic() - last)
        assert reader.process.wait(timeout=60) == 0  # nobody asks any more
        if last - began >= 3 * drain_s:
            break
        assert longest_s > drain_s / 2
    assert {answer.status_code for answer in answers} == {200}
    assert answers[-1].headers["connection"] == "close"
    assert len(answers) > 10


def test_a_reader_stops_in_time_although_requests_come(store: Settings) -> None:
    reader = start_reader(store, drain_s=0.2, reader_max_drain_s=1.0)
    has_ended = threading.Event()

    def ask() -> None:
        while not has_ended.is_set():
            with suppress(httpx.TransportError):
                httpx.get(f"{reader.url}/v1/churn/00001")

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        reader.process.send_signal(signal.SIGTERM)
        assert reader.process.wait(timeout=60) == 0
    finally:
        has_ended.set()
        asking.join()


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
        "import sys; from forecache.base.settings import load_settings; from forecache.serve.reader import serve;"
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
        "import sys, time; from pathlib import Path; from forecache.base.settings import load_settings;"
        "from forecache.serve.reader.server import serve;"
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
