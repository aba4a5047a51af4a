"""Payments of a topic and of landing files, and how the benchmark has them streamed: what both projects declare."""

import os
from datetime import date
from typing import Literal

from forecache.declare import Column, Source
from forecache.declare.stream import Topic

ENGINE: Literal["arrow", "spark"] = "spark" if os.environ.get("BENCH_ENGINE") == "spark" else "arrow"
FRESHNESS: Literal["commit", "event"] = "commit" if os.environ.get("BENCH_FRESHNESS") == "commit" else "event"
KEEP_FEATURES = os.environ.get("BENCH_FEATURES") == "kept"


def payments_source(*more: Column) -> Source:
    """The source of payments, with further columns."""
    return Source(
        "payments",
        columns=(
            Column("transaction_id", "bigint"),
            Column("customer_id", "bigint"),
            Column("terminal_id", "bigint"),
            Column("at", "timestamp"),
            Column("amount", "double"),
            *more,
        ),
        event_time="at",
        unique=("transaction_id",),
        start=date(2026, 1, 1),
    )


def payments_topic(source: Source) -> Topic:
    return Topic("payments", topic="payments", source=source)
