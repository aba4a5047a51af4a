"""Threads that tests have work beside them: their errors are not lost."""

import threading

import pytest
from waiting import ThreadsBeside, beside


def test_an_error_that_has_ended_a_thread_is_raised_at_the_end_of_the_block_beside_an_error_of_its_own() -> None:
    def fail(_: threading.Event) -> None:
        raise ConnectionError("no answer")

    with pytest.raises(ConnectionError, match="no answer") as found, beside(fail):
        raise AssertionError("it has not come to that")
    assert isinstance(found.value.__context__, AssertionError)


def test_threads_end_with_their_block() -> None:
    ended = []

    def work() -> None:
        threads.stop.wait()
        ended.append(threading.current_thread())

    threads = ThreadsBeside(work, work)
    with threads as entered:
        assert entered is threads
        assert ended == []
    assert len(set(ended)) == 2
