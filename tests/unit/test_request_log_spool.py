"""The spool's writer: segments that are handed on whole, a full disk, a full spool, a thread that hangs or dies."""

import mmap
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from forecache.base.settings import Settings, load_settings
from forecache.base.steps import log_step
from forecache.realtime.log.spool_files import ready_segments, remove_stream, segments_of, streams_of
from forecache.realtime.log.spool_stream import SegmentLosses, SpoolStream, encode_frame, frame_head, read_frames
from forecache.realtime.log.spool_writer import BLOCK_BYTES, BlockPool, FrameQueue, LogChannel, LogWriter
from forecache.realtime.metrics import LOG_CELLS, LogCounters


def stream_in(tmp_path: Path, most_age_s: float = 60.0) -> SpoolStream:
    return SpoolStream(tmp_path / "search", replica="here:8080#1", most_age_s=most_age_s)


def frames(first: int, count: int, size: int = 100) -> list[bytes]:
    return [encode_frame(bytes([number % 256]) * size, number) for number in range(first, first + count)]


def write(stream: SpoolStream, first: int, count: int) -> int:
    return stream.write(memoryview(b"".join(frames(first, count))), count, first)


def numbers_in(stream: Path) -> list[int]:
    found = []
    for segment in segments_of(stream):
        losses = SegmentLosses()
        found += [number for number, _ in read_frames(segment.path.read_bytes(), losses, first=segment.first)]
        assert losses == SegmentLosses()
    return found


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A write beyond it fails with an error, as on a disk without space, after what fits has been written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_segment_is_ready_once_it_is_closed_and_all_are_when_the_writer_has_ended(tmp_path: Path) -> None:
    stream = stream_in(tmp_path)
    assert write(stream, 0, 3) == 3
    assert ready_segments(stream.folder) == ([], False)
    stream.close_segment()
    assert write(stream, 3, 2) == 2
    ready, has_ended = ready_segments(stream.folder)
    assert ([(each.number, each.first, each.rows) for each in ready], has_ended) == ([(1, 0, 3)], False)
    stream.close()
    ready, has_ended = ready_segments(stream.folder)
    assert ([each.rows for each in ready], has_ended) == ([3, 2], True)
    remove_stream(stream.folder)
    assert numbers_in(stream.folder) == [0, 1, 2, 3, 4]


def test_an_old_segment_is_closed_unless_many_wait_already(tmp_path: Path) -> None:
    stream = stream_in(tmp_path, most_age_s=0.0)
    for number in range(40):
        write(stream, number, 1)
        stream.close_due_segment()
    assert len(segments_of(stream.folder)) == 17
    assert numbers_in(stream.folder) == list(range(40))
    stream.close()


def test_a_full_disk_costs_the_frames_that_do_not_fit_and_no_other(tmp_path: Path) -> None:
    stream = stream_in(tmp_path)
    size = len(frames(0, 1)[0])
    with files_of_at_most(10 * size + 30):
        assert write(stream, 0, 4) == 4
        assert write(stream, 4, 9) == 6
        assert isinstance(stream.failure, OSError)
    assert write(stream, 20, 2) == 2
    stream.close()
    assert numbers_in(stream.folder) == [*range(10), 20, 21]
    assert [each.rows for each in segments_of(stream.folder)] == [10, 2]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=str(tmp_path), request_log_delay_s=0.2, request_log_memory_bytes=1 << 20)


@contextmanager
def writer_of(settings: Settings) -> Iterator[tuple[LogWriter, LogChannel]]:
    writer = LogWriter(settings, replica="here:8080#1")
    channel = writer.channel("search", LogCounters())
    try:
        yield writer, channel
    finally:
        log_step.on_step = None
        writer.close()


def lost(channel: LogChannel) -> dict[str, int]:
    return {name: channel.counters.get(name) for name in LOG_CELLS if channel.counters.get(name)}


def test_what_was_added_is_in_the_spool_when_the_writer_is_closed(settings: Settings) -> None:
    with writer_of(settings) as (_, channel):
        for _ in range(300):
            channel.add(b"x" * 50)
    [stream] = streams_of(settings.request_log_path / "search")
    assert numbers_in(stream) == list(range(300))
    assert lost(channel) == {"accepted": 300, "spooled": 300}


def test_a_writer_that_hangs_costs_what_memory_does_not_hold_and_nothing_waits_for_it(settings: Settings) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(step: str) -> None:
        hangs.set()
        goes_on.wait(120)

    with writer_of(settings) as (_, channel):
        log_step.on_step = hang
        channel.add(b"x" * 1000)
        assert hangs.wait(60)
        for _ in range(2000):
            channel.add(b"x" * 1000)
        taken = channel.counters.get("accepted")
        assert channel.counters.get("lost_memory") == 2001 - taken
        assert 1000 < taken <= 1024
        goes_on.set()
    assert lost(channel) == {"accepted": taken, "spooled": taken, "lost_memory": 2001 - taken}
    [stream] = streams_of(settings.request_log_path / "search")
    assert len(numbers_in(stream)) == taken


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_replaced_when_memory_is_full(settings: Settings) -> None:
    def die(step: str) -> None:
        log_step.on_step = None
        raise SystemExit

    with writer_of(settings) as (writer, channel):
        log_step.on_step = die
        channel.add(b"x" * 1000)
        thread = writer.thread
        assert thread is not None
        thread.join(60)
        assert not thread.is_alive()
        for _ in range(1100):
            channel.add(b"x" * 1000)
    figures = lost(channel)
    assert figures["accepted"] == figures["spooled"] + figures["lost_disk"]
    assert figures["spooled"] >= 1000
    assert figures["lost_memory"] + figures["accepted"] == 1101


