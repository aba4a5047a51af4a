"""A column of a source."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from forecache.base.errors import SettingsError
from forecache.base.output_kinds import ALLOWED, DECLARED
from forecache.base.table_names import check_column
from forecache.declare.checks import check_fields, check_known, check_value

ColumnType = Literal["string", "int", "bigint", "double", "date", "timestamp", "boolean"]
NUMBERS: tuple[ColumnType, ...] = ("int", "bigint", "double")


@dataclass(frozen=True)
class Column:
    """A column of a source. Rows that break the type, `required`, `minimum` or `maximum` go to quarantine."""

    name: str
    type: ColumnType
    required: bool = True
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""

    def __post_init__(self) -> None:
        owner = f"Column {self.name!r}"
        check_fields(owner, self)
        check_column("A column", self.name)
        for name in ("minimum", "maximum"):
            numeric = getattr(self, name) is None or self.type in NUMBERS
            check_value(owner, name, getattr(self, name), numeric, f"A {self.type} has no limits.")
        if self.minimum is not None and self.maximum is not None:
            rule = f"It is not below the minimum, {self.minimum:g}."
            check_value(owner, "maximum", self.maximum, self.minimum <= self.maximum, rule)


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


class KeyedSource(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def key(self) -> tuple[str, ...]: ...
    @property
    def columns(self) -> tuple[Column, ...]: ...


def check_source_key(owner: str, key: Sequence[str], columns: Sequence[Column], time: Snapshot | Static | None) -> None:
    if isinstance(time, Snapshot) and not key:
        raise SettingsError(
            f"{owner} is a snapshot without a key.", remedy="Declare the columns that its states are of, as `key`."
        )
    by_name = {column.name: column for column in columns}
    check_known(f"{owner} has the key column", key, by_name)
    for name in key:
        check_key_type(owner, name, by_name[name].type)
        if not by_name[name].required:
            raise SettingsError(f"{owner} has the key column {name!r}, which may be null.", remedy="Make it required.")


def check_pipeline_key(owner: str, key: Sequence[str], sources: Sequence[KeyedSource]) -> None:
    """Refuse a pipeline's key that no source declares, and key columns of different types in its sources."""
    for name in key:
        declared = _column_types(name, sources)
        if not declared:
            listed = "; ".join(f"{s.name} has {', '.join(column.name for column in s.columns)}" for s in sources)
            raise SettingsError(
                f"{owner} has the key column {name!r}, which none of its sources declares.",
                remedy=f"{listed}. Add the column, or a source without time (`Static()`) that lists its values.",
            )
        for source, kind in declared.items():
            check_key_type(owner, name, kind, f" in source {source!r}")
    for name in dict.fromkeys([*key, *(name for source in sources for name in source.key)]):
        declared = _column_types(name, sources)
        if len({DECLARED.get(kind, kind) for kind in declared.values()}) > 1:
            kinds = " and ".join(f"a {kind} in source {source!r}" for source, kind in declared.items())
            raise SettingsError(
                f"{owner} has the key column {name!r}, which is {kinds}.",
                remedy="Declare it with one type: values of different types are never equal.",
            )


def key_types(key: Sequence[str], sources: Iterable[KeyedSource]) -> dict[str, str]:
    return {name: next(iter(_column_types(name, sources).values())) for name in key}


def _column_types(name: str, sources: Iterable[KeyedSource]) -> Mapping[str, str]:
    """The type of a column by source, for the sources that declare it."""
    return {source.name: column.type for source in sources for column in source.columns if column.name == name}


def check_key_type(owner: str, name: str, kind: str, where: str = "") -> None:
    if kind not in DECLARED:
        raise SettingsError(f"{owner} has the key column {name!r}, which is a {kind}{where}.", remedy=ALLOWED)
