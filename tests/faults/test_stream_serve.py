"""`forecache serve` follows streams by itself: it is ready once it is near, and its tailer is started again."""

import os
import signal
import subprocess
import sys

import httpx
import pytest
from free_ports import free_port
from store_tables import NEXT_NIGHT, churn, predictions, scores, write_night
from stream_rows import StreamTable, click, live_churn, moment
from waiting import wait_for

from forecache.base.settings import Settings
from forecache.serve.store import publish
from forecache.serve.store.live.layer import read_tail_state
from forecache.serve.store.live.reader import has_writer

pytestmark = pytest.mark.faults


@pytest.mark.slow
def test_a_reader_brings_its_layers_forward_is_ready_when_they_are_near_and_ends_its_tailer(settings: Settings) -> None:
    write_night(settings, predictions(scores(20)))
    store, stream = live_churn(settings, max_lag_s=30.0), StreamTable(settings)
    publish(settings, churn())
    for number in range(3):
        stream.commit([click("00001", number / 8, moment(NEXT_NIGHT))])
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FORECACHE_")}
    command = [sys.executable, "-m", "forecache.cli.main", "serve", "--port", str(port), "--workers", "1"]
    reader = subprocess.Popen(
        command, env={**environment, "FORECACHE_HOME": str(settings.home)}, stderr=subprocess.PIPE, text=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: _status(f"{url}/readyz") == 200)
        wait_for(lambda: _score(url) == 2 / 8)  # near is what is at most 30 s behind: on a busy machine not yet all
        first = read_tail_state(store.layout).pid
        os.kill(first, signal.SIGKILL)
        stream.commit([click("00001", 0.75, moment(NEXT_NIGHT))])
        wait_for(lambda: _score(url) == 0.75)
        assert read_tail_state(store.layout).pid != first
        assert _status(f"{url}/readyz") == 200
    finally:
        reader.terminate()
        wait_for(lambda: _status(f"{url}/readyz") != 200)
        reader.terminate()  # no load balancer has to notice first
        reader.communicate(timeout=120)
    wait_for(lambda: not has_writer(store.layout))


def _status(url: str) -> int:
    try:
        return httpx.get(url, timeout=5).status_code
    except httpx.TransportError:
        return 0


def _score(url: str) -> float:
    """The streamed score of a key; -1 if the published one is answered."""
    answer = httpx.get(f"{url}/v1/churn/00001").json()
    score: float = answer["value"]["churn_probability"] if answer["source"] == "live" else -1.0
    return score
