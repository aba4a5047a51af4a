"""Section keeps-up: every answer of a steady load reaches the table once, and how long that takes."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from _realtime import case, load
from _realtime.metrics import metric
from _realtime.throughput import CLASSES, MODEL
from _store.processes import SERVER_CORE
from _store.progress import say

from _operate import home
from _operate.sizes import Sizes
from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.realtime.log.read import read_log
from forecache.realtime.log.spool_files import read_state, spooled_bytes

_REQUESTS = 5_000
_PATIENCE_S = 60.0


def measure(work: Path, sizes: Sizes) -> dict[str, Any]:
    """A steady load with a committer beside, then a look at every row."""
    settings = home.serving(work, sizes.keys)
    bodies = [case.encoded(body) for body in case.bodies(_REQUESTS, sizes.keys, seed=3)]
    requests = load.write_requests(work / "keeps-up.requests", bodies, f"/v1/{home.WITH}")
    seen: list[tuple[float, int]] = []
    stop = threading.Event()
    with home.reader(settings, core=SERVER_CORE) as port, home.committer(settings):
        watching = threading.Thread(target=_watch, args=(settings, seen, stop))
        watching.start()
        try:
            done = load.run(port, requests, rate=sizes.rate, seconds=sizes.keep_s, classes=CLASSES)
            ended = time.monotonic()
        finally:
            stop.set()
            watching.join()
        # Those that asked until it was ready are among them.
        answered = metric(port, "forecache_realtime_answers_total", home.WITH)
        lost = metric(port, "forecache_request_log_rows_lost_total", home.WITH)
        rows, distinct, by_model = _wait(settings, int(answered))
        last_s = time.monotonic() - ended
    home.forget_log(settings)
    figures = done.figures()
    figures["lower_share"] = float((~done.with_class(MODEL)).mean())
    say(f"keeps-up: {rows:,} rows of {answered:,.0f} answers, {lost:.0f} lost, all there after {last_s:.1f} s")
    return {
        "rate": sizes.rate, "seconds": sizes.keep_s, "load": figures, "answered": answered,
        "lost": lost, "rows": rows, "distinct": distinct, "by_model": by_model, "last_s": last_s,
        "lag_s": [lag for lag, _ in seen] or [0.0], "spool_bytes": [size for _, size in seen] or [0],
    }  # fmt: skip


def _watch(settings: Settings, seen: list[tuple[float, int]], stop: threading.Event) -> None:
    """Note four times a second how old the newest rows were when they reached the table, and what waits."""
    while not stop.wait(0.25):
        state = read_state(settings.request_log_path / home.WITH)
        if state.commits:
            seen.append((state.lag_s, spooled_bytes(settings.request_log_path)))


def _wait(settings: Settings, answered: int) -> tuple[int, int, int]:
    """(rows, distinct requests, rows by the model) once there are as many rows as answers, or patience ends."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        found = count_rows(settings)
        if found[0] >= answered or time.monotonic() > until:
            return found
        time.sleep(0.5)


def count_rows(settings: Settings) -> tuple[int, int, int]:
    """(rows, distinct request ids, rows answered by the model alone) of the log."""
    ids: list[np.ndarray] = []
    by_model = 0
    try:
        for batch in read_log(settings, home.WITH, columns=["request_id", "answered_by"]):
            ids.append(batch.column("request_id").to_numpy(zero_copy_only=False))
            by_model += batch.column("answered_by").to_pylist().count("model")
    except NotFoundError:
        return 0, 0, 0
    together = np.concatenate(ids)
    return len(together), len(set(together.tolist())), by_model
