"""Metrics of the request log, where the disk hangs that they are read from."""

import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from forecache.realtime.http import prometheus as log_metrics
from forecache.realtime.http.prometheus import SpoolState, SpoolWatcher
from forecache.realtime.log.spool_files import CommitterState


@pytest.fixture
def goes_on() -> Iterator[threading.Event]:
    found = threading.Event()
    yield found
    found.set()


def test_a_disk_that_hangs_costs_one_short_wait_and_what_is_known_is_told(
    monkeypatch: pytest.MonkeyPatch, goes_on: threading.Event, tmp_path: Path
) -> None:
    known = SpoolState(CommitterState(rows=7), 100, 1.0)
    disk, looks = SpoolWatcher(), []

    def look_at(folder: Path) -> SpoolState:
        looks.append(folder)
        if len(looks) > 1:
            goes_on.wait()
        return known

    monkeypatch.setattr(log_metrics, "read_spool_state", look_at)
    monkeypatch.setattr(log_metrics, "_PATIENCE_S", 60.0)
    assert disk.read_states([tmp_path]) == {tmp_path: known}
    monkeypatch.setattr(log_metrics, "_PATIENCE_S", 0.3)
    began = monotonic()
    assert [disk.read_states([tmp_path]) for _ in range(100)] == [{tmp_path: known}] * 100
    assert len(looks) == 2
    assert monotonic() - began < 20, "a wait for each would take half a minute"
    assert known.age_s > 1e6
