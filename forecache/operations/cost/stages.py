"""Cost of stages and trainings by the stage ledger, and the work that the ledger does not account for."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from forecache.errors import NotFoundError
from forecache.lake.costs import CPU, hourly_price
from forecache.lake.delta.tables import open_table, table_exists
from forecache.lake.ledger import LEDGER_TABLE, StageRecord
from forecache.operations.cost.line import Line, by_the_hour
from forecache.settings import Settings

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


def period(settings: Settings, days: int) -> Period:
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


def stage_lines(settings: Settings, records: Iterable[StageRecord], days: float, *, cores: int) -> list[Line]:
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
                    by_the_hour(settings, "stage", subject, stage, hours, "core-hours", priced_by=CPU, basis=basis)
                )
    return lines


def training_lines(settings: Settings, records: Iterable[StageRecord], days: float) -> list[Line]:
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
        line = by_the_hour(
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
