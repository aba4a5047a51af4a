"""The feature function."""

from typing import Any

import staleness_project.registration  # noqa: F401  (registers a cleaner)
from staleness_project import windows as w
from staleness_project.registry import CLEANERS
from staleness_project.shared import rounded
from staleness_project.shared.decorators import logged

UNUSED = 1


@logged
def feature_rows(events: Any, *, days: int) -> Any:
    """Rows of features."""
    from staleness_project.lazy import ratio

    rows = CLEANERS["visits"](events)
    land = w.counted()  # a local variable with the name of a function elsewhere
    return [rounded(ratio(row, days) * w.RATES["eur"]) + land for row in rows][: w.TOP], w.CITY, w.TABLE


def other_feature_rows(events: Any) -> Any:
    return events
