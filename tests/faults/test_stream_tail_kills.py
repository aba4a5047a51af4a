"""Tailers of a live layer are killed at every step, and two work at once: the layer is what the table is."""

import signal
import threading

import pytest
from store_tables import churn, predictions, scores, write_night
from stream_rows import StreamTable, live_churn
from tailing import checked_layer, clicks, environment_of, follow, tail_process, truth
from waiting import wait_for
from warm import die

from forecache.base.settings import Settings
from forecache.serve.store import Store, publish
from forecache.serve.store.live.layer import LiveRow, read_tail_state, record_of
from forecache.serve.store.live.reader import LiveReader
from forecache.stream.tail.tailer import Tailer

pytestmark = pytest.mark.faults


def corrupt(store: Store) -> None:
    wrong = record_of(LiveRow(0, 1, b'{"churn_probability":1.0,"risk_segment":"high"}'))
    with environment_of(store.layout) as environment:
        environment.write(lambda transaction: transaction.put(b"00003", wrong))


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
            follow(tailer)
        corrupt(store)
    for number in range(3):
        stream.commit(clicks(4 * number, 8, 0.25 + number / 8))
    if step == "caught up":
        stream.forget_log()
    process = tail_process(settings, step, nth)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    last = stream.commit(clicks(2, 5, 0.75))
    following = tail_process(settings)
    try:
        wait_for(lambda: read_tail_state(store.layout).applied == last and _verified(store) == last)
    finally:
        die(following)
    assert checked_layer(store) == truth(stream, above=cut)


def _verified(store: Store) -> int:
    with LiveReader(store.layout) as reader:
        return reader.verified_through


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
            wait_for(lambda: read_tail_state(store.layout).pid in {each.pid for each in processes})
            following = next(each for each in processes if each.pid == read_tail_state(store.layout).pid)
            before = read_tail_state(store.layout).applied
            die(following)
            processes.remove(following)
            processes.append(tail_process(settings))
            wait_for(lambda before=before: read_tail_state(store.layout).applied > before)  # type: ignore[misc]
    finally:
        stop.set()
        committing.join()
        wait_for(lambda: read_tail_state(store.layout).applied == stream.version)
        for each in processes:
            die(each)
    assert checked_layer(store) == truth(stream)
