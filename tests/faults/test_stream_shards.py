"""Several processes run one stream: they share its partitions, each event has one row, whatever becomes of them."""

import json
import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from store_services import minio_server
from stream_jobs import stand_on_an_empty_night
from stream_machines import run_shards
from stream_sample import a_stream, payment, release, some_values
from stream_shards import PARTITIONS, SHARDED, Sent, assert_partitions_hold, keyed_topic, send
from tailing import compare_now, environment_of, follow
from waiting import wait_for
from warm import start

from forecache.base.settings import Settings, load_settings
from forecache.kit.installation import open_lake
from forecache.kit.lease import read_leases
from forecache.serve.store import open_store
from forecache.serve.store.keys import encode_key
from forecache.serve.store.live.layer import read_tail_state
from forecache.serve.store.live.reader import LiveReader
from forecache.stream.engine import arrow_engine
from forecache.stream.engine.restore_state import tile_saver
from forecache.stream.engine.sharded_engine import ShardedEngine
from forecache.stream.events.event_judge import key_schema
from forecache.stream.live_layers import write_layers
from forecache.stream.state import StreamState, is_reported, read_state
from forecache.stream.status import read_stream_status
from forecache.stream.tail.tailer import Tailer

pytestmark = [pytest.mark.faults, pytest.mark.slow]
wait = partial(wait_for, seconds=300.0)  # of leases, and of starts in between


@pytest.fixture
def given(tmp_path: Path, kafka: Any) -> Iterator[dict[str, Any]]:
    """The settings of all machines."""
    with minio_server(tmp_path / "minio", "cloud") as options:
        yield {"lake": "s3://cloud/lake", "storage_options": options, "kafka_brokers": kafka.brokers}


@pytest.fixture
def one(given: dict[str, Any], tmp_path: Path) -> Settings:
    """The machine that released the model that answers."""
    settings = load_settings(home=tmp_path / "one", **given)
    release(settings)
    return settings


def state_of(settings: Settings) -> StreamState:
    return read_state(settings, "payments") or StreamState()


def is_done(settings: Settings, sent: Sent) -> bool:
    """Whether everything that was sent is committed, as any machine reads it."""
    return state_of(settings).offsets == {str(partition): len(values) for partition, values in sent.items()}


def holders_of_shards(settings: Settings) -> Mapping[str, str]:
    """By shard, the machine that has its lease."""
    held = read_leases(open_lake(settings), "streams/payments.shards")
    return {each.name: each.machine for each in held if "-of-" in each.name and not each.released}


def has_shards(settings: Settings, counts: Mapping[Path, int]) -> bool:
    machines = list(holders_of_shards(settings).values())
    return {str(home): machines.count(str(home)) for home in counts} == {str(home): n for home, n in counts.items()}


def assert_live_layers_hold(settings: Settings, topic: str, stored: Sequence[dict[str, Any]]) -> None:
    """Fill the live layers on a machine, and compare the answers with the table, and the tiles with its rows."""
    stream = a_stream(keyed_topic(topic), **SHARDED)
    write_layers(settings, stream)
    with Tailer(settings) as tailer:
        follow(tailer)
        for name in stream.live_names:
            compare_now(tailer)
            compare_now(tailer)
            state = read_tail_state(open_store(settings, name).layout)
            assert (state.applied, state.differed) == (state_of(settings).committed_version, 0)
    layout, key = open_store(settings, "payments").layout, key_schema(stream.topic, stream.key)
    with environment_of(layout) as environment:
        keys = {key for key, _ in environment.read_range(b"", None)}
    assert keys == {encode_key(key, row["payment_id"]) for row in stored}
    with LiveReader(layout) as reader:
        for row in stored:
            live = reader.get(encode_key(key, row["payment_id"]))
            assert live is not None
            assert live.position == row["position"]
            assert json.loads(live.value) == {name: row[name] for name in ("score", "answered_by")}


