"""Reads the table s3://cloud/products as of 2026-01-03 and prints its rows as JSON."""

import json
from datetime import date

from forecache.base.settings import load_settings
from forecache.declare import Column, Snapshot, TableSource
from forecache.kit.spark.session import spark_session
from forecache.lake.sources import known_rows

source = TableSource(
    "products",
    "s3://cloud/products",
    (Column("product_id", "int"), Column("price", "double"), Column("day", "date")),
    time=Snapshot(day="day"),
    key=("product_id",),
    start=date(2026, 1, 1),
)
settings = load_settings()
frame = known_rows(spark_session(settings), settings, [source], [date(2026, 1, 3)])["products"]
print(json.dumps([[row.product_id, row.price, str(row.as_of)] for row in frame.collect()]))
