"""The landing files of the example: 183 days of made-up payments, a Parquet file a day."""

from collections.abc import Iterator
from datetime import date
from typing import TYPE_CHECKING

from cards.simulator import CUSTOMERS, START, Payments, Simulator
from cards.sources import PAYMENTS
from forecache import Source

if TYPE_CHECKING:
    import pyarrow as pa


def landing_days(customers: int = CUSTOMERS, last: date | None = None) -> "Iterator[tuple[Source, date, pa.Table]]":
    """Each day and its rows, to the source's last day or to another one; the same ones each time."""
    for payments in Simulator(customers).days(START, last or PAYMENTS.end or START):
        yield PAYMENTS, payments.day, table_of(payments)


def table_of(payments: Payments) -> "pa.Table":
    """The payments of a day with the columns of the source."""
    import pyarrow as pa

    return pa.table(
        {
            "transaction_id": payments.ids,
            "customer_id": payments.customer,
            "terminal_id": payments.terminal,
            "amount": payments.amount,
            "paid_at": pa.array(payments.paid_at, pa.timestamp("us", tz="UTC")),
            "fraud": payments.fraud.astype("int32"),
        }
    )
