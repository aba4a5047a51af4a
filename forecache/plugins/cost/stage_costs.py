"""Lines of the cost table: stages and trainings by the ledger, and readers by Prometheus or the settings."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, get_args

from forecache.base.errors import ForecacheError, NotFoundError, UnavailableError
from forecache.base.prices import CPU, REPLICA, STORAGE, hourly_price
from forecache.base.settings import Settings
from forecache.kit.delta.small_tables import read_small_table
from forecache.kit.delta.tables import open_table, table_exists
from forecache.lake.ingest.ingested_files import FILES_TABLE
from forecache.lake.ledger import LEDGER_TABLE, StageRecord
from forecache.serve.store.remote_store import list_local_stores

Part = Literal["stage", "training", "streams", "storage", "replicas"]
PARTS: tuple[Part, ...] = get_args(Part)
DAYS_OF_A_MONTH = 365.25 / 12


@dataclass(frozen=True)
class CostLine:
    """Amount and cost of one thing a day."""

    part: Part
    subject: str  # a pipeline, source, view, recommender or stream; "" if all share it
    what: str  # the stage, or the place of storage
    amount: float  # in `unit`, a day
    unit: str
    # origin of the amount: "measured", "held" (the stage's time on all cores), or where the number of readers is from
    basis: str
    priced_by: str  # name of the price in the settings
    price: float | None = None  # a day, on demand and on spot machines; None if the settings have no price
    price_spot: float | None = None
    wasted: float = 0.0  # the part of `amount` that preemptions wasted


def hourly_line(
    settings: Settings, part: Part, subject: str, what: str, hours: float, unit: str, *, priced_by: str, basis: str
) -> CostLine:
    """The line of a thing that is paid by the hour."""
    price = hourly_price(priced_by, settings.prices)
    on_demand, spot = (hours * each for each in price) if price else (None, None)
    return CostLine(part, subject, what, hours, unit, basis, priced_by, on_demand, spot)


def storage_line(settings: Settings, subject: str, what: str, num_bytes: int, *, in_object_store: bool) -> CostLine:
    """The line of stored bytes, by the price of a GB for a month."""
    price = settings.prices.get(STORAGE)
    gigabytes = num_bytes / 1e9
    a_day = None if price is None else gigabytes * price[in_object_store] / DAYS_OF_A_MONTH
    return CostLine("storage", subject, what, gigabytes, "GB", "measured", STORAGE, a_day, a_day)


_TRAIN = "train"
_PREDICTING = ("score", "recommend")


@dataclass(frozen=True)
class Period:
    """The period of a report."""

    since: datetime
    days: float  # fewer than requested if the ledger is younger, but at least one


def ledger_period(settings: Settings, days: int) -> Period:
    """The last days, limited to the age of the ledger."""
    if not table_exists(settings, LEDGER_TABLE):
        raise NotFoundError("No stage has run yet: there is no stage ledger.", remedy="Run `forecache run`.")
    now = datetime.now(timezone.utc)
    created = open_table(settings, LEDGER_TABLE).metadata().created_time
    age_days = days if created is None else (now.timestamp() - created / 1e3) / 86_400
    return Period(now - timedelta(days=days), max(1.0, min(float(days), age_days)))


def stage_lines(settings: Settings, records: Iterable[StageRecord], days: float, *, cores: int) -> list[CostLine]:
    """A line for each stage of each subject, except trainings.

    Args:
        cores: Cores that a stage holds while it runs, if the ledger has no measured core seconds.
    """
    measured_s: dict[tuple[str, str], float] = defaultdict(float)
    held_s: dict[tuple[str, str], float] = defaultdict(float)
    for record in records:
        if record.stage == _TRAIN:
            continue
        core_s = (record.details.get("cost") or {}).get("core_s")
        if core_s is not None:
            measured_s[record.subject, record.stage] += core_s
        else:
            held_s[record.subject, record.stage] += record.seconds * cores
    lines = []
    for basis, seconds in (("measured", measured_s), ("held", held_s)):
        for (subject, stage), total in seconds.items():
            if total:
                hours = total / 3600 / days
                lines.append(
                    hourly_line(settings, "stage", subject, stage, hours, "core-hours", priced_by=CPU, basis=basis)
                )
    return lines


def training_lines(settings: Settings, records: Iterable[StageRecord], days: float) -> list[CostLine]:
    """A line for the trainings of each pipeline on each kind of device.

    The price on demand leaves out time wasted by preemption, which would not have happened there.
    """
    device_s: dict[tuple[str, str], float] = defaultdict(float)
    wasted_s: dict[tuple[str, str], float] = defaultdict(float)
    for record in records:
        cost = record.details.get("cost")
        if record.stage == _TRAIN and cost:
            key = record.subject, str(record.details.get("device_name", CPU))
            device_s[key] += cost["device_s"]
            wasted_s[key] += cost["wasted_s"]
    lines = []
    for (subject, device), total in device_s.items():
        hours, wasted = total / 3600 / days, wasted_s[subject, device] / 3600 / days
        line = hourly_line(
            settings, "training", subject, f"train on {device}", hours, "device-hours", priced_by=device,
            basis="measured",
        )  # fmt: skip
        price = hourly_price(device, settings.prices)
        lines.append(replace(line, wasted=wasted, price=None if price is None else (hours - wasted) * price[0]))
    return lines


def predictions_a_day(records: Iterable[StageRecord], days: float) -> dict[str, float]:
    """Rows that each pipeline scored and lists that each recommender wrote, a day.

    A list of a user counts once, however many items it has; lists of similar items and tables of vectors do not count.
    """
    rows: dict[str, float] = defaultdict(float)
    for record in records:
        if record.stage in _PREDICTING:
            rows[record.subject] += record.rows / days
    return dict(rows)


def describe_unrecorded(settings: Settings, records: Iterable[StageRecord], since: datetime) -> list[str]:
    """A sentence for each source and store with more files or versions since a moment than the ledger has recorded.

    Such work is missing in the cost: its process died before it wrote to the ledger.
    """
    files: Counter[str] = Counter()
    versions: dict[str, set[int]] = {}
    for record in records:
        if record.stage == "ingest":
            files[record.subject] += record.details["files"]
        elif record.stage == "publish":
            versions.setdefault(record.subject, set()).add(record.details["version"])
    return [*_unrecorded_ingests(settings, files, since), *_unrecorded_publishes(settings, versions, since)]


def _unrecorded_ingests(settings: Settings, recorded: Counter[str], since: datetime) -> Iterator[str]:
    # A file that was ingested again has one row, and is counted as often as it was ingested.
    there = Counter(row["source"] for row in read_small_table(settings, FILES_TABLE, [("ingested_at", ">=", since)]))
    for source, count in sorted(there.items()):
        if (missing := count - recorded[source]) > 0:
            yield f"What ingesting {missing:,} of {count:,} files of {source} took is not known."


def _unrecorded_publishes(settings: Settings, recorded: dict[str, set[int]], since: datetime) -> Iterator[str]:
    for store in list_local_stores(settings):
        with suppress(ForecacheError):  # damaged: `forecache store verify` says so
            there = {each.version for each in store.versions() if each.published_time >= since}
            if missing := there - recorded.get(store.pipeline, set()):
                yield f"What {len(missing):,} of {len(there):,} publishes of {store.pipeline} took is not known."


STEP_S = 60
"""Interval of the counts of readers."""
_DAY_S = 86_400
_TIMEOUT_S = 30.0
_ROUTES = "one|many|feast|realtime"


@dataclass(frozen=True)
class ReaderUse:
    """Use of the readers."""

    replicas: float | None  # mean number of running readers; None if it is not known
    answers: float | None  # answered requests a day; None if they are not known
    basis: str  # origin of both


def use_of_readers(settings: Settings, days: float) -> ReaderUse:
    """Use of the readers, from Prometheus if `FORECACHE_PROMETHEUS_URL` is set, or by `FORECACHE_READER_REPLICAS`."""
    if settings.prometheus_url:
        window = f"{round(days * _DAY_S)}s"
        # A mean over the steps would leave out those before the first scrape, in which no reader ran: sum and divide.
        steps = f"sum_over_time((count(forecache_reader_workers) or vector(0))[{window}:{STEP_S}s])"
        answers = f'sum(increase(forecache_reader_requests_total{{route=~"{_ROUTES}",status=~"2..|404"}}[{window}]))'
        steps_of_readers, count = (
            query_prometheus(settings.prometheus_url, steps),
            query_prometheus(settings.prometheus_url, answers),
        )
        return ReaderUse(steps_of_readers * STEP_S / (days * _DAY_S), count / days, "Prometheus")
    replicas = settings.reader_replicas or None
    return ReaderUse(replicas, None, "FORECACHE_READER_REPLICAS" if replicas else "")


def replica_lines(settings: Settings, use: ReaderUse) -> list[CostLine]:
    if use.replicas is None:
        return []
    hours = use.replicas * 24
    return [
        hourly_line(settings, "replicas", "", "readers", hours, "replica-hours", priced_by=REPLICA, basis=use.basis)
    ]


def query_prometheus(url: str, query: str) -> float:
    """The value of a Prometheus query that has one value; 0 if no series matches."""
    asked = f"{url.rstrip('/')}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(asked, timeout=_TIMEOUT_S) as response:
            found: dict[str, Any] = json.load(response)
        result = found["data"]["result"]
    except (OSError, ValueError, KeyError, urllib.error.URLError) as error:
        raise UnavailableError(
            f"Prometheus at {url} does not answer: {error}.", remedy="Check FORECACHE_PROMETHEUS_URL."
        ) from error
    return float(result[0]["value"][1]) if result else 0.0
