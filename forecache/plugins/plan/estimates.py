"""Estimates of stages: by earlier runs of the same stage of the same subject, else guessed from the number of rows."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from forecache.base.settings import Settings
from forecache.lake.engine import num_cores
from forecache.lake.ledger import StageRecord, records_of_subjects
from forecache.plugins.plan.plan import Estimate

_RUNS, _LATEST = 7, 64
_COMPARABLE = 1.25
"""Up to this ratio of rows, what earlier runs took is taken as it is: most of a small stage does not depend on them."""
_GUESS_S, _GUESS_A_ROW_S = 0.5, 2e-5


class Estimator:
    """Estimates stages of some subjects from the ledger, which is read once."""

    def __init__(self, settings: Settings, subjects: Sequence[str]) -> None:
        self._records: dict[tuple[str, str], list[StageRecord]] = defaultdict(list)
        for row in records_of_subjects(settings, subjects):
            self._records[row.stage, row.subject].append(row)

    def has_run(self, stage: str, subject: str) -> bool:
        return (stage, subject) in self._records

    def estimate(self, stage: str, subject: str, *, dates: int, rows: int | None) -> Estimate:
        """Estimate the stage for a number of dates together, with `rows` in all (None: as many as before)."""
        runs, num = self._find_runs(stage, subject), max(1, dates)
        if not runs:
            return self._guess(stage, rows or 0)
        # Many dates of one run share its start.
        nearest = min(map(_num_dates, runs), key=lambda known: abs(known - num))
        chosen = [row for row in runs if _num_dates(row) == nearest][-_RUNS:]
        wanted = num * chosen[-1].rows if rows is None else rows
        found = [_scale(run, rows=wanted, dates=num) for run in chosen]
        core_s = [core_s for core_s, _ in found]
        peaks = [row.details["cost"].get("peak_bytes") for row in chosen]
        return Estimate(
            rows=wanted,
            core_s=median(core_s),
            seconds=median(seconds for _, seconds in found),
            low_s=min(core_s),
            high_s=max(core_s),
            peak_bytes=max((peak for peak in peaks if peak), default=None),
            num_runs=len(chosen),
        )

    def _find_runs(self, stage: str, subject: str) -> list[StageRecord]:
        """The latest measured runs, a record of each: the dates of a run share what it took."""
        latest = self._records.get((stage, subject), [])[-_LATEST:]
        measured = [row for row in latest if "nights" in (row.details.get("cost") or {})]
        return list({row.commit_version: row for row in measured}.values())

    def _guess(self, stage: str, rows: int) -> Estimate:
        """By what the same stage of others takes, else by what stages usually take."""
        others = [row for name, subject in self._records if name == stage for row in self._find_runs(name, subject)]
        core_s = _GUESS_S + _GUESS_A_ROW_S * rows
        if others:
            usual = median(row.core_s(num_cores()) for row in others)
            core_s = usual * max(1.0, rows / max(1.0, median(row.rows for row in others)))
        return Estimate(rows, core_s, core_s, core_s / 4, core_s * 4, None, 0)


def _num_dates(row: StageRecord) -> int:
    return int(row.details["cost"]["nights"])


def _scale(row: StageRecord, *, rows: int, dates: int) -> tuple[float, float]:
    """Core-seconds and seconds of a number of dates with so many rows in all, by one date of a run."""
    before = row.rows * dates
    ratio = rows / before if before else 1.0
    factor = dates * (1.0 if 1 / _COMPARABLE <= ratio <= _COMPARABLE else ratio)
    return row.core_s(num_cores()) * factor, row.seconds * factor
