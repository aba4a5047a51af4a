"""A plan: the stages that a run would carry out, why, and what they would take."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from forecache.base.prices import core_cost
from forecache.base.settings import Settings


@dataclass(frozen=True)
class Estimate:
    """The rows, time and memory that a stage is expected to take.

    Attributes:
        low_s: Least of the core-seconds that earlier runs took for as many dates; `high_s` the most.
        peak_bytes: Memory of the process and its children at most; None if no run has measured it.
        num_runs: Number of earlier runs that it is made from; 0: it is a guess from the number of rows.
    """

    rows: int
    core_s: float
    seconds: float
    low_s: float
    high_s: float
    peak_bytes: int | None
    num_runs: int

    @property
    def is_guess(self) -> bool:
        return self.num_runs == 0


@dataclass(frozen=True)
class PlannedStage:
    """A stage that would run.

    Attributes:
        dates: As-of dates or days that it would do; () for a stage without.
        causes: Reasons in sentences without a full stop, the first one the most important.
        condition: What has to happen before; "" if it would run in any case.
    """

    stage: str
    subject: str
    dates: tuple[date, ...]
    causes: tuple[str, ...]
    condition: str
    estimate: Estimate


@dataclass(frozen=True)
class Plan:
    """All that a run would do.

    Attributes:
        stages: In the order in which they would run.
        notes: Sentences on what would not run, but has changed.
        blocked: By name of a declaration or source, the reason why its run would stop.
        made_at: When the plan was made.
    """

    stages: tuple[PlannedStage, ...]
    notes: tuple[str, ...]
    blocked: Mapping[str, str]
    made_at: datetime
    prices: Mapping[str, float] = field(default_factory=dict)

    @property
    def has_work(self) -> bool:
        return bool(self.stages or self.blocked)

    @property
    def core_s(self) -> float:
        return sum(each.estimate.core_s for each in self.stages)

    @property
    def seconds(self) -> float:
        return sum(each.estimate.seconds for each in self.stages)

    @property
    def peak_bytes(self) -> int | None:
        return max((each.estimate.peak_bytes for each in self.stages if each.estimate.peak_bytes), default=None)

    @property
    def ends_at(self) -> datetime:
        """When a run that began now would end."""
        return self.made_at + timedelta(seconds=self.seconds)

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON can represent it."""
        return {
            "has_work": self.has_work,
            "stages": [
                {
                    "stage": each.stage,
                    "subject": each.subject,
                    "dates": [day.isoformat() for day in each.dates],
                    "causes": list(each.causes),
                    "condition": each.condition,
                    "estimate": {**vars(each.estimate), "is_guess": each.estimate.is_guess},
                }
                for each in self.stages
            ],
            "notes": list(self.notes),
            "blocked": dict(self.blocked),
            "total": {
                "seconds": self.seconds,
                "peak_bytes": self.peak_bytes,
                "made_at": self.made_at,
                "ends_at": self.ends_at,
                "core_s": self.core_s,
                **self.prices,
            },
        }


def price_of(settings: Settings, core_s: float) -> dict[str, float]:
    """`price_on_demand` and `price_spot` of core-seconds; {} if a core-hour has no price."""
    return {name: value for name, value in core_cost(settings, core_s).items() if name != "core_s"}
