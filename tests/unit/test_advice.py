"""Right-sizing: advice only from what was measured, each with its figures and what it saves."""

from datetime import date, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from reader_support import churn_rows, write_version

from forecache.base.errors import NotFoundError
from forecache.base.settings import Settings
from forecache.declare import Log
from forecache.lake.ledger import StageRecord
from forecache.plugins.cost import sizing_advice
from forecache.plugins.cost.sizing_advice import (
    TrafficStats,
    batch_advice,
    reader_advice,
    scoring_advice,
    training_advice,
)
from forecache.plugins.cost.stage_costs import ReaderUse

NIGHT = date(2026, 1, 1)
MB = 2**20


def training(
    *, busy: float, workers: int = 4, stall: float = 0.0, wasted_s: float = 0.0, device: str = "cpu"
) -> StageRecord:
    usage = {
        "cpu_share": busy, "stall_share": stall, "peak_memory_bytes": MB, "attempt_s": 900.0,
        "device_memory_bytes": 0 if device == "cpu" else 80 * 2**30,
        "peak_device_memory_bytes": 0 if device == "cpu" else 10 * 2**30,
    }  # fmt: skip
    details = {
        "device": "cpu" if device == "cpu" else "cuda", "device_name": device, "workers": workers, "usage": usage,
        "cost": {"device_s": 3600.0 * workers, "wasted_s": wasted_s},
    }  # fmt: skip
    return StageRecord("train", "churn", None, "i", "", -1, 10, 900.0, details)


def night(engine: str, core_s: float, *, rows: int = 1_000_000, worker_mb: int = 800) -> StageRecord:
    run = {"worker_bytes": worker_mb * MB, "rows": rows, "seconds": core_s / 2, "cores": 2}
    details = {"engine": engine, "mode": "full", "cost": {"core_s": core_s}, "run": run}
    return StageRecord("score", "churn", NIGHT, "i", "t", 1, rows, core_s / 2, details)


def test_idle_threads_of_a_training_are_worth_fewer_workers(settings: Settings) -> None:
    priced = settings.model_copy(update={"prices": {"cpu": (0.04, 0.05)}})
    fewer, spot = training_advice(priced, [training(busy=0.3)], 2.0)
    assert fewer.do == "FORECACHE_TRAINING_WORKERS=2"
    assert "busy 30% of the time" in fewer.why
    assert (fewer.saves, fewer.unit) == (pytest.approx(1.0), "device-hours")
    assert fewer.price == pytest.approx(0.04)
    assert spot.do == "machines on demand"
    assert training_advice(settings, [training(busy=0.7)], 1.0) == []
    [cache] = training_advice(settings, [training(busy=0.3, stall=0.4)], 1.0)
    assert "waited for data 40%" in cache.why


def test_spot_is_advised_by_its_price_with_the_measured_waste(settings: Settings) -> None:
    priced = settings.model_copy(update={"prices": {"H100": (3.0, 1.0)}})
    spot, smaller = training_advice(priced, [training(busy=0.9, workers=1, wasted_s=360.0, device="NVIDIA H100")], 1.0)
    assert spot.do == "spot machines"
    assert "10.0% of them wasted" in spot.why
    assert spot.price == pytest.approx(0.9 * 3.0 - 1.0)
    assert smaller.do.startswith("a smaller device")


def test_scoring_gets_the_memory_that_it_takes_and_the_engine_that_takes_less(settings: Settings) -> None:
    priced = settings.model_copy(update={"prices": {"cpu": (0.04, 0.01)}})
    memory, engine = scoring_advice(
        priced, [night("arrow", 36.0, worker_mb=300), night("spark", 72.0, worker_mb=200)], 1.0
    )
    assert memory.do == "FORECACHE_SCORING_WORKER_MEMORY_MB=384"
    assert "at most 300 MB, for churn; it is given 1,024 MB" in memory.why
    assert engine.do == "engine arrow"
    assert (engine.saves, engine.price) == (pytest.approx(0.01), pytest.approx(0.0004))
    assert scoring_advice(priced, [night("spark", 72.0)], 1.0) == []


