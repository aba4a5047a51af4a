"""Section balancers: three replicas behind nginx and behind HAProxy, one of them killed under a constant load."""

import contextlib
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from _common.processes import reader_at
from _store.processes import ROOT, BenchmarkError, free_port, running
from _store.progress import say

from _realtime import case, home, load, throughput
from _realtime.sizes import Sizes

DEPLOY = ROOT / "deploy"
_FRONT, _BACK = 8080, (8081, 8082, 8083)
"""Ports in the shipped configurations."""
NAMES = ("nginx", "haproxy")


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """The same load directly to one replica, and through each balancer with a kill after a third of the run."""
    models = work / "models"
    case.write_models(models)
    settings = home.serving(work / "home", models, sizes.keys, (case.NETWORK,))
    bodies = [case.encoded(body) for body in case.bodies(2_000, sizes.keys, seed=7)]
    requests = load.write_requests(work / "balanced.requests", bodies, f"/v1/{case.NETWORK}")
    found = {}
    for name in NAMES:
        with contextlib.ExitStack() as stack:
            ports = [stack.enter_context(home.reader(settings, case.NETWORK, core=None)) for _ in range(3)]
            front = stack.enter_context(balancer(name, work / name, ports))
            say(f"balancers: {name}")
            load.run(front, requests, rate=sizes.balanced_rate / 4, seconds=1.0)
            found[name] = run(front, requests, sizes, ports[0])
    return {"rate": sizes.balanced_rate, "balancers": found}


def run(front: int, requests: Path, sizes: Sizes, victim: int) -> dict[str, Any]:
    """A run without a kill, then one in which every process of a replica is killed at once."""
    arguments: dict[str, Any] = {"rate": sizes.balanced_rate, "classes": throughput.CLASSES}
    before = load.run(front, requests, seconds=sizes.balanced_s / 2, **arguments).figures()
    attack = load.start(front, requests, seconds=sizes.balanced_s, **arguments)
    killer = threading.Timer(sizes.balanced_s / 3, kill, [victim])
    killer.start()
    done = attack.wait()
    killer.join()
    return {"before": before, "kill": done.figures(), "model_share": float(done.with_class(throughput.MODEL).mean())}


def kill(port: int) -> None:
    """SIGKILL to every process of the replica at a port, at once."""
    processes = reader_at(port)
    if not processes:
        raise BenchmarkError(f"No replica runs at port {port}.")
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def balancer(name: str, folder: Path, ports: list[int]) -> Iterator[int]:
    """nginx or HAProxy with the shipped configuration, on other ports; yields its port."""
    program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        raise BenchmarkError(f"{name} is missing: bash scripts/install_test_services.sh balancers")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    front = free_port()
    file = folder / ("nginx.conf" if name == "nginx" else "haproxy.cfg")
    file.write_text(configuration(file.name, front, ports, folder))
    if name == "nginx":
        outside = f"daemon off; pid {folder}/nginx.pid;" + (" user root;" if os.getuid() == 0 else "")
        command = [program, "-c", str(file), "-e", str(folder / "nginx.log"), "-g", outside]
    else:
        command = [program, "-db", "-f", str(file)]
    with running(command, log=folder / "balancer.log", ready=lambda: _reaches(front)):
        time.sleep(1.0)  # HAProxy's checks have seen all replicas.
        yield front


def configuration(name: str, front: int, ports: list[int], folder: Path) -> str:
    """The shipped file with other ports, and nginx's folders for what it writes."""
    text = (DEPLOY / name).read_text()
    for shipped, port in zip((_FRONT, *_BACK), (front, *ports), strict=True):
        text, count = re.subn(rf"(?<=[ :]){shipped}\b", str(port), text)
        assert count == 1, f"deploy/{name} names port {shipped} {count} times"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    return text.replace("http {\n", f"http {{\n{own}", 1)


def _reaches(port: int) -> bool:
    try:
        home.ask(port, f"/v1/{case.NETWORK}", case.bodies(1, 100, seed=1)[0])
    except (OSError, ValueError):
        return False
    return True
