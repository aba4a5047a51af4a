"""When figures ask for a training: on every one of the latest nights, after the last training, past the cool-down."""

import dataclasses
from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from forecache.declare import Retraining
from forecache.operations.training_due import LastTraining
from forecache.plugins.drift.measurements import Kind, Measurement, latest_figures
from forecache.plugins.drift.retraining import RetrainingDecision, decide, find_causes

START = date(2026, 1, 1)
NOW = datetime(2026, 2, 1, tzinfo=timezone.utc)
TRAINED = LastTraining(START, NOW - timedelta(days=30))
RULES = Retraining(max_feature_psi=0.25, max_prediction_psi=0.2, max_metric_drop=0.02, min_nights=3, min_rows=100)
REFERENCES: dict[Kind, str] = {
    "feature": "training split",
    "prediction": "test split",
    "performance": "test split",
}


def figure(night: int, effect: float, kind: Kind = "feature", name: str = "amount", **changes: Any) -> Measurement:
    values: dict[str, Any] = {
        "pipeline": "demo",
        "run_date": START + timedelta(days=night),
        "as_of": START + timedelta(days=night),
        "kind": kind,
        "name": name,
        "reference": REFERENCES[kind],
        "model_version": 3,
        "effect": effect,
        "rows": 1000,
    }
    return Measurement(**{**values, **changes})


def series(*effects: float, **changes: Any) -> list[Measurement]:
    return [figure(night, effect, **changes) for night, effect in enumerate(effects, start=1)]


def decided(
    figures: Sequence[Measurement],
    rules: Retraining = RULES,
    *,
    champion: int | None = 3,
    last: LastTraining | None = TRAINED,
    now: datetime = NOW,
) -> RetrainingDecision:
    return decide(rules, figures, champion=champion, last=last, now=now)


def test_a_figure_beyond_its_limit_on_the_latest_nights_asks_for_a_training_as_of_the_last_of_them() -> None:
    found = decided(series(0.1, 0.3, 0.4, 0.5))
    assert found.retrain
    assert found.night == START + timedelta(days=4)
    assert found.reason == (
        "Champion 3: feature amount: PSI 0.500 to the training split on 2026-01-05, more than 0.25 on 3 as-of dates in "
        "a row."
    )


def test_one_night_within_the_limit_is_enough_to_wait() -> None:
    found = decided(series(0.5, 0.5, 0.25, 0.5, 0.5))
    assert not found.retrain
    assert found.reason == "Nothing is beyond its limit on the latest 3 as-of dates, the last 2026-01-06."


def test_too_few_nights_say_so() -> None:
    assert decided(series(9, 9)).reason == (
        "2 as-of dates of champion 3 have been measured since the last training, 3 needed."
    )
    assert "no champion" in decided(series(9, 9, 9), champion=None).reason


def test_a_metric_has_to_be_surely_worse() -> None:
    surely = series(0.05, 0.05, 0.05, kind="performance", name="roc_auc", effect_low=0.01, effect_high=0.09)
    by_chance = [dataclasses.replace(row, effect_low=-0.01) for row in surely]
    assert decided(surely).retrain
    assert "roc_auc 0.0500 worse than on the test split" in decided(surely).reason
    assert not decided(by_chance).retrain


def test_what_the_last_training_knew_other_models_and_small_nights_do_not_count() -> None:
    assert not decided(series(9, 9, 9), last=LastTraining(START + timedelta(days=1), TRAINED.ended_at)).retrain
    assert not decided(series(9, 9, 9, model_version=2)).retrain
    assert not decided(series(9, 9, 9, rows=99)).retrain
    assert decided(series(9, 9, 9), last=None).retrain


def test_ignored_features_limits_that_are_off_and_other_references_ask_for_nothing() -> None:
    assert not decided(series(9, 9, 9), dataclasses.replace(RULES, ignore=("amount",))).retrain
    assert not decided(series(9, 9, 9), dataclasses.replace(RULES, max_feature_psi=None)).retrain
    before = series(9, 9, 9, kind="prediction", name="p", reference="nights before")
    assert not decided(before).retrain
    assert decided(series(9, 9, 9, kind="prediction", name="amount"), dataclasses.replace(RULES, ignore=("amount",)))


