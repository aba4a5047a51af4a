"""Where a query of Spark's resumes, read from its checkpoint, and whether that fits the table's offsets."""

import json
from pathlib import Path

import pytest

from forecache.base.errors import UnavailableError
from forecache.plugins.spark_stream.checkpoint import (
    Checkpoint,
    Offsets,
    find_offset_beyond,
    resume_problem,
    starting_offsets,
)

TOPIC = "payments"


class Files:
    """A folder on this disk, read without Hadoop."""

    def numbers(self, folder: str) -> set[int]:
        place = Path(folder)
        return {int(each.name) for each in place.iterdir() if each.name.isdigit()} if place.is_dir() else set()

    def read(self, file: str) -> bytes | None:
        return Path(file).read_bytes() if Path(file).is_file() else None


def checkpoint_in(folder: Path, initial: Offsets, batches: list[Offsets], committed: int) -> Checkpoint:
    """A checkpoint as Spark writes it: its planned batches, of which so many are done."""
    for name in ("offsets", "commits", "sources/0"):
        (folder / name).mkdir(parents=True)
    of_topic = {TOPIC: {str(partition): offset for partition, offset in initial.items()}}
    (folder / "sources/0/0").write_bytes(b"\0v1\n" + json.dumps(of_topic).encode())
    for number, offsets in enumerate(batches):
        of_topic = {TOPIC: {str(partition): offset for partition, offset in offsets.items()}}
        lines = ["v1", json.dumps({"batchWatermarkMs": 0, "conf": {}}), json.dumps(of_topic)]
        (folder / "offsets" / str(number)).write_text("\n".join(lines))
        (folder / "offsets" / f".{number}.crc").write_text("")
        if number < committed:
            (folder / "commits" / str(number)).write_text('v1\n{"nextBatchWatermarkMs":0}')
    return Checkpoint(Files(), str(folder), TOPIC)  # type: ignore[arg-type]


def test_a_batch_goes_from_the_end_of_the_one_before_to_its_own(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path, {0: 5, 1: 0}, [{0: 7, 1: 2}, {0: 9, 1: 2, 2: 4}], 1)
    first, second = checkpoint.offsets_of_batch(0), checkpoint.offsets_of_batch(1)
    assert (first.start, first.end) == ({0: 5, 1: 0}, {0: 7, 1: 2})
    # Partition 2 is new to the topic, and read from its beginning.
    assert (second.start, second.end) == ({0: 7, 1: 2, 2: 0}, {0: 9, 1: 2, 2: 4})


@pytest.mark.parametrize(("committed", "resumes"), [(0, {0: 5}), (1, {0: 7}), (2, {0: 9})])
def test_a_query_resumes_at_the_start_of_a_batch_that_is_not_done(
    tmp_path: Path, committed: int, resumes: Offsets
) -> None:
    batches: list[Offsets] = [{0: 7}, {0: 9}][: max(1, committed)]
    assert checkpoint_in(tmp_path, {0: 5}, batches, committed).resume_offsets() == resumes


def test_a_checkpoint_without_a_batch_has_not_begun(tmp_path: Path) -> None:
    assert Checkpoint(Files(), str(tmp_path / "none"), TOPIC).resume_offsets() is None  # type: ignore[arg-type]


@pytest.mark.parametrize(("offsets", "left"), [({0: 9}, False), ({0: 12}, False), ({0: 8}, True), ({}, True)])
def test_a_checkpoint_that_resumes_beyond_the_table_is_left(tmp_path: Path, offsets: Offsets, left: bool) -> None:
    reason = resume_problem(checkpoint_in(tmp_path, {0: 5}, [{0: 9}], 1), offsets)
    assert bool(reason) == left
    if left:
        assert (
            f"resumes partition 0 at offset 9, and the table has the events before {offsets.get(0, 0)} only" in reason
        )


def test_a_checkpoint_that_cannot_be_read_is_left_and_so_is_that_of_another_topic(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path, {0: 5}, [{0: 9}], 1)
    other = Checkpoint(Files(), str(tmp_path), "returns")  # type: ignore[arg-type]
    assert "does not say which offsets batch 0 has" in resume_problem(other, {0: 9})
    (tmp_path / "offsets/0").write_text("v1\n{")
    assert "does not say" in resume_problem(checkpoint, {0: 9})
    with pytest.raises(UnavailableError, match="takes a new checkpoint"):
        checkpoint.offsets_of_batch(0)


def test_a_query_starts_each_partition_at_the_tables_offset() -> None:
    assert json.loads(starting_offsets(TOPIC, {1: 7, 0: 0})) == {TOPIC: {"0": 0, "1": 7}}
    assert find_offset_beyond({0: 7, 1: 3}, {0: 7, 1: 3}) is None
    assert find_offset_beyond({1: 4}, {1: 3}) == (1, 4, 3)
