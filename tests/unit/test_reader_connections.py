"""Requests on real sockets: read in whatever pieces they come, answered in their order, refused where they are none."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from echo_server import CLOSE, LIMIT, bodies, connect, request, rest, serving, told
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import wait_for

from forecache.kit.http import connections as module

ASKED = st.lists(
    st.tuples(st.sampled_from(["/a", "/later", "/b%20c"]), st.none() | st.binary(max_size=40), st.booleans()),
    min_size=1, max_size=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as (_, port, _):
        yield port


@settings(max_examples=60, deadline=None)
@given(asked=ASKED, cuts=st.lists(st.integers(1, 400), max_size=5))
def test_requests_in_any_pieces_are_answered_in_their_order(
    port: int, asked: list[tuple[str, bytes | None, bool]], cuts: list[int]
) -> None:
    wanted, sent = [], b""
    for place, (path, body, chunked) in enumerate(asked):
        last = place == len(asked) - 1
        sent += request(path, body, chunked=chunked, more=CLOSE if last else b"")
        wanted.append(
            b"%b %b %b" % (b"GET" if body is None else b"POST", path.replace("%20", " ").encode(), body or b"")
        )
    edges = [0, *sorted({min(cut, len(sent)) for cut in cuts}), len(sent)]
    assert bodies(told(port, *(sent[start:end] for start, end in zip(edges, edges[1:], strict=False)))) == wanted


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"junk\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked, x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 17_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 40_000, 431),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(port: int, sent: bytes, status: int) -> None:
    answer = told(port, sent)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b'"status":%d' % status in answer
    assert b"connection: close" in answer


@pytest.mark.parametrize("path", ["/a", "/later"])
def test_what_came_before_what_is_refused_is_answered_and_nothing_behind_it(port: int, path: str) -> None:
    answer = told(port, request(path, None) * 2 + b"junk\r\n\r\n" + request("/b", None))
    *answered, refused = bodies(answer)
    assert answered == [b"GET %b " % path.encode()] * 2
    assert b'"status":400' in refused
    assert answer.count(b"HTTP/1.1 ") == 3


def test_a_body_that_breaks_off_is_refused_behind_the_answers_before_it() -> None:
    with serving() as (echo, port, _):
        broken = b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        with connect(port) as client:
            client.sendall(request("/a", None) + broken)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            wait_for(lambda: "/c" in echo.seen)
            client.sendall(b"junk\r\n")
            assert rest(client).startswith(b"HTTP/1.1 400 ")
        wait_for(lambda: "gone" in echo.seen)


def test_an_old_client_keeps_its_connection_only_where_it_asks(port: int) -> None:
    assert bodies(told(port, b"GET /a HTTP/1.0\r\n\r\n")) == [b"GET /a "]
    with connect(port) as client:
        client.sendall(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert b"connection: keep-alive" in client.recv(1 << 16)
        client.sendall(b"GET /b HTTP/1.0\r\n\r\n")
        assert bodies(rest(client)) == [b"GET /b "]


def test_a_head_has_no_body_and_its_length(port: int) -> None:
    answer = told(port, b"HEAD /abc HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 10\r\n" in answer


def test_targets_and_fields_are_read_as_they_are_meant() -> None:
    with serving() as (echo, port, _):
        for target in (b"/a%2Fb?q=%31", b"http://h:1/c/d?e", b"/%FF", b"*", b"/f#g"):
            told(port, b"GET " + target + b" HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert echo.seen == ["/a/b", "/c/d", "/�", "*", "/f"]


def test_another_protocol_is_not_spoken_and_the_request_answered(port: int) -> None:
    answer = told(port, b"GET /a HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nxx")
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_body_is_waited_for_once_the_client_is_told_to_go_on(port: int) -> None:
    with connect(port) as client:
        client.sendall(b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        assert bodies(rest(client)) == [b"POST /a abc"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused_and_the_answer_arrives(port: int, chunked: bool) -> None:
    answer = told(port, request("/a", b"x" * (LIMIT + 1), chunked=chunked))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_an_answer_before_the_body_arrives_although_the_client_goes_on_sending(port: int) -> None:
    with connect(port) as client:
        client.sendall(b"POST /unread HTTP/1.1\r\nContent-Length: 500000\r\n\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
        client.sendall(b"x" * 400_000)  # is taken, and thrown away
        assert rest(client) == b""


def test_an_error_of_a_handler_is_an_answer_and_ends_the_connection(port: int) -> None:
    assert told(port, request("/fail", None)).startswith(b"HTTP/1.1 500 ")
    assert bodies(told(port, request("/a", None, more=CLOSE))) == [b"GET /a "]


def test_a_client_that_sends_no_more_still_gets_its_answers(port: int) -> None:
    with connect(port) as client:
        client.sendall(request("/later", None) + request("/later", None))
        client.shutdown(socket.SHUT_WR)
        assert bodies(rest(client)) == [b"GET /later "] * 2


def test_a_client_that_takes_its_answer_slowly_gets_all_of_it() -> None:
    with serving() as (echo, port, _), connect(port) as client:
        client.sendall(request("/large", None) + request("/a", None, more=CLOSE))
        wait_for(lambda: "/large" in echo.seen)
        large, small = bodies(rest(client))
        assert (len(large), small) == (len(b"GET /large ") + 3_000_000, b"GET /a ")


def test_a_client_that_takes_nothing_is_let_go() -> None:
    with serving(timeout_s=0.2) as (_, port, connections), connect(port) as client:
        client.sendall(request("/large", None) * 3)
        wait_for(lambda: connections.num_closed)


def test_a_client_that_leaves_in_the_middle_is_noted() -> None:
    with serving() as (echo, port, _):
        with connect(port) as client:
            client.sendall(b"POST /a HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc")
            wait_for(lambda: "/a" in echo.seen)
        wait_for(lambda: "gone" in echo.seen)


def test_a_client_that_sends_thousands_of_requests_at_once_lets_others_have_their_turn() -> None:
    with serving() as (echo, port, _):
        with connect(port) as greedy, connect(port) as other, connect(port) as holder:
            holder.sendall(request("/hold", None))
            wait_for(lambda: "/hold" in echo.seen)
            greedy.sendall(request("/a", None) * 2000 + request("/last", None, more=CLOSE))
            other.sendall(request("/b", None, more=CLOSE))
            echo.goes_on.set()
            assert bodies(rest(other)) == [b"GET /b "]
            assert len(bodies(rest(greedy))) == 2001
        assert echo.seen.index("/b") < echo.seen.index("/last")


def test_no_more_connections_are_taken_than_there_may_be() -> None:
    with serving(most=4, timeout_s=30.0) as (_, port, connections):
        clients = [connect(port) for _ in range(9)]
        try:
            for client in clients[:2]:
                client.sendall(request("/a", None))
                assert client.recv(100).startswith(b"HTTP/1.1 200 ")
            assert connections.num_open <= 4
        finally:
            for client in clients:
                client.close()


def test_what_has_arrived_when_a_worker_ends_is_answered() -> None:
    """Also on connections that it has not accepted yet: a client takes their end for a failure."""
    with ExitStack() as clients:
        server = ExitStack()
        echo, port, _ = server.enter_context(serving())
        holding = clients.enter_context(connect(port))
        holding.sendall(request("/hold", None))
        wait_for(lambda: "/hold" in echo.seen)
        asking = [clients.enter_context(connect(port)) for _ in range(100)]
        for client in asking:
            client.sendall(request("/a", None))
        end = threading.Thread(target=server.close)
        end.start()
        end.join(0.2)  # the loop is held until it has been told to end
        echo.goes_on.set()
        assert [rest(client)[:12] for client in (holding, *asking)] == [b"HTTP/1.1 200"] * 101
        end.join(60)


def test_a_new_connection_has_time_for_its_first_request_when_a_worker_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEW_SILENCE_S", 60.0)
    with ExitStack() as clients:
        server = ExitStack()
        _, port, connections = server.enter_context(serving())
        used, new = (clients.enter_context(connect(port)) for _ in range(2))
        used.sendall(request("/a", None))
        assert used.recv(1 << 16).startswith(b"HTTP/1.1 200")
        wait_for(lambda: connections.num_open == 2)
        end = threading.Thread(target=server.close)
        end.start()
        assert rest(used) == b""  # its client knows that a connection which it keeps may end
        new.sendall(request("/b", None))
        answer = rest(new)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        end.join(60)
        assert not end.is_alive()


def test_a_worker_ends_although_a_new_connection_stays_silent() -> None:
    with ExitStack() as server:
        _, port, connections = server.enter_context(serving())
        with connect(port) as silent:
            wait_for(lambda: connections.num_open == 1)
            server.close()
            assert rest(silent) == b""
