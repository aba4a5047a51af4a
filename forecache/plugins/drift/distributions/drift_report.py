"""The report on prediction drift of an as-of date: figures, and a sentence that says what they were compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from forecache.base.statistics import Distance
from forecache.declare import Drift, Effect, Pipeline

NIGHTS_BEFORE = "nights before"
TEST_SPLIT = "test split"
_MOVED = {"none": "is where it was", "small": "has moved a little", "large": "has moved far"}


@dataclass(frozen=True)
class DriftReport:
    """The drift of an output on an as-of date."""

    pipeline: str
    output: str
    night: date
    model_version: int | None  # None if the record of scoring has none
    edges: tuple[float, ...] | tuple[str, ...]  # inner edges of bins, or classes, and then all others
    counts: tuple[int, ...]  # rows in each bin; one bin more than edges
    references: Mapping[str, tuple[int, ...]]  # rows in each bin by NIGHTS_BEFORE and TEST_SPLIT
    distances: Mapping[str, Distance]
    nights: tuple[date, ...]  # the dates before with which it is compared
    models_before: tuple[int, ...]  # that scored them, 0 for an unknown one
    limits: Drift
    unjudged: str = ""  # the output's kind if drift of this kind is not judged

    @property
    def is_new_model(self) -> bool:
        """True if only other models scored the dates before, so that scores differ for that reason."""
        return bool(self.nights) and (self.model_version or 0) not in self.models_before

    @property
    def main_reference(self) -> str:
        """The reference that a page shows: the test split, else the dates before; "" if there is neither."""
        return next((name for name in (TEST_SPLIT, NIGHTS_BEFORE) if name in self.distances), "")

    def effect(self, reference: str) -> Effect | None:
        """Return the effect against a reference; None if it is not judged: too few rows, or another model's scores."""
        apart = self.distances[reference]
        if self._has_few_rows(apart):
            return None
        if reference == NIGHTS_BEFORE and self.is_new_model:
            return None
        return self.limits.effect(apart.psi, apart.js)

    @property
    def level(self) -> Effect:
        """The largest effect: "none", "small" or "large"; "none" if no reference is judged."""
        found = {self.effect(reference) for reference in self.distances}
        return "large" if "large" in found else "small" if "small" in found else "none"

    @property
    def blocks(self) -> bool:
        return self.limits.blocking and self.level == "large"

    @property
    def sentence(self) -> str:
        """The result in words, with the comparisons that were not made and why."""
        if self.unjudged:
            return f"{self.output} on {self.night} is not judged: no drift is measured of an output of {self.unjudged}."
        judged = [reference for reference in self.distances if self.effect(reference)]
        against = [
            f"PSI {self.distances[name].psi:.3f} and Jensen-Shannon {self.distances[name].js:.3f} "
            f"against {self._describe_reference(name)}"
            for name in judged
        ]
        found = (
            f"{self.output} {_MOVED[self.level]}: {', '.join(against)}."
            if judged
            else f"{self.output} on {self.night} is not judged."
        )
        return " ".join([found, *self._notes()])

    def _describe_reference(self, reference: str) -> str:
        if reference == TEST_SPLIT:
            return f"the test split of model {self.model_version}"
        return "the night before" if len(self.nights) == 1 else f"the {len(self.nights)} nights before"

    def _notes(self) -> list[str]:
        notes = []
        if not self.nights:
            notes.append("No night before it was scored." if self.limits.last else "Nights before do not count.")
        elif self.is_new_model:
            models = " and ".join(str(version) for version in self.models_before)
            notes.append(
                f"Model {self.model_version} scores for the first time: how far it is from the scores of model {models}"
                " is shown, not judged."
            )
        if TEST_SPLIT not in self.distances:
            notes.append("Its model has no evaluation on a test split.")
        few = [name for name, apart in self.distances.items() if self._has_few_rows(apart)]
        if few:
            names = " and ".join(self._describe_reference(name) for name in few)
            notes.append(f"With fewer than {self.limits.min_rows:,} rows on a side, {names} are shown, not judged.")
        return notes

    def _has_few_rows(self, apart: Distance) -> bool:
        return min(apart.rows, apart.reference_rows) < self.limits.min_rows

    def metadata(self) -> dict[str, Any]:
        """JSON-serialisable figures."""
        return {
            "output": self.output,
            "night": self.night.isoformat(),
            "model_version": self.model_version,
            "level": self.level,
            "sentence": self.sentence,
            "edges": list(self.edges),
            "counts": list(self.counts),
            "nights": [night.isoformat() for night in self.nights],
            "distances": {
                name: {"psi": apart.psi, "js": apart.js, "rows": apart.reference_rows, "level": self.effect(name)}
                for name, apart in self.distances.items()
            },
        }


def unjudged_report(pipeline: Pipeline, night: date, model_version: int | None, rows: int) -> DriftReport:
    """Make the report on an output of a kind whose drift is not judged."""
    spec = pipeline.output_specs[0]
    return DriftReport(
        pipeline=pipeline.name,
        output=spec.name,
        night=night,
        model_version=model_version,
        edges=(),
        counts=(rows,),
        references={},
        distances={},
        nights=(),
        models_before=(),
        limits=pipeline.drift,
        unjudged=spec.kind,
    )
