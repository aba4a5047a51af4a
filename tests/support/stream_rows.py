"""Tables of streams as an engine commits them: seam 3 of the streams, written by hand.

A row's position is the Delta version of its commit. One writer only: nothing comes between.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from forecache.base.settings import Settings
from forecache.serve.store.keys import KeyColumn, KeySchema
from forecache.serve.store.live.layer import LiveLayer, write_layer
from forecache.serve.store.manifest import Field
from forecache.serve.store.remote_store import open_store
from forecache.serve.store.store import Store

MOMENT = pa.timestamp("us", "UTC")
STREAM = "clicks"
IN_FRONT = [
    ("position", pa.int64()),
    ("place", pa.int32()),
    ("kafka_partition", pa.int32()),
    ("kafka_offset", pa.int64()),
    ("kafka_at", MOMENT),
    ("hour", pa.string()),
    ("event_day", pa.date32()),
    ("received_at", MOMENT),
]
BEHIND = [
    ("model_version", pa.int64()),
    ("release", pa.int64()),
    ("feature_version", pa.string()),
    ("late", pa.bool_()),
]
CHURN = [
    ("customer_id", pa.string()),
    ("clicked_at", MOMENT),
    ("churn_probability", pa.float64()),
    ("risk_segment", pa.string()),
]
"""Columns of a stream that refreshes the answers of `store_tables.churn`."""


class StreamTable:
    """The table `stream_<name>` of a lake.

    Args:
        columns: Those of the topic and of the answers, name and type.
        time: The one that is the time of the event.
    """

    def __init__(
        self,
        settings: Settings,
        name: str = STREAM,
        columns: Sequence[tuple[str, pa.DataType]] = tuple(CHURN),
        time: str = "clicked_at",
    ) -> None:
        self.settings, self.time = settings, time
        self.name = f"stream_{name}"
        self.uri = settings.table_uri(self.name)
        self.schema = pa.schema([*IN_FRONT, *columns, *BEHIND])
        self.offset = 0

    @property
    def version(self) -> int:
        return DeltaTable(self.uri).version() if DeltaTable.is_deltatable(self.uri) else -1

    def commit(self, rows: Sequence[Mapping[str, Any]], *, position: int | None = None) -> int:
        """Append rows in one commit; returns its Delta version. What a row does not say is filled in.

        Args:
            position: What the rows say of their commit; None: the truth.
        """
        version = self.version + 1
        filled = []
        for place, row in enumerate(rows):
            at = row[self.time]
            filled.append(
                {
                    "position": version if position is None else position,
                    "place": place,
                    "kafka_partition": 0,
                    "kafka_offset": self.offset + place,
                    "kafka_at": at,
                    "hour": at.strftime("%Y-%m-%dT%H"),
                    "event_day": at.date(),
                    "received_at": at,
                    "model_version": 3,
                    "release": None,
                    "feature_version": f"{date.fromordinal(at.date().toordinal() - 1)}@7",
                    "late": False,
                    **row,
                }
            )
        self.offset += len(rows)
        write_deltalake(
            self.uri,
            pa.Table.from_pylist(filled, self.schema),
            mode="append",
            partition_by=["hour"],
            configuration={"delta.logRetentionDuration": "interval 1 days"},
        )
        return version

    def compact(self) -> int:
        """Merge the small files of each hour; returns the Delta version of the commit that did."""
        DeltaTable(self.uri).optimize.compact()
        return self.version

    def forget_log(self) -> None:
        """Remove all entries of the log but the newest, behind a checkpoint, as its cleaning does after a day."""
        table = DeltaTable(self.uri)
        table.create_checkpoint()
        for version in range(table.version()):
            Path(self.uri, "_delta_log", f"{version:020d}.json").unlink(missing_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        """All rows in the order of the stream, read without any of the code under test."""
        if self.version < 0:
            return []
        rows: list[dict[str, Any]] = DeltaTable(self.uri).to_pyarrow_table().to_pylist()
        return sorted(rows, key=lambda row: (row["position"], row["place"]))

    def truth(self, *, up_to: int | None = None) -> dict[str, dict[str, Any]]:
        """Of each customer the last row up to a position that has an answer."""
        answered = [row for row in self.rows() if row["churn_probability"] is not None]
        return {row["customer_id"]: row for row in answered if up_to is None or row["position"] <= up_to}


def click(customer: str, score: float | None, at: datetime, **more: Any) -> dict[str, Any]:
    """A row of the stream: an event of a customer, and the answer to it."""
    segment = None if score is None else "high" if score >= 0.5 else "low"
    return {
        "customer_id": customer,
        "clicked_at": at,
        "churn_probability": score,
        "risk_segment": segment,
        **more,
    }


def moment(day: date, hour: int = 8, minute: int = 0, second: int = 0) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=timezone.utc)


def live_churn(settings: Settings, *, keep_h: float | None = None, max_lag_s: float | None = None) -> Store:
    """The store of `store_tables.churn` with a live layer of the stream."""
    store = open_store(settings, "churn")
    store.layout.create()
    write_layer(
        store.layout,
        LiveLayer(
            stream=STREAM,
            table=f"stream_{STREAM}",
            kind="rows",
            key=KeySchema((KeyColumn("customer_id", "string"),)),
            fields=(Field("churn_probability", "double"), Field("risk_segment", "string")),
            event_time="clicked_at",
            max_lag_s=max_lag_s,
            keep_h=keep_h,
        ),
    )
    return store
