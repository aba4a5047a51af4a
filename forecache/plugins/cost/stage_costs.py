"""Cost of stages and trainings by the stage ledger, and the work that the ledger does not account for."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from forecache.base.errors import ForecacheError, NotFoundError
from forecache.base.prices import CPU, hourly_price
from forecache.base.settings import Settings
from forecache.kit.delta.small_tables import read_small_table
from forecache.kit.delta.tables import open_table, table_exists
from forecache.lake.ingest.ingested_files import FILES_TABLE
from forecache.lake.ledger import LEDGER_TABLE, StageRecord
from forecache.plugins.cost.cost_line import CostLine, hourly_line
from forecache.serve.store.store import list_local_stores

_TRAIN = "train"
_PREDICTING = ("score", "recommend")


@dataclass(frozen=True)
class Period:
    """The period of a report.

    Attributes:
        days: Fewer than requested if the ledger is younger, but at least one.
    """

    since: datetime
    days: float


def ledger_period(settings: Settings, days: int) -> Period:
    """The last days, limited to the age of the ledger.

    Raises:
        NotFoundError: There is no ledger.
    """
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

    Args:
        records: The rows of the ledger since that moment.
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
        with suppress(ForecacheError):  # damaged: `forecache verify` says so
            there = {each.version for each in store.versions() if each.published_time >= since}
            if missing := there - recorded.get(store.pipeline, set()):
                yield f"What {len(missing):,} of {len(there):,} publishes of {store.pipeline} took is not known."
