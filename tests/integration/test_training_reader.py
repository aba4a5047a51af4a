"""The sample order over a real Delta table: complete, repeatable, resumable, the same for any number of workers."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import DeltaTable, write_deltalake

from forecache.base.errors import InputError
from forecache.plugins.torch.worker.reader import BatchReader, EpochOrder
from forecache.plugins.torch.worker.split import TableSplit

ROWS = 1003


@pytest.fixture
def table(tmp_path: Path) -> DeltaTable:
    """Rows numbered by the feature `number`, in three files of small row groups, splits mixed; `x` has nulls."""
    return write_numbered(tmp_path / "numbered", ROWS)


def write_numbered(path: Path, rows: int, *, partition: bool = False) -> DeltaTable:
    from deltalake import WriterProperties

    number = np.arange(rows, dtype=np.float32)
    data = pa.table(
        {
            "split": pa.array(["test" if i % 5 == 4 else "train" for i in range(rows)]),
            "as_of": pa.array([date(2024, 1, 1)] * rows),
            "number": pa.array(number),
            "x": pa.array([None if i % 7 == 0 else float(i) for i in range(rows)], pa.float32()),
            "label": pa.array(number.astype(np.float64) * 2),
        }
    )
    size = -(-rows // 3)
    for i in range(3):
        write_deltalake(
            path,
            data.slice(i * size, size),
            mode="append",
            partition_by=["split"] if partition else None,
            writer_properties=WriterProperties(max_row_group_size=100),
        )
    return DeltaTable(path)


def split_of(table: DeltaTable, name: str = "train", *, cache_bytes: int = 0) -> TableSplit:
    return TableSplit(table, name, features=("number", "x"), label="label", cache_bytes=cache_bytes)


def order_of(split: TableSplit, *, batch_rows: int = 50, seed: int = 1) -> EpochOrder:
    return EpochOrder(split, seed=seed, batch_rows=batch_rows, lanes=8, shuffle_rows=200)


def numbers(order: EpochOrder, epoch: int, *, world_size: int = 1, first_step: int = 0) -> list[list[float]]:
    """The row numbers of each step, over all ranks, in ascending order of lanes."""
    readers = [BatchReader(order, rank=rank, world_size=world_size) for rank in range(world_size)]
    steps: list[list[float]] = []
    iterators: list[Iterator[object]] = [iter(reader.epoch(epoch, first_step=first_step)) for reader in readers]
    for batches in zip(*iterators, strict=True):
        steps.append(sorted(value for batch in batches for value in batch.features[:, 0].tolist()))  # type: ignore[attr-defined]
    for reader in readers:
        reader.close()
    return steps


def test_an_epoch_has_every_row_of_the_split_exactly_once(table: DeltaTable) -> None:
    read = sorted(number for step in numbers(order_of(split_of(table)), 0) for number in step)
    assert read == [float(i) for i in range(ROWS) if i % 5 != 4]


def test_steps_differ_in_size_by_no_more_than_the_number_of_lanes(table: DeltaTable) -> None:
    order = order_of(split_of(table))
    sizes = [len(step) for step in numbers(order, 0)]
    assert sizes == [order.step_rows(step) for step in range(order.num_steps)]
    assert max(sizes) - min(sizes) <= order.lanes


def test_epochs_differ_and_repeat_with_the_same_seed(table: DeltaTable) -> None:
    order = order_of(split_of(table))
    assert numbers(order, 0) != numbers(order, 1)
    assert numbers(order, 1) == numbers(order_of(split_of(table)), 1)
    assert numbers(order, 0) != numbers(order_of(split_of(table), seed=2), 0)


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_steps_hold_the_same_rows_for_any_number_of_workers(table: DeltaTable, world_size: int) -> None:
    order = order_of(split_of(table))
    assert numbers(order, 3, world_size=world_size) == numbers(order, 3)


@pytest.mark.parametrize("first_step", [1, 7, 15])
def test_reading_from_a_step_gives_the_rest_of_the_epoch(table: DeltaTable, first_step: int) -> None:
    order = order_of(split_of(table))
    assert numbers(order, 2, world_size=2, first_step=first_step) == numbers(order, 2)[first_step:]


def test_cached_and_streamed_rows_come_in_the_same_order(table: DeltaTable) -> None:
    streamed, cached = order_of(split_of(table)), order_of(split_of(table, cache_bytes=1 << 20))
    assert numbers(streamed, 0) == numbers(cached, 0)
    assert numbers(streamed, 1) == numbers(cached, 1)


def test_a_table_partitioned_by_split_is_read_like_any_other(tmp_path: Path) -> None:
    split = split_of(write_numbered(tmp_path / "partitioned", ROWS, partition=True))
    read = sorted(number for step in numbers(order_of(split), 0) for number in step)
    assert read == [float(i) for i in range(ROWS) if i % 5 != 4]


def test_digests_of_the_lanes_do_not_depend_on_workers_or_interruptions(table: DeltaTable) -> None:
    order = order_of(split_of(table))
    whole = BatchReader(order, rank=0, world_size=1)
    list(whole.epoch(0))
    pair = [BatchReader(order, rank=rank, world_size=2) for rank in (0, 1)]
    for reader in pair:
        interrupted = reader.epoch(0)
        for _ in range(5):
            next(interrupted)
        again = BatchReader(order, rank=reader.lanes[0], world_size=2)
        again.digests.update(reader.digests)
        list(again.epoch(0, first_step=5))
        assert again.digests == {lane: whole.digests[lane] for lane in again.lanes}


def test_nulls_become_nan_and_labels_stay_beside_their_features(table: DeltaTable) -> None:
    for batch in BatchReader(order_of(split_of(table)), rank=0, world_size=1).epoch(0):
        number, x = batch.features[:, 0], batch.features[:, 1]
        assert torch.equal(batch.target[:, 0], number * 2)
        assert torch.equal(torch.isnan(x), number % 7 == 0)
        assert torch.equal(x[~torch.isnan(x)], number[~torch.isnan(x)])


def test_fewer_rows_than_lanes_still_come_once_each(tmp_path: Path) -> None:
    order = order_of(split_of(write_numbered(tmp_path / "tiny", 5)), batch_rows=2)
    assert sorted(number for step in numbers(order, 0, world_size=2) for number in step) == [0, 1, 2, 3]


def test_a_folder_whose_name_has_a_space_is_read(tmp_path: Path) -> None:
    assert split_of(write_numbered(tmp_path / "a folder 1%", 50)).rows == 40


def test_reading_stays_at_the_pinned_version(table: DeltaTable) -> None:
    pinned = DeltaTable(table.table_uri, version=table.version())
    write_numbered(Path(table.table_uri.removeprefix("file://")), 500)
    assert split_of(pinned).rows == split_of(table).rows < split_of(DeltaTable(table.table_uri)).rows


def test_a_missing_column_or_split_is_named(table: DeltaTable) -> None:
    with pytest.raises(InputError, match="no column 'speed' at version 2"):
        TableSplit(table, "train", features=("speed",), label="label")
    with pytest.raises(InputError, match="split 'holdout' .* has no row at version 2"):
        split_of(table, "holdout")


def test_a_null_label_is_refused(tmp_path: Path) -> None:
    data = pa.table({"split": ["train"] * 2, "x": [1.0, 2.0], "label": pa.array([1.0, None])})
    write_deltalake(tmp_path / "nulls", data)
    split = TableSplit(DeltaTable(tmp_path / "nulls"), "train", features=("x",), label="label")
    with pytest.raises(InputError, match="'label' is null in 1 rows"):
        list(split.read(split.chunks[0]))
