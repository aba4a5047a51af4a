"""Advice on batch against real time: cost of scoring all keys each night against that of the requests."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

from forecache.lake.costs import CPU
from forecache.lake.delta.tables import table_exists
from forecache.operations.advice.advice import Advice, saving
from forecache.pipeline import Realtime
from forecache.pipeline.project import Project
from forecache.realtime.log.read import read_log
from forecache.realtime.log.record import table_of
from forecache.settings import Settings
from forecache.store import Store

_FEW = 1_000
"""Fewer logged requests say little about the requested keys."""


@dataclass(frozen=True)
class Asked:
    """Traffic of a real-time model, by its request log.

    Attributes:
        requests: Requests a day, counted in the log and divided by its sample.
        keys: Different keys in the period, likewise.
        seconds: Mean time of a worker for an answer.
        logged: Number of log rows that were counted.
    """

    requests: float
    keys: float
    seconds: float
    logged: int


def asked(settings: Settings, realtime: Realtime, days: float) -> Asked | None:
    """The traffic of a model in the last days; None if nothing was logged."""
    import pyarrow.compute as pc

    if realtime.log is None or not table_exists(settings, table_of(realtime.name)):
        return None
    wanted = set(_dates(days))
    keys: set[str] = set()
    first = last = None
    logged = microseconds = 0
    columns = ["day", "arrived_at", "key", "arm", "total_us", "wait_us"]
    for whole in read_log(settings, realtime.name, days=wanted, columns=columns):
        batch = whole.filter(pc.not_equal(whole.column("arm"), "shadow"))  # computed, but not sent
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
    return Asked(logged / sample / over, len(keys) / sample, microseconds / logged / 1e6, logged)


def batch_advice(settings: Settings, project: Project, days: float) -> list[Advice]:
    """Advice for each real-time model with a log: the cheaper of real time and a nightly run that scores all keys.

    A key is assumed to cost a nightly run as much as an answer costs. In a batch it costs less, but that is not
    measured here. A nightly run can only replace real time if an answer depends on nothing but the key of the request,
    and if last night's features are fresh enough.
    """
    found = []
    for realtime in project.realtime.values():
        use = asked(settings, realtime, days)
        keys = _all_keys(settings, realtime)
        if use is None or use.logged < _FEW or not keys:
            continue
        on_demand, nightly = use.requests * use.seconds, keys * use.seconds
        why = (
            f"{use.requests:,.0f} requests a day asked for {use.keys / keys:.1%} of {keys:,} keys, "
            f"{use.requests / use.keys:.1f} times each in {days:.0f} days. At {use.seconds * 1e6:,.0f} us an answer "
            f"that takes {on_demand:,.0f} core-seconds a day on demand ({use.seconds * 1e6 / 3600:.3g} core-hours a "
            f"million), and {nightly:,.0f} for all keys each night"
        )
        about = realtime.name
        if nightly < on_demand:
            why += ", if an answer depends on nothing but its key."
            do = "a pipeline that scores each night, and the reader"
        else:
            why += (
                f" ({nightly / use.requests * 1e6 / 3600:.3g} core-hours a million that are asked). A night in batches "
                "takes less than that a key, so it saves up to this."
            )
            do = "stay with real time"
        hours = abs(on_demand - nightly) / 3600
        found.append(saving(settings, about, do, why, hours, "core-hours", priced_by=CPU))
    return found


def _all_keys(settings: Settings, realtime: Realtime) -> int:
    """Keys of the served version of the view that is looked up by the key of the log; 0 if there is none."""
    by = set(realtime.log.by) if realtime.log else set()
    for lookup in realtime.lookups:
        if set(lookup.by) == by and (settings.store_path / lookup.view.name).is_dir():
            manifest = Store(settings.store_path / lookup.view.name).current()
            if manifest is not None:
                return manifest.rows
    return 0


def _dates(days: float) -> list[date]:
    today = datetime.now(timezone.utc).date()
    return [today - timedelta(days=back) for back in range(int(days) + 1)]
