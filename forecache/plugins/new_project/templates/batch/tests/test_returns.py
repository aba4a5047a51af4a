"""The label's SQL on a few hand-written orders."""

from datetime import date

from forecache.testing import select_rows
from new_project.pipelines.returns import returns


def test_the_label_is_one_for_customers_who_order_again() -> None:
    orders = [{"order_id": number, "customer": "ann", "event_day": date(2026, 2, 3)} for number in (1, 2)]
    rows = {"entities": [{"customer": "ann"}, {"customer": "bob"}], "orders": orders}
    found = select_rows(returns.label_statement, rows, date(2026, 1, 31))
    assert {row["customer"]: row["returned"] for row in found} == {"ann": 1.0, "bob": 0.0}