def test_a_machine_with_an_empty_disk_goes_on_from_the_ids_and_tiles_of_each_shard(
    one: Settings, given: dict[str, Any], kafka: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    topic, sent, values = kafka.create_topic("payments", partitions=PARTITIONS), Sent(), some_values(80)
    monkeypatch.setattr(arrow_engine, "tile_saver", partial(tile_saver, commits=1))
    for home in ("one", "two"):
        settings = load_settings(home=tmp_path / home, **given)
        stand_on_an_empty_night(settings)
        send(kafka, topic, values, sent)
        caplog.clear()
        with caplog.at_level(logging.INFO, "forecache.stream"):
            ShardedEngine(settings, a_stream(keyed_topic(topic), **SHARDED), until_caught_up=True).run()
        read = [record.args for record in caplog.records if "goes on" in record.msg]
        # A shard may be taken twice, as a machine that stands still loses its partitions for a while.
        assert {args for args in read if isinstance(args, tuple)} == {
            (f"payments.shards/{number}-of-4", 0, 0) for number in range(4)
        }
        assert_partitions_hold(one, sent, topic)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("kill_at", "pause_at"),
    [
        (("lake_step", "decided"), ("lake_step", "decided")),
        (("stream_step", "bad messages committed"), ("stream_step", "rows written")),
        (("stream_step", "rows committed"), ("stream_step", "confirmed")),
    ],
)
def test_processes_that_join_are_killed_and_stand_still_share_the_partitions_and_each_event_has_one_row(
    one: Settings, given: dict[str, Any], kafka: Any, tmp_path: Path, kill_at: Any, pause_at: Any
) -> None:
    topic, sent = kafka.create_topic("payments", partitions=PARTITIONS), Sent()
    values, stream = some_values(300), a_stream(keyed_topic(topic), **SHARDED)
    homes = [tmp_path / name for name in ("first", "second", "third")]
    processes = [start(run_shards, homes[0], given, topic, kill_at)]
    try:
        send(kafka, topic, values[:60], sent)
        wait(lambda: is_done(one, sent))
        assert has_shards(one, {homes[0]: 4})
        wait(lambda: read_stream_status(one, stream).status == "runs" and is_reported(one, stream.name))
        # A second one joins, and a third one, while messages come.
        processes.append(start(run_shards, homes[1], given, topic, pause_at, signal.SIGSTOP))
        send(kafka, topic, values[60:90], sent)
        wait(lambda: has_shards(one, {homes[0]: 2, homes[1]: 2}))
        processes.append(start(run_shards, homes[2], given, topic))
        send(kafka, topic, values[90:120], sent)
        wait(lambda: has_shards(one, {homes[0]: 2, homes[1]: 1, homes[2]: 1}))
        wait(lambda: is_done(one, sent))
        # The first one dies in the middle of a commit.
        (homes[0] / "now").touch()
        send(kafka, topic, [*values[120:180], *[b"no json"] * PARTITIONS], sent)
        wait(lambda: is_done(one, sent))
        assert processes[0].exitcode == -signal.SIGKILL
        wait(lambda: has_shards(one, {homes[1]: 2, homes[2]: 2}))
        # The second one stands still in the middle of a commit, and wakes after another one has its shards.
        (homes[1] / "now").touch()
        send(kafka, topic, values[180:240], sent)
        wait(lambda: (homes[1] / "there").exists())
        wait(lambda: is_done(one, sent))
        assert has_shards(one, {homes[2]: 4})
        os.kill(processes[1].pid, signal.SIGCONT)
        wait(lambda: has_shards(one, {homes[1]: 2, homes[2]: 2}))
        send(kafka, topic, [*values[240:], payment(7), payment(8)], sent)
        wait(lambda: is_done(one, sent))
        assert not any((home / "ended").exists() for home in homes)
    finally:
        for process in processes:
            process.kill()
    assert_live_layers_hold(one, topic, assert_partitions_hold(one, sent, topic))
