"""Point in time: what a night's features and labels know, against a computation in plain Python, night by night."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from forecache.base.settings import Settings, load_settings
from forecache.declare import (
    Baseline,
    Column,
    Feature,
    Features,
    Gate,
    Label,
    Output,
    Pipeline,
    Source,
    TorchModel,
    Training,
)
from forecache.kit.delta.tables import open_table
from forecache.lake.feature_rows import feature_frame
from forecache.lake.features import build_features
from forecache.lake.ingest.ingest import ingest
from forecache.lake.training_set import as_of_dates, build_training_set, labelled_frame

START = date(2026, 1, 1)
DAYS, HORIZON = 30, 3
Event = tuple[str, datetime, int]  # key, time, amount
Events = Mapping[str, Sequence[Event]]


def _source(name: str) -> Source:
    columns = (Column("key", "string"), Column("at", "timestamp"), Column("amount", "int"))
    return Source(name, columns=columns, event_time="at", start=START)


VISITS, PAYMENTS = _source("visits"), _source("payments")


def _features(events: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    entity = ["key", "as_of"]
    day = F.datediff("event_day", F.lit(START))
    visits = (
        events["visits"]
        .groupBy(entity)
        .agg(F.sum("amount").alias("visits"), F.max(day).alias("last"), F.count("*").alias("times"))
    )
    paid = events["payments"].groupBy(entity).agg(F.sum("amount").alias("paid"), F.min("amount").alias("least"))
    return visits.join(paid, entity, "full")


def _label(entities: Any, events: Mapping[str, Any]) -> Any:
    from pyspark.sql import functions as F

    entity = ["key", "as_of"]
    visits = events["visits"].groupBy(entity).agg(F.sum("amount").alias("v"))
    paid = events["payments"].groupBy(entity).agg(F.sum("amount").alias("p"))
    both = entities.join(visits, entity, "left").join(paid, entity, "left")
    return both.withColumn("next", F.coalesce("v", F.lit(0)) * 1000 + F.coalesce("p", F.lit(0)))


NAMES = ("visits", "last", "times", "paid", "least")
PIPELINE = Pipeline(
    name="timely",
    key=("key",),
    sources=(VISITS, PAYMENTS),
    features=Features(compute=_features, columns=tuple(Feature(name) for name in NAMES)),
    label=Label(name="next", kind="regression", horizon_days=HORIZON, compute=_label),
    model=TorchModel(build=lambda num_features: None),
    training=Training(num_as_of=7, every_days=2),
    outputs=(Output("next_value"),),
    gate=Gate(metric="mae", floors={}, baseline=Baseline("visits")),
)


def generate(random: Random, *, keys: int, most_events: Sequence[int]) -> dict[str, list[Event]]:
    """Histories whose events often lie in the first and the last instant of a day.

    Args:
        most_events: The most events that a key has of a source; one of these by chance for each.
    """

    def event(key: int) -> Event:
        midnight = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(days=random.randrange(DAYS))
        instant = random.choice([0, 1, 86_399_999_999, random.randrange(86_400_000_000)])
        return f"k{key}", midnight + timedelta(microseconds=instant), random.randrange(1, 50)

    return {
        source.name: [event(key) for key in range(keys) for _ in range(random.randint(0, random.choice(most_events)))]
        for source in PIPELINE.sources
    }


def expected_features(events: Events, night: date) -> dict[str, tuple[float | None, ...]]:
    """By key, NAMES as of the night."""
    until = {name: [e for e in some if e[1].date() <= night] for name, some in events.items()}
    found: dict[str, tuple[float | None, ...]] = {}
    for key in {e[0] for some in until.values() for e in some}:
        visits = [e for e in until["visits"] if e[0] == key]
        paid = [e[2] for e in until["payments"] if e[0] == key]
        found[key] = (
            sum(e[2] for e in visits) if visits else None,
            max((e[1].date() - START).days for e in visits) if visits else None,
            len(visits) if visits else None,
            sum(paid) if paid else None,
            min(paid) if paid else None,
        )
    return found


def expected_label(events: Events, key: str, night: date) -> float:
    sums = {
        name: sum(e[2] for e in some if e[0] == key and night < e[1].date() <= night + timedelta(days=HORIZON))
        for name, some in events.items()
    }
    return sums["visits"] * 1000 + sums["payments"]


def by_night(rows: Sequence[Mapping[str, Any]]) -> dict[date, dict[str, tuple[float | None, ...]]]:
    found: dict[date, dict[str, tuple[float | None, ...]]] = {}
    for row in rows:
        assert row["key"] not in found.setdefault(row["as_of"], {})
        found[row["as_of"]][row["key"]] = tuple(row[name] for name in NAMES)
    return found


def write_raw(settings: Settings, events: Events, *, parts: int) -> None:
    """The raw tables in several commits, each with some of the rows of any day, as late files leave them."""
    from deltalake import write_deltalake

    for source in PIPELINE.sources:
        for part in range(parts):
            rows = [
                {"key": e[0], "at": e[1], "amount": e[2], "event_day": e[1].date()}
                for i, e in enumerate(events[source.name])
                if i % parts == part
            ]
            schema = pa.schema(
                [("key", "string"), ("at", pa.timestamp("us", "UTC")), ("amount", "int32"), ("event_day", "date32")]
            )
            table = pa.Table.from_pylist(rows, schema=schema)
            write_deltalake(settings.table_uri(source.raw_table), table, mode="append", partition_by=["event_day"])


@pytest.mark.slow
@hypothesis_settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(seed=st.integers(0, 1 << 32))
def test_features_and_labels_of_every_night_are_those_computed_from_what_was_known(
    spark: Any, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    random = Random(seed)
    events = generate(random, keys=80, most_events=(2, 6, 15))
    settings = load_settings(home=tmp_path_factory.mktemp("timely") / "home")
    write_raw(settings, events, parts=2)

    nights = sorted(random.sample([START + timedelta(days=day) for day in range(DAYS)], 20))
    rows = [row.asDict() for row in feature_frame(spark, settings, PIPELINE, nights).collect()]
    found = by_night(rows)
    for night in nights:
        assert found.get(night, {}) == expected_features(events, night), night

    dates = as_of_dates(PIPELINE, START + timedelta(days=DAYS - 1))
    labelled = [row.asDict() for row in labelled_frame(spark, settings, PIPELINE, dates).collect()]
    labelled_by_night = by_night(labelled)
    assert set(labelled_by_night) <= {night for several in dates.values() for night in several}
    for night in (night for several in dates.values() for night in several):
        assert labelled_by_night.get(night, {}) == expected_features(events, night), night
    for row in labelled:
        assert row["next"] == expected_label(events, row["key"], row["as_of"]), row
        assert row["as_of"] in dates[row["split"]]


def land(settings: Settings, events: Events, suffix: str) -> None:
    for source in PIPELINE.sources:
        folder = Path(settings.landing_uri) / source.name
        folder.mkdir(parents=True, exist_ok=True)
        for offset in range(DAYS):
            day = START + timedelta(days=offset)
            lines = [f"{e[0]},{e[1].isoformat()},{e[2]}" for e in events[source.name] if e[1].date() == day]
            (folder / f"{day}{suffix}.csv").write_text("\n".join(["key,at,amount", *lines, ""]))


@pytest.mark.slow
def test_nights_and_training_set_hold_what_was_known_also_after_late_files(settings: Settings, spark: Any) -> None:
    random = Random(7)
    on_time, late = (generate(random, keys=20, most_events=(4,)) for _ in range(2))
    nights = [START + timedelta(days=day) for day in (3, 11, 20, 29)]
    events: Events = on_time
    for suffix, landed in (("", on_time), (".late", late)):
        land(settings, landed, suffix)
        for source in PIPELINE.sources:
            ingest(settings, source)
        events = {name: [*on_time[name], *(late[name] if suffix else [])] for name in on_time}
        build_features(settings, PIPELINE, nights)
        found = by_night(open_table(settings, PIPELINE.feature_table).to_pyarrow_table().to_pylist())
        assert found == {night: expected_features(events, night) for night in nights}
    build_training_set(settings, PIPELINE, nights[-1])
    labelled = open_table(settings, PIPELINE.training_table).to_pyarrow_table().to_pylist()
    dates = as_of_dates(PIPELINE, nights[-1])
    assert by_night(labelled) == {n: expected_features(events, n) for several in dates.values() for n in several}
    for row in labelled:
        assert row["next"] == expected_label(events, row["key"], row["as_of"]), row