def test_readers_are_advised_by_their_busiest_time_and_only_from_prometheus(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reader_advice(settings, 7.0) == []
    asking = settings.model_copy(update={"prometheus_url": "http://prometheus", "prices": {"replica": (0.05, 0.02)}})

    def measured(replicas: float, peak: float, mean: float) -> list[Any]:
        monkeypatch.setattr(sizing_advice, "use_of_readers", lambda *_: ReaderUse(replicas, 1e6, "Prometheus"))
        monkeypatch.setattr(
            sizing_advice, "query_prometheus", lambda _, query: peak if query.startswith("max") else mean
        )
        return reader_advice(asking, 7.0)

    [fewer] = measured(10.0, 2.4, 1.0)
    assert (fewer.do, fewer.saves) == ("4 readers", 24 * 6)
    assert fewer.price == pytest.approx(24 * 6 * 0.05)
    [more] = measured(3.0, 6.0, 1.0)
    assert more.do == "at least 10 readers at the busiest times"
    [by_demand] = measured(4.0, 2.4, 1.0)
    assert by_demand.do == "the chart's reader.autoscaling from 2 readers on"
    assert measured(2.0, 0.3, 0.1) == []


def test_a_night_for_all_keys_is_advised_where_that_is_less_than_what_is_asked(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_version(settings.store_path, "user", churn_rows(100))
    lookup = SimpleNamespace(by=("user_id",), view=SimpleNamespace(name="user"))
    model = SimpleNamespace(name="search", log=Log("user_id"), lookups=[lookup])
    project: Any = SimpleNamespace(realtime={"search": model})

    def measured(requests: float, keys: float, logged: int = 5_000) -> list[Any]:
        monkeypatch.setattr(sizing_advice, "measure_traffic", lambda *_: TrafficStats(requests, keys, 0.001, logged))
        return batch_advice(settings, project, 7.0)

    [nightly] = measured(1_000.0, 90.0)
    assert nightly.do.startswith("a pipeline that scores in the nightly run")
    assert nightly.saves == pytest.approx(900 * 0.001 / 3600)
    assert "asked for 90.0% of 100 keys" in nightly.why
    [stay] = measured(50.0, 20.0)
    assert stay.do == "stay with real time"
    assert measured(50.0, 20.0, logged=10) == []
    lookup.by = ("shop_id",)
    assert measured(50.0, 20.0) == [], "no view has a row for each key"


def test_use_is_counted_from_a_request_log(settings: Settings) -> None:
    import pyarrow as pa

    from forecache.kit.delta.tables import append_rows
    from forecache.plugins.cost.demand import demand_from_log, measure_service_s
    from forecache.realtime.log.record import schema, table_of

    now = datetime.now(timezone.utc).replace(hour=0, minute=0, second=5, microsecond=0)
    plain = dict.fromkeys(schema().names)
    rows = [
        {**plain, "request_id": str(number), "arrived_at": now, "day": now.date(), "key": f"k{number % 4}", "items": 1,
         "variant": "shadow" if number == 9 else "current", "total_us": 500, "wait_us": 200}
        for number in range(10)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=schema())
    append_rows(settings, table_of("search"), table, partition_by=("day",))

    class Model:
        name, log = "search", Log("user", sample=0.5)

    model: Any = Model()
    found = sizing_advice.measure_traffic(settings, model, 7.0)
    assert found is not None
    assert (found.requests, found.keys, found.logged) == (18.0, 8.0, 9)
    before = now - timedelta(hours=36)
    older = [{**row, "arrived_at": before, "day": before.date()} for row in rows]
    append_rows(
        settings, table_of("earlier"), pa.Table.from_pylist([*rows, *older], schema=schema()), partition_by=("day",)
    )
    model.name = "earlier"
    spread = sizing_advice.measure_traffic(settings, model, 7.0)
    assert spread is not None
    assert spread.requests == pytest.approx(2 * 18 / 1.5)
    assert found.seconds == pytest.approx(300e-6)
    demand = demand_from_log(settings, "search", sample=0.5)
    assert demand.requests == pytest.approx(18.0)
    assert demand.rates[0] == pytest.approx(1.8)
    assert measure_service_s(settings, "search") == pytest.approx(300e-6)
    whole_day = demand_from_log(settings, "earlier", sample=0.5)  # the one before yesterday: today is not over
    assert (whole_day.requests, whole_day.source) == (18.0, f"request log of earlier, {before.date()}")
    today = demand_from_log(settings, "earlier", day=now.date(), sample=0.5)
    assert (today.requests, today.rates[0]) == (18.0, pytest.approx(1.8))
    with pytest.raises(NotFoundError, match="no requests of 2020-01-01"):
        demand_from_log(settings, "earlier", day=date(2020, 1, 1))
