"""The findings of a walk: stages that would run, in their order, whose results later stages take as given."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.base.table_names import FEATURES
from forecache.declare import Pipeline
from forecache.lake.features import STAGE
from forecache.lake.quality.verdicts import STAGE as CHECK
from forecache.lake.sources import count_rows
from forecache.lake.stage_runner import StaleWork
from forecache.models.registry.model_versions import CHAMPION
from forecache.operations.kept_features import find_stale_features, list_scoring_models
from forecache.plugins.plan.causes import CauseFinder
from forecache.scoring.trained_features import find_scored_pipeline

AGAIN = "its rows are written again"


@dataclass(frozen=True)
class FoundWork:
    """A stage that would run; see `PlannedStage`. `rows` are those of all its dates, if that is known."""

    stage: str
    subject: str
    dates: tuple[date, ...]
    causes: tuple[str, ...]
    condition: str = ""
    rows: int | None = None


class Findings:
    """Collects what a process that only looks has found.

    Attributes:
        found: The stages that would run.
        causes: Says why; it knows the tables that found stages write.
    """

    def __init__(self, settings: Settings, *, rebuild: bool = False) -> None:
        self.settings, self.rebuild = settings, rebuild
        self.found: list[FoundWork] = []
        self.causes = CauseFinder(settings)

    def add(
        self,
        stage: str,
        subject: str,
        dates: Sequence[date] | None,
        *causes: str,
        condition: str = "",
        rows: int | None = None,
    ) -> None:
        """Note a stage for the dates that it is not noted for yet; None: a stage without dates."""
        known = {day for each in self.found if (each.stage, each.subject) == (stage, subject) for day in each.dates}
        new = sorted({*(dates or ())} - known)
        if new or dates is None:
            self.found.append(FoundWork(stage, subject, tuple(new), causes, condition, rows))

    def add_stale(self, work: StaleWork, *, condition: str = "", rows: int | None = None) -> list[date]:
        """Note what a stage has to do; returns its dates."""
        dates = sorted(day for day in work.inputs if isinstance(day, date))
        causes = self.causes.find(work, rebuild=self.rebuild and work.stage.name != CHECK)
        self.add(work.stage.name, work.stage.subject, dates or None, *causes, condition=condition, rows=rows)
        return dates


def note_kept_features(
    noted: Findings, declared: Pipeline, nights: Sequence[date], built: dict[str, list[date]], condition: str
) -> None:
    """Note the stages of earlier features, and their dates in `built`, by table; those of the champion with the
    condition that no other model takes its place.
    """
    settings = noted.settings
    rows = count_rows(settings, declared.all_sources, last=max(nights)) if declared.is_trained else None
    for model in list_scoring_models(settings, declared):
        read = find_scored_pipeline(settings, declared, model).feature_table
        is_champion = CHAMPION in model.aliases
        unless = condition.replace("if ", "unless ", 1) if is_champion else ""
        written = {*built.get(read, [])}
        try:
            stale = find_stale_features(settings, declared, model, nights, rebuild=noted.rebuild)
        except ForecacheError:
            if is_champion:
                raise
            continue  # a run goes on without the challenger
        for work in stale:
            dates = noted.add_stale(work, condition=unless, rows=rows)
            if work.stage.name != STAGE:
                continue
            table, about = FEATURES + work.stage.subject, f"the features of {work.stage.subject} are written again"
            noted.causes.pending[table] = about
            if table == read:
                written |= {*dates}
                noted.add(CHECK, table, dates, AGAIN, condition=unless)
        built[read] = sorted(written)
