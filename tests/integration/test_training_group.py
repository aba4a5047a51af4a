"""Rank 0 may take longer than a collective waits: the others get a message now and then."""

from pathlib import Path

import pytest
from ranks import run_ranks
from step_jobs import let_first_work


@pytest.mark.slow
def test_rank_0_may_work_longer_than_a_collective_waits(tmp_path: Path) -> None:
    assert run_ranks(let_first_work, 2, tmp_path, seconds=6.0) == [("by rank 0", None)] * 2
