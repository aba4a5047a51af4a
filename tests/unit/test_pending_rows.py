"""Rows before their commit: what a reader sees of them, until the live layer has them."""

from pathlib import Path

import pytest
from live_support import live_row
from second_process import running

from forecache.base.errors import UnavailableError
from forecache.serve.store import Store
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live.layer import PENDING
from forecache.serve.store.live.pending import open_pending_writer
from forecache.serve.store.live.reader import LiveReader
from forecache.serve.store.live.writer import open_live_writer


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    found = Store(tmp_path / "churn").layout
    found.create()
    return found


def test_a_row_is_visible_at_once_and_until_the_live_layer_has_its_commit(layout: StoreLayout) -> None:
    with (
        open_live_writer(layout) as writer,
        open_pending_writer(layout, committed={}, version=0) as pending,
        LiveReader(layout) as reader,
    ):
        writer.apply(1, [(b"a", live_row(1, 1))])
        pending.put(1, [(b"a", live_row(0, 2)), (b"b", live_row(0, 3))], {0: 2})
        found = reader.get(b"a")
        assert found is not None
        assert (found.position, found.value) == (PENDING, live_row(0, 2).value)
        pending.confirm(1, 2)
        assert (reader.get(b"a"), reader.num_pending) == (found, 2)  # the tailer has not come so far
        writer.apply(2, [(b"a", live_row(2, 2)), (b"b", live_row(2, 3))])
        assert pending.remove_applied() == 2
        assert (reader.get(b"a"), reader.get(b"b"), reader.num_pending) == (live_row(2, 2), live_row(2, 3), 0)


