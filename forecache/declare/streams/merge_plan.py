"""The merge plan of a live view, made from its declaration."""

from typing import TYPE_CHECKING, Any

from forecache.kit.windows.plan import MergePlan, PlanFeature, PlanState

if TYPE_CHECKING:
    from forecache.declare.features.view import FeatureView
    from forecache.declare.features.window import Measure, Window


def build_merge_plan(view: "FeatureView") -> MergePlan:
    """Build the merge plan of a live view, see `forecache.kit.windows`."""
    assert view.live is not None, f"the view {view.name!r} is not live"
    by_name = {window.name: window for window in view.windows}
    windows = [by_name[name] for name in view.served_fields]
    of_days = [window for window in windows if window.minutes is None and not window.delay_days]
    of_minutes = [window for window in windows if window.minutes is not None]
    features = (
        PlanFeature(
            window.name,
            window.aggregate,
            tuple(measure.name for measure in window.whole_measures),
            window.days or 0,
            window.minutes or 0,
            window.delay_days,
        )
        for window in windows
    )
    return MergePlan(
        view.name,
        view.key,
        view.event_source.event_time,
        _plan_states(of_days),
        _plan_states(of_minutes),
        tuple(features),
        view.live.nights,
        view.live.tile_minutes,
        view.num_active_days,
    )


def _plan_states(windows: "list[Window]") -> tuple[PlanState, ...]:
    measures = {measure.name: measure for window in windows for measure in window.whole_measures}
    return tuple(
        PlanState(measures[name].aggregate, name, measures[name].column, conditions_of(measures[name]))
        for name in sorted(measures)
    )


def conditions_of(measure: "Measure") -> tuple[tuple[str, str, Any], ...]:
    """Column, comparison and value of each condition of a measure."""
    return tuple((where.column, where.comparison, where.value) for where in measure.where)


def state_names(measure: "Measure") -> tuple[str, ...]:
    """The columns of a tile with the state of a measure."""
    if measure.aggregate == "distinct":
        return (measure.name,)
    return PlanState(measure.aggregate, measure.name).words
