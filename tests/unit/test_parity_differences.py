"""The figures of parity: sizes, quantiles and counts add up, whoever counted which share."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecache.plugins.parity import store_versions as lake_rows
from forecache.plugins.parity.replay_result import (
    KEPT,
    AnswerDifference,
    Differences,
    ReplayResult,
    first_difference_of,
    format_number,
)
from forecache.plugins.parity.store_versions import LakeRows
from forecache.serve.store import KeyColumn, KeySchema

NUMBERS = st.one_of(
    st.floats(width=32, allow_infinity=True, allow_nan=True),
    st.sampled_from([0.0, -0.0, 1.0, float("nan")]),
)


def counted(logged: np.ndarray, offline: np.ndarray) -> Differences:
    found = Differences()
    found.add(logged, offline)
    return found


@given(pairs=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=40), cut=st.integers(0, 40))
def test_shares_add_up_to_the_whole(pairs: list[tuple[float, float]], cut: int) -> None:
    logged, offline = (np.array([pair[side] for pair in pairs], np.float32) for side in (0, 1))
    whole, together = counted(logged, offline), Differences()
    for part in (slice(0, cut), slice(cut, None)):
        together.merge(counted(logged[part], offline[part]))
    assert together.figures() == pytest.approx(whole.figures(), rel=1e-9)
    assert whole.mismatch == (logged.view("<u4") != offline.view("<u4")).sum()
    unknown, unknown_offline = np.isnan(logged), np.isnan(offline)
    assert (whole.missing, whole.extra) == ((unknown & ~unknown_offline).sum(), (~unknown & unknown_offline).sum())


def test_quantiles_are_near_the_true_ones_and_equal_pairs_count() -> None:
    rng = np.random.default_rng(1)
    logged = rng.normal(size=4_000).astype(np.float32)
    offline = logged.copy()
    offline[1_000:] += rng.lognormal(-6, 3, 3_000).astype(np.float32)
    found = Differences()
    found.add(logged[1_000:], offline[1_000:])
    found.add_equal(1_000, 1_000)
    size = np.abs(logged.astype(np.float64) - offline)
    for share in (0.5, 0.9, 0.99):
        assert found.quantile(share) == pytest.approx(np.quantile(size, share), rel=0.04)
    assert found.quantile(0.2) == 0.0
    assert found.quantile(1.0) == pytest.approx(found.max_abs, rel=0.03)
    scale = (np.abs(logged.astype(np.float64)) + np.abs(offline)) / 2
    assert found.sum_smape / found.pairs == pytest.approx((size / scale).mean())


def test_a_number_is_shown_by_its_bits_and_in_decimal() -> None:
    assert format_number(np.float32(1.0)) == "0x3f800000 (1.0)"
    assert format_number(np.float64(-0.0)) == "0x8000000000000000 (-0.0)"
    assert format_number(np.float32(0.1)) == "0x3dcccccd (0.1)"
    assert first_difference_of(np.array([[1.0, -0.0]], np.float32), np.array([[1.0, 0.0]], np.float32)) == (
        0, 1, "0x80000000 (-0.0)", "0x00000000 (0.0)",
    )  # fmt: skip


def test_the_first_differences_by_time_are_kept() -> None:
    found = ReplayResult()
    for number in reversed(range(3 * KEPT)):
        found.add_difference(AnswerDifference(number, f"r{number}", 1, "score"))
    other = ReplayResult()
    other.add_difference(AnswerDifference(-1, "earliest", 1, "answered_by", logged="model", offline="default"))
    found.merge(other)
    assert [each.arrived_us for each in found.first] == list(range(-1, KEPT - 1))
    assert (found.differ, found.kinds) == (3 * KEPT + 1, {"score": 3 * KEPT, "answered_by": 1})
    assert found.first[0].sentence == (
        "Request earliest of 1969-12-31T23:59:59.999999Z, answered by release 1: answered_by was logged as model and "
        "is default when computed again."
    )


@pytest.mark.parametrize("collide", [False, True])
def test_rows_of_the_lake_are_found_by_key_although_hashes_collide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collide: bool
) -> None:
    if collide:
        monkeypatch.setattr(lake_rows, "key_hashes", _alike)
    keys = [b"a", b"b", b"c", b"d"]
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    lake_rows._save(tmp_path / "kept", [pa.array(keys, pa.binary())], [rows], 2)
    held = LakeRows(tmp_path / "kept", KeySchema((KeyColumn("k", "string"),)), ("x", "y"))
    matrix, found = held.matrix([b"c", b"nobody", b"a", b"c"])
    assert found.tolist() == [True, False, True, True]
    assert matrix[found].tolist() == [[4.0, 5.0], [0.0, 1.0], [4.0, 5.0]]
    assert np.isnan(matrix[1]).all()
    assert held.matrix([])[0].shape == (0, 2)


def _alike(keys: Sequence[bytes]) -> np.ndarray:
    return np.full(len(keys), 7, np.uint64)
