"""The meaning of time in a source whose rows are no events: states of keys, or rows without time."""

from dataclasses import dataclass

from forecache.declare.checks.fields import check_fields


@dataclass(frozen=True)
class Snapshot:
    """Each delivery is the whole state of the keys on its day; as of D, the last state at or before D counts.

    With landing files, each file is a state, and of several files of a day the one written last counts. With a Delta
    table, the state of a day is the last version committed before the day's end (UTC).

    Attributes:
        day: For an existing table with the states of all days, the date column with the day of a row.
    """

    day: str | None = None

    def __post_init__(self) -> None:
        check_fields("`Snapshot`", self)


@dataclass(frozen=True)
class Static:
    """Rows without time, such as a list of regions: the newest delivery counts for every as-of date, past ones too.

    After a change, every as-of date is computed again when it runs.
    """