def test_many_rows_go_in_steps_also_when_the_process_comes_again_in_between(
    layout: StoreLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forecache.serve.store.live.pending._SWEPT_AT_ONCE", 2)
    keys = [b"%d" % number for number in range(9)]
    with open_live_writer(layout) as writer, LiveReader(layout) as reader:
        with open_pending_writer(layout, committed={}, version=0) as pending:
            for start in range(0, 9, 3):
                pending.put(1, [(key, live_row(0, 1)) for key in keys[start : start + 3]], {0: start + 3})
            pending.put(2, [(keys[0], live_row(0, 2))], {0: 10})
            writer.apply(1, [(key, live_row(1, 1)) for key in keys])
            pending.confirm(1, 1)
            assert pending.entries == 7  # the row of the first key is that of the second batch
        with open_pending_writer(layout, committed={0: 9}, version=1) as again:
            assert again.entries == 4
            assert [again.remove_applied(), again.remove_applied(), again.entries] == [3, 0, 1]
            reader.follow()
            values = [row and row.value for row in reader.get_many(keys)]
        assert values == [live_row(0, 2).value, *[live_row(1, 1).value] * 8]


def test_a_newer_put_outlives_the_commit_of_an_older_one(layout: StoreLayout) -> None:
    with open_live_writer(layout) as writer, open_pending_writer(layout, committed={}, version=0) as pending:
        pending.put(1, [(b"a", live_row(0, 1)), (b"b", live_row(0, 1))], {0: 2})
        pending.put(2, [(b"a", live_row(0, 2))], {0: 3})
        writer.apply(1, [(b"a", live_row(1, 1)), (b"b", live_row(1, 1))])
        pending.confirm(1, 1)
        with LiveReader(layout) as reader:
            assert [row and row.value for row in reader.get_many([b"a", b"b"])] == [
                live_row(0, 2).value, live_row(1, 1).value
            ]  # fmt: skip
            assert reader.num_pending == 1


def test_rows_of_a_killed_process_stay_until_their_events_have_been_computed_again(layout: StoreLayout) -> None:
    def values(reader: LiveReader) -> list[bytes | None]:
        return [row and row.value for row in reader.get_many([b"a", b"b", b"c"])]

    one, two, three, four = (live_row(0, i).value for i in range(1, 5))
    with open_pending_writer(layout, committed={0: 0}, version=0) as killed:
        killed.put(1, [(b"a", live_row(0, 1))], {0: 1})
        killed.put(1, [(b"a", live_row(0, 2)), (b"b", live_row(0, 2))], {0: 3})
    with open_pending_writer(layout, committed={0: 0}, version=0) as again, LiveReader(layout) as reader:
        assert again.waits_for == {0: 3}
        again.put(1, [(b"a", live_row(0, 1)), (b"c", live_row(0, 3))], {0: 2})
        assert values(reader) == [two, two, three]  # "a" does not go back to 1
        again.put(1, [(b"a", live_row(0, 4))], {0: 3})
        assert again.waits_for == {}
        assert values(reader) == [four, two, three]  # an earlier run may have committed "b"
        with open_live_writer(layout) as writer:
            writer.apply(0, [])
        again.remove_applied()
        assert values(reader) == [four, None, three]
        assert one not in values(reader)


def test_rows_whose_commit_was_made_before_the_kill_wait_for_the_live_layer_alone(layout: StoreLayout) -> None:
    with open_live_writer(layout) as writer, LiveReader(layout) as reader:
        with open_pending_writer(layout, committed={0: 0}, version=0) as killed:
            killed.put(1, [(b"a", live_row(0, 1))], {0: 1})
        with open_pending_writer(layout, committed={0: 1}, version=4) as again:
            reader.follow()
            assert (again.waits_for, reader.num_pending) == ({}, 1)
            writer.apply(4, [(b"a", live_row(4, 1))])
            again.put(2, [], {0: 1})
            assert (reader.get(b"a"), reader.num_pending) == (live_row(4, 1), 0)


def test_a_second_kill_during_the_recovery_keeps_the_rows_of_the_first(layout: StoreLayout) -> None:
    with open_pending_writer(layout, committed={0: 0}, version=0) as first:
        first.put(1, [(b"a", live_row(0, 2))], {0: 2, 1: 5})
    with open_pending_writer(layout, committed={0: 0}, version=0) as second:
        second.put(1, [(b"a", live_row(0, 1)), (b"b", live_row(0, 1))], {0: 1, 1: 5})
    with open_pending_writer(layout, committed={0: 1, 1: 5}, version=1) as third, LiveReader(layout) as reader:
        assert third.waits_for == {0: 2, 1: 5}
        assert (reader.get(b"a") or live_row(0)).value == live_row(0, 2).value
        third.give_up_waiting()
        with open_live_writer(layout) as writer:
            writer.apply(1, [])
        third.remove_applied()
        assert reader.get(b"a") is None


def test_a_failed_write_changes_nothing_and_the_writer_has_to_be_opened_again(
    layout: StoreLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_pending_writer(layout, committed={}, version=0) as pending, LiveReader(layout) as reader:
        pending.put(1, [(b"a", live_row(0, 1))], {0: 1})
        with monkeypatch.context() as patch:
            patch.setattr("forecache.serve.store.live.pending.record_of", lambda row, number: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                pending.put(1, [(b"a", live_row(0, 2))], {0: 2})
        with pytest.raises(UnavailableError, match="again"):
            pending.put(1, [(b"a", live_row(0, 2))], {0: 2})
        assert (reader.get(b"a") or live_row(0)).value == live_row(0, 1).value


_STARTS_STREAMS = """
import sys
from pathlib import Path
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live.pending import open_pending_writer
print(flush=True)
for number in range(int(sys.argv[2])):
    open_pending_writer(StoreLayout(Path(sys.argv[1], str(number))), committed={}, version=0).close()
"""


def test_a_reader_follows_while_a_stream_makes_its_file_for_the_first_time(tmp_path: Path) -> None:
    with running(_STARTS_STREAMS, tmp_path, 300) as starting:
        for number in range(300):
            with LiveReader(StoreLayout(tmp_path / str(number))) as reader:
                while not (tmp_path / str(number) / "streamed" / "pending.mdb").exists():
                    reader.follow()
                for _ in range(30):
                    reader.follow()
        assert starting.wait(60) == 0
