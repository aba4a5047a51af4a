"""A worker of the reader that is killed leaves no reader of the live layer's environment behind."""

import os
import signal
from pathlib import Path
from typing import Any

import httpx
from live_support import live_row, live_store
from reader_support import RunningReader, running_reader, write_version
from waiting import eventually

from forecache.base.settings import Settings
from forecache.serve.store.live.writer import open_live_writer

ROWS = {f"c{i}": {"churn_probability": 0.5, "risk_segment": "batch"} for i in range(3)}


def test_a_worker_that_is_killed_leaves_no_reader_behind_that_holds_old_pages(tmp_path: Path) -> None:
    home = Settings(home=tmp_path)
    layout = live_store(home.store_path)
    write_version(home.store_path, "churn", ROWS, stream="cards")
    with open_live_writer(layout) as writer:
        writer.apply(1, [(b"c1", live_row(1, 7))])
        with running_reader(home) as reader:
            assert eventually(lambda: _of_c1(reader).get("source") == "live")
            for worker in reader.workers():
                os.kill(worker, signal.SIGKILL)
            assert eventually(lambda: _alive(reader) and _of_c1(reader).get("source") == "live")
            writer.apply(2, [(b"c1", live_row(2, 8))])
            assert eventually(lambda: _of_c1(reader)["position"] == 2)


def _of_c1(reader: RunningReader) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{reader.url}/v1/churn/c1").json()
    return answer


def _alive(reader: RunningReader) -> bool:
    try:
        return httpx.get(f"{reader.url}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False
