"""The tables to compare of what a project declares, the dates that both sides have of them, and why they differ."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from forecache.base.environments import LOCAL
from forecache.base.plugins import find_hooks
from forecache.base.settings import Settings
from forecache.declare import FeatureView, Pipeline, Realtime
from forecache.declare.project import Nightly
from forecache.declare.served import NightlyDeclaration, PluginTable
from forecache.lake.features import STAGE as FEATURES_STAGE
from forecache.lake.ledger import last_record, last_records


@dataclass(frozen=True)
class ComparedTable:
    """A table that a stage writes for each as-of date.

    Attributes:
        subject: That of the stage in the ledger.
        answers: The columns that are answers: outputs, or the published fields of a view; (): it has none.
        published_as: The store that its rows are published to; "": none.
    """

    stage: str
    subject: str
    table: str
    key: tuple[str, ...]
    answers: tuple[str, ...] = ()
    published_as: str = ""


def tables_of(declared: Nightly) -> list[ComparedTable]:
    """The tables of a declaration, in the order in which a run writes them."""
    if isinstance(declared, FeatureView):
        return [_view_table(declared)]
    if isinstance(declared, Realtime):
        return [_view_table(view) for view in declared.views]
    if isinstance(declared, Pipeline):
        found = [_view_table(view) for view in declared.views]
        if declared.is_joined:
            found.append(ComparedTable(FEATURES_STAGE, declared.name, declared.feature_table, declared.key))
        published = declared.name if declared.publish is not None else ""
        return [
            *found,
            ComparedTable("score", declared.name, declared.prediction_table, declared.key, declared.output_columns,
                          published),
        ]  # fmt: skip
    assert isinstance(declared, NightlyDeclaration)
    return [_plugin_table(declared, table) for table in declared.tables]


def _view_table(view: FeatureView) -> ComparedTable:
    answers, published = (view.served_fields, view.name) if view.publish is not None else ((), "")
    return ComparedTable(FEATURES_STAGE, view.name, view.feature_table, view.key, tuple(answers), published)


def _plugin_table(maker: NightlyDeclaration, table: PluginTable) -> ComparedTable:
    return ComparedTable("recommend", maker.name, table.served_table, table.key, table.output_columns, table.name)


def newest_common_date(before: Settings, after: Settings, tables: Sequence[ComparedTable]) -> date | None:
    """The newest as-of date that both sides have of the last table; else of one side alone; None without any."""
    last = tables[-1]
    ours, theirs = (
        {night for night in last_records(each, last.stage, last.subject) if night is not None}
        for each in (before, after)
    )
    return max(ours & theirs or ours | theirs, default=None)


@dataclass(frozen=True)
class Side:
    """An environment, and a date of it."""

    settings: Settings
    night: date | None

    @property
    def name(self) -> str:
        return self.settings.env or LOCAL


def reasons(table: ComparedTable, before: Side, after: Side) -> list[str]:
    """The inputs of a stage that differ between two sides, in the words of a plan; [] if they are equal."""
    old, new = (last_record(side.settings, table.stage, table.subject, side.night) for side in (before, after))
    if old is None or new is None:
        lacking = [side.name for side, row in ((before, old), (after, new)) if row is None]
        return [f"{name} has no {table.stage} of it" for name in lacking]
    found = (
        compare(before.settings, old.inputs, after.settings, new.inputs) for compare in find_hooks("compare_inputs")
    )
    return next(found, ["its inputs differ"] if old.inputs != new.inputs else [])
