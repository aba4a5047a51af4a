"""The pipeline's SQL on a few hand-written orders."""

from datetime import date
from typing import Any

from forecache.testing import select_rows
from new_project.pipelines.returns import returns

AS_OF = date(2026, 1, 31)


def order(number: int, customer: str, day: date, amount: float) -> dict[str, Any]:
    return {"order_id": number, "customer": customer, "amount": amount, "event_day": day}


def test_features_count_orders_within_their_windows() -> None:
    orders = [
        order(1, "ann", date(2026, 1, 31), 2.0),
        order(2, "ann", date(2026, 1, 10), 4.0),
        order(3, "bob", date(2026, 1, 2), 6.0),
    ]
    found = select_rows(returns.views[0].statement, {"orders": orders}, AS_OF)
    rows = {row["customer"]: row for row in found}
    same = {"as_of": AS_OF}
    assert rows["ann"] == same | {
        "customer": "ann", "recency_days": 0, "orders_7d": 1, "orders_28d": 2, "mean_amount": 3.0
    }  # fmt: skip
    assert rows["bob"] == same | {
        "customer": "bob", "recency_days": 29, "orders_7d": 0, "orders_28d": 0, "mean_amount": 6.0
    }  # fmt: skip


def test_the_label_is_one_for_customers_who_order_again() -> None:
    after = [order(4, "ann", date(2026, 2, 3), 1.0), order(5, "ann", date(2026, 2, 5), 1.0)]
    rows = {"entities": [{"customer": "ann"}, {"customer": "bob"}], "orders": after}
    found = select_rows(returns.label_statement, rows, AS_OF)
    assert {row["customer"]: row["returned"] for row in found} == {"ann": 1.0, "bob": 0.0}