def test_a_full_spool_costs_what_it_has_no_room_for(tmp_path: Path) -> None:
    settings = load_settings(home=str(tmp_path), request_log_spool_bytes=1 << 20)
    with writer_of(settings) as (_, channel):
        for _ in range(30):
            channel.add(b"x" * 60_000)
    [stream] = streams_of(settings.request_log_path / "search")
    assert len(numbers_in(stream)) == channel.counters.get("spooled") == 17
    assert channel.counters.get("lost_spool") == 13


def test_frames_that_a_loop_puts_while_a_thread_takes_come_in_their_order_and_whole() -> None:
    queue, contents = (
        FrameQueue(BlockPool(1 << 20)),
        [bytes([number % 251]) * (number * 37 % 3000) for number in range(20_000)],
    )
    found: list[bytes] = []
    is_done = threading.Event()

    def take() -> None:
        while True:
            had_ended = is_done.is_set()
            while (taken := queue.take()) is not None:
                found.append(bytes(taken[0]))
            if had_ended:
                return

    thread = threading.Thread(target=take)
    thread.start()
    lost = [number for number, content in enumerate(contents) if not queue.put(frame_head(content, number), content)]
    is_done.set()
    thread.join()
    losses, left = SegmentLosses(), set(range(len(contents))) - set(lost)
    read = [(number, bytes(content)) for number, content in read_frames(b"".join(found), losses)]
    assert read == [(number, contents[number]) for number in sorted(left)]
    assert not losses.changed
    assert len(left) > 300


def test_a_frame_larger_than_a_block_gets_memory_of_its_own_once() -> None:
    pool = BlockPool(BLOCK_BYTES * 4)
    queue, large = FrameQueue(pool), b"x" * (BLOCK_BYTES * 2)
    for _ in range(5):
        assert queue.put(frame_head(large, 0), large)
        assert not queue.put(frame_head(large, 1), large)
        taken = queue.take()
        assert taken is not None
        assert taken[1] == 1
        assert queue.put(frame_head(b"a", 1), b"a")
        assert queue.take() is not None
        assert queue.take() is None


def test_a_large_frame_finds_memory_that_a_burst_of_small_ones_has_left() -> None:
    pool = BlockPool(BLOCK_BYTES * 4)
    queue, small, large = FrameQueue(pool), b"x" * (BLOCK_BYTES // 2), b"x" * (BLOCK_BYTES * 2)
    count = 0
    while queue.put(frame_head(small, count), small):
        count += 1
    assert count == 4
    while queue.take() is not None:
        pass
    assert queue.put(frame_head(large, count), large)
    taken = queue.take()
    assert taken is not None
    assert taken[1] == 1
    assert pool.made_bytes <= pool.most_bytes


def test_a_folder_that_cannot_be_made_costs_the_rows(tmp_path: Path) -> None:
    settings = load_settings(home=str(tmp_path))
    (tmp_path / "spool").write_text("no folder")
    with writer_of(settings) as (_, channel):
        channel.add(b"x")
    assert lost(channel) == {"accepted": 1, "lost_disk": 1}


def test_rows_in_the_memory_of_a_killed_worker_are_counted_by_the_next_one() -> None:
    cells = [0] * len(LOG_CELLS)
    before = LogCounters(cells)
    before.add("accepted", 10)
    before.add("spooled", 6)
    before.add("lost_spool", 1)
    after = LogCounters(cells)
    after.count_abandoned_rows()
    assert (after.get("lost_killed"), after.waiting) == (3, 0)
    after.count_abandoned_rows()
    assert after.get("lost_killed") == 3


def test_an_answer_that_a_worker_has_sent_when_it_is_killed_is_counted_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "cells"
    path.write_bytes(bytes(8 * len(LOG_CELLS)))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as shared, memoryview(shared).cast("q") as cells:
        counters = LogCounters(cells)
        counters.add("accepted", 3)
        counters.add("spooled", 3)
        worker = os.fork()
        if not worker:
            counters.set_sending(True)  # the answer goes out, and is not in the log yet
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(worker, 0)
        after = LogCounters(cells)
        for _ in range(2):
            after.count_abandoned_rows()
            assert [after.get(name) for name in ("accepted", "spooled", "lost_killed", "sending")] == [4, 3, 1, 0]
        del counters, after
