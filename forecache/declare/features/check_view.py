"""Check that the parts of a feature view fit together, when the declaration loads."""

from typing import TYPE_CHECKING

from forecache.base.errors import SettingsError
from forecache.base.table_names import check_unique
from forecache.declare.checks.fields import check_value
from forecache.declare.schedules.as_of import check_schedule
from forecache.declare.schedules.schedule import Schedule
from forecache.declare.sources.source import Source

if TYPE_CHECKING:
    from forecache.declare.features.view import FeatureView

_MOST_COLUMNS = 16_384
TILE_COLUMNS = ("day", "events", "key_bucket")
"""Columns of a table of tiles besides the key and the states."""


def check_publish(owner: str, view: "FeatureView") -> None:
    """Refuse a view that cannot be published for look-up."""
    if view.publish is None:
        fits = view.schedule == Schedule()
        check_value(owner, "schedule", view.schedule, fits, "It is about publishing: declare `publish`, too.")
        return
    check_schedule(owner, view.schedule, view.sources, view.publish)
    view.publish.check_served_fields(owner, view.feature_names)
    for feature in view.served_features:
        if feature.type == "category":
            numbers = [each.name for each in view.feature_columns if each.type != "category"]
            raise SettingsError(
                f"{owner} publishes the category {feature.name!r}, and what it publishes are numbers.",
                remedy=f"Name the features to publish: `Publish(fields={tuple(numbers)!r})`.",
            )
    if len(view.served_columns) > _MOST_COLUMNS:
        raise SettingsError(
            f"{owner} publishes {len(view.served_columns):,} numbers a row.",
            remedy=f"Publish at most {_MOST_COLUMNS:,}: name the features in `Publish.fields`.",
        )


def check_windows(owner: str, view: "FeatureView") -> None:
    """Refuse a view with both or neither of features and windows, and windows over columns that its source lacks."""
    if (view.features is None) == (not view.windows):
        which = "both features and windows" if view.windows else "neither features nor windows"
        raise SettingsError(f"{owner} has {which}.", remedy="Give one of the two.")
    if not view.windows:
        rule = "It is about windows: the function returns the keys that it wants."
        check_value(owner, "active_days", view.active_days, view.active_days == "longest", rule)
        return
    fits = not isinstance(view.active_days, int) or view.active_days >= 1
    check_value(owner, "active_days", view.active_days, fits, "Give 1 or more.")
    if len(view.sources) != 1 or not isinstance(view.sources[0], Source) or not view.sources[0].event_time:
        raise SettingsError(
            f"{owner} has windows over {', '.join(source.name for source in view.sources)}.",
            remedy="Give one source of events that are landing files; a pipeline may join several views.",
        )
    check_unique("column of the tiles", owner, [*view.key, *TILE_COLUMNS])
    columns = {column.name: column for column in view.event_source.columns}
    for window in view.windows:
        window.check_columns(owner, columns)
