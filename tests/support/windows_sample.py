"""A view of every kind of window over a small source, days of random rows, and the same features in plain Spark."""

import random
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from forecache.base.settings import Settings
from forecache.declare import Column, FeatureView, Source, Where, Window
from forecache.kit.delta.tables import read_table

START = date(2026, 1, 1)
SALES = Source(
    "sales",
    columns=(
        Column("shop", "string"),
        Column("till", "int", required=False),
        Column("at", "timestamp"),
        Column("amount", "double", required=False),
        Column("pieces", "bigint", required=False),
        Column("article", "string", required=False),
    ),
    event_time="at",
    start=START,
)
LARGE = (Where("amount", ">=", 1.5), Where("article", "in", ("a", "b")))
WINDOWS = (
    Window("rows_3d", "count", 3),
    Window("amounts_2d", "count", 2, "amount"),
    Window("amount_3d", "sum", 3, "amount"),
    Window("amount_5d", "sum", 5, "amount"),
    Window("large_5d", "sum", 5, "amount", where=LARGE),
    Window("pieces_4d", "sum", 4, "pieces"),
    Window("mean_4d", "mean", 4, "amount"),
    Window("mean_pieces_2d", "mean", 2, "pieces", where=(Where("till", "!=", 1),)),
    Window("min_3d", "min", 3, "amount"),
    Window("max_3d", "max", 3, "amount"),
    Window("most_pieces_1d", "max", 1, "pieces"),
    Window("last_5d", "last", 5, "amount"),
    Window("last_pieces_2d", "last", 2, "pieces"),
    Window("articles_5d", "distinct", 5, "article"),
    Window("tills_2d", "distinct", 2, "till", where=(Where("amount", "<", 3.0),)),
)
VIEW = FeatureView("till_sales", key=("shop", "till"), sources=(SALES,), windows=WINDOWS, active_days=4)
AMOUNTS = (
    0.1, 0.2, 0.3, -0.1, 1e-11, 1.5, 2.5, 1e9 + 0.1, -1e9, 3.3333333333333335, 0.0, -0.0, 123456.789, -7.25,
)  # fmt: skip


def random_rows(rng: random.Random, day: date, rows: int) -> list[str]:
    """Lines of a landing file: few keys, amounts of very different sizes, nulls, NaN, infinities, and equal times."""
    lines = []
    for _ in range(rows):
        shop, till = rng.choice("xyz"), rng.choice(["", "1", "2"])
        at = f"{day}T{rng.choice(['00:00:00', '12:00:00.5', '23:59:59.999999'])}Z"
        amount = rng.choice([*map(repr, AMOUNTS), "", "NaN", "Infinity", "-Infinity"])
        lines.append(f"{shop},{till},{at},{amount},{rng.choice(['', '1', '7', '-3'])},{rng.choice(['', *'abcd'])}")
    return lines


def land(settings: Settings, day: date, lines: Sequence[str], *, name: str = "") -> None:
    folder = Path(settings.landing_uri) / SALES.name
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(["shop,till,at,amount,pieces,article", *lines, ""])
    (folder / f"{day}{name}.csv").write_text(text)


def free_form(spark: Any, settings: Settings, view: FeatureView, nights: Sequence[date]) -> Any:
    """The view's features (double) by plain Spark over all raw rows of its source, each window for itself."""
    from pyspark.sql import functions as F

    (source,) = view.sources
    kinds = {column.name: column.type for column in source.columns}
    rows = read_table(spark, settings, source.raw_table)
    rows = rows.withColumn("as_of", F.explode(F.array(*map(F.lit, nights))))
    age = F.datediff("as_of", "event_day")
    rows = rows.where(age >= 0)
    for name in view.key:
        rows = rows.where(F.col(name).isNotNull())

    def finite(name: str) -> Any:
        if kinds[name] != "double":
            return F.col(name)
        bad = F.isnan(name) | F.col(name).isin(float("inf"), float("-inf"))
        return F.when(~bad, F.col(name))

    def condition(where: Where) -> Any:
        column = F.col(where.column)
        if where.comparison == "in":
            assert isinstance(where.value, tuple)
            return column.isin(*where.value)
        value = F.lit(where.value)
        compared = {
            "==": column == value, "!=": column != value, "<": column < value, "<=": column <= value,
            ">": column > value, ">=": column >= value,
        }[where.comparison]  # fmt: skip
        return compared & ~F.isnan(column) if kinds[where.column] == "double" else compared

    def total(value: Any, of_double: bool) -> Any:
        if not of_double:
            return F.coalesce(F.sum(value), F.lit(0)).cast("double")
        whole = F.sum(F.floor(value).cast("decimal(38,0)"))
        steps = F.sum(F.rint((value - F.floor(value)) * F.lit(2.0**32)).cast("decimal(38,0)"))
        carried = F.floor(steps / F.lit(2**32).cast("decimal(38,0)"))
        low = steps - carried * F.lit(2**32).cast("decimal(38,0)")
        return F.coalesce((whole + carried).cast("double") + low.cast("double") / F.lit(2.0**32), F.lit(0.0))

    made = []
    for window in view.windows:
        meets = age < window.days
        for where in window.where:
            meets = meets & condition(where)
        if window.column is None:
            made.append(F.count(F.when(meets, 1)).cast("double").alias(window.name))
            continue
        value, of_double = F.when(meets, finite(window.column)), kinds[window.column] == "double"
        number = F.when(value == 0, F.lit(0.0)).otherwise(value.cast("double"))
        column = {
            "count": lambda v=value: F.count(v).cast("double"),
            "sum": lambda v=value, d=of_double: total(v, d),
            "mean": lambda v=value, d=of_double: F.when(F.count(v) > 0, total(v, d) / F.count(v)),
            "min": lambda n=number: F.min(n),
            "max": lambda n=number: F.max(n),
            "last": lambda n=number: F.max(F.when(n.isNotNull(), F.struct(source.event_time, n.alias("v"))))["v"],
            "distinct": lambda v=value: F.countDistinct(v).cast("double"),
        }[window.aggregate]()
        made.append(column.alias(window.name))
    active = F.lit(True) if view.num_active_days is None else F.min(age) < view.num_active_days
    result = rows.groupBy(*view.key, "as_of").agg(*made, active.alias("active"))
    return result.where("active").drop("active")


def days_after(number: int) -> date:
    return START + timedelta(days=number)
