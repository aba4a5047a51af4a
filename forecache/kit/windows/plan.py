"""Plan of a live view: the states in its tiles and in its nightly base, and the features that are made of them.

All states are words of 8 bytes, int64 or float64, in the order of `WORDS`. Imports no numpy: a plan is read from JSON.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import cached_property
from typing import Any

DAY_US, MINUTE_US, DAY_MINUTES = 86_400_000_000, 60_000_000, 1440
LAST_DAY = "state_last_day"
"""Column of the base with the newest day on which the key had an event, in days since 1970."""
ADDED, LEAST, MOST, LAST = "added", "least", "most", "last"
"""Combination of the words of two states: sum, minimum, maximum, or the value of the later moment."""


@dataclass(frozen=True)
class PlanState:
    """The state of a measure."""

    aggregate: str  # "count", "sum", "min", "max" or "last"
    name: str  # prefix of its columns
    column: str | None = None
    where: tuple[tuple[str, str, Any], ...] = ()  # column, comparison and value of the conditions

    @property
    def how(self) -> str:
        return {"min": LEAST, "max": MOST, "last": LAST}.get(self.aggregate, ADDED)

    @property
    def words(self) -> tuple[str, ...]:
        """Names of its words; for "last" the moment, in microseconds, then the value."""
        if self.aggregate == "sum":
            return (f"{self.name}_whole", f"{self.name}_part")
        return (f"{self.name}_at", self.name) if self.aggregate == "last" else (self.name,)


@dataclass(frozen=True)
class PlanFeature:
    """A feature of a live view; its window is in days or in minutes, and the other length is 0."""

    name: str
    aggregate: str
    states: tuple[str, ...]  # names of those it is made from; for a mean the sum, then the count
    days: int = 0
    minutes: int = 0
    delay_days: int = 0  # above 0, the base has the final value for each lag


@dataclass(frozen=True)
class BaseColumn:
    """A column of the base with a word of a state over `days` days, up to the as-of date."""

    name: str
    is_float: bool  # float64, else int64
    state: str = ""  # "" if it is not a word of one
    word: int = 0  # position among the state's words
    days: int = 0
    feature: str = ""  # of a window with a delay, whose final value it has, as of `lag` days later
    lag: int = 0


@dataclass(frozen=True)
class MergePlan:
    """Description of the merge of a live view's nightly base with its tiles."""

    view: str
    key: tuple[str, ...]
    time: str  # column of the event time
    day_states: tuple[PlanState, ...]  # in a tile of a day
    minute_states: tuple[PlanState, ...]  # in a tile of `tile_minutes`
    features: tuple[PlanFeature, ...]  # in the order of the columns of a look-up's matrix
    nights: int  # days after its as-of date for which a base can be merged
    tile_minutes: int
    days_active: int | None  # a key is found if it has an event in these, today included; None: in any

    @cached_property
    def num_minute_tiles(self) -> int:
        """Tiles of the longest window in minutes."""
        return max((feature.minutes // self.tile_minutes for feature in self.features), default=0)

    @property
    def minutes_us(self) -> int:
        """Length of the longest window in minutes, in microseconds."""
        return self.num_minute_tiles * self.tile_us

    @property
    def tile_us(self) -> int:
        return self.tile_minutes * MINUTE_US

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Columns of an event that the states are made from, with the event time and the key."""
        states = (*self.day_states, *self.minute_states)
        of_states = [name for each in states for name in (each.column, *(where[0] for where in each.where)) if name]
        return tuple(dict.fromkeys([*self.key, self.time, *of_states]))

    @cached_property
    def base_columns(self) -> tuple[BaseColumn, ...]:
        """Columns that the base has beside the features, in the order in which they are published."""
        columns = {LAST_DAY: BaseColumn(LAST_DAY, False)}
        of_name = {state.name: state for state in self.day_states}
        for feature in self.features:
            for lag in range(1, self.nights + 1):
                if feature.delay_days:
                    name = f"state_{feature.name}_lag{lag}"
                    columns[name] = BaseColumn(name, True, feature=feature.name, lag=lag)
                for state in feature.states if feature.days - lag > 0 and not feature.delay_days else ():
                    for column in base_columns_of(of_name[state], feature.days - lag):
                        columns[column.name] = column
        return tuple(columns.values())

    @cached_property
    def id(self) -> int:
        """32 bits in the head of an entry of tiles, which identify the states that it holds."""
        tiles = (self.day_states, self.minute_states, self.tile_minutes if self.minute_states else 0)
        return zlib.crc32(repr(tiles).encode())

    def to_json(self) -> dict[str, Any]:
        """The plan as values that JSON has."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self), default=_encode_date))
        return data


def base_columns_of(state: PlanState, days: int) -> list[BaseColumn]:
    """The columns of the base that hold a state over this many days."""
    names = state.words
    is_float = [state.aggregate in ("min", "max") or (state.aggregate == "last" and i == 1) for i in range(len(names))]
    of = enumerate(zip(names, is_float, strict=True))
    return [BaseColumn(f"state_{name}_{days}d", number, state.name, i, days) for i, (name, number) in of]


def plan_from_json(data: dict[str, Any]) -> MergePlan:
    """Read a plan from its JSON."""
    known = dict(data)
    for name in ("day_states", "minute_states"):
        known[name] = tuple(PlanState(**{**each, "where": _tuples(each["where"])}) for each in data[name])
    known["features"] = tuple(PlanFeature(**{**each, "states": tuple(each["states"])}) for each in data["features"])
    return MergePlan(**{**known, "key": tuple(data["key"])})


def _tuples(where: Sequence[Any]) -> tuple[tuple[str, str, Any], ...]:
    return tuple((name, comparison, _value(value)) for name, comparison, value in where)


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_value, value))
    return date.fromisoformat(value["date"]) if isinstance(value, dict) else value


def _encode_date(value: Any) -> dict[str, str]:
    return {"date": value.isoformat()}
