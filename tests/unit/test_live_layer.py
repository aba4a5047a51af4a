"""The live layer: what its writer keeps, and what a reader sees of it at each moment."""

import threading
import time
from pathlib import Path
from typing import Any

import lmdb
import pytest
from live_support import LAYER, NOON_US, live_row

from forecache.base.errors import ConflictError, DamagedError
from forecache.serve.store import Store
from forecache.serve.store.content_hash import content_sum
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live import counters as state
from forecache.serve.store.live import environment
from forecache.serve.store.live.environment import acquire
from forecache.serve.store.live.layer import (
    PENDING,
    LiveRow,
    layer_from_json,
    read_layer,
    record_of,
    row_of,
    write_layer,
)
from forecache.serve.store.live.pending import open_pending_writer
from forecache.serve.store.live.reader import LiveReader
from forecache.serve.store.live.writer import live_content_sum, open_live_writer


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    found = Store(tmp_path / "churn").layout
    found.create()
    return found


@pytest.mark.parametrize("row", [
    LiveRow(0, 0, b""), LiveRow(7, -1, b"{}", b'{"release":3}'), LiveRow(PENDING, 2**62, b"\0\xff", b"x" * 70_000),
])  # fmt: skip
def test_a_record_reads_back_as_the_row_that_it_was(row: LiveRow) -> None:
    assert row_of(record_of(row)) == row


def test_the_file_of_a_layer_reads_back_and_a_changed_byte_is_noticed(layout: StoreLayout) -> None:
    assert read_layer(layout) is None
    write_layer(layout, LAYER)
    assert read_layer(layout) == LAYER
    before = layout.live.stat().st_mtime_ns
    write_layer(layout, LAYER)
    assert layout.live.stat().st_mtime_ns == before
    with pytest.raises(DamagedError):
        layer_from_json(layout.live.read_bytes().replace(b"cards", b"carts"))


def test_a_reader_made_before_the_layer_sees_it_once_it_has_followed(layout: StoreLayout) -> None:
    with LiveReader(layout) as reader:
        assert (reader.get(b"a"), reader.is_empty, reader.applied_version, reader.entries) == (None, True, -1, 0)
        with open_live_writer(layout) as writer:
            writer.apply(3, [(b"a", live_row(3, 1)), (b"b", live_row(3, 2)), (b"a", live_row(3, 3))])
            assert reader.get(b"a") is None
            reader.follow()
            assert reader.get(b"a") == live_row(3, 3)
            assert reader.get_many([b"b", b"c", b"a"]) == [live_row(3, 2), None, live_row(3, 3)]
            assert (reader.applied_version, reader.entries, reader.verified_through) == (3, 2, -1)
            writer.apply(5, [(b"c", live_row(5, 4))])  # seen without following
            assert (reader.get(b"c"), reader.applied_version) == (live_row(5, 4), 5)
            writer.mark_verified(5)
            assert reader.verified_through == 5


