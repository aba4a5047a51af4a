"""The order in which a batch of Spark's counts as read."""

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from forecache.plugins.spark_stream.source import reading_order
from forecache.stream.table.schema import KAFKA_AT, OFFSET, PARTITION

START = datetime(2026, 3, 1, tzinfo=timezone.utc)


def at_second(second: int | None) -> datetime | None:
    return None if second is None else START + timedelta(seconds=second)


def rows_of(messages: Sequence[tuple[int, int, int | None]]) -> pa.Table:
    """Partition, offset and second of each message; a bad one has no time."""
    return pa.table(
        {
            PARTITION: pa.array([partition for partition, _, _ in messages], pa.int32()),
            OFFSET: pa.array([offset for _, offset, _ in messages], pa.int64()),
            KAFKA_AT: pa.array([at_second(at) for *_, at in messages], pa.timestamp("us", tz="UTC")),
        }
    )


def test_partitions_are_merged_by_kafkas_time() -> None:
    rows = rows_of([(0, 7, 1), (1, 3, 2), (1, 2, 0), (0, 8, 3)])
    assert reading_order(rows).to_pylist() == [2, 0, 1, 3]


def test_a_bad_message_moves_no_event() -> None:
    rows = rows_of([(0, 0, 1), (1, 0, 2), (0, 1, None), (0, 2, 3), (1, 1, None)])
    assert reading_order(rows).to_pylist() == [0, 2, 1, 4, 3]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(0, 9)), max_size=30),
    st.randoms(use_true_random=False),
)
def test_offsets_of_a_partition_ascend_whatever_its_times(messages: list[tuple[int, int | None]], dice: object) -> None:
    counts: dict[int, int] = {}
    numbered = []
    for partition, at in messages:
        counts[partition] = counts.get(partition, -1) + 1
        numbered.append((partition, counts[partition], at))
    dice.shuffle(numbered)  # type: ignore[attr-defined]
    rows = rows_of(numbered)
    order = reading_order(rows).to_pylist()
    assert sorted(order) == list(range(len(numbered)))
    for partition in counts:
        offsets = [numbered[place][1] for place in order if numbered[place][0] == partition]
        assert offsets == sorted(offsets)