def test_in_the_cool_down_the_causes_are_told_and_nothing_is_asked_for() -> None:
    recent = LastTraining(START, NOW - timedelta(days=6))
    found = decided(series(9, 9, 9), last=recent)
    assert not found.retrain
    assert [cause.name for cause in found.causes] == ["amount"]
    assert found.reason.startswith("Cooling down until 2026-02-02 00:00 UTC, 7 days after a training: feature amount")
    assert decided(series(9, 9, 9), last=recent, now=NOW + timedelta(days=1)).retrain


def test_the_largest_effect_in_limits_comes_first() -> None:
    figures = series(0.5, 0.5, 0.5) + series(0.5, 0.5, 0.5, kind="prediction", name="p")
    assert [cause.name for cause in decided(figures).causes] == ["p", "amount"]


def test_the_key_changes_with_the_champion_and_the_last_training_only() -> None:
    one, later = decided(series(9, 9, 9)), decided(series(9, 9, 9, 9) + series(9, 9, 9, 9, name="visits"))
    assert one.key == later.key
    assert one.night != later.night
    other = decided(series(9, 9, 9, model_version=4), champion=4)
    again = decided(series(9, 9, 9), last=LastTraining(START, NOW - timedelta(days=8)))
    assert len({one.key, other.key, again.key}) == 3


def test_a_figure_measured_again_supersedes_the_older_one() -> None:
    first, second = figure(1, 9), figure(1, 0.1)
    assert latest_figures([first, figure(0, 1), second]) == [figure(0, 1), second]


kinds = st.sampled_from(["feature", "prediction", "performance"])
figures = st.lists(
    st.builds(
        figure,
        st.integers(-3, 6),
        st.floats(-1, 2),
        kinds,
        st.sampled_from(["a", "b"]),
        rows=st.sampled_from([50, 1000]),
        model_version=st.sampled_from([2, 3]),
        effect_low=st.one_of(st.none(), st.floats(-1, 1)),
    ),
    max_size=40,
).map(latest_figures)
rules = st.builds(
    Retraining,
    max_feature_psi=st.one_of(st.none(), st.floats(0.01, 1)),
    max_prediction_psi=st.floats(0.01, 1),
    max_metric_drop=st.one_of(st.none(), st.floats(0.01, 1)),
    min_nights=st.integers(1, 3),
    cool_down_days=st.floats(0, 60),
)


@settings(deadline=None)  # a busy machine is no failure
@given(figures, rules, st.randoms())
def test_the_order_of_the_figures_does_not_matter(
    some: list[Measurement], given_rules: Retraining, random: Any
) -> None:
    shuffled = random.sample(some, len(some))
    assert decided(shuffled, given_rules) == decided(some, given_rules)


@settings(deadline=None)  # a busy machine is no failure
@given(figures, rules)
def test_a_training_always_has_a_cause_and_lies_past_the_cool_down(
    some: list[Measurement], given_rules: Retraining
) -> None:
    found = decided(some, given_rules)
    if found.retrain:
        assert TRAINED.ended_at + timedelta(days=given_rules.cool_down_days) <= NOW
        assert found.night is not None
        assert found.night > TRAINED.night
        assert all(cause.effect > cause.limit and len(cause.nights) == given_rules.min_nights for cause in found.causes)
    assert bool(found.key) == bool(found.causes)


@settings(deadline=None)  # a busy machine is no failure
@given(figures, rules)
def test_stricter_rules_never_find_more(some: list[Measurement], given_rules: Retraining) -> None:
    def named(chosen: Retraining) -> set[tuple[Kind, str]]:
        return {(cause.kind, cause.name) for cause in find_causes(chosen, some)}

    more_nights = dataclasses.replace(given_rules, min_nights=given_rules.min_nights + 1)
    higher = dataclasses.replace(given_rules, max_prediction_psi=(given_rules.max_prediction_psi or 0) + 0.5)
    assert named(more_nights) <= named(given_rules)
    assert named(higher) <= named(given_rules)
