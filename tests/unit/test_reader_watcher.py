"""The thread that follows versions goes on whatever fails, says so once, and readiness knows of it."""

import asyncio
import errno
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from waiting import eventually

from forecache.base.errors import DamagedError
from forecache.serve.reader.versions import follow as watcher_module
from forecache.serve.reader.versions.follow import RunOnLoop, Watcher


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.AbstractEventLoop]:
    monkeypatch.setattr(watcher_module, "POLL_S", 0.001)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


class Calls:
    """Counts calls, which fail while there is an error."""

    def __init__(self, error: Callable[[int], Exception] | None = None) -> None:
        self.count, self.error = 0, error

    def __call__(self, *_: Any) -> None:
        self.count += 1
        if self.error is not None:
            raise self.error(self.count)

    def came(self, more: int = 3) -> bool:
        """Whether it is called again, several times."""
        wanted = self.count + more
        return eventually(lambda: self.count >= wanted)


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, bool]]:
    """Messages of errors, and whether each has a traceback."""
    found = [record for record in caplog.records if record.levelno >= logging.ERROR]
    return [(record.getMessage(), bool(record.exc_info)) for record in found]


def test_a_heartbeat_that_fails_ends_nothing_and_is_said_once(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    poll, beat, other = Calls(), Calls(lambda _: ValueError("before 1970")), Calls()
    watcher = Watcher(loop, poll, beat, [other])
    watcher.start()
    assert poll.came()
    assert other.came()
    assert watcher.is_polling
    watcher.close()
    [(message, has_trace)] = logged(caplog)
    assert message.endswith("fails, and is tried again: before 1970")
    assert has_trace  # it is a defect


def test_too_many_open_files_are_one_line_though_each_poll_fails_at_another_file(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(count: int) -> Exception:
        if count % 2:
            return OSError(errno.EMFILE, "Too many open files", f"/store/{count}")
        return ImportError(f"PLEASE READ THIS\n\nnumpy_{count}.so: cannot open: Too many open files")

    poll = Calls(fails)
    watcher = Watcher(loop, poll, Calls())
    watcher.start()
    assert poll.came(20)
    assert len(logged(caplog)) == 1
    poll.error = None
    assert poll.came()
    poll.error = lambda _: DamagedError("The pointer is damaged.")
    assert poll.came()
    watcher.close()
    polling, damaged = logged(caplog)
    assert polling[0].startswith("Polling the store fails, and is tried again: Too many open files: this process may ")
    assert "\n" not in polling[0]
    assert (polling[1], damaged[1]) == (False, False)
    assert "The pointer is damaged." in damaged[0]


def test_a_reader_whose_polls_fail_for_long_does_not_follow(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll, other = Calls(), Calls()
    watcher = Watcher(loop, poll, Calls(), [other])
    watcher.start()
    assert other.came()
    poll.error = lambda _: OSError(errno.EMFILE, "Too many open files")
    assert poll.came()
    assert watcher.is_polling  # for a moment it may fail
    monkeypatch.setattr(watcher_module, "MOST_FAILING_S", 0.0)
    assert not watcher.is_polling
    assert other.came()  # which tells the other workers
    poll.error = None
    assert eventually(lambda: watcher.is_polling)
    watcher.close()


def test_nothing_is_followed_before_the_first_poll_has_succeeded(loop: asyncio.AbstractEventLoop) -> None:
    poll, other = Calls(lambda _: OSError(errno.EMFILE, "Too many open files")), Calls()
    watcher = Watcher(loop, poll, Calls(), [other])
    watcher.start()
    assert poll.came()
    assert other.count == 0
    poll.error = None
    assert other.came()
    watcher.close()


def test_what_fails_on_the_loop_is_raised_in_the_thread_that_waits_for_it(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise KeyError("churn")

    def follow(run_on_loop: RunOnLoop) -> None:
        run_on_loop(fails)

    other = Calls()
    watcher = Watcher(loop, Calls(), Calls(), [follow, other])
    watcher.start()
    assert other.came()
    watcher.close()
    assert [message for message, _ in logged(caplog) if "'churn'" in message]
