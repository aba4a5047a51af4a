"""Texts of inputs in a trial and in the environment that it defers to: which versions are equal."""

from datetime import date, datetime, timezone
from pathlib import Path

import pytest

from forecache.base.settings import load_settings
from forecache.plugins.trials.equal_work import OTHER_WORK, OtherSide
from forecache.plugins.trials.trial import Trial

DAY = date(2026, 1, 9)


@pytest.fixture
def side(tmp_path: Path) -> OtherSide:
    settings = load_settings(home=tmp_path / "home", project="windowed_project")
    forked = {"features_x": 7, "raw_sales": 3}
    made = Trial("t", "local", "", "", datetime.now(timezone.utc), "", forked, {"spend": 2})
    return OtherSide(settings, settings, made)


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        ("features_x@7 code=ab", "features_x@7 code=ab", ""),
        ("features_x@7 code=ab", "features_x@7 code=cd", OTHER_WORK),
        ("features_x@6 code=ab", "features_x@7 code=ab", "features_x is at 7 here, and was at 6 there"),
        ("features_x@9 code=ab", "features_x@9 code=ab", "features_x is at 9 here, and was at 9 there"),
        ("model=spend@2 features_x@7", "model=spend@2 features_x@7", ""),
        ("model=rule@4 of=12ab features_x@7", "model=rule@5 of=12ab features_x@7", ""),
        ("model=rule@4 of=12ab features_x@7", "model=rule@4 of=34cd features_x@7", OTHER_WORK),
        ("table_orders@0123456789abcdef", "table_orders@0123456789abcdef", ""),
    ],
)
def test_versions_up_to_the_fork_are_equal_and_later_ones_only_by_what_made_them(
    side: OtherSide, theirs: str, ours: str, expected: str
) -> None:
    assert side.find_difference(theirs, ours, DAY) == expected
