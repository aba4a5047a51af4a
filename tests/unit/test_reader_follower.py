"""Following of versioned folders in a reader: swaps, failures, pauses after them, and what is replaced."""

import logging
from collections.abc import Callable

import pytest

from forecache.base.errors import DamagedError
from forecache.serve.reader.versions import follow as module
from forecache.serve.reader.versions.follow import RetiredParts, VersionFollower

LOGGER = logging.getLogger("forecache.test")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the follower sees, in seconds."""
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


class Folders:
    """Follows folders whose version is a number; a negative one cannot be loaded."""

    def __init__(self, *, with_pauses: bool = False, **current: int) -> None:
        self.current, self.counted, self.tried = current, list[str](), list[str]()
        self.follower = VersionFollower[int](
            LOGGER, noun="version", count_failure=self.counted.append,
            generation_of=(lambda name: self.current[name]) if with_pauses else None,
        )  # fmt: skip

    def turn(self) -> dict[str, int]:
        self.tried.clear()
        self.follower.follow(self.current, self.serve)
        return dict(self.follower.served)

    def serve(self, name: str) -> bool:
        self.tried.append(name)
        number = self.current[name]
        if number < 0:
            raise DamagedError(f"Version {number} is damaged.")
        if self.follower.served.get(name) != number:
            self.follower.swap(name, number, run_at_once)
        return True


def run_at_once(action: Callable[[], None]) -> None:
    action()


def test_a_version_that_cannot_be_loaded_leaves_the_one_before_and_all_others(caplog: pytest.LogCaptureFixture) -> None:
    folders = Folders(a=1, b=1)
    assert folders.turn() == {"a": 1, "b": 1}
    folders.current |= {"a": -2, "b": 2}
    for _ in range(3):
        assert folders.turn() == {"a": 1, "b": 2}
        assert folders.tried == ["a", "b"]
    assert "Version -2 is damaged" in folders.follower.failures["a"]
    assert (folders.counted, len(caplog.records)) == (["a"], 1), "counted and logged once"
    assert caplog.records[0].getMessage().startswith("The current version of a cannot be served: Version -2")
    folders.current["a"] = -3
    folders.turn()
    assert len(folders.counted) == 2, "another failure"
    folders.current["a"] = 4
    assert folders.turn() == {"a": 4, "b": 2}
    assert folders.follower.failures == {}


def test_a_swap_to_none_ends_serving_and_returns_what_was_served() -> None:
    folders = Folders(a=1)
    folders.turn()
    assert folders.follower.swap("a", None, run_at_once) == 1
    assert folders.follower.served == {}


def test_after_a_failure_loading_is_tried_again_after_ever_longer_pauses(clock: list[float]) -> None:
    folders, tries = Folders(with_pauses=True, a=-1), list[float]()
    while clock[0] < 200:
        folders.turn()
        tries += [clock[0]] if folders.tried else []
        clock[0] += 0.5
    assert [after - before for before, after in zip(tries, tries[1:], strict=False)] == [1, 2, 4, 8, 16, 30, 30]
    assert "a" in folders.follower.failures


def test_a_pause_ends_when_the_pointer_moves_and_the_next_begins_at_its_shortest(clock: list[float]) -> None:
    folders = Folders(with_pauses=True, a=-1, b=1)
    for _ in range(3):
        folders.turn()
        clock[0] += 3
    folders.turn()
    assert folders.follower.has_failed("a")
    assert folders.follower.is_paused("a")
    folders.current["a"] = -2
    assert not folders.follower.is_paused("a")
    folders.turn()
    assert folders.tried == ["a", "b"]
    clock[0] += 1
    folders.turn()
    assert "a" in folders.tried
    folders.current["a"] = 3
    assert folders.turn() == {"a": 3, "b": 1}
    assert not folders.follower.has_failed("a")


def test_replaced_parts_are_closed_after_their_time_and_all_at_the_end(clock: list[float]) -> None:
    parts, closed = RetiredParts(), list[str]()
    for name, stay_s in (("late", 10.0), ("early", 2.0), ("at once", 0.0)):
        parts.add(lambda name=name: closed.append(name), stay_s=stay_s)  # type: ignore[misc]
    parts.close_due()
    assert closed == ["at once"]
    clock[0] += 2
    parts.close_due()
    assert closed == ["at once", "early"]
    parts.close_all()
    parts.close_due()
    assert closed == ["at once", "early", "late"]
