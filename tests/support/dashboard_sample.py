"""A reader, its batch half and a stream under a real Prometheus. As a script: FOLDER, the dashboard's panels drawn."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from math import sin
from pathlib import Path

import httpx
from dashboard_picture import draw
from dashboard_queries import PICTURES, Shown, annotations, section
from free_ports import free_port
from monitoring_services import DASHBOARD, Prometheus, prometheus
from reader_support import RunningReader, churn_rows, running_reader, today, write_version
from release_support import a_request
from status_sample import release_search, traffic, write_sample
from ui_support import save_picture
from waiting import beside
from watched_reader import bins, make_batch, make_stream

from forecache.base.settings import Settings, load_settings
from forecache.cli.commands.reader import run_committer_sidecar
from forecache.lake.ledger import StageRecord, append_records
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live.layer import LiveRow, read_tail_state, write_tail_state
from forecache.serve.store.live.writer import open_live_writer
from forecache.stream.state import StreamState, read_state, write_state

SUPPORT = Path(__file__).parent
EVERY_S, SHOWN_S = 5, 300.0
"""Rates are of five minutes, so that the first minutes are not shown."""


@contextmanager
def sample(home: Path) -> Iterator[tuple[Settings, RunningReader, Prometheus]]:
    """All that the dashboard watches, running."""
    os.environ |= {
        "FORECACHE_HOME": str(home), "FORECACHE_PROJECT": "watched_project",
        "PYTHONPATH": os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    settings = load_settings(home=home)
    write_sample(settings)
    release_search(settings, version=2, bins=bins())
    make_batch(settings)
    make_stream(settings)
    batch, folder = f"127.0.0.1:{free_port()}", home / "prometheus"
    folder.mkdir()
    with ExitStack() as stack:
        exporter = subprocess.Popen([sys.executable, "-m", "forecache.cli.main", "metrics", "--listen", batch])
        stack.callback(exporter.kill)
        stack.enter_context(run_committer_sidecar(settings))
        reader = stack.enter_context(running_reader(settings, reader_workers=2))
        target, nobody = f"127.0.0.1:{reader.port}", f"127.0.0.1:{free_port()}"
        server = stack.enter_context(
            prometheus(folder, reader=target, batch=batch, alerts=nobody, every=f"{EVERY_S}s")
        )  # fmt: skip
        yield settings, reader, server


@contextmanager
def hurried(reader: RunningReader) -> Iterator[None]:
    """Requests that leave the model no time."""

    def run(stop: threading.Event) -> None:
        while not stop.wait(5.0):
            httpx.post(f"{reader.url}/v1/search", content=a_request(), headers={"x-deadline-ms": "0.05"})

    with beside(run):
        yield


@contextmanager
def streamed(settings: Settings) -> Iterator[None]:
    """What an engine and a tailer would say of a stream, each second."""

    def run(stop: threading.Event) -> None:
        began, layout = time.time(), StoreLayout(settings.store_path / "customer")
        state, tail = read_state(settings, "cards"), read_tail_state(layout)
        assert state is not None
        with open_live_writer(layout) as live:
            while not stop.wait(1.0):
                state = after(state, time.time() - began)
                write_state(settings.home_path, "cards", state)
                first, applied = state.committed_version * 20, state.committed_version // 3 * 3
                row = LiveRow(applied, 1, b"{}")
                live.apply(applied, [(str(number % 5000).encode(), row) for number in range(first, first + 20)])
                if not state.committed_version % 20:
                    live.mark_verified(applied)
                write_tail_state(layout, replace(tail, applied=applied))

    with beside(run):
        yield


def after(state: StreamState, passed_s: float) -> StreamState:
    """The next state of a stream, which began so many seconds ago."""
    now, rows, lag = time.time(), int(1500 * passed_s - 6000 * sin(passed_s / 40)), int(30 + 25 * sin(passed_s / 15))
    return replace(
        state, written_at=now, committed_at=now, committed_version=state.committed_version + 1, rows=rows,
        rows_per_s=1500.0, lag_events=lag, offsets={"0": rows}, end_offsets={"0": rows + lag}, bad=int(passed_s / 4),
        repeats=int(passed_s), late=int(passed_s / 9), delay_p50_s=0.4 + 0.05 * sin(passed_s / 20),
        delay_p99_s=0.9 + 0.2 * sin(passed_s / 25),
    )  # fmt: skip


def change(settings: Settings, reader: RunningReader, seconds: float) -> None:
    """For so many seconds: nights, a published version, a release, and a worker that dies."""
    for number in range(8):
        time.sleep(seconds / 8)
        night = today() - timedelta(days=8 - number)
        append_records(settings, [StageRecord("score", "spend", night, f"s{number}", "", -1, 900, 2.0 + number / 4)])
        if number == 2:
            write_version(settings.store_path, "churn", churn_rows(2400, shift=0.01))
        elif number == 4:
            release_search(settings, version=3, bins=bins())
        elif number == 5:
            os.kill(reader.workers()[-1], signal.SIGKILL)


def take_pictures(folder: Path, *, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as home, sample(Path(home)) as (settings, reader, server):
        began = time.time()
        with traffic(reader), hurried(reader), streamed(settings):
            change(settings, reader, seconds)
        now = time.time()
        shown = Shown(max(began, now - SHOWN_S), now, EVERY_S)
        marks = annotations(DASHBOARD["annotations"]["list"], server, shown)
        for name, first, last in PICTURES:
            png, empty = draw(section(DASHBOARD["panels"], first, last), server, shown, marks)
            save_picture(png, folder / f"{name}.png")
            print(f"{name}.png: {', '.join(empty) or 'no panel'} without data")


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]), seconds=float(sys.argv[2]) if len(sys.argv) > 2 else 420)
