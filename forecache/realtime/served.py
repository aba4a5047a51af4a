"""A served release: loaded, warmed, with the path to its model, its look-ups, fallbacks and log."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from forecache.reader.versions.answers import Answers
from forecache.realtime.answer.answered import Answered, Times
from forecache.realtime.answer.model_path import ModelPath
from forecache.realtime.answer.render import Renderer
from forecache.realtime.answer.rungs import Rung, rungs_of
from forecache.realtime.deadline.cost import Cost
from forecache.realtime.drift.watch import DriftWatch
from forecache.realtime.log.answer_log import AnswerLog
from forecache.realtime.lookups.lookups import Lookups
from forecache.realtime.metrics import ModelCells
from forecache.realtime.release.load import OpenRelease
from forecache.realtime.request.parse import RequestParser

if TYPE_CHECKING:
    from forecache.realtime.rollout.split import Split


@dataclass(slots=True)
class Served:
    """A release and all that is needed to answer requests by it.

    Attributes:
        path: To transform and model.
        rungs: The fallbacks, in their order.
        costs: Of each fallback, in the same order.
        model_cost: Of an answer by the model, from parsing to the last byte; only time on the loop's thread.
        low_cost: Of an answer by the last fallback.
        log: Of its answers; None if they are not logged.
        arm: Which requests it answers: "current" are all while no release is rolled out.
        split: Assigns requests to releases while one is being rolled out.
        drift: Counts its answers; None if the bins of its training data are not known.
    """

    loaded: OpenRelease
    path: ModelPath
    parser: RequestParser
    lookups: Lookups
    rungs: tuple[Rung, ...]
    renderer: Renderer
    cells: ModelCells
    costs: tuple[Cost, ...]
    model_cost: Cost = field(default_factory=lambda: Cost(200_000))
    low_cost: Cost = field(default_factory=lambda: Cost(50_000))
    log: AnswerLog | None = None
    arm: str = "current"
    split: "Split | None" = None
    drift: DriftWatch | None = None

    @property
    def name(self) -> str:
        return self.loaded.release.name

    @property
    def number(self) -> int:
        return self.loaded.release.number

    def learn(self, answered: Answered, spent_ns: int) -> bool:
        """Update the cost estimates with the time of an answer; return True if the model gave it."""
        if answered.why:
            if answered.rung == self.rungs[-1].name:
                self.low_cost.took(spent_ns)
            return False
        if answered.scores is None:  # there were no candidates
            return False
        self.model_cost.took(spent_ns)
        return True

    def on_loop_ns(self, times: Times) -> int:
        """Return the nanoseconds of an answer's stages that were spent on the event loop's thread."""
        lookup = 0 if self.lookups.remote() else times.lookup
        return times.parse + lookup + (times.model if self.path.in_loop else 0)


def serve_release(
    loaded: OpenRelease,
    path: ModelPath,
    versions: Mapping[str, Answers],
    cells: ModelCells,
    log: AnswerLog | None = None,
    drift: DriftWatch | None = None,
) -> Served:
    """Make a served release of a loaded one.

    Args:
        versions: The served versions by store name, kept up to date by the reader.
    """
    release = loaded.release
    rungs = rungs_of(release.ladder)
    return Served(
        loaded,
        path,
        RequestParser(release),
        Lookups(release.lookups, versions, refuses=release.on_contract == "refuse"),
        rungs,
        Renderer(release),
        cells,
        tuple(Cost(100_000) for _ in rungs),
        log=log,
        drift=drift,
    )
