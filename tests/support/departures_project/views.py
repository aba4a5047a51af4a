"""Departures, and what is known of a carrier on the evening before."""

from datetime import date

from forecache.declare import Column, FeatureView, Publish, Source, Where, Window

DEPARTURES = Source(
    name="departures",
    columns=(
        Column("departure_id", "string"),
        Column("carrier", "string"),
        Column("number", "bigint"),
        Column("scheduled_at", "timestamp"),
        Column("distance", "double", minimum=0),
        Column("arrival_delay", "double", required=False),
    ),
    event_time="scheduled_at",
    unique=("departure_id",),
    start=date(2013, 1, 1),
    end=date(2013, 1, 21),
)
CARRIER = FeatureView(
    name="carrier",
    key=("carrier",),
    sources=(DEPARTURES,),
    windows=(
        Window("flights_7d", "count", 7),
        Window("late_7d", "count", 7, where=(Where("arrival_delay", ">", 15.0),)),
        Window("delay_7d", "mean", 7, "arrival_delay"),
    ),
    publish=Publish(),
)
