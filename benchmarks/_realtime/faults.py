"""Section faults: a model that sleeps, spins, crashes or is stopped, under a constant load; and how soon it is back."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _store.progress import say

from _realtime import case, home, load, throughput
from _realtime.sizes import Sizes

KINDS = ("sleep", "spin", "crash", "stop")
RATE = 200.0
DEADLINE_MS = 50.0
"""Of the declaration."""
_WORKERS = "forecache.realtime.workers"
_STEADY = 20
"""So many answers in a row are the model's once it is back."""


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Each fault for a third of a run, by a model that runs in a process of its own."""
    settings = home.published(work / "home", {"household": sizes.keys, "product": sizes.keys})
    home.released_function(settings, "faulty")
    switch = work / "fault"
    bodies = [case.encoded(body) for body in case.bodies(2_000, sizes.keys, seed=6)]
    requests = load.write_requests(work / "faults.requests", bodies, "/v1/faulty", stamped=True)
    found = {}
    for kind in KINDS:
        switch.write_text("")
        # Not held to one core: a model's process is a process beside the reader's.
        with home.reader(settings, "faulty", core=None, BENCH_FAULT=str(switch)) as port:
            say(f"faults: {kind}")
            found[kind] = run(port, requests, sizes.window_s, lambda kind=kind: begin(kind, switch, port), switch)  # type: ignore[misc]
    return {"rate": RATE, "deadline_ms": DEADLINE_MS, "kinds": found}


def begin(kind: str, switch: Path, port: int) -> None:
    """Let the model fail from now on; a stop hits the processes that run it now, and lasts."""
    if kind != "stop":
        switch.write_text(kind)
        return
    for process in model_processes(port):
        process.send_signal(signal.SIGSTOP)


def model_processes(port: int) -> list[psutil.Process]:
    """The processes that run models for the reader at this port."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(_WORKERS in word for word in words) and _serves(process, port):
            found.append(process)
    return found


def _serves(process: psutil.Process, port: int) -> bool:
    try:
        return any(str(port) in parent.cmdline() for parent in process.parents())
    except psutil.NoSuchProcess:
        return False


def run(port: int, requests: Path, seconds: float, fail: Callable[[], None], switch: Path) -> dict[str, Any]:
    """A run whose middle third has the fault: figures of the whole, and when the model was back."""
    attack = load.start(port, requests, rate=RATE, seconds=seconds, classes=throughput.CLASSES, spin=False)
    moments: list[float] = []

    def act() -> None:
        time.sleep(seconds / 3)
        moments.append(time.time())
        fail()
        time.sleep(seconds / 3)
        switch.write_text("")
        moments.append(time.time())

    thread = threading.Thread(target=act)
    thread.start()
    done = attack.wait()
    thread.join()
    began, ended = (moment - done.summary["start_ns"] / 1e9 for moment in moments)
    return {**done.figures(), **recovery(done, began, ended)}


def recovery(done: load.Load, began: float, ended: float) -> dict[str, Any]:
    """What became of requests before, during and after a fault, by seconds since the start.

    `back_s` is how long after the end of the fault (after its begin, where the model was back before its end) answers
    were the model's again; infinite where they were not.
    """
    model = done.with_class(throughput.MODEL)
    phases = {"before": done.due_s < began, "during": (done.due_s >= began) & (done.due_s < ended)}
    phases["after"] = done.due_s >= ended
    steady = np.convolve(model, np.ones(_STEADY), "full")[_STEADY - 1 :] >= _STEADY
    during = np.flatnonzero(phases["during"] & ~model)
    first_lost = during[0] if len(during) else 0
    later = np.flatnonzero(steady & (np.arange(len(model)) > first_lost))
    back = float(done.due_s[later[0]]) if len(later) else np.inf
    healed_itself = len(during) > 0 and back < ended
    return {
        "over_deadline": int((done.latency_ms > DEADLINE_MS).sum()),
        "model_share": {name: float(model[chosen].mean()) for name, chosen in phases.items() if chosen.any()},
        "back_s": min(max(back - (began if healed_itself else ended), 0.0), 1e9),
        "healed_itself": healed_itself,
        "began_s": began,
        "ended_s": ended,
    }
