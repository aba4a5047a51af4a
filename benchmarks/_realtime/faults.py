"""Section faults: a model that sleeps, spins, crashes or is stopped, under a constant load; and how soon it is back."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from _store.progress import say

from _realtime import case, home, load, throughput
from _realtime.sizes import Sizes

KINDS = ("sleep", "spin", "crash", "stop")
RATE = 200.0
DEADLINE_MS = 50.0
"""Of the declaration."""
_STEADY = 20
"""So many answers in a row are the model's once it is back."""


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """Each fault for a third of a run, by a model that runs in a process of its own."""
    settings = home.published(work / "home", {"household": sizes.keys, "product": sizes.keys})
    home.released_as_it_is(settings, "faulty")
    switch = work / "fault"
    bodies = [case.encoded(body) for body in case.bodies(2_000, sizes.keys, seed=6)]
    requests = load.write_requests(work / "faults.requests", bodies, "/v1/faulty", stamped=True)
    found = {}
    for kind in KINDS:
        switch.write_text("")
        # Not held to one core: a model's process is a process beside the reader's.
        with home.reader(settings, "faulty", core=None, BENCH_FAULT=str(switch)) as port:
            say(f"faults: {kind}")
            found[kind] = run(port, requests, sizes.window_s, switch, kind)
    return {"rate": RATE, "deadline_ms": DEADLINE_MS, "kinds": found}


def run(port: int, requests: Path, seconds: float, switch: Path, kind: str) -> dict[str, Any]:
    """A run whose middle third has the fault: figures of the whole, and when the model was back."""
    attack = load.start(port, requests, rate=RATE, seconds=seconds, classes=throughput.CLASSES)
    moments: list[float] = []

    def act() -> None:
        time.sleep(seconds / 3)
        moments.append(time.time())
        switch.write_text(kind)
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

    `back_s` is how long after the end of the fault answers were the model's again, 0 where they were before; where they
    were not (`is_back`), how long the run went on.
    """
    model = done.with_class(throughput.MODEL)
    phases = {"before": done.due_s < began, "during": (done.due_s >= began) & (done.due_s < ended)}
    phases["after"] = done.due_s >= ended
    lost = np.flatnonzero(phases["during"] & ~model)
    back, is_back = ended, True
    if len(lost):
        steady = np.convolve(model, np.ones(_STEADY), "full")[_STEADY - 1 :] >= _STEADY
        later = np.flatnonzero(steady & (np.arange(len(model)) > lost[0]))
        is_back = len(later) > 0
        back = float(done.due_s[later[0]] if is_back else done.due_s[-1])
    return {
        "over_deadline": int((done.latency_ms > DEADLINE_MS).sum()),
        "model_share": {name: float(model[chosen].mean()) for name, chosen in phases.items() if chosen.any()},
        "back_s": max(back - ended, 0.0),
        "is_back": is_back,
        "began_s": began,
        "ended_s": ended,
    }
