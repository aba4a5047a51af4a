"""Tailers and publishers of a streamed store are killed at every step, and two work at once: nothing is lost."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from random import Random

import httpx
import pytest
from reader_support import running_reader
from store_tables import NEXT_NIGHT, churn, predictions, scores, upsert, write_night
from stream_rows import StreamTable, click, live_churn, moment

from forecache.errors import ConflictError, NotFoundError
from forecache.settings import Settings
from forecache.steps import publish_step
from forecache.store import Store, publish, split_entry
from forecache.store.live.reader import LiveReader
from forecache.store.live.rows import LiveRow, record_of
from forecache.store.live.tail_state import read_tail_state
from forecache.store.live.writer import open_live_writer
from forecache.stream.tail.run import Tailer

pytestmark = pytest.mark.faults
_SUPPORT = Path(__file__).parents[1] / "support"
_PUBLISH = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from store_tables import churn
from forecache.settings import load_settings
from forecache.store import publish
from forecache.steps import publish_step

def kill(name):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

publish_step.on_step = kill
publish(load_settings(home=sys.argv[1]), churn(), full=sys.argv[4] == "full")
"""
DAY = timedelta(days=1)


def clicks(start: int, count: int, value: float) -> list[dict[str, object]]:
    return [click(f"{number:05d}", value, moment(NEXT_NIGHT)) for number in range(start, start + count)]


def tail_process(settings: Settings, step: str = "", nth: int = 1) -> "subprocess.Popen[str]":
    command = [sys.executable, str(_SUPPORT / "tail_job.py"), str(settings.home), step, str(nth)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@contextmanager
def tailing(settings: Settings) -> Iterator["subprocess.Popen[str]"]:
    process = tail_process(settings)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def rows_of(store: Store) -> dict[str, tuple[int, float]]:
    with open_live_writer(store.layout) as writer:
        assert writer.recount() == writer.content_sum
        keys = [key for key, _ in writer.items()]
    with LiveReader(store.layout) as reader:
        rows = {key.decode(): reader.get(key) for key in keys}
    return {key: (row.position, json.loads(row.value)["churn_probability"]) for key, row in rows.items() if row}


def truth(stream: StreamTable, above: int = -1) -> dict[str, tuple[int, float]]:
    rows = {key: (row["position"], row["churn_probability"]) for key, row in stream.truth().items()}
    return {key: row for key, row in rows.items() if row[0] > above}


def corrupt(store: Store) -> None:
    with open_live_writer(store.layout) as writer:
        wrong = record_of(LiveRow(0, 1, b'{"churn_probability":1.0,"risk_segment":"high"}'))
        writer._env.write(lambda transaction: transaction.put(b"00003", wrong))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "nth"),
    [
        *(("commit read", 4), ("applied", 4), ("caught up", 1)),
        *(("rows read", 1), ("replaced", 1), ("pruned", 1), ("verified", 1)),
    ],
)
def test_a_tailer_killed_at_any_step_goes_on_and_the_layer_is_what_the_table_is(
    settings: Settings, step: str, nth: int
) -> None:
    write_night(settings, predictions(scores(20)))
    store, stream = live_churn(settings), StreamTable(settings)
    stream.commit(clicks(0, 10, 0.125))
    cut = -1
    if step == "pruned":
        cut = publish(settings, churn()).details["cut"]
    if step in ("rows read", "replaced"):
        with Tailer(settings) as tailer:
            while tailer.turn():
                pass
        corrupt(store)
    for number in range(3):
        stream.commit(clicks(4 * number, 8, 0.25 + number / 8))
    if step == "caught up":
        stream.forget_log()
    process = tail_process(settings, step, nth)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    last = stream.commit(clicks(2, 5, 0.75))
    with tailing(settings):
        _wait(lambda: read_tail_state(store.layout).applied == last and _verified(store) == last)
    assert rows_of(store) == truth(stream, above=cut)


def _verified(store: Store) -> int:
    with LiveReader(store.layout) as reader:
        return reader.verified_through


def _wait(condition, *, seconds: float = 30.0) -> None:  # type: ignore[no-untyped-def]
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.slow
def test_of_two_tailers_one_follows_and_the_other_takes_over_when_it_is_killed(settings: Settings) -> None:
    store, stream = live_churn(settings), StreamTable(settings)
    stream.commit(clicks(0, 10, 0.125))
    stop = threading.Event()

    def commit() -> None:
        number = 0
        while not stop.is_set():
            stream.commit(clicks(number % 50, 20, number % 64 / 64))
            number += 1
            stop.wait(0.05)

    committing = threading.Thread(target=commit)
    committing.start()
    processes = [tail_process(settings), tail_process(settings)]
    try:
        for _ in range(3):
            _wait(lambda: read_tail_state(store.layout).pid in {each.pid for each in processes})
            following = next(each for each in processes if each.pid == read_tail_state(store.layout).pid)
            before = read_tail_state(store.layout).applied
            following.kill()
            following.communicate()
            processes.remove(following)
            processes.append(tail_process(settings))
            _wait(lambda before=before: read_tail_state(store.layout).applied > before)  # type: ignore[misc]
    finally:
        stop.set()
        committing.join()
        _wait(lambda: read_tail_state(store.layout).applied == stream.version)
        for each in processes:
            each.kill()
            each.communicate()
    assert rows_of(store) == truth(stream)


