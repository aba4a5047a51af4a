"""Rows without an equal on the other side, from memory and from the file."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from forecache.kit.delta.comparison import hash_buckets
from forecache.kit.delta.comparison.hash_buckets import AntiJoin, UnmatchedRows

NO_LIMIT = 1 << 62


def unmatched(
    folder: Path, sides: list[list[np.ndarray]], *, most: int = NO_LIMIT
) -> tuple[UnmatchedRows, UnmatchedRows]:
    """Every side in blocks; rows are numbered in their order."""
    with ThreadPoolExecutor(2) as threads, AntiJoin(folder) as rows:
        for side, blocks in enumerate(sides):
            start = 0
            for hashes in blocks:
                rows.add_rows(side, hashes, np.arange(start, start + len(hashes)))
                start += len(hashes)
        return rows.find_unmatched(threads, most=most)


@pytest.mark.parametrize(
    "waiting_bytes", [hash_buckets.WAITING_BYTES, 5_000, 0], ids=["in memory", "some", "in the file"]
)
def test_rows_of_either_side_whose_hash_is_there_once_are_unmatched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting_bytes: int
) -> None:
    monkeypatch.setattr(hash_buckets, "WAITING_BYTES", waiting_bytes)
    rng = np.random.default_rng(5)
    hashes = rng.integers(0, 1 << 64, 3_000, np.uint64)
    old, new = rng.permutation(hashes[:2_000]), rng.permutation(hashes[500:])
    found = unmatched(tmp_path, [np.array_split(old, 7), np.array_split(new, 4)])
    for side, other, (mine, rest) in zip(found, found[::-1], ((old, new), (new, old)), strict=True):
        expected = np.flatnonzero(~np.isin(mine, rest))
        assert side.rows.tolist() == expected.tolist()
        assert side.sum == int(mine[expected].sum())
        assert len(other.rows) in (500, 1_000)
    assert list(tmp_path.iterdir()) == []


def test_a_hash_that_one_side_has_twice_is_matched(tmp_path: Path) -> None:
    one, two, three = np.arange(1, 4, dtype=np.uint64)
    old, new = unmatched(tmp_path, [[np.array([one, one, two])], [np.array([two, three])]])
    assert (old.rows.tolist(), new.rows.tolist(), new.sum) == ([], [1], 3)


def test_no_rows_at_all(tmp_path: Path) -> None:
    old, new = unmatched(tmp_path, [[], []])
    assert (old.rows.tolist(), old.sum, new.rows.tolist(), new.sum) == ([], 0, [], 0)


def test_far_more_unmatched_rows_than_wanted_are_not_all_held(tmp_path: Path) -> None:
    hashes = np.random.default_rng(5).integers(0, 1 << 64, 100_000, np.uint64)
    old, new = unmatched(tmp_path, [[hashes], []], most=1_000)
    assert 1_000 < len(old.rows) < 20_000
    assert len(new.rows) == 0
