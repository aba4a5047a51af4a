"""Events up to as-of dates."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

from forecache.pipeline import AS_OF

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def cut_events(events: "DataFrame", nights: Sequence[date], *, after: int | None, until: int) -> "DataFrame":
    """For each night, the events on the days in (night + after, night + until], with `as_of`.

    Args:
        events: Rows with `event_day` (date).
        after: None: no lower limit.
    """
    from pyspark.sql import functions as F

    bounded = events.where(F.col("event_day") <= F.lit(max(nights) + timedelta(days=until)))
    if after is not None:
        bounded = bounded.where(F.col("event_day") > F.lit(min(nights) + timedelta(days=after)))
    days = F.datediff("event_day", F.col(AS_OF))
    dated = bounded.withColumn(AS_OF, F.explode(F.array(*(F.lit(night) for night in sorted(nights)))))
    dated = dated.where(days <= until)
    return dated if after is None else dated.where(days > after)
