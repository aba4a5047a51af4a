"""HTML report: the gate's figures, and the lists of a few users beside the items that they took lately."""

from datetime import date
from itertools import zip_longest
from pathlib import Path
from typing import Any

from forecache.base.errors import NotFoundError
from forecache.base.reports import make_page, write_page
from forecache.base.settings import Settings
from forecache.declare import AS_OF
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.tables import open_table
from forecache.lake.ledger import last_record
from forecache.plugins.recommend.interactions import read_days
from forecache.plugins.recommend.lists import STAGE
from forecache.plugins.recommend.recommender import Recommender

_TEMPLATE = Path(__file__).parent / "report.html.j2"
_USERS, _PLACES = 3, 10


def write_report(settings: Settings, recommender: Recommender, night: date) -> Path:
    """Write the page of an as-of date, with the users of most, median and fewest interactions; returns its path."""
    record = last_record(settings, STAGE, recommender.name, night)
    if record is None:
        raise NotFoundError(
            f"{recommender.name} has no lists of {night}.", remedy=f"`forecache run {recommender.name}` makes them."
        )
    page = make_page(
        _TEMPLATE,
        environment=settings.environment,
        recommender=recommender,
        night=night,
        gate=record.details,
        users=record.rows,
        examples=_examples(settings, recommender, night),
        rule=lambda name: name.replace("_", " "),
    )
    path = settings.reports_path / f"{recommender.name}.html"
    write_page(path, page)
    return path


def _examples(settings: Settings, recommender: Recommender, night: date) -> list[dict[str, Any]]:
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    user, item, time = recommender.user, recommender.item, recommender.source.event_time
    taken = read_days(settings, recommender, night, [user, item, time])
    counts = (
        taken.group_by(user)
        .aggregate([(item, "count")])
        .sort_by([(f"{item}_count", "descending"), (user, "ascending")])
    )
    chosen = counts[user].take(sorted({0, (len(counts) - 1) // 2, len(counts) - 1})[:_USERS])
    table = open_dataset(open_table(settings, recommender.prediction_table))
    found = table.to_table([user, "items"], (ds.field(AS_OF) == night) & pc.is_in(ds.field(user), value_set=chosen))
    lists = dict(zip(found[user].to_pylist(), found["items"].to_pylist(), strict=True))
    examples = []
    for each in chosen.to_pylist():
        own = taken.filter(pc.equal(taken[user], each)).sort_by([(time, "descending")])
        latest = list(dict.fromkeys(own[item].to_pylist()))[:_PLACES]
        rows = [
            {**place, "taken": late or ""}
            for place, late in zip_longest(lists[each][:_PLACES], latest, fillvalue=None)
            if place is not None
        ]
        examples.append({"user": each, "rows": rows})
    return examples