def content(store: Store) -> dict[str, float]:
    with store.snapshot() as snapshot:
        found = {key.decode(): json.loads(split_entry(entry)[0]) for key, entry in snapshot.items()}
    return {key: row["churn_probability"] for key, row in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "step"),
    [
        *(("full", step) for step in ("stream read", "verified", "pointer moved")),
        *(("small", step) for step in ("segments moved", "manifest written")),
    ],
)
def test_a_publish_onto_a_stream_killed_at_any_step_leaves_one_whole_version_and_the_next_is_clean(
    settings: Settings, kind: str, step: str
) -> None:
    batch = scores(200)
    write_night(settings, predictions(batch))
    store, stream = live_churn(settings), StreamTable(settings)
    first = stream.commit(clicks(0, 5, 0.125))
    publish(settings, churn())
    old = content(store)
    assert old == batch | {f"{number:05d}": 0.125 for number in range(5)}
    upsert(settings, predictions({"00100": 0.75, "00002": 0.75}))
    stream.commit(clicks(3, 5, 0.25))
    command = [sys.executable, "-c", _PUBLISH, str(settings.home), step, str(_SUPPORT), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    flipped = publish_step.names.index(step) >= publish_step.names.index("pointer moved")
    new = batch | {"00100": 0.75} | {f"{number:05d}": 0.125 if number < 3 else 0.25 for number in range(8)}
    current = store.current()
    assert current is not None
    assert (content(store), current.cut) == ((new, 1) if flipped else (old, first))
    stream.commit(clicks(7, 1, 0.5))
    result = publish(settings, churn())
    assert (result.skipped, result.details["cut"]) == (False, 2)
    assert content(store) == new | {"00007": 0.5}
    _, earlier = store.versions()[-1], store.rollback()
    assert content(store) == (new if earlier.cut == 1 else old)


_KEYS = [f"{number:05d}" for number in range(40)]
_STEP = 1 / 1024


class Poller(threading.Thread):
    """Asks a reader for all keys again and again, and notes each that has gone back."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.stop = url, threading.Event()
        self.highest: dict[str, float] = {}
        self.back: list[str] = []
        self.polls = self.live = 0

    def run(self) -> None:
        with httpx.Client() as client:
            while not self.stop.is_set():
                answer = client.post(f"{self.url}/v1/churn", json={"keys": _KEYS}).json()
                for row in answer["results"]:
                    key, score = row["key"], row["value"]["churn_probability"]
                    self.live += row.get("source") == "live"
                    if score < self.highest.get(key, 0.0):
                        self.back.append(f"{key}: {self.highest[key] / _STEP} to {score / _STEP} in poll {self.polls}")
                    self.highest[key] = max(score, self.highest.get(key, 0.0))
                self.polls += 1


@pytest.mark.slow
def test_no_key_goes_back_for_a_polling_reader_while_tailer_and_publisher_are_killed_and_versions_roll_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_night(settings, predictions(dict.fromkeys(_KEYS, 0.0)))
    store, stream = live_churn(settings, max_lag_s=5.0), StreamTable(settings)
    publish(settings, churn())
    random, number, published, killed, rolled_back = Random(7), 0, 0, 0, 0
    publishes = cycle([("", "full"), ("verified", "small"), ("", "small"), ("pointer moved", "full")])
    tailer = tail_process(settings)
    publisher: subprocess.Popen[str] | None = None
    with running_reader(settings, reader_workers=2) as reader:
        pollers = [Poller(reader.url) for _ in range(2)]
        for each in pollers:
            each.start()
        try:
            give_up = time.monotonic() + 120
            while published < 2 or killed < 2 or rolled_back < 1:
                assert time.monotonic() < give_up
                number += 1
                stream.commit([click(key, number * _STEP, moment(NEXT_NIGHT)) for key in random.sample(_KEYS, 10)])
                if number % 8 == 0 and (publisher is None or publisher.poll() is not None):
                    published += publisher is not None and publisher.returncode == 0
                    step, kind = next(publishes)
                    command = [sys.executable, "-c", _PUBLISH, str(settings.home), step, str(_SUPPORT), kind]
                    publisher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
                if number % 25 == 0:
                    tailer.kill()
                    tailer.communicate()
                    tailer = tail_process(settings)
                    killed += 1
                if number % 27 == 0 and len(store.version_numbers()) > 1:
                    with suppress(ConflictError, NotFoundError):
                        store.rollback()
                        rolled_back += 1
                time.sleep(0.02)
            last = stream.version
            _wait(lambda: read_tail_state(store.layout).applied >= last)
            truth_now = {key: row["churn_probability"] for key, row in stream.truth().items()}
            _wait(lambda: all(each.highest == {**dict.fromkeys(_KEYS, 0.0), **truth_now} for each in pollers))
        finally:
            for each in pollers:
                each.stop.set()
                each.join()
            tailer.kill()
            tailer.communicate()
            if publisher is not None:
                publisher.communicate()
    assert [each.back for each in pollers] == [[], []]
    assert min(each.polls for each in pollers) > 50
    assert min(each.live for each in pollers) > 0
    monkeypatch.setattr("forecache.stream.tail.follower.RISE_S", 0.0)
    with Tailer(settings) as finishing:
        while finishing.turn():
            pass
    kept = min(manifest.cut for manifest in store.versions())
    assert rows_of(store) == truth(stream, above=kept)
