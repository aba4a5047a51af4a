"""nginx and HAProxy with the shipped configurations before readers of a test, and replicas to end in many ways."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from free_ports import free_port
from reader_support import RunningReader, start_reader

from forecache.base.settings import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
PORT, READERS = 8080, (8081, 8082, 8083)
"""Ports in the shipped configurations."""


def _with_ports(name: str, front: int, readers: Sequence[int]) -> str:
    text = (DEPLOY / name).read_text()
    for shipped, port in zip((PORT, *READERS), (front, *readers), strict=True):
        text, count = re.subn(rf"(?<=[ :]){shipped}\b", str(port), text)
        assert count == 1, f"deploy/{name} names port {shipped} {count} times"
    return text


@contextmanager
def _balancer(command: list[str], port: int, log: Path) -> Iterator[int]:
    program = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        pytest.fail(f"{command[0]} is not installed: bash scripts/install_test_services.sh balancers")
    with open(log, "wb") as output:
        process = subprocess.Popen([program, *command[1:]], stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 60
        while not _listens(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield port
    finally:
        # HAProxy is one process, and under some parents leaves SIGTERM alone; nginx has to stop its workers.
        process.send_signal(signal.SIGKILL if command[0] == "haproxy" else signal.SIGTERM)
        process.wait(timeout=60)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def nginx(folder: Path, readers: Sequence[int]) -> Iterator[int]:
    """nginx with deploy/nginx.conf, and one worker, so that a test can see when it stands still; yields its port."""
    folder.mkdir()
    port = free_port()
    text = _with_ports("nginx.conf", port, readers).replace("worker_processes auto;", "worker_processes 1;", 1)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    (folder / "nginx.conf").write_text(text.replace("http {\n", f"http {{\n{own}", 1))
    log = folder / "nginx.log"
    outside = f"daemon off; pid {folder}/nginx.pid;" + (" user root;" if os.getuid() == 0 else "")
    with _balancer(["nginx", "-c", str(folder / "nginx.conf"), "-e", str(log), "-g", outside], port, log):
        yield port


@contextmanager
def haproxy(folder: Path, readers: Sequence[int]) -> Iterator[int]:
    """HAProxy with deploy/haproxy.cfg; yields its port, once its checks know the readers."""
    folder.mkdir()
    port = free_port()
    (folder / "haproxy.cfg").write_text(_with_ports("haproxy.cfg", port, readers))
    with _balancer(["haproxy", "-db", "-f", str(folder / "haproxy.cfg")], port, folder / "haproxy.log"):
        yield port


BALANCERS = {"nginx": nginx, "haproxy": haproxy}


class Replica:
    """A reader of its own home, as if on a machine of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.port = free_port()
        self.reader = self.start(wait=False)

    def start(self, *, wait: bool = True) -> RunningReader:
        self.reader = start_reader(self.settings, drain_s=2.0, wait=wait, port=self.port)
        return self.reader

    def kill(self) -> None:
        """Every process of it at once, as a machine that loses power."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):  # workers end with their main process
                process.kill()
        self.reader.process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process of it is stopped, as a machine that swaps; connections are still accepted by the kernel."""
        processes = self._processes()
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def _processes(self) -> list[psutil.Process]:
        main = psutil.Process(self.reader.process.pid)
        return [main, *main.children(recursive=True)]

    def tell_to_stop(self) -> None:
        if self.reader.process.poll() is None:
            self.reader.process.terminate()


@contextmanager
def replicas(settings: Sequence[Settings]) -> Iterator[list[Replica]]:
    running: list[Replica] = []
    try:
        for each in settings:
            running.append(Replica(each))
        for replica in running:
            replica.reader.wait_until_ready()
        yield running
    finally:
        for replica in running:  # together: each may drain for as long as it is set to
            replica.tell_to_stop()
        for replica in running:
            replica.reader.process.wait(timeout=60)
