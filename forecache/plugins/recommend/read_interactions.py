"""Reading the interactions that count for an as-of date."""

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from forecache.base.settings import Settings
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.recommender import Recommender

if TYPE_CHECKING:
    import pyarrow as pa


def read_interactions(
    settings: Settings, recommender: Recommender, night: date
) -> tuple[Interactions, dict[Any, Any] | None]:
    """The interactions up to an as-of date, and the group by item: the latest one that is not null.

    Raises:
        InputError: There are none.
    """
    source = recommender.source
    columns = {recommender.user, recommender.item, source.event_time, recommender.weight, recommender.group} - {None}
    rows = read_days(settings, recommender, night, sorted(map(str, columns)))
    interactions = Interactions.from_table(
        rows, user=recommender.user, item=recommender.item, time=source.event_time, weight=recommender.weight
    )
    if recommender.group is None:
        return interactions, None
    return interactions, _groups(rows, recommender.item, recommender.group, source.event_time)


def read_days(settings: Settings, recommender: Recommender, night: date, columns: list[str]) -> "pa.Table":
    """Columns of the interactions that count for an as-of date."""
    import pyarrow.dataset as ds

    chosen = ds.field("event_day") <= night
    if recommender.history_days is not None:
        chosen &= ds.field("event_day") > night - timedelta(days=recommender.history_days)
    return open_dataset(open_table(settings, recommender.source.raw_table)).to_table(columns, chosen)


def _groups(rows: "pa.Table", item: str, group: str, time: str) -> dict[Any, Any]:
    """The latest group of each item; of several on one day the last by name, independent of the order of rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    named = rows.select([item, group, time]).filter(pc.field(group).is_valid())
    ordered = named.sort_by([(name, "ascending") for name in (time, group)])
    latest = pa.TableGroupBy(ordered, item, use_threads=False).aggregate([(group, "last")])
    return dict(zip(latest[item].to_pylist(), latest[f"{group}_last"].to_pylist(), strict=True))