def test_a_reader_sees_no_half_made_layer_while_its_first_writer_opens(
    layout: StoreLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def open_and_read(path: Path, **options: Any) -> lmdb.Environment:
        path.touch()  # as LMDB leaves it before its first commit
        with LiveReader(layout) as reader:
            seen.append((reader.is_empty, reader.applied_version))
        return acquire(path, **options)

    monkeypatch.setattr(environment, "acquire", open_and_read)
    with open_live_writer(layout):
        pass
    assert seen == [(True, -1)]


def test_a_version_that_was_applied_is_left_alone(layout: StoreLayout) -> None:
    with open_live_writer(layout) as writer:
        writer.apply(3, [(b"a", live_row(3, 1))])
        writer.apply(3, [(b"a", live_row(3, 2))])
        writer.apply(2, [(b"a", live_row(2, 2))])
        assert writer.items() == [(b"a", record_of(live_row(3, 1)))]


def test_what_was_applied_is_there_when_the_writer_is_opened_again(layout: StoreLayout) -> None:
    with open_live_writer(layout) as writer:
        writer.apply(3, [(b"a", live_row(3, 1)), (b"b", live_row(3, 2))])
        writer.prune(1)
        writer.mark_verified(3)
        before = writer.content_sum
    with open_live_writer(layout) as writer:
        found = (writer.applied, writer.entries, writer.floor, writer.verified_through, writer.content_sum)
        assert found == (3, 2, 1, 3, before)


def test_the_content_hash_is_that_of_the_newest_rows(layout: StoreLayout) -> None:
    with open_live_writer(layout) as writer:
        writer.apply(1, [(b"a", live_row(1, 1)), (b"b", live_row(1, 2))])
        writer.apply(2, [(b"a", live_row(2, 5)), (b"c", live_row(2, 6))])
        rows = {b"a": live_row(2, 5), b"b": live_row(1, 2), b"c": live_row(2, 6)}
        assert writer.content_sum == content_sum(writer.items()) == live_content_sum(rows.items())
        writer.prune(1)
        del rows[b"b"]
        assert writer.content_sum == content_sum(writer.items()) == live_content_sum(rows.items())
        writer.reset()
        assert (writer.content_sum, writer.entries, writer.applied) == (0, 0, -1)


def test_pruning_removes_rows_up_to_the_floor_and_of_old_events_and_keeps_them_out(layout: StoreLayout) -> None:
    with open_live_writer(layout) as writer:
        writer.apply(1, [(b"%d" % i, live_row(1, i)) for i in range(50)])
        writer.apply(2, [(b"%d" % i, live_row(2, i, event_us=NOON_US + i)) for i in range(40)])
        assert writer.prune(1) == 10
        assert writer.prune(1, expire_before_us=NOON_US + 30) == 30
        assert [key for key, _ in writer.items()] == [b"%d" % i for i in range(30, 40)]
        assert writer.prune(0, expire_before_us=0) == 0
        assert (writer.floor, writer.expire_before_us) == (1, NOON_US + 30)
        writer.apply(3, [(b"30", live_row(3, 0, event_us=NOON_US)), (b"new", live_row(3, 0, event_us=NOON_US))])
        assert [key for key, _ in writer.items()] == [b"%d" % i for i in range(31, 40)]


def test_a_prune_in_parts_goes_on_where_it_stopped_also_in_another_process(layout: StoreLayout) -> None:
    with open_live_writer(layout) as writer:
        writer.apply(1, [(b"%02d" % i, live_row(1)) for i in range(10)])
        writer.apply(2, [(b"%02d" % i, live_row(2)) for i in range(10, 14)])
        assert writer.prune(1, most=4) == 4
        assert not writer.pruned
        writer.apply(3, [(b"00", live_row(3))])
        assert writer.prune(1, most=4) == 4
    with open_live_writer(layout) as writer:
        assert not writer.pruned
        assert writer.prune(1) == 2
        assert writer.pruned
        assert [key for key, _ in writer.items()] == [b"00", b"10", b"11", b"12", b"13"]
        assert writer.content_sum == content_sum(writer.items())


def test_a_layer_has_one_writer_and_the_error_names_the_other(layout: StoreLayout) -> None:
    with open_live_writer(layout), pytest.raises(ConflictError, match="written by process"):
        open_live_writer(layout)
    with open_pending_writer(layout, committed={}, version=0), pytest.raises(ConflictError, match="pending rows"):
        open_pending_writer(layout, committed={}, version=0)


def test_the_map_grows_with_its_content_and_a_reader_follows(layout: StoreLayout) -> None:
    with open_live_writer(layout, map_bytes=1 << 16) as writer, LiveReader(layout) as reader:
        for version in range(1, 20):
            rows = [(b"%d-%d" % (version, i), live_row(version, {"text": "x" * 500})) for i in range(100)]
            writer.apply(version, rows)
            assert reader.get(b"%d-0" % version) is not None
        assert writer.entries == reader.entries == 1900
        assert writer.content_sum == content_sum(writer.items())


def test_counters_of_another_boot_are_not_believed(layout: StoreLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_live_writer(layout) as writer:
        writer.apply(1, [(b"a", live_row(1, 1))])
    with open_pending_writer(layout, committed={}, version=0) as pending:
        pending.put(1, [(b"b", live_row(0, 1))], {0: 1})
    monkeypatch.setattr(state, "boot_id", lambda: 1)
    with LiveReader(layout) as reader:
        assert reader.get(b"a") == live_row(1, 1)  # flushed in order
        assert not reader.is_empty
        assert reader.get(b"b") is None  # never flushed: the file may be anything
        with open_live_writer(layout) as writer, open_pending_writer(layout, committed={}, version=0) as pending:
            assert (writer.applied, pending.entries) == (1, 0)
            reader.follow()
            assert reader.applied_version == 1


def test_the_number_of_rows_above_each_cut_counts_a_key_once(layout: StoreLayout) -> None:
    with open_live_writer(layout) as writer, open_pending_writer(layout, committed={}, version=0) as pending:
        writer.apply(1, [(b"a", live_row(1)), (b"b", live_row(1))])
        writer.apply(2, [(b"b", live_row(2)), (b"c", live_row(2))])
        pending.put(1, [(b"c", live_row(0)), (b"d", live_row(0))], {0: 1})
        with LiveReader(layout) as reader:
            assert reader.count_above([-1, 0, 1, 2]) == [4, 4, 3, 2]


def test_threads_read_while_another_writes_and_grows_the_map(layout: StoreLayout) -> None:
    failures: list[BaseException] = []
    with open_live_writer(layout, map_bytes=1 << 16) as writer, LiveReader(layout) as reader:
        writer.apply(1, [(b"a", live_row(1, 0))])
        done = threading.Event()

        def read() -> None:
            newest = 0
            try:
                while not done.is_set():
                    row = reader.get(b"a")
                    assert row is not None
                    assert row.position >= newest
                    newest = row.position
                    time.sleep(1e-4)  # an LMDB write that is given up waits for a moment without any read
            except BaseException as error:  # noqa: BLE001  # told below
                failures.append(error)

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for version in range(2, 30):
            rows = [(b"a", live_row(version))] + [(b"%d" % i, live_row(version, {"x": "y" * 900})) for i in range(30)]
            writer.apply(version, [(key + (b"" if key == b"a" else b"-%d" % version), row) for key, row in rows])
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []
