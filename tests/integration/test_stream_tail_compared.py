"""The tailer compares a live layer with its stream's table: equal, it is verified; different, it is made anew."""

import re
import time
from typing import Any

import pytest
from stream_rows import StreamTable, live_churn
from tailing import clicks, compare_now, environment_of, follow, layer, truth
from watched_streams import cards

from forecache.base.settings import Settings
from forecache.serve.store import Store
from forecache.serve.store.live.layer import LiveRow, read_tail_state, record_of
from forecache.serve.store.live.reader import LiveReader
from forecache.stream.state import Starts, StreamState
from forecache.stream.status import (
    StreamCheckResult,
    StreamStatus,
    evaluate_checks,
    read_layer_status,
)
from forecache.stream.tail.tailer import Tailer


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


class Clock:
    """The time of this process, which only the test moves on: how fast the machine is does not matter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        for name in ("time", "monotonic"):
            monkeypatch.setattr(time, name, self._of(getattr(time, name)()))

    def _of(self, began: float) -> Any:
        return lambda: began + self.ahead_s


def verified(settings: Settings, store: Store) -> StreamCheckResult:
    """What the check says of a layer now."""
    now = time.time()
    state = StreamState(1, started_at=now - 9999, written_at=now, committed_version=0, committed_at=now)
    layers = (read_layer_status(settings, store.pipeline),)
    judgements = evaluate_checks(StreamStatus(cards(), state, True, Starts(), layers, now, 0.01))
    return next(each for each in judgements if each.check == "verified")


def test_a_slow_comparison_fails_the_check_only_where_it_comes_too_late(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison that takes 40 s comes every 800 s: of the time between, the check failed for 500 s."""
    store, stream, clock = live_churn(settings), StreamTable(settings), Clock(monkeypatch)
    slow_s, broken = 40.0, False

    def slowly(comparison: Any) -> Any:
        def prepared(*given: Any) -> Any:
            compare = comparison(*given)

            def compared() -> Any:
                clock.ahead_s += slow_s
                if broken:
                    raise OSError("The lake does not answer.")
                return compare()

            return compared

        return prepared

    def minutes(tailer: Tailer, count: int) -> list[StreamCheckResult]:
        """What the check says every other minute, each time after a commit."""
        said = []
        for _ in range(count // 2):
            clock.ahead_s += 120
            stream.commit(clicks(stream.offset, 1, 0.25))
            follow(tailer)
            if tailer._comparing is not None:
                tailer._comparing.result.exception(timeout=60)
                follow(tailer)
            said.append(verified(settings, store))
        return said

    with Tailer(settings) as tailer:
        stream.commit(clicks(0, 5, 0.25))
        follow(tailer)
        (follower,) = tailer._followers.values()
        monkeypatch.setattr(follower.values, "prepare_comparison", slowly(follower.values.prepare_comparison))
        said = minutes(tailer, 40)
        assert {each.sentence for each in said if not each.passed} == set()
        through = {each.sentence for each in said}
        assert 3 <= len(through) <= 6, "it was compared rarely"
        broken = True
        said = minutes(tailer, 40)
        assert follower.comparison_s == pytest.approx(slow_s, abs=5)
        late = [
            number
            for number, each in enumerate(said)
            if not each.passed and re.search(r"which takes 4\d s,", each.sentence)
        ]
        assert 5 < late[0] < 15, "two comparisons and their pauses are 1,680 s"
        assert not any(each.passed for each in said[late[0] :])
    with Tailer(settings) as tailer:
        minutes(tailer, 4)
        assert verified(settings, store).passed, "after a start, the first comparison comes soon"


def test_a_first_comparison_that_takes_long_does_not_put_off_the_next(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, stream, clock = live_churn(settings), StreamTable(settings), Clock(monkeypatch)
    said: list[StreamCheckResult] = []
    with Tailer(settings) as tailer:
        stream.commit(clicks(0, 5, 0.25))
        follow(tailer)
        (follower,) = tailer._followers.values()
        comparison = follower.values.prepare_comparison

        def prepared(*given: Any) -> Any:
            takes_s, compare = 900 if follower.compared_all else 1, comparison(*given)

            def compared() -> Any:
                clock.ahead_s += takes_s
                said.append(verified(settings, store))
                return compare()

            return compared

        monkeypatch.setattr(follower.values, "prepare_comparison", prepared)
        for number in range(8):
            stream.commit(clicks(number, 1, 0.5))
            clock.ahead_s += 61
            follow(tailer)
            while tailer._comparing is not None:  # also one that began before the commit, and the one after it
                tailer._comparing.result.result(timeout=120)
                follow(tailer)
            said.append(verified(settings, store))
            assert follower.writer.verified_through == stream.version
    assert {each.sentence for each in said if not each.passed} == set()
