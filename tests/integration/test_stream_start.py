"""A stream that died is started again: detached, once however many look, with growing pauses, and told."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
from waiting import eventually
from watched_streams import cards, write_starts

from forecache.base.settings import Settings
from forecache.declare.project import Project
from forecache.operations.keep_streams_running import StartResult, keep_running
from forecache.plugins.alerts.collect_alerts import collect_alerts, stream_alerts
from forecache.stream.state import Starts, StreamState, is_running, read_starts, read_state, stream_folder, write_state

SUPPORT = Path(__file__).parent.parent / "support"
STREAM = cards()
PROJECT = Project({}, {}, streams={"cards": STREAM})


def engine(runs_s: float) -> list[str]:
    return [sys.executable, str(SUPPORT / "watched_streams.py"), f'{{"runs_s": {runs_s}}}']


def with_support() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])}


def pids(settings: Settings) -> list[int]:
    path = stream_folder(settings.home_path, "cards") / "pids"
    return [int(line) for line in path.read_text().split()] if path.is_file() else []


def age_state(settings: Settings) -> None:
    """So that what the dead process said is not young any more."""
    state = read_state(settings, "cards")
    assert state is not None
    write_state(settings.home_path, "cards", replace(state, written_at=time.time() - 60))


def end(settings: Settings) -> None:
    for pid in pids(settings):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    assert eventually(lambda: not is_running(settings.home_path, "cards"))


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_stream_is_started_once_and_outlives_who_started_it(settings: Settings) -> None:
    home = settings.home_path
    script = (
        "import sys; from pathlib import Path; from forecache.base.settings import load_settings; "
        "from watched_streams import cards; from forecache.operations.keep_streams_running import keep_running; "
        f"print(keep_running(load_settings(home={str(settings.home)!r}), [cards()], command={engine(600)!r}))"
    )
    try:
        subprocess.run([sys.executable, "-c", script], env=with_support(), check=True, timeout=60)
        assert eventually(lambda: read_state(settings, "cards") is not None)
        assert is_running(home, "cards")
        assert [each.did for each in keep_running(settings, [STREAM], command=engine(600))] == ["runs"]
        end(settings)
        age_state(settings)
        # However long that took.
        write_starts(settings, "cards", replace(read_starts(settings, "cards"), last_at=time.time()))
        (kept,) = keep_running(settings, [STREAM], command=engine(600))
        assert kept.did == "waits", "it died within ten minutes of its start"
        write_starts(settings, "cards", replace(read_starts(settings, "cards"), last_at=time.time() - 11))
        assert keep_running(settings, [STREAM], command=engine(600)) == [StartResult("cards", "started")]
        assert eventually(lambda: len(pids(settings)) == 2 and is_running(home, "cards"))
        assert read_starts(settings, "cards").total == 2
    finally:
        end(settings)


@pytest.mark.slow
@pytest.mark.faults
def test_of_many_sensors_at_once_one_starts_it(settings: Settings) -> None:
    script = (
        "import sys, time; from pathlib import Path; from forecache.base.settings import load_settings; "
        "from watched_streams import cards; from forecache.operations.keep_streams_running import keep_running; "
        f"settings, stream = load_settings(home={str(settings.home)!r}), cards(); print('ready', flush=True); "
        "sys.stdin.read(1); "
        f"print(keep_running(settings, [stream], command={engine(600)!r})[0].did, flush=True); sys.stdin.read(1)"
    )
    sensors = [
        subprocess.Popen(
            [sys.executable, "-c", script], env=with_support(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    try:
        outputs = [each.stdout for each in sensors if each.stdout]
        assert [output.readline() for output in outputs] == [b"ready\n"] * 3
        for each in sensors:
            assert each.stdin
            each.stdin.write(b"x")
            each.stdin.flush()
        said = sorted(output.readline().decode().strip() for output in outputs)
        assert said.count("started") == 1
        assert eventually(lambda: is_running(settings.home_path, "cards"))
    finally:
        for each in sensors:
            each.communicate()
    try:
        # After the sensors that looked have ended it runs on, and is not started again.
        assert [each.did for each in keep_running(settings, [STREAM], command=engine(600))] == ["runs"]
        assert len(pids(settings)) == 1
    finally:
        end(settings)


def test_a_stream_that_dies_at_once_waits_longer_each_time_and_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, command, now = settings.home_path, [sys.executable, "-c", "raise SystemExit(1)"], time.time()
    # Time stands still, so that a slow machine does not use up the pauses.
    monkeypatch.setattr(time, "time", lambda: now)
    found: list[StartResult] = []

    def comes(did: str) -> bool:
        found[:] = keep_running(settings, [STREAM], command=command)
        return found[0].did == did

    waits = []
    for _ in range(4):
        write_starts(settings, "cards", replace(read_starts(settings, "cards"), last_at=0.0)) if waits else None
        assert eventually(lambda: comes("started"))
        assert eventually(lambda: comes("waits"))
        waits.append(found[0].wait_s)
    assert waits == [10, 20, 40, 80]
    write_state(home, "cards", StreamState(1, time.time() - 99, time.time() - 60, last_error="No brokers answer."))
    (alert,) = [each for each in stream_alerts(settings, PROJECT) if each.kind == "stream_dead"]
    assert alert.severity == "critical"
    assert "It was started 4 times in a row and died. Its last error: No brokers answer." in alert.summary
    assert (stream_folder(home, "cards") / "log").is_file()


def test_streams_that_are_not_well_are_alerts_and_end_when_they_are(settings: Settings) -> None:
    now = time.time()
    well = StreamState(1, now - 999, now, rows=1000, rows_per_s=10.0, committed_at=now, committed_version=3)

    def kinds(state: StreamState | None, **more: bool) -> dict[str, str]:
        if state is not None:
            write_state(settings.home_path, "cards", state)
        found = collect_alerts(settings.model_copy(update={"project": "watched_project", **more}))
        assert {"stream_dead", "stream_behind", "stream_delayed", "stream_bad", "stream_unverified"} <= set(
            found.complete
        )
        return {alert.kind: alert.summary for alert in found.alerts if alert.name == "cards"}

    assert kinds(None) == {}, "it never ran, and nobody asked for it"
    assert list(kinds(None, stream_keep_running=True)) == ["stream_dead"]
    well = replace(well, started_at=now)
    assert kinds(well) == {}
    behind = kinds(replace(well, lag_events=9000))
    assert behind == {"stream_behind": "9,000 events of cards wait, 900.0 s of work at 10 rows/s; 60 s may be."}
    assert set(kinds(replace(well, delay_p50_s=1.0, delay_p99_s=61.0, bad=500))) == {"stream_delayed", "stream_bad"}
    assert set(kinds(replace(well, started_at=now - 999, committed_at=now - 999))) == {"stream_unverified"}
    died = kinds(replace(well, written_at=now - 60, bad=500))
    assert set(died) == {"stream_dead", "stream_bad"}
    stopped = replace(well, stopped_at=now)
    assert (kinds(stopped), list(kinds(stopped, stream_keep_running=True))) == ({}, ["stream_dead"])
    write_starts(settings, "cards", Starts(5, 3, now))
    assert "after 3 starts in a row that failed" in kinds(well)["stream_dead"]
    (alert,) = [each for each in stream_alerts(settings, PROJECT) if each.kind == "stream_dead"]
    assert alert.at > datetime.fromtimestamp(now - 1, timezone.utc)
