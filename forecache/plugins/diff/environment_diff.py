"""Differences of two sides: an environment each, or two dates or versions of one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

from forecache.base.environments import LOCAL
from forecache.base.errors import NotFoundError
from forecache.base.results import Progress, no_progress
from forecache.base.settings import Settings
from forecache.declare import FeatureView, Pipeline, Realtime
from forecache.declare.loading import read_project
from forecache.declare.project import Nightly, Project
from forecache.plugins.diff.answered_requests import compare_requests
from forecache.plugins.diff.compare_partitions import PartitionDiff, compare_partitions
from forecache.plugins.diff.compared_tables import ComparedTable, Side, newest_common_date, reasons, tables_of
from forecache.plugins.diff.explained_changes import explain_changes
from forecache.plugins.diff.model_diff import ModelDiff, compare_models
from forecache.plugins.diff.partition import Partition
from forecache.plugins.diff.served_answers import compare_served


@dataclass(frozen=True)
class TableDiff:
    """A table that was compared; `reasons` are the inputs of its stage that differ, if its rows do."""

    about: ComparedTable
    reasons: Sequence[str]
    rows: PartitionDiff


@dataclass
class NameDiff:
    """Differences of a pipeline, feature view, recommender or real-time model.

    Attributes:
        tables: Those that differ.
        equal: Tables that do not, by name; those of the same files were not read.
    """

    name: str
    kind: str
    before: date | None
    after: date | None
    tables: list[TableDiff] = field(default_factory=list)
    equal: list[str] = field(default_factory=list)
    models: ModelDiff | None = None
    explained: list[dict[str, Any]] = field(default_factory=list)
    served: list[dict[str, Any]] = field(default_factory=list)
    requests: dict[str, Any] | None = None

    @property
    def has_rows(self) -> bool:
        """False if neither side has a row of its tables, a model or an answered request."""
        models = self.models and (self.models.before or self.models.after)
        return bool(self.tables or self.equal or models or (self.requests and self.requests["requests"]))

    @property
    def differs(self) -> bool:
        answered = self.requests and self.requests["requests"] and self.requests["same"] < self.requests["requests"]
        of_models = self.models and (self.models.differ or self.models.failed_gate)
        return bool(self.tables or of_models or answered)

    @property
    def answers(self) -> list[TableDiff]:
        """The differing tables of answers."""
        return [each for each in self.tables if each.about.answers]

    @property
    def changed_share(self) -> float:
        """The largest share of changed answers of its tables."""
        return max((each.rows.changed_share for each in self.answers), default=0.0)


@dataclass(frozen=True)
class EnvironmentDiff:
    """Differences of two sides, by name; `equal` are the names of which nothing does, `absent` those without rows."""

    before: str
    after: str
    names: Sequence[NameDiff]
    equal: Sequence[str]
    absent: Sequence[str] = ()

    @property
    def changed_share(self) -> float:
        return max((each.changed_share for each in self.names), default=0.0)

    @property
    def failed_gates(self) -> list[str]:
        """Sentences on the models whose gate failed in the second environment and not in the first."""
        return [each.models.failed_gate for each in self.names if each.models is not None and each.models.failed_gate]

    def as_dict(self) -> dict[str, Any]:
        """JSON values; NaN and infinite numbers are null."""
        found: dict[str, Any] = _without_odd_numbers(
            {
                "before": self.before,
                "after": self.after,
                "changed_share": self.changed_share,
                "failed_gates": self.failed_gates,
                "equal": self.equal,
                "absent": self.absent,
                "names": [_name_dict(each) for each in self.names],
            }
        )
        return found


def _without_odd_numbers(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _without_odd_numbers(each) for key, each in value.items()}
    return [_without_odd_numbers(each) for each in value] if isinstance(value, (list, tuple)) else value


def _name_dict(found: NameDiff) -> dict[str, Any]:
    values = {**vars(found), "changed_share": found.changed_share}
    values["models"] = None if found.models is None else asdict(found.models)
    values["tables"] = [
        {**asdict(each.about), "reasons": list(each.reasons), **asdict(each.rows),
         "changed_share": each.rows.changed_share, "unchanged": each.rows.unchanged}
        for each in found.tables
    ]  # fmt: skip
    return values


def diff_environments(
    before: Settings,
    after: Settings,
    names: Sequence[str] = (),
    *,
    nights: tuple[date, date] | None = None,
    versions: tuple[int, int] | None = None,
    top: int = 5,
    progress: Progress = no_progress,
) -> EnvironmentDiff:
    """Compare what two environments have, by what the project in the working tree declares.

    Args:
        names: Default: all that have a nightly run.
        nights: The as-of date of each side; default: of each name, the newest one that both have.
        versions: The Delta version of the tables of answers on each side; default: the newest.
    """
    project = read_project(after)
    found: list[NameDiff] = []
    equal: list[str] = []
    absent: list[str] = []
    seen: dict[tuple[str, date | None, date | None], TableDiff | None] = {}
    for place, name in enumerate(names or project.nightly):
        progress(f"comparing {name}", place / max(1, len(names or project.nightly)))
        one = _diff_name(before, after, project, name, nights, versions, top, seen)
        if one.differs:
            found.append(one)
        else:
            (equal if one.has_rows else absent).append(name)
    titles = []
    for settings, place in ((before, 0), (after, 1)):
        title = settings.env or LOCAL
        title += f" {nights[place]}" if nights and nights[0] != nights[1] else ""
        title += f" version {versions[place]}" if versions else ""
        titles.append(title)
    return EnvironmentDiff(titles[0], titles[1], found, equal, absent)


def _diff_name(
    before: Settings,
    after: Settings,
    project: Project,
    name: str,
    nights: tuple[date, date] | None,
    versions: tuple[int, int] | None,
    top: int,
    seen: dict[tuple[str, date | None, date | None], TableDiff | None],
) -> NameDiff:
    declared = project.nightly[name]
    tables = tables_of(declared)
    if nights is None:
        newest = newest_common_date(before, after, tables) if tables else None
        nights = None if newest is None else (newest, newest)
    sides = [Side(settings, nights[place] if nights else None) for place, settings in enumerate((before, after))]
    found = NameDiff(declared.name, _kind(declared), sides[0].night, sides[1].night)
    for about in tables if nights else ():
        of_table = versions if about is tables[-1] else None
        key = (about.table, sides[0].night, sides[1].night)
        if key not in seen:
            seen[key] = _diff_table(about, sides[0], sides[1], of_table, top)
        compared = seen[key]
        if compared is not None and compared.rows.differs:
            found.tables.append(compared)
        elif compared is not None:
            found.equal.append(about.table)
    if before is not after:
        if isinstance(declared, (Pipeline, Realtime)) and declared.is_trained:
            found.models = compare_models(before, after, declared)
        if isinstance(declared, Realtime):
            found.requests = compare_requests(before, after, declared.name)
        found.served = _compare_stores(sides, found, project)
    if isinstance(declared, Pipeline) and found.tables and found.tables[-1].about.table == declared.prediction_table:
        found.explained = explain_changes(sides[0], sides[1], declared, found.tables[-1].rows, versions)
    return found


def _compare_stores(sides: Sequence[Side], found: NameDiff, project: Project) -> list[dict[str, Any]]:
    """The answers that both sides would serve, of each published table that differs."""
    before, after = sides
    served = []
    for each in found.tables:
        if each.about.published_as:
            own = Partition(before.settings, each.about.table, before.night)
            partition = own if own.files else Partition(after.settings, each.about.table, after.night)
            served.append(
                compare_served(
                    before.settings, after.settings, each.about.published_as, each.about.key, partition, project
                )
            )
    return served


def _kind(declared: Nightly) -> str:
    kinds = {Pipeline: "pipeline", FeatureView: "feature view", Realtime: "real-time model"}
    return kinds.get(type(declared)) or str(getattr(declared, "kind", ""))


def _diff_table(
    about: ComparedTable, before: Side, after: Side, versions: tuple[int, int] | None, top: int
) -> TableDiff | None:
    """Compare a table on a date of each side; None if neither has a row."""
    ours, theirs = (
        Partition(side.settings, about.table, side.night, versions[place] if versions else None)
        for place, side in enumerate((before, after))
    )
    if not ours.files and not theirs.files:
        return None
    rows = compare_partitions(ours, theirs, about.key, answers=about.answers, top=top)
    return TableDiff(about, reasons(about, before, after) if rows.differs else [], rows)


def require_names(found: EnvironmentDiff) -> None:
    """NotFoundError if there was nothing to compare."""
    if found.names or found.equal:
        return
    if found.absent:
        raise NotFoundError(
            f"There is nothing to compare: neither {found.before} nor {found.after} has rows of "
            f"{', '.join(found.absent)}.",
            remedy="Run them, or give a --date that they were run for.",
        )
    raise NotFoundError("There is nothing to compare: the project declares nothing with a nightly run.")
