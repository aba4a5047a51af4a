"""What the report on drift says: its level, and in words what it rests on and what it leaves out."""

import dataclasses
from datetime import date, timedelta

from forecache.base.statistics import distance
from forecache.declare import Drift
from forecache.plugins.drift.prediction_drift import NIGHTS_BEFORE, TEST_SPLIT, DriftReport

NIGHT = date(2024, 6, 30)
EVEN = (250, 250, 250, 250)


def report(
    counts: tuple[int, ...] = EVEN, *, model: int = 3, limits: Drift | None = None, **references: tuple
) -> DriftReport:
    named = {name.replace("_", " "): reference for name, reference in references.items()}
    nights = tuple(NIGHT - timedelta(days=i) for i in range(3, 0, -1)) if NIGHTS_BEFORE in named else ()
    return DriftReport(
        pipeline="demo",
        output="probability",
        night=NIGHT,
        model_version=model,
        edges=(0.25, 0.5, 0.75),
        counts=counts,
        references=named,
        distances={name: distance(reference, counts) for name, reference in named.items()},
        nights=nights,
        models_before=(3,) if nights else (),
        limits=limits or Drift(),
    )


def test_a_night_like_those_before_says_against_what_it_was_held() -> None:
    calm = report(nights_before=EVEN, test_split=EVEN)
    assert calm.level == "none"
    assert calm.sentence == (
        "probability is where it was: PSI 0.000 and Jensen-Shannon 0.000 against the 3 as-of dates before, "
        "PSI 0.000 and Jensen-Shannon 0.000 against the test split of model 3."
    )


def test_the_larger_effect_counts_and_blocks_only_where_that_is_declared() -> None:
    moved = report((900, 50, 30, 20), nights_before=(850, 80, 40, 30), test_split=EVEN)
    assert moved.effect(NIGHTS_BEFORE) == "none"
    assert moved.effect(TEST_SPLIT) == "large"
    assert moved.level == "large"
    assert "has moved far" in moved.sentence
    assert not moved.blocks
    assert dataclasses.replace(moved, limits=Drift(blocking=True)).blocks
    assert dataclasses.replace(moved, limits=Drift(large_psi=9, large_js=1)).level == "small"


def test_the_first_night_of_all_is_no_failure_and_says_why() -> None:
    first = report()
    assert (first.level, first.blocks) == ("none", False)
    assert first.sentence == (
        "probability on 2024-06-30 is not judged. No date before it was scored. "
        "Its model has no evaluation on a test split."
    )


def test_a_new_model_is_not_held_against_the_scores_of_the_one_before() -> None:
    changed = report((900, 50, 30, 20), model=4, nights_before=EVEN, test_split=(880, 60, 35, 25))
    assert changed.effect(NIGHTS_BEFORE) is None
    assert changed.distances[NIGHTS_BEFORE].psi > 0.25
    assert changed.level == "none"
    assert "Model 4 scores for the first time: how far it is from the scores of model 3 is shown" in changed.sentence


def test_few_rows_are_shown_and_not_judged() -> None:
    few = report((2, 0, 0, 0), nights_before=(0, 0, 0, 6))
    assert few.level == "none"
    assert "With fewer than 500 rows on a side, the 3 as-of dates before are shown, not judged." in few.sentence
