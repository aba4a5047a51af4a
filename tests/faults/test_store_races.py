"""Publishers and rollbacks of one store at once, on a failing object store: the short form of `make prove-store`."""

from pathlib import Path

import pytest
from store_races import prove

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def test_eight_publishers_and_four_rollbacks_at_once_make_one_history(tmp_path: Path) -> None:
    figures = prove(tmp_path, rounds=3, seed=7, limit_s=540)
    assert figures["killed"] >= 1
    assert figures["moves"] > 6
    assert sum(figures["faults"].values()) > 0
