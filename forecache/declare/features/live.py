"""Live feature views: the published state of the last as-of date is merged with newer tiles when it is read."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forecache.base.errors import SettingsError
from forecache.declare.checks import check_fields, check_least, check_value
from forecache.kit.windows.plan import DAY_MINUTES, MergePlan, PlanFeature, PlanState

if TYPE_CHECKING:
    from forecache.declare.features.view import FeatureView
    from forecache.declare.features.window import Measure, Window


@dataclass(frozen=True)
class Live:
    """Makes a view live: its features include the events of a stream up to the moment of the look-up.

    Each published row has the state of the windows beside the features; a stream keeps the tiles of the days since.
    Both are merged when the view is read, to the numbers that a nightly run would compute at that moment.

    Attributes:
        nights: Number of days after its as-of date in which a published state can be merged with tiles; then the view
            counts as not served. A state is served for a day and until the next one is published, so 2 is the least
            that never leaves the view without features; 3 bridges a failed nightly run.
        tile_minutes: Length of the tiles of windows in minutes, a divisor of 1,440: such a window begins at the start
            of a tile.
    """

    nights: int = 2
    tile_minutes: int = 5

    def __post_init__(self) -> None:
        check_fields("`Live`", self)
        check_least("`Live`", self, 1, "nights", "tile_minutes")
        check_value("`Live`", "nights", self.nights, self.nights <= 31, "Give at most 31.")
        rule = "It divides the 1,440 minutes of a day, such as 1, 5, 10 or 60."
        check_value("`Live`", "tile_minutes", self.tile_minutes, DAY_MINUTES % self.tile_minutes == 0, rule)


def check_live(owner: str, view: "FeatureView") -> None:
    """Refuse a live view whose features cannot be merged when they are read, and windows that only a live view has."""
    if view.live is None:
        for window in view.windows:
            if window.minutes is not None:
                raise SettingsError(
                    f"{owner} has the window {window.name!r} over {window.minutes} minutes.",
                    remedy="Declare the view with `live=Live()`: without it a view has windows of days alone.",
                )
        return
    if view.features is not None or view.publish is None:
        lacking = "no windows" if view.features is not None else "no `publish`"
        raise SettingsError(
            f"{owner} is live and has {lacking}.",
            remedy="Declare windows, and `publish=Publish()`: their states are published with the features.",
        )
    rule = "A live view publishes all of its windows: leave it out, and declare windows of other uses in another view."
    check_value(owner, "publish.fields", view.publish.fields, view.publish.fields is None, rule)
    rule = "A live view is kept in LMDB beside its versions: publish it there."
    check_value(owner, "publish.backend", view.publish.backend, view.publish.backend == "lmdb", rule)
    rule = "A live view is merged with the version of the day before: publish every day."
    check_value(owner, "schedule.every", view.schedule.every, view.schedule.every == "day", rule)
    time = next(column for column in view.event_source.columns if column.name == view.event_source.event_time)
    rule = f"The events of a live view have a moment: make {time.name!r} a timestamp."
    check_value(owner, "event_time", time.type, time.type == "timestamp", rule)
    for window in view.windows:
        _check_window(owner, view.live, window)


def _check_window(owner: str, live: Live, window: "Window") -> None:
    if window.aggregate == "distinct" and not window.delay_days:
        raise SettingsError(
            f"{owner} is live and has the window {window.name!r}, a distinct count, which has no live part.",
            remedy="Leave it out, declare it in another view, or give it `delay_days`.",
        )
    if 0 < window.delay_days < live.nights:
        raise SettingsError(
            f"{owner} is live for {live.nights} days (`Live.nights`), and its window {window.name!r} ends "
            f"{window.delay_days} days before the as-of date.",
            remedy=f"Give it `delay_days` of 0, or of {live.nights} or more.",
        )
    if window.minutes is not None and window.minutes % live.tile_minutes:
        raise SettingsError(
            f"{owner} has the window {window.name!r} over {window.minutes} minutes, and tiles of {live.tile_minutes}.",
            remedy="Make the window a multiple of `tile_minutes`.",
        )


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
    return tuple((where.column, where.comparison, where.value) for where in measure.where)


def state_names(measure: "Measure") -> tuple[str, ...]:
    """The columns of a tile with the state of a measure."""
    if measure.aggregate == "distinct":
        return (measure.name,)
    return PlanState(measure.aggregate, measure.name).words
