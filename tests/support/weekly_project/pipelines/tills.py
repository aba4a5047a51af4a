"""What a customer spends in the next week, every Sunday; run on Mondays in Berlin."""

from dataclasses import replace
from datetime import date
from typing import Any

from shop_project.pipelines.orders import ORDERS, orders

from forecache.declare import Drift, EstimatorModel, Gate, Publish, Schedule, Training


def line() -> Any:
    from sklearn.linear_model import LinearRegression

    return LinearRegression()


TILLS = replace(ORDERS, name="tills", start=date(2026, 1, 1), end=date(2026, 3, 3), expectations=())


def spent_so_far(events: Any) -> Any:
    from shop_project.pipelines import orders as shop

    return shop.spent_so_far({"orders": events["tills"]})


def spends_next_week(entities: Any, events: Any) -> Any:
    from shop_project.pipelines import orders as shop

    return shop.spends_next_day(entities, {"orders": events["tills"]})


assert orders.label is not None
weekly = replace(
    orders,
    name="weekly",
    sources=(TILLS,),
    features=replace(orders.features, compute=spent_so_far, expectations=()),
    label=replace(orders.label, horizon_days=7, compute=spends_next_week),
    model=EstimatorModel(build=line),
    training=Training(num_as_of=2, every_days=5),
    gate=Gate(metric="mae", floors={}, baseline=orders.gate.baseline, baseline_margin=-1e6, max_latency_ms=1000.0),
    schedule=Schedule(every="week", cron="30 2 * * mon", time_zone="Europe/Berlin", training="never"),
    publish=Publish(max_row_change=None, max_psi=None),
    drift=Drift(report_rows=0),
)
