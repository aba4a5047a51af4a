"""Translates the declared windows of a view to the states and the merge of the tasks, and their errors to messages."""

from collections.abc import Sequence
from datetime import date

from forecache.base.errors import InputError, chain_of
from forecache.declare import FeatureView
from forecache.declare.features.window import LastMinutes
from forecache.declare.streams.merge_plan import build_merge_plan, conditions_of, state_names
from forecache.kit.windows.states import TOO_LARGE, MeasureState
from forecache.lake.windows.aggregates import WindowFeature
from forecache.lake.windows.key_hashes import KeyHashesByNight
from forecache.lake.windows.tile_merge import TileMerger


def states_of(view: FeatureView) -> tuple[MeasureState, ...]:
    """The states that a tile of the view holds."""
    return tuple(
        MeasureState(
            measure.aggregate,
            state_names(measure),
            measure.column,
            conditions_of(measure),
            measure.minutes if isinstance(measure, LastMinutes) else None,
        )
        for measure in view.measures
    )


def merger_of(view: FeatureView, nights: Sequence[date], asked: KeyHashesByNight | None = None) -> TileMerger:
    """The function that makes the nights of a view from its tiles."""
    features = []
    for window in view.windows:
        states = tuple(name for measure in window.measures for name in state_names(measure))
        features.append(WindowFeature(window.name, window.aggregate, window.num_days, states, window.delay_days))
    plan = None if view.live is None else build_merge_plan(view)
    return TileMerger(view.key, tuple(features), tuple(sorted(nights)), view.num_active_days, asked, plan)


def as_overflow_error(error: BaseException, view: FeatureView) -> InputError | None:
    """Translate the error of a job with a value that is too large for an exact sum; None for any other."""
    for each in chain_of(error):
        _, marker, rest = str(each).partition(TOO_LARGE)
        if marker:
            name, _, value = rest.split()[0].strip("'\"").partition("=")
            return InputError(
                f"Feature view {view.name!r} sums the column {name!r}, which has the value {value}.",
                remedy="Sums are exact for values within 2**44: declare a `minimum` and `maximum` of that column, so "
                "that such rows are quarantined, or leave it out with `where`.",
            )
    return None
