"""The entities of a pipeline whose features are joined from several views."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forecache.base.errors import SettingsError
from forecache.base.table_names import check_column, check_unique
from forecache.declare.checks.fields import check_fields
from forecache.declare.features.view import FeatureView
from forecache.declare.sources.table_source import AnySource

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass(frozen=True)
class Entities:
    """The keys that have a row on an as-of date, and further columns that views are joined by.

    `compute` gets `{source name: rows}`, as that of `Features` does, and returns one row for each entity and `as_of`:
    the pipeline's key columns, `as_of`, and `columns`, such as the airport of a flight.

    Attributes:
        columns: Columns besides the key that are part of the key of a view.
    """

    compute: Callable[[Mapping[str, "DataFrame"]], "DataFrame"]
    sources: tuple[AnySource, ...]
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields("`Entities`", self)
        if not self.sources:
            raise SettingsError("`Entities` has no source.", remedy="Declare at least one.")
        check_unique("source", "`Entities`", [source.name for source in self.sources])
        check_unique("column", "`Entities`", self.columns)
        for name in self.columns:
            check_column("`Entities`", name)


def check_entities(
    owner: str, key: Sequence[str], views: Sequence[FeatureView], entities: Entities | None, *, own: bool
) -> None:
    """Refuse views that cannot be joined to the entities of a pipeline.

    Args:
        own: True if the features are the pipeline's own.
    """
    if not views:
        raise SettingsError(f"{owner} has no features.", remedy="Give a feature view, or several.")
    check_unique("feature view", owner, [view.name for view in views])
    if own:
        if entities is not None:
            raise SettingsError(
                f"{owner} has entities, and features of its own.",
                remedy="Its function returns the entities; declare entities where views are joined.",
            )
        return
    if entities is None and tuple(key) not in [view.key for view in views]:
        keys = "; ".join(f"{view.name} has {', '.join(view.key)}" for view in views)
        raise SettingsError(
            f"{owner} has another key than its features: it is {', '.join(key)}, and {keys}.",
            remedy="Declare `entities`, or take a view of the pipeline's key.",
        )
    given = {*key, *(entities.columns if entities else ())}
    for view in views:
        missing = [name for name in view.key if name not in given]
        if missing:
            raise SettingsError(
                f"{owner} joins the view {view.name!r} by {missing[0]!r}, which its entities do not have.",
                remedy=f"Return it from the function of `Entities`, and declare columns=({missing[0]!r},).",
            )


def unique_sources(owner: str, sources: Sequence[AnySource]) -> tuple[AnySource, ...]:
    """The sources in their order, each once by name.

    Raises:
        SettingsError: Two that differ have the same name.
    """
    named: dict[str, AnySource] = {}
    for source in sources:
        if named.setdefault(source.name, source) != source:
            raise SettingsError(
                f"Two different sources of {owner} are named {source.name!r}.",
                remedy="Declare it once, for the views, the entities and the label.",
            )
    return tuple(named.values())
