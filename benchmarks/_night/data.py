"""What all contenders work on: purchases in CSV files of a day each, twenty windows, a LightGBM model.

Amounts are quarters, so that sums of doubles are the same in any order and the scores of all contenders are equal.
"""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv

from forecache import Column, FeatureView, Output, Pipeline, Publish, RegisteredModel, Source, Window

START, HISTORY_DAYS = date(2026, 1, 1), 10
NIGHT = START + timedelta(days=HISTORY_DAYS)
DAYS = [START + timedelta(days=number) for number in range(HISTORY_DAYS + 1)]
LENGTHS = (1, 3, 7, 11)
MODEL, NUM_TREES = "night_purchase", 100
PURCHASES = Source(
    name="purchases",
    columns=(
        Column("customer_id", "bigint", required=True),
        Column("at", "timestamp", required=True),
        Column("amount", "double", required=True, minimum=0),
        Column("shop", "string", required=True),
    ),
    event_time="at",
    start=START,
)
SPENDING = FeatureView(
    name="spending",
    key=("customer_id",),
    sources=(PURCHASES,),
    windows=tuple(
        window
        for days in LENGTHS
        for window in (
            Window(f"count_{days}d", "count", days),
            Window(f"amount_{days}d", "sum", days, "amount"),
            Window(f"mean_{days}d", "mean", days, "amount"),
            Window(f"least_{days}d", "min", days, "amount"),
            Window(f"most_{days}d", "max", days, "amount"),
        )
    ),
)
NAMES = [window.name for window in SPENDING.windows]
PURCHASE = Pipeline(
    name="purchase",
    key=("customer_id",),
    features=SPENDING,
    model=RegisteredModel(f"models:/{MODEL}@production"),
    outputs=(Output("probability", minimum=0.0, maximum=1.0),),
    publish=Publish(max_age_h=1e6),
)
_CHUNK_ROWS = 1 << 20


def rows_of_day(number: int, *, keys: int, events: int) -> list[pa.Table]:
    """The events of a day in the order of time, some at a time; the same ones each time."""
    rng, day = np.random.default_rng([1, number]), DAYS[number]
    seconds = np.sort(rng.integers(0, 86_400, events))
    midnight = np.datetime64(day, "s")
    shops = pa.array([f"shop-{shop}" for shop in range(1000)])
    found = []
    for first in range(0, events, _CHUNK_ROWS):
        at = midnight + seconds[first : first + _CHUNK_ROWS]
        rows = len(at)
        found.append(
            pa.table(
                {
                    "customer_id": rng.integers(0, keys, rows),
                    "at": pa.array(at),
                    "amount": rng.integers(1, 4000, rows) / 4.0,
                    "shop": shops.take(pa.array(rng.integers(0, 1000, rows))),
                }
            )
        )
    return found


def write_csv(path: Path, rows: list[pa.Table]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pcsv.CSVWriter(str(path), rows[0].schema, write_options=pcsv.WriteOptions(quoting_style="none")) as writer:
        for each in rows:
            writer.write_table(each)


def booster() -> Any:
    """A LightGBM Booster of 100 trees with 31 leaves, on rows such as the windows make."""
    import lightgbm

    rng, columns, rows = np.random.default_rng(0), list[Any](), 50_000
    for days in LENGTHS:
        count = rng.poisson(days, rows)
        mean = np.where(count > 0, rng.normal(500, 290 / np.sqrt(np.maximum(count, 1))), np.nan)
        spread = 500 * (1 - 2 / (count + 2))
        columns += [count, np.nan_to_num(count * mean), mean, mean - spread, mean + spread]
    features = np.stack(columns, axis=1).astype(np.float32)
    label = np.nan_to_num(features[:, 12]) / 1000 + features[:, 10] / 14 + rng.normal(size=rows) > 1
    parameters = {"objective": "binary", "num_leaves": 31, "verbose": -1, "num_threads": 2, "deterministic": True}
    return lightgbm.train(parameters, lightgbm.Dataset(features, label=label.astype(int)), num_boost_round=NUM_TREES)
