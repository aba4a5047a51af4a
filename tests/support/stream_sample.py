"""A stream of payments: its declaration, a release that answers it, messages, and what its table has to hold."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
from release_support import make_release
from stream_code import models, transforms

from forecache.base.settings import Settings
from forecache.declare import (
    Column,
    Default,
    Feature,
    FeatureView,
    FunctionModel,
    Live,
    LiveRows,
    Lookup,
    Output,
    Pipeline,
    Publish,
    Realtime,
    RequestField,
    Segment,
    Source,
    Stream,
    Table,
    Topic,
    Window,
)
from forecache.kit.delta.log import open_if_exists
from forecache.realtime.release.format import LookupContract
from forecache.stream.table.schema import KAFKA_AT, MESSAGES, OFFSET, PARTITION, RECEIVED_AT

DAY = date(2026, 3, 2)
START = datetime(2026, 3, 2, 8, tzinfo=timezone.utc)
PAYMENTS = Source(
    "payments",
    columns=(
        Column("payment_id", "bigint"),
        Column("customer_id", "bigint"),
        Column("at", "timestamp"),
        Column("amount", "double", minimum=0, maximum=10_000),
        Column("shop", "string", required=False),
    ),
    event_time="at",
    unique=("payment_id",),
    start=date(2026, 3, 1),
)
CUSTOMER = FeatureView(
    "customer",
    ("customer_id",),
    (PAYMENTS,),
    windows=(
        Window("spent_2d", "sum", 2, "amount"),
        Window("payments_2d", "count", 2),
        Window("spent_30m", "sum", column="amount", minutes=30),
    ),
    publish=Publish(),
    live=Live(),
)
REQUEST = (RequestField("amount", "double"), RequestField("customer_id", "bigint"))
FEATURES = ("amount", "spent_2d", "payments_2d", "known")
CHECK = Realtime(
    "check",
    request=REQUEST,
    lookups=(Lookup(CUSTOMER),),
    transform=transforms.check,
    features=tuple(Feature(name, name) for name in FEATURES),
    model=FunctionModel(transforms.check),
    fallbacks=(Default(0.5),),
)

PACE = Pipeline(
    "pace",
    key=("customer_id",),
    features=CUSTOMER,
    model=FunctionModel(models.pace),
    outputs=(Output("pace", minimum=0.0, maximum=50.0),),
    segments=(Segment("band", of="pace", bounds=(5.0,), labels=("slow", "quick")),),
)
"""A pipeline whose rows a stream may refresh."""


def a_stream(topic: str | Topic = "payments", **declared: Any) -> Stream:
    """The stream of payments; further arguments are fields of `Stream`."""
    of = Topic("payments", topic=topic, source=PAYMENTS) if isinstance(topic, str) else topic
    return Stream(
        "payments",
        **{
            "topic": of,
            "views": (CUSTOMER,),
            "answers": CHECK,
            "to": (Table(), LiveRows()),
            "commit_s": 0.05,
            **declared,
        },
    )


def release(settings: Settings, version: int = 1) -> None:
    """Make a release of the model that answers, and make it current."""
    contract = LookupContract(
        "customer", "customer", ("customer_id",), CUSTOMER.served_columns, CUSTOMER.packed.contract
    )
    make_release(
        settings, name="check", features=FEATURES, transform=transforms.check, request=REQUEST, candidates=None,
        lookups=(contract,), version=version, warmup=[b'{"amount":1.0,"customer_id":1}'],
    )  # fmt: skip


@dataclass(frozen=True)
class EmptyNight:
    """The night before the stream's first day, which knows no key."""

    as_of: date = DAY - timedelta(days=1)
    name: str = "2026-03-01@7"

    def read_words(self, keys: Sequence[bytes]) -> tuple[None, None]:
        return None, None


def payment(number: int, **values: Any) -> bytes:
    """A message; `number` decides about its values."""
    at = START + timedelta(seconds=7 * number)
    made = {
        "payment_id": number, "customer_id": number % 5, "at": at.isoformat().replace("+00:00", "Z"),
        "amount": round(1 + number * 1.37 % 90, 2), "shop": None if number % 4 == 0 else f"s{number % 3}",
    }  # fmt: skip
    return json.dumps({**made, **values}).encode()


POISON: tuple[bytes | None, ...] = (
    None,
    b"",
    b"no json",
    b'{"payment_id": 1}',
    b"\xff\xfe",
    payment(900, amount=-1),
    payment(901, at="yesterday"),
    payment(902, at="2999-01-01T00:00:00Z"),
    payment(903, customer_id=None),
    b"[1, 2]",
)


def some_values(count: int = 120, *, first: int = 0) -> list[bytes | None]:
    """Payments from `first` on in their order; at random places between them poison, and every ninth payment so far."""
    generator = random.Random(5)
    values: list[bytes | None] = [payment(number) for number in range(first, first + count)]
    for each in (*POISON, *(payment(number) for number in range(0, first + count, 9))):
        values.insert(generator.randrange(len(values)), each)
    return values


def messages(values: Sequence[bytes | None], *, partition: int = 0, first: int = 0) -> pa.Table:
    """Messages as the consumer gives them, received now."""
    now, n = datetime.now(timezone.utc), len(values)
    columns = {
        PARTITION: [partition] * n, OFFSET: range(first, first + n), KAFKA_AT: [now] * n, RECEIVED_AT: [now] * n,
        "value": list(values),
    }  # fmt: skip
    return pa.table([pa.array(columns[field.name], field.type) for field in MESSAGES], schema=MESSAGES)


def table_rows(settings: Settings, table: str) -> list[dict[str, Any]]:
    """All rows of a table in the order of the stream."""
    delta = open_if_exists(settings, table)
    if delta is None:
        return []
    found = delta.to_pyarrow_table().to_pylist()
    return sorted(found, key=lambda row: (row.get("position", 0), row.get("place", row[OFFSET])))
