"""Check keys: their columns are declared, have a type that keys can have, and one type in all sources."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from forecache.base.errors import SettingsError
from forecache.base.output_kinds import ALLOWED, DECLARED
from forecache.declare.checks.fields import check_known
from forecache.declare.sources.column import Column
from forecache.declare.sources.source_time import Snapshot, Static


class KeyedSource(Protocol):
    """The parts of a source that the check reads."""

    @property
    def name(self) -> str: ...
    @property
    def key(self) -> tuple[str, ...]: ...
    @property
    def columns(self) -> tuple[Column, ...]: ...


def check_source_key(owner: str, key: Sequence[str], columns: Sequence[Column], time: Snapshot | Static | None) -> None:
    """Refuse a source's key that cannot be one, or a snapshot without a key."""
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
                f"{owner} has the key column {name!r}, which none of its sources declares.", remedy=f"{listed}."
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
    """The declared type of each column of a pipeline's key."""
    return {name: next(iter(_column_types(name, sources).values())) for name in key}


def _column_types(name: str, sources: Iterable[KeyedSource]) -> Mapping[str, str]:
    """The type of a column by source, for the sources that declare it."""
    return {source.name: column.type for source in sources for column in source.columns if column.name == name}


def check_key_type(owner: str, name: str, kind: str, where: str = "") -> None:
    """Refuse a type that a key column cannot have."""
    if kind not in DECLARED:
        raise SettingsError(f"{owner} has the key column {name!r}, which is a {kind}{where}.", remedy=ALLOWED)
