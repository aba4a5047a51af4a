"""What is left when a stream has come to rest: the rows of its table and the answers about keys, against the truth."""

from typing import Any

import numpy as np
from deltalake import DeltaTable

from _stream import home, nights
from _stream.traffic import Traffic, Truth
from _stream.visible import Asked
from forecache.base.settings import Settings
from forecache.serve.store import open_store
from forecache.serve.store.live.reader import LiveReader

_CATCH_UP_S, _VERIFIED_S = 300.0, 180.0
_ASKED_AT_ONCE = 1_000
_UNCHANGED_ASKED = 20_000


def wait_for_rows(settings: Settings, count: int) -> float:
    table = f"stream_{home.FOLLOWED}"
    return home.wait_for("all rows", lambda: home.count_rows(settings, table) >= count, seconds=_CATCH_UP_S)


def wait_for_answers(port: int, pipeline: str, traffic: Traffic) -> float:
    """Until the customers of the last payments have them in their answers."""
    asked, truth = Asked(port, pipeline), Truth(traffic)
    last = np.unique(traffic.customer_of(traffic.numbers[-_ASKED_AT_ONCE:]))

    def there() -> bool:
        results = asked.results(last.tolist())
        return all(r["found"] and r["value"]["spent"] == truth.totals[c] for c, r in zip(last, results, strict=True))

    return home.wait_for("the last payments in the answers", there, seconds=_CATCH_UP_S)


def table_figures(settings: Settings, table: str, count: int) -> dict[str, int]:
    """Rows of a stream's table, and distinct events among them."""
    found = home.rows_of(settings, table, ["transaction_id"])["transaction_id"].to_numpy()
    return {"sent": count, "rows": len(found), "distinct": len(np.unique(found))}


def content(port: int, pipeline: str, traffic: Traffic, corrections: int) -> dict[str, Any]:
    """Every customer with a payment, and some without one, as the reader answers; how many answers are wrong."""
    truth, asked = Truth(traffic), Asked(port, pipeline)
    expected = np.where(truth.counts > 0, truth.totals, nights.stamps(corrections, traffic.customers) * nights.STEP)
    paid, unpaid = np.flatnonzero(truth.counts > 0), np.flatnonzero(truth.counts == 0)
    some = np.random.default_rng(0).permutation(unpaid)[:_UNCHANGED_ASKED]
    wrong, first = 0, list[str]()
    customers = np.concatenate([paid, some])
    for start in range(0, len(customers), _ASKED_AT_ONCE):
        keys = customers[start : start + _ASKED_AT_ONCE].tolist()
        for key, result in zip(keys, asked.results(keys), strict=True):
            value = result["value"]["spent"] if result["found"] else None
            if value != expected[key]:
                wrong += 1
                first = [*first, f"customer {key}: {value} instead of {expected[key]}"][:5]
    return {"with_payments": len(paid), "without": len(some), "wrong": wrong, "first_wrong": first}


def wait_until_verified(settings: Settings, pipeline: str) -> float:
    """Until the live layer was compared with the table at its last version, and found equal."""
    live = LiveReader(open_store(settings, pipeline).layout)
    version = DeltaTable(settings.table_uri(f"stream_{home.FOLLOWED}")).version()
    try:
        return home.wait_for(
            f"the verification through version {version}",
            lambda: live.verified_through >= version,
            seconds=_VERIFIED_S,
        )
    finally:
        live.close()
