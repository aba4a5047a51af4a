"""The tailer compares a live layer with its stream's table: equal, it is verified; different, it is made anew."""

import pytest
from stream_rows import StreamTable, live_churn
from tailing import clicks, compare_now, environment_of, follow, layer, truth

from forecache.settings import Settings
from forecache.store.live.reader import LiveReader
from forecache.store.live.rows import LiveRow, record_of
from forecache.store.live.tail_state import read_tail_state
from forecache.stream.tail.run import Tailer


def test_an_equal_layer_is_verified_through_the_version_that_was_applied(settings: Settings) -> None:
    store, stream = live_churn(settings), StreamTable(settings)
    stream.commit(clicks(0, 50, 0.25))
    with Tailer(settings) as tailer, LiveReader(store.layout) as reader:
        follow(tailer)
        reader.follow()
        assert reader.verified_through == -1
        compare_now(tailer)
        assert reader.verified_through == 0
        stream.commit(clicks(20, 50, 0.5))
        follow(tailer)
        compare_now(tailer)
        assert reader.verified_through == 1
    state = read_tail_state(store.layout)
    assert (state.differed, state.verified_at > 0) == (0, True)


@pytest.mark.parametrize("how", ["changed", "lost", "added", "never applied"])
def test_a_layer_that_differs_is_said_and_made_anew(
    settings: Settings, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, stream = live_churn(settings), StreamTable(settings)
    stream.commit(clicks(0, 50, 0.25))
    with Tailer(settings) as tailer:
        follow(tailer)
        compare_now(tailer)
        stream.commit(clicks(40, 20, 0.5))
        follow(tailer)
        (follower,) = tailer._followers.values()
        wrong = record_of(LiveRow(0, 1, b'{"churn_probability":1.0,"risk_segment":"high"}'))
        if how == "never applied":
            stream.commit(clicks(0, 5, 0.75))
            follower.writer.apply(2, [])
        else:
            key = {"changed": b"00003", "lost": b"00003", "added": b"00099"}[how]
            with environment_of(store.layout) as environment:
                environment.write(
                    lambda transaction: transaction.delete(key) if how == "lost" else transaction.put(key, wrong)
                )
        compare_now(tailer)
        assert "differs from its table" in caplog.text
        assert layer(store) == truth(stream)
        state = read_tail_state(store.layout)
        assert (state.differed, bool(state.difference)) == (1, True)
        compare_now(tailer)
        assert read_tail_state(store.layout).differed == 1
        assert follower.writer.verified_through == stream.version
