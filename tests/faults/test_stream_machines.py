"""A stream over machines that share a lake in a bucket (MinIO): seen from all, run by one, replaced anywhere."""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from store_services import minio_server
from stream_machines import copy_until, run_on_machine, stand_by
from stream_sample import a_stream, payment, release, some_values, table_rows
from stream_truth import assert_tables_hold
from waiting import beside, wait_for
from warm import start
from watched_streams import cards

from forecache.base.alert import Alert
from forecache.base.errors import ConflictError
from forecache.base.settings import Settings, load_settings
from forecache.base.steps import copy_step
from forecache.declare.project import Project
from forecache.kit import lease
from forecache.kit.installation import open_lake
from forecache.operations.keep_streams_running import keep_running
from forecache.plugins.alerts.collect_alerts import stream_alerts
from forecache.stream.engine import arrow_engine as arrow
from forecache.stream.engine.engine import hold_stream
from forecache.stream.engine.restore_state import tile_saver
from forecache.stream.state import STATE, StreamState, open_stream_state, read_starts, read_state
from forecache.stream.status import read_stream_status

pytestmark = [pytest.mark.faults, pytest.mark.slow]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with minio_server(tmp_path_factory.mktemp("minio") / "minio", "cloud") as found:
        yield found


@pytest.fixture
def bucket(options: dict[str, str], tmp_path: Path) -> dict[str, Any]:
    """The settings of all machines."""
    return {"lake": f"s3://cloud/{tmp_path.name}/lake", "storage_options": options}


@pytest.fixture
def given(bucket: dict[str, Any], kafka: Any) -> dict[str, Any]:
    return {**bucket, "kafka_brokers": kafka.brokers}


@pytest.fixture
def one(given: dict[str, Any], tmp_path: Path) -> Settings:
    """The machine that released the model that answers."""
    settings = load_settings(home=tmp_path / "one", **given)
    release(settings)
    return settings


def state_of(settings: Settings) -> StreamState:
    return read_state(settings, "payments") or StreamState()


def test_a_stream_is_seen_from_a_machine_with_an_empty_disk(
    one: Settings, given: dict[str, Any], kafka: Any, tmp_path: Path
) -> None:
    topic, other = kafka.create_topic("payments"), load_settings(home=tmp_path / "other", **given)
    kafka.send(topic, [payment(number) for number in range(40)])
    assert read_stream_status(other, a_stream(topic)).status == "never ran"
    with beside(lambda stop: run_on_machine(one.home_path, given, topic, stop=stop)):
        wait_for(lambda: state_of(other).rows == 40 and state_of(other).lag_events == 0)
        assert read_stream_status(other, a_stream(topic)).status == "runs"
        assert state_of(other).offsets == {"0": 40}
        assert [each.did for each in keep_running(other, [a_stream(topic)])] == ["runs"]
        with pytest.raises(ConflictError, match=r"is run by process \d+ on .* \(stream with the engine arrow"):
            run_on_machine(other.home_path, given, topic)
    assert read_stream_status(other, a_stream(topic)).status == "stopped"
    assert not (other.home_path / "streams" / "payments" / "STATE").exists()


