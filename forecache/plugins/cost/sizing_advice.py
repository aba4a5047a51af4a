"""Advice on right-sizing from measured use: trainings, scoring, readers, and batch against real time."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

from forecache.base.prices import CPU, REPLICA, hourly_price
from forecache.base.settings import Settings
from forecache.declare import Realtime
from forecache.declare.loading import read_project
from forecache.declare.project import Project
from forecache.kit.delta.tables import table_exists
from forecache.lake.ledger import StageRecord, records_since
from forecache.plugins.cost.autoscalers import Hpa
from forecache.plugins.cost.stage_costs import ledger_period, query_prometheus, use_of_readers
from forecache.realtime.log.read import read_log
from forecache.realtime.log.record import table_of
from forecache.serve.store.remote_store import list_served_manifests


@dataclass(frozen=True)
class SizingAdvice:
    """One piece of advice: a setting or declaration to change."""

    about: str  # its subject, such as "training of churn"
    do: str  # the setting or declaration to make
    why: str  # a sentence with the measured figures that decide
    saves: float = 0.0  # hours a day, of `unit`; 0 if it saves memory or improves answers
    unit: str = ""
    price: float | None = None  # price of these hours a day on demand; None if the settings have no price


def saving_advice(
    settings: Settings, about: str, do: str, why: str, hours: float, unit: str, *, priced_by: str
) -> SizingAdvice:
    """Advice that saves hours of something, with their price if the settings have one under `priced_by`."""
    price = hourly_price(priced_by, settings.prices)
    return SizingAdvice(about, do, why, hours, unit, None if price is None else hours * price[0])


def sort_by_saving(advice: Sequence[SizingAdvice]) -> list[SizingAdvice]:
    return sorted(advice, key=lambda each: (-(each.price or 0.0), -each.saves))


_BUSY = 0.8
"""Share of the time for which workers may be busy without fewer of them being slower."""
_SMALL_MEMORY = 0.5


def training_advice(settings: Settings, records: Iterable[StageRecord], days: float) -> list[SizingAdvice]:
    """Advice from the newest training of each pipeline, and the device seconds of all trainings of the period."""
    newest: dict[str, StageRecord] = {}
    device_s: dict[str, float] = {}
    wasted_s: dict[str, float] = {}
    for record in records:
        cost = record.details.get("cost")
        if record.stage == "train" and cost and "usage" in record.details:
            newest[record.subject] = record
            device_s[record.subject] = device_s.get(record.subject, 0.0) + cost["device_s"]
            wasted_s[record.subject] = wasted_s.get(record.subject, 0.0) + cost["wasted_s"]
    found: list[SizingAdvice | None] = []
    for subject, record in newest.items():
        hours, wasted = device_s[subject] / 3600 / days, wasted_s[subject] / 3600 / days
        found += [
            _worker_advice(settings, record, hours),
            _spot_advice(settings, record, hours, wasted),
            _device_advice(record),
        ]
    return [each for each in found if each is not None]


def _worker_advice(settings: Settings, record: StageRecord, hours: float) -> SizingAdvice | None:
    details, usage = record.details, record.details["usage"]
    workers, busy = details["workers"], usage["cpu_share"]
    if details["device"] != "cpu" or workers < 2:
        return None
    if usage["stall_share"] > 1 - _BUSY:
        return SizingAdvice(
            f"training of {record.subject}", "a larger cache, or another core a worker",
            f"Its {workers} workers waited for data {usage['stall_share']:.0%} of the time.",
        )  # fmt: skip
    fewer = max(1, math.ceil(workers * busy / _BUSY))
    if fewer >= workers:
        return None
    why = (
        f"Its {workers} workers' threads were busy {busy:.0%} of the time and waited for data "
        f"{usage['stall_share']:.0%}: {fewer} would be busy {busy * workers / fewer:.0%}. Up to this saving, if it "
        "takes no longer."
    )
    return saving_advice(
        settings, f"training of {record.subject}", f"FORECACHE_TRAINING_WORKERS={fewer}", why,
        hours * (1 - fewer / workers), "device-hours", priced_by=details["device_name"],
    )  # fmt: skip


def _spot_advice(settings: Settings, record: StageRecord, hours: float, wasted: float) -> SizingAdvice | None:
    price = hourly_price(record.details["device_name"], settings.prices)
    if price is None or not hours:
        return None
    on_demand, spot = (hours - wasted) * price[0], hours * price[1]
    share = wasted / hours
    figures = (
        f"{hours:.3g} device-hours a day, {share:.1%} of them wasted by preemption: {spot:,.3g} on spot machines, "
        f"{on_demand:,.3g} on demand."
    )
    do = "spot machines" if spot < on_demand else "machines on demand"
    # The frequency of preemptions is only known for runs on spot machines.
    caution = "" if wasted or spot >= on_demand else " None was preempted, so what spot machines waste is not measured."
    return SizingAdvice(
        f"training of {record.subject}", do, figures + caution, 0.0, "", abs(on_demand - spot)
    )  # fmt: skip


def _device_advice(record: StageRecord) -> SizingAdvice | None:
    usage = record.details["usage"]
    whole, peak = usage["device_memory_bytes"], usage["peak_device_memory_bytes"]
    if not whole or peak / whole >= _SMALL_MEMORY:
        return None
    name = record.details["device_name"]
    why = f"It used {peak / whole:.0%} of the {whole / 2**30:.0f} GiB of {name}."
    return SizingAdvice(f"training of {record.subject}", "a smaller device, or a larger batch", why)


_MARGIN = 1.25
_STEP_MB = 64
_WORTH = 0.2


def scoring_advice(settings: Settings, records: Iterable[StageRecord], days: float) -> list[SizingAdvice]:
    """Advice from the scoring stages of the period."""
    nights = [record for record in records if record.stage == "score" and record.rows and record.details.get("run")]
    found = _memory_advice(settings, nights)
    return [*([found] if found else []), *_engine_advice(settings, nights, days)]


def _memory_advice(settings: Settings, nights: list[StageRecord]) -> SizingAdvice | None:
    used, largest = max(
        ((record.details["run"]["worker_bytes"] or 0, record.subject) for record in nights), default=(0, "")
    )
    if not used:
        return None
    now = settings.scoring_worker_memory_mb
    enough = max(_STEP_MB, math.ceil(used * _MARGIN / 2**20 / _STEP_MB) * _STEP_MB)
    if now * (1 - _WORTH) <= enough <= now:
        return None
    why = f"A process that scored took at most {used / 2**20:,.0f} MB, for {largest}; it is given {now:,} MB."
    return SizingAdvice("scoring", f"FORECACHE_SCORING_WORKER_MEMORY_MB={enough}", why)


def _engine_advice(settings: Settings, nights: list[StageRecord], days: float) -> list[SizingAdvice]:
    """Advice for pipelines that both engines have scored in full: the engine that took less a row."""
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    for record in nights:
        if record.details.get("mode", "full") == "full" and "core_s" in record.details.get("cost", {}):
            sums = seconds[record.subject][record.details["engine"]]
            sums[0] += record.details["cost"]["core_s"]
            sums[1] += record.rows
    newest = {record.subject: record.details["engine"] for record in nights}
    found = []
    for subject, by_engine in seconds.items():
        a_row = {engine: core_s / rows for engine, (core_s, rows) in by_engine.items()}
        best, now = min(a_row, key=lambda engine: a_row[engine]), newest[subject]
        if now not in a_row or a_row[best] > a_row[now] * (1 - _WORTH):
            continue
        why = (
            f"A million rows took {a_row[best] * 1e6:,.0f} core-seconds with {best} and {a_row[now] * 1e6:,.0f} with "
            f"{now}, which scored in the last run."
        )
        hours = (a_row[now] - a_row[best]) * by_engine[now][1] / 3600 / days
        found.append(
            saving_advice(settings, f"scoring of {subject}", f"engine {best}", why, hours, "core-hours", priced_by=CPU)
        )
    return found


_LEAST = 2
"""Least number of readers: one may be replaced while the other answers."""


def reader_advice(settings: Settings, days: float) -> list[SizingAdvice]:
    """Advice on the number of readers, by the busiest five minutes and the mean load; none without Prometheus."""
    if not settings.prometheus_url:
        return []
    use, target = use_of_readers(settings, days), Hpa().target * settings.reader_workers
    if not use.replicas:
        return []
    window = f"{round(days * 1440)}m"
    in_flight = "sum(rate(forecache_reader_in_flight_seconds_total[5m]))"
    peak = query_prometheus(settings.prometheus_url, f"max_over_time({in_flight}[{window}:1m])")
    mean = query_prometheus(settings.prometheus_url, f"avg_over_time({in_flight}[{window}:1m])")
    needed, usually = (max(_LEAST, math.ceil(each / target - 1e-9)) for each in (peak, mean))
    figures = (
        f"{use.replicas:.1f} readers ran, with {mean:.2g} requests in flight on the average and {peak:.2g} in the "
        f"busiest five minutes; at {target:g} a reader that takes {usually} and {needed}."
    )
    if needed > use.replicas + 0.5:
        return [SizingAdvice("readers", f"at least {needed} readers at the busiest times", figures)]
    found = []
    hours = 24 * (use.replicas - needed)
    if hours >= 24:
        found.append(
            saving_advice(settings, "readers", f"{needed} readers", figures, hours, "replica-hours", priced_by=REPLICA)
        )
    elif usually < needed:
        why = f"{figures} `forecache simulate autoscale` shows what a day would miss."
        hours = 24 * (use.replicas - usually)
        found.append(
            saving_advice(settings, "readers", f"the chart's reader.autoscaling from {usually} readers on", why, hours,
                   "replica-hours", priced_by=REPLICA)
        )  # fmt: skip
    return found


_FEW = 1_000
"""Fewer logged requests say little about the requested keys."""


@dataclass(frozen=True)
class TrafficStats:
    """Traffic of a real-time model, by its request log."""

    requests: float  # requests a day, counted in the log and divided by its sample
    keys: float  # different keys in the period, likewise
    seconds: float  # mean time of a worker for an answer
    logged: int  # number of log rows that were counted


def measure_traffic(settings: Settings, realtime: Realtime, days: float) -> TrafficStats | None:
    """The traffic of a model in the last days; None if nothing was logged."""
    import pyarrow.compute as pc

    if realtime.log is None or not table_exists(settings, table_of(realtime.name)):
        return None
    wanted = set(_last_dates(days))
    keys: set[str] = set()
    first = last = None
    logged = microseconds = 0
    columns = ["day", "arrived_at", "key", "variant", "total_us", "wait_us"]
    for whole in read_log(settings, realtime.name, days=wanted, columns=columns):
        batch = whole.filter(pc.not_equal(whole.column("variant"), "shadow"))  # computed, but not sent
        if not batch.num_rows:
            continue
        logged += batch.num_rows
        keys.update(pc.unique(batch.column("key")).to_pylist())
        span = pc.min_max(batch.column("arrived_at")).as_py()
        first = min(span["min"], first or span["min"])
        last = max(span["max"], last or span["max"])
        microseconds += pc.sum(pc.subtract(batch.column("total_us"), batch.column("wait_us"))).as_py() or 0
    if first is None or last is None:
        return None
    # Not the number of dates: the newest one is not over yet. Less than a day is not scaled up to one.
    over = max(1.0, (last - first).total_seconds() / 86_400)
    sample = realtime.log.sample
    return TrafficStats(logged / sample / over, len(keys) / sample, microseconds / logged / 1e6, logged)


def batch_advice(settings: Settings, project: Project, days: float) -> list[SizingAdvice]:
    """Advice for each real-time model with a log: the cheaper of real time and a nightly run that scores all keys.

    A key is assumed to cost a nightly run as much as an answer costs. In a batch it costs less, but that is not
    measured here. A nightly run can only replace real time if an answer depends on nothing but the key of the request,
    and if last night's features are fresh enough.
    """
    found = []
    for realtime in project.realtime.values():
        use = measure_traffic(settings, realtime, days)
        keys = _num_served_keys(settings, realtime)
        if use is None or use.logged < _FEW or not keys:
            continue
        on_demand, nightly = use.requests * use.seconds, keys * use.seconds
        why = (
            f"{use.requests:,.0f} requests a day asked for {use.keys / keys:.1%} of {keys:,} keys, "
            f"{use.requests / use.keys:.1f} times each in {days:.0f} days. At {use.seconds * 1e6:,.0f} us an answer "
            f"that takes {on_demand:,.0f} core-seconds a day on demand ({use.seconds * 1e6 / 3600:.3g} core-hours a "
            f"million), and {nightly:,.0f} for all keys in each nightly run"
        )
        about = realtime.name
        if nightly < on_demand:
            why += ", if an answer depends on nothing but its key."
            do = "a pipeline that scores in the nightly run, and the reader"
        else:
            why += (
                f" ({nightly / use.requests * 1e6 / 3600:.3g} core-hours a million that are asked). Scoring in batches "
                "takes less than that a key, so it saves up to this."
            )
            do = "stay with real time"
        hours = abs(on_demand - nightly) / 3600
        found.append(saving_advice(settings, about, do, why, hours, "core-hours", priced_by=CPU))
    return found


def _num_served_keys(settings: Settings, realtime: Realtime) -> int:
    """Keys of the served version of the view that is looked up by the key of the log; 0 if there is none."""
    by = set(realtime.log.by) if realtime.log else set()
    for lookup in realtime.lookups:
        if set(lookup.by) == by:
            for manifest in list_served_manifests(settings, [lookup.view.name]):
                return manifest.rows
    return 0


def _last_dates(days: float) -> list[date]:
    today = datetime.now(timezone.utc).date()
    return [today - timedelta(days=back) for back in range(int(days) + 1)]


def project_advice(settings: Settings, *, days: int) -> list[SizingAdvice]:
    """All advice about a project from the measurements of the last days, the largest saving first."""
    found = ledger_period(settings, days)
    records = records_since(settings, found.since)
    return sort_by_saving(
        [
            *training_advice(settings, records, found.days),
            *scoring_advice(settings, records, found.days),
            *reader_advice(settings, found.days),
            *batch_advice(settings, read_project(settings), found.days),
        ]
    )
