"""Three readers behind nginx and behind HAProxy as deploy/ configures them: what a client notices of faults."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from balancers import BALANCERS, Replica, replicas
from free_ports import free_port
from open_loop import OpenLoop, get, post
from pool_support import HeldUp, slowness
from reader_support import churn_rows, write_version
from realtime_support import write_views
from release_support import a_request, make_release
from stood_still import StoodStill
from waiting import eventually

from forecache.base.settings import Settings, load_settings
from forecache.kit.http.load_shedding import busy_problem

pytestmark = pytest.mark.faults
RATE = 300
KEYS = [f"{index:05d}" for index in range(20)]
ASKED = (
    get("/v1/churn/00042"),
    post("/v1/churn", orjson.dumps({"keys": KEYS})),
    post("/v1/ranking", a_request(), "x-deadline-ms: 400"),
)
NOT_ASKED_OF_READERS = "/metrics"
"""A path that the balancer answers itself."""
Balancer = Callable[[Path, list[int]], AbstractContextManager[int]]


@pytest.fixture(params=sorted(BALANCERS))
def balancer(request: pytest.FixtureRequest) -> Balancer:
    return BALANCERS[request.param]


def homes(folder: Path) -> list[Settings]:
    """Homes of three replicas, each with stores and releases of its own, as after `forecache store pull`."""
    found = [load_settings(home=folder / f"replica{number}") for number in range(3)]
    for settings in found:
        write_version(settings.store_path, "churn", churn_rows(100))
        write_views(settings)
        make_release(settings)
    return found


@contextmanager
def cluster(balancer: Balancer, folder: Path) -> Iterator[tuple[list[Replica], int]]:
    with replicas(homes(folder)) as running, balancer(folder / "balancer", [each.port for each in running]) as port:
        assert eventually(lambda: httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200)
        yield running, port


def mixed(number: int) -> bytes:
    return ASKED[number % len(ASKED)]


@pytest.mark.slow
def test_killing_draining_and_restarting_replicas_under_load_loses_no_request(
    balancer: Balancer, tmp_path: Path
) -> None:
    with cluster(balancer, tmp_path) as ((first, second, third), port), HeldUp(os.getpid()) as held_up:
        before = held_up.seconds
        probes = StoodStill((port, NOT_ASKED_OF_READERS), (third.port, "/healthz"))
        with probes as still, OpenLoop(port, mixed, RATE) as load:
            time.sleep(0.5)
            first.kill()
            time.sleep(1.0)
            first.start()
            time.sleep(1.0)
            assert second.reader.stop() == 0
            make_release(second.settings, version=2)
            time.sleep(0.5)
            second.start()
            new = eventually(lambda: any(b'"release":2' in one.body for one in load.asked[-RATE:]))
            time.sleep(0.5)
        held_up_s = held_up.seconds - before + still.seconds
    require_answers(load, still)
    assert new, "the restarted replica answers again, by its new release"
    ranked = [one for one in load.asked[2 :: len(ASKED)] if one.status == 200]
    assert all(b'"release":' in one.body for one in ranked)
    # What was due while a process stood still is asked at once, and is more than the models can do.
    assert sum(b'"answered_by":"model"' in one.body for one in ranked) > len(ranked) * 0.8 - RATE * held_up_s
    assert len(load.asked) > 4 * RATE
    assert load.quantile_ms(0.5) < 50 * slowness() or held_up_s > 2


@pytest.mark.slow
def test_a_frozen_replica_costs_its_requests_a_timeout_and_no_answer(balancer: Balancer, tmp_path: Path) -> None:
    with cluster(balancer, tmp_path) as ((first, *others), port), HeldUp(os.getpid()) as held_up:
        before = held_up.seconds
        probes = StoodStill((port, NOT_ASKED_OF_READERS), *((each.port, "/healthz") for each in others))
        with probes as still, OpenLoop(port, mixed, RATE) as load:
            time.sleep(0.5)
            frozen_s = load.now_s
            with first.frozen():
                time.sleep(4.0)
        held_up_s = held_up.seconds - before + still.seconds
    require_answers(load, still)
    late = [one for one in load.asked if one.took_s > 0.4]
    assert load.slowest().took_s < 1.5 + held_up_s
    # Only those that it had when it froze, and few that tried it again.
    assert len(late) < RATE / 2 + RATE * held_up_s
    assert sum(one.due_s < frozen_s - 0.5 for one in late) <= RATE * still.seconds


def require_answers(load: OpenLoop, still: StoodStill) -> None:
    """See that no request is lost but by a process that stood still, to which the test did nothing.

    What that kept back comes at once afterwards, and a reader refuses what is too much: at that moment there are
    answers, or refusals, to requests that were due long before. A balancer that waits for two readers gives up, and
    asks neither for a second.
    """
    refused = [one for one in load.lost() if one.status == busy_problem().kind.status]
    late_at = [one.due_s + one.took_s for one in load.asked if one.took_s > 0.25]
    assert all(any(abs(one.due_s + one.took_s - at) < 0.5 for at in late_at) for one in refused), refused[:3]
    others = [one for one in load.lost() if one.status != busy_problem().kind.status]
    assert len(others) <= 3 * RATE * still.seconds, (still.seconds, others[:3])


class Upstream(ThreadingHTTPServer):
    """Stands for a reader: records what it is asked, and answers as it is told."""

    daemon_threads = True

    def __init__(self, answer: str = "ok") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["content-length"])))

    def _answer(self, body: bytes) -> None:
        if self.path == "/readyz":
            self._send(200)
            return
        self.server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        if self.server.answer == "closes":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif self.server.answer == "hangs":
            time.sleep(3)
        elif self.server.answer == "busy" and len(self.server.seen) % 2:
            self._send(busy_problem().kind.status)
        else:
            self._send(503 if self.server.answer == "unready" else 200)

    def _send(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def upstreams(balancer: Balancer, folder: Path, *answers: str) -> Iterator[tuple[list[Upstream], str]]:
    with ExitStack() as stack:
        servers = [stack.enter_context(Upstream(answer)) for answer in answers]
        for server in servers:
            stack.callback(server.shutdown)
        url = f"http://127.0.0.1:{stack.enter_context(balancer(folder / 'balancer', [each.port for each in servers]))}"
        assert eventually(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        yield servers, url


def test_the_arrival_is_stamped_and_what_the_client_says_of_it_is_replaced(balancer: Balancer, tmp_path: Path) -> None:
    with upstreams(balancer, tmp_path, "ok", "ok", "ok") as (servers, url):
        before = time.time()
        httpx.post(f"{url}/v1/churn", content=b"{}", headers={"X-Request-Start": "t=1", "X-Deadline-Ms": "20"})
        after = time.time()
    asked, *again = [each for server in servers for each in server.seen]
    assert {arrival(each) for each in again} <= {arrival(asked)}  # where this process answered too late
    _, headers, body = asked
    assert before - 0.05 <= seconds(asked) <= after
    assert (headers["x-deadline-ms"], body) == ("20", b"{}")


@pytest.mark.parametrize("fault", ["closes", "unready", "hangs"])
def test_a_post_is_asked_again_elsewhere_whole_and_with_its_first_arrival(
    balancer: Balancer, tmp_path: Path, fault: str
) -> None:
    body = orjson.dumps({"keys": ["x" * 1000] * 60})
    with upstreams(balancer, tmp_path, fault, "ok", "ok") as ((broken, *others), url):
        sent = until_seen(broken, lambda: httpx.post(f"{url}/v1/churn", content=body).status_code == 200)
    answered = [each for server in others for each in server.seen]
    assert len({arrival(each) for each in answered}) == sent  # one that this process answered too late is asked again
    assert all(each[2] == body for each in broken.seen + answered)
    assert {arrival(each) for each in broken.seen} <= {arrival(each) for each in answered}


def test_what_a_busy_reader_refuses_is_asked_nowhere_else_and_no_reader_is_left_alone_for_it(
    balancer: Balancer, tmp_path: Path
) -> None:
    """All readers are as busy: a refusal that is repeated would multiply the overload that it is for."""
    with upstreams(balancer, tmp_path, "busy", "busy", "busy") as (servers, url), httpx.Client() as client:
        statuses = [client.post(f"{url}/v1/churn", content=b"{}").status_code for _ in range(60)]
    assert set(statuses) == {200, busy_problem().kind.status}
    assert sum(len(server.seen) for server in servers) == len(statuses)
    assert all(len(server.seen) > 3 for server in servers)


def test_a_body_that_arrives_in_pieces_is_asked_again_whole(balancer: Balancer, tmp_path: Path) -> None:
    went_on = []

    def in_pieces() -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(b"POST /v1/churn HTTP/1.1\r\nhost: x\r\ncontent-length: 8000\r\n\r\n" + b"a" * 4000)
            time.sleep(1.0)
            went_on.append(time.time())
            client.sendall(b"b" * 4000)
            return client.recv(100).startswith(b"HTTP/1.1 200")

    with upstreams(balancer, tmp_path, "closes", "ok", "ok") as ((broken, *others), url):
        port = int(url.rpartition(":")[2])
        sent = until_seen(broken, in_pieces)
    arrivals = sorted({seconds(each) for server in others for each in server.seen})
    early = [later - came for later, came in zip(went_on, arrivals, strict=True)]
    assert min(early) > 0, "they arrived with their first bytes"
    assert len(arrivals) == sent
    assert {each[2] for server in others for each in server.seen} == {b"a" * 4000 + b"b" * 4000}


def test_a_body_larger_than_a_balancer_keeps_arrives_whole(balancer: Balancer, tmp_path: Path) -> None:
    body = b"x" * 900_000
    with upstreams(balancer, tmp_path, "ok", "ok", "ok") as (servers, url):
        assert httpx.post(f"{url}/v1/churn", content=body).status_code == 200
    assert {each[2] for server in servers for each in server.seen} == {body}


def until_seen(broken: Upstream, answered: Callable[[], bool]) -> int:
    """Ask until the broken one was asked too; how often that took."""
    for sent in range(1, 40):
        assert answered()
        if broken.seen:
            return sent
    raise AssertionError("the broken reader was never asked")


def seconds(asked: tuple[str, dict[str, str], bytes]) -> float:
    """The arrival in seconds; HAProxy gives milliseconds."""
    stamp = float(arrival(asked).removeprefix("t="))
    return stamp / 1000 if stamp > 1e11 else stamp


def arrival(asked: tuple[str, dict[str, str], bytes]) -> str:
    return asked[1]["x-request-start"]


def test_figures_are_asked_of_readers_not_of_the_balancer(balancer: Balancer, tmp_path: Path) -> None:
    with upstreams(balancer, tmp_path, "ok", "ok", "ok") as (servers, url):
        assert httpx.get(f"{url}/metrics").status_code == 404
    assert [each for server in servers for each in server.seen] == []


def test_with_no_reader_left_the_client_gets_an_error_at_once(balancer: Balancer, tmp_path: Path) -> None:
    with balancer(tmp_path / "balancer", [free_port() for _ in range(3)]) as port, HeldUp(os.getpid()) as held_up:
        began, before = time.monotonic(), held_up.seconds
        assert httpx.get(f"http://127.0.0.1:{port}/v1/churn/1").status_code in (502, 503)
        assert time.monotonic() - began < 2 + held_up.seconds - before