def test_machines_that_look_at_once_start_a_dead_stream_once_and_count_it_for_all(
    bucket: dict[str, Any], tmp_path: Path
) -> None:
    machines = [load_settings(home=tmp_path / name, **bucket) for name in ("one", "two", "three")]
    barrier, did = threading.Barrier(len(machines)), []

    def look(settings: Settings) -> None:
        barrier.wait()
        did.append(keep_running(settings, [cards()], command=["sleep"])[0].did)

    threads = [threading.Thread(target=look, args=(settings,)) for settings in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert did.count("started") == 1
    assert set(did) <= {"started", "starting", "waits"}
    assert [read_starts(settings, "cards").total for settings in machines] == [1, 1, 1]


def test_a_stream_of_a_machine_whose_clock_is_late_is_neither_started_again_nor_told_as_dead(
    bucket: dict[str, Any], tmp_path: Path
) -> None:
    engine, other = (load_settings(home=tmp_path / name, **bucket) for name in ("one", "two"))

    def put(*, late_s: float) -> None:
        at = time.time() - late_s
        state = StreamState(started_at=at - 60, written_at=at, alive_at=at, committed_at=at)
        open_stream_state(engine, "cards").write(STATE, json.dumps(asdict(state)).encode())

    def report(stop: threading.Event) -> None:
        while not stop.wait(1.0):
            put(late_s=60.0)

    put(late_s=60.0)
    with beside(report):
        assert keep_running(other, [cards()], command=["sleep"])[0].did == "runs"
        assert not list(_alerts_of(other))
    assert read_stream_status(other, cards()).status == "died"
    assert [each.kind for each in _alerts_of(other)] == ["stream_dead"]
    assert keep_running(other, [cards()], command=["sleep"])[0].did == "started"
    assert read_starts(other, "cards").total == 1


def _alerts_of(settings: Settings) -> Iterator[Alert]:
    return stream_alerts(settings, Project({}, {}, streams={"cards": cards()}))


@pytest.mark.parametrize("pause_at", [("stream_step", "rows written"), ("lake_step", "decided")])
def test_an_engine_that_stands_still_in_a_commit_is_replaced_and_cannot_commit_when_it_wakes(
    one: Settings, given: dict[str, Any], kafka: Any, tmp_path: Path, pause_at: tuple[str, str]
) -> None:
    topic, values = kafka.create_topic("payments"), some_values()
    paused = start(stand_by, one.home_path, given, topic, pause_at)
    try:
        kafka.send(topic, values[:50])
        wait_for(lambda: state_of(one).offsets.get("0") == 50)
        other = tmp_path / "two"
        standby = start(stand_by, other, given, topic)
        wait_for(lambda: (other / "locks" / "streams" / "payments").exists())
        (one.home_path / "pause").touch()
        kafka.send(topic, values[50:80])
        wait_for(lambda: (one.home_path / "paused").exists())
        # With an empty disk, and without a word from the one that stands still.
        wait_for(lambda: state_of(load_settings(home=tmp_path / "three", **given)).offsets.get("0") == 80)
        os.kill(paused.pid, signal.SIGCONT)
        paused.join(60)
        assert paused.exitcode == 1
        said = (one.home_path / "ended").read_text()
        assert said.startswith(("LeaseLostError: ", "ConflictError: Another process has committed to the stream"))
        kafka.send(topic, values[80:])
        wait_for(lambda: state_of(load_settings(home=tmp_path / "three", **given)).offsets.get("0") == len(values))
        assert not (other / "ended").exists()
        assert_tables_hold(one, values, topic=topic)
    finally:
        os.kill(paused.pid, signal.SIGKILL) if paused.is_alive() else None
        standby.kill()


def test_a_standby_takes_over_from_an_engine_that_is_killed_or_stopped(
    one: Settings, given: dict[str, Any], kafka: Any, tmp_path: Path
) -> None:
    topic, values = kafka.create_topic("payments"), some_values()
    kafka.send(topic, values[:40])
    first = start(stand_by, one.home_path, given, topic)
    wait_for(lambda: state_of(one).offsets.get("0") == 40)
    stop = threading.Event()
    waiting = threading.Thread(
        target=run_on_machine, args=(tmp_path / "two", given, topic), kwargs={"stop": stop, "is_standby": True}
    )
    waiting.start()
    first.kill()
    kafka.send(topic, values[40:80])
    wait_for(lambda: state_of(one).offsets.get("0") == 80)
    third = start(stand_by, tmp_path / "three", given, topic)
    stop.set()  # it releases the lease, so that the next one need not wait for its term
    waiting.join()
    kafka.send(topic, values[80:])
    wait_for(lambda: state_of(one).offsets.get("0") == len(values))
    third.kill()
    assert_tables_hold(one, values, topic=topic)


def test_an_engine_that_could_not_renew_its_lease_for_long_goes_on_if_no_other_process_has_it(
    one: Settings, given: dict[str, Any], kafka: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = load_settings(home=tmp_path / "other", **given)
    topic, values, away = kafka.create_topic("payments"), some_values(), threading.Event()
    monkeypatch.setattr(lease, "TERM_S", 3.0)
    monkeypatch.setattr(lease, "MARGIN_S", 1.0)
    monkeypatch.setattr(lease, "LEASE", replace(lease.LEASE, every_s=0.3))
    put = lease.Lease._put

    def put_or_fail(self: lease.Lease, **how: bool) -> bool:
        if away.is_set():
            raise OSError("The object store is away.")
        return put(self, **how)

    monkeypatch.setattr(lease.Lease, "_put", put_or_fail)
    kafka.send(topic, values[:40])
    with beside(lambda stop: run_on_machine(one.home_path, given, topic, stop=stop)):
        wait_for(lambda: state_of(other).offsets.get("0") == 40)
        away.set()
        # Its state is in the lake, which alone the other machine reads, while it has the lease.
        wait_for(lambda: time.time() - state_of(other).alive_at > 9.0)
        kafka.send(topic, values[40:])
        wait_for(lambda: "could not be renewed" in state_of(one).last_error)
        away.clear()
        wait_for(lambda: state_of(one).offsets.get("0") == len(values))
    assert_tables_hold(one, values, topic=topic)


def test_a_machine_with_an_empty_disk_starts_from_the_ids_and_tiles_in_the_bucket(
    one: Settings,
    given: dict[str, Any],
    kafka: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic, values = kafka.create_topic("payments"), [payment(number) for number in range(90)]
    monkeypatch.setattr(arrow, "tile_saver", partial(tile_saver, commits=1))

    def rows_read(home: str, *more: bytes) -> list[int]:
        """How many rows a start on a machine read for tiles and for ids, before it took in more messages."""
        kafka.send(topic, list(more))
        caplog.clear()
        with caplog.at_level(logging.INFO, "forecache.stream"):
            run_on_machine(tmp_path / home, given, topic)
        (args,) = [record.args for record in caplog.records if "goes on" in record.msg]
        assert isinstance(args, tuple)
        return [int(str(each)) for each in args[1:]]

    assert rows_read("one", *values[:40]) == [0, 0]
    # The same payments again are recognised by ids that were saved on another machine.
    assert rows_read("two", *values[:60]) == [0, 0]
    assert rows_read("three", *values[50:]) == [0, 0]
    assert rows_read("one") == [0, 0], "its own files are older than those in the lake"
    stored = table_rows(one, "stream_payments")
    assert [row["payment_id"] for row in stored] == list(range(90))
    lake = open_stream_state(one, "payments", patience_s=None)
    names = lake.names("ids") + lake.names("tiles")
    assert len(lake.names("tiles")) == 1
    for name in names:
        if not name.endswith(".json"):
            lake.write(name, b"damaged")
    assert rows_read("four", *values[:10]) == [90, 90]
    lake.delete(lake.names("ids") + lake.names("tiles"))
    assert rows_read("five", *values[:10]) == [90, 90]
    assert table_rows(one, "stream_payments") == stored
    assert_tables_hold(one, [*values[:40], *values[:60], *values[50:], *values[:10], *values[:10]], topic=topic)


@pytest.mark.parametrize("step", copy_step.names)
def test_an_engine_that_is_killed_while_it_copies_its_files_leaves_what_another_machine_starts_from(
    one: Settings, given: dict[str, Any], kafka: Any, tmp_path: Path, step: str
) -> None:
    topic, values = kafka.create_topic("payments"), some_values(60)
    kafka.send(topic, values[:30])
    run_on_machine(one.home_path, given, topic)
    kafka.send(topic, values[30:])
    process = start(copy_until, one.home_path, given, topic, step)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    kafka.send(topic, values[:20])
    run_on_machine(tmp_path / "two", given, topic)
    assert_tables_hold(one, [*values, *values[:20]], topic=topic)


def test_a_lease_of_a_stream_that_cannot_be_read_is_no_other_process(bucket: dict[str, Any], tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "one", **bucket)
    with hold_stream(settings, "cards", action="test"):
        pass

    open_lake(settings).write(".leases/streams/cards.json", b"{}")
    with pytest.raises(ConflictError, match="is not a lease"), hold_stream(settings, "cards", action="test"):
        pass
