"""Publishers onto a stream are killed at every step, under a tailer that is killed, too: no key goes back."""

import json
import time
from contextlib import suppress
from itertools import cycle
from random import Random
from typing import Any

import httpx
import pytest
from publish_jobs import killed_publish, start_publish
from reader_support import running_reader
from store_tables import NEXT_NIGHT, churn, predictions, scores, upsert, write_night
from stream_rows import StreamTable, click, live_churn, moment
from tailing import checked_layer, clicks, follow, tail_process, truth
from waiting import ThreadsBeside, wait_for
from warm import die

from forecache.base.errors import ConflictError, NotFoundError
from forecache.base.settings import Settings
from forecache.base.steps import publish_step
from forecache.serve.store import Store, publish, split_entry
from forecache.serve.store.live.layer import read_tail_state
from forecache.stream.tail.tailer import Tailer

pytestmark = pytest.mark.faults


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
    killed_publish(settings, step, full=kind == "full")
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


class Poller(ThreadsBeside):
    """Asks a reader for all keys again and again, and notes each that has gone back."""

    def __init__(self, url: str) -> None:
        super().__init__(self._poll)
        self.url = url
        self.highest: dict[str, float] = {}
        self.back: list[str] = []
        self.polls = self.live = 0

    def _poll(self) -> None:
        with httpx.Client(timeout=60.0) as client:
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
    publisher: Any = None
    with running_reader(settings, reader_workers=2) as reader, Poller(reader.url) as one, Poller(reader.url) as other:
        pollers = [one, other]
        try:
            give_up = time.monotonic() + 300
            while published < 2 or killed < 2 or rolled_back < 1 or min(each.polls for each in pollers) <= 50:
                assert time.monotonic() < give_up
                number += 1
                stream.commit([click(key, number * _STEP, moment(NEXT_NIGHT)) for key in random.sample(_KEYS, 10)])
                if number % 8 == 0 and (publisher is None or publisher.exitcode is not None):
                    published += publisher is not None and publisher.exitcode == 0
                    step, kind = next(publishes)
                    publisher = start_publish(settings, step, full=kind == "full")
                if number % 25 == 0:
                    die(tailer)
                    tailer = tail_process(settings)
                    killed += 1
                if number % 27 == 0 and len(store.version_numbers()) > 1:
                    with suppress(ConflictError, NotFoundError):
                        store.rollback()
                        rolled_back += 1
                time.sleep(0.02)
            last = stream.version
            wait_for(lambda: read_tail_state(store.layout).applied >= last)
            truth_now = {key: row["churn_probability"] for key, row in stream.truth().items()}
            wait_for(lambda: all(each.highest == {**dict.fromkeys(_KEYS, 0.0), **truth_now} for each in pollers))
        finally:
            die(tailer)
            if publisher is not None:
                publisher.join(120)
    assert [each.back for each in pollers] == [[], []]
    assert min(each.live for each in pollers) > 0
    monkeypatch.setattr("forecache.stream.tail.follower.RISE_S", 0.0)
    with Tailer(settings) as finishing:
        follow(finishing)
    kept = min(manifest.cut for manifest in store.versions())
    assert checked_layer(store) == truth(stream, above=kept)
