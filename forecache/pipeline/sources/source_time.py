"""How time works in a source whose rows are no events: states of keys, and rows without time."""

from dataclasses import dataclass

from forecache.pipeline.checks.checking import check_fields


@dataclass(frozen=True)
class Snapshot:
    """Each delivery is the whole state of the keys on its day; as of D counts the last state at or before D.

    Of landing files, each file is a state, and of several on a day the one written last counts. Of a Delta table, the
    state of a day is the last version committed before the day's end (UTC).

    Attributes:
        day: Of an existing table that keeps the states of all days, the date column that says which day a row is of.
    """

    day: str | None = None

    def __post_init__(self) -> None:
        check_fields("`Snapshot`", self)


@dataclass(frozen=True)
class Static:
    """Rows without time, such as a list of regions: the newest delivery counts for every as-of date, past ones too.

    A change makes every night stale.
    """
