"""The findings of a walk: stages that would run, in their order, whose results later stages take as given."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from forecache.base.settings import Settings
from forecache.lake.quality.verdicts import STAGE as CHECK
from forecache.lake.stage_runner import StaleWork
from forecache.plugins.plan.causes import CauseFinder


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
