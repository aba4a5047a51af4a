"""Questions to a reader in trouble: what it answers and counts, and connections that are held half open."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from reader_support import RunningReader


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


def read_to_end(connection: socket.socket) -> bytes:
    answer = b""
    try:
        while chunk := connection.recv(65536):
            answer += chunk
    except ConnectionResetError:
        pass
    return answer
