"""Cost of a run: rows per second, time, price and memory, predicted before it and measured after it.

The prediction is based on comparable nights in the stage ledger or, without any, on the calibration's rate of one core.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median
from typing import Any

from forecache.base.prices import core_cost
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.lake.ledger import StageRecord

_NIGHTS = 7
# Nights of another order of magnitude do not compare: a small one consists of the job's start only.
_COMPARABLE = 4.0
_START_S = {"spark": 1.0, "arrow": 0.1}


@dataclass(frozen=True)
class RunFigures:
    rows: int  # rows of the nights; of a resumed run, the remaining ones
    seconds: float  # of scoring, without the checks and the commit after it
    cores: int  # cores that the engine keeps busy
    worker_bytes: int | None  # largest memory of a process that scores; None if unknown
    basis: str  # basis of a prediction; "measured" for actual figures

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0

    def metadata(self, settings: Settings) -> dict[str, Any]:
        """JSON-serialisable: rows, rows_per_second, seconds, cores, core_s and prices, worker_bytes, basis."""
        return {
            "rows": self.rows,
            "rows_per_second": round(self.rows_per_second),
            "seconds": round(self.seconds, 6),
            "cores": self.cores,
            **core_cost(settings, self.seconds * self.cores),
            "worker_bytes": self.worker_bytes,
            "basis": self.basis,
        }

    @staticmethod
    def from_metadata(metadata: Mapping[str, Any]) -> "RunFigures":
        return RunFigures(*(metadata[name] for name in ("rows", "seconds", "cores", "worker_bytes", "basis")))


def predict(
    before: Mapping[date | None, StageRecord],
    *,
    rows: int,
    cores: int,
    engine: str,
    runtime: str,
    mode: str = "full",
    core_rate: float | None = None,
) -> RunFigures | None:
    """Predict the figures of nights of `rows` together, by the latest ledger row of each night `before`, of which those
    of the same mode compare; by a core's rate in the calibration without any, None without that."""
    past = [
        figures
        for record in sorted(before.values(), key=lambda record: str(record.recorded_at))
        if (figures := record.details.get("run")) is not None
        and (record.details.get("engine"), record.details.get("runtime")) == (engine, runtime)
        and record.details.get("mode", "full") == mode
        and rows / _COMPARABLE <= figures["rows"] <= rows * _COMPARABLE
    ][-_NIGHTS:]
    if past:
        rate = median(run["rows"] / max(run["seconds"], 1e-6) / run["cores"] for run in past) * cores
        memory = [run["worker_bytes"] for run in past if run["worker_bytes"]]
        basis = f"{len(past)} earlier {'night' if len(past) == 1 else 'nights'}"
        return RunFigures(rows, rows / rate, cores, max(memory, default=None), basis)
    if core_rate is None:
        return None
    seconds = _START_S[engine] + rows / core_rate / cores
    return RunFigures(rows, seconds, cores, None, "calibration")


def combine_figures(parts: Sequence[RunFigures | None]) -> RunFigures | None:
    """Figures of several parts of a run, one after the other; None if those of one are unknown."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or not known:
        return None
    return RunFigures(
        rows=sum(part.rows for part in known),
        seconds=sum(part.seconds for part in known),
        cores=max(part.cores for part in known),
        worker_bytes=max((part.worker_bytes for part in known if part.worker_bytes), default=None),
        basis=", ".join(dict.fromkeys(part.basis for part in known)),
    )


def combine_plans(settings: Settings, results: Sequence[StageResult]) -> dict[str, Any]:
    """Combined `predicted` and `actual` of runs, one after the other.

    An entry is None if that of one run is unknown; empty if no run scored anything.
    """
    scored = [result.details for result in results if result.details.get("actual")]
    if not scored:
        return {}
    found: dict[str, Any] = {}
    for side in ("predicted", "actual"):
        whole = combine_figures(
            [RunFigures.from_metadata(details[side]) if details[side] else None for details in scored]
        )
        found[side] = whole.metadata(settings) if whole else None
    return found


def format_plan(figures: RunFigures, settings: Settings) -> str:
    cost = core_cost(settings, figures.seconds * figures.cores)
    price = f", {cost['price_on_demand']:.4g} on demand" if "price_on_demand" in cost else ""
    return (
        f"plan: {figures.rows:,} rows at about {figures.rows_per_second:,.0f} a second on {figures.cores} cores: "
        f"{figures.seconds:,.0f} s, {figures.seconds * figures.cores / 3600:.3g} core-hours{price} ({figures.basis})"
    )


def memory_warnings(figures: RunFigures | None, settings: Settings) -> list[str]:
    """A warning if a process that scored took more memory than the settings allow."""
    limit = settings.scoring_worker_memory_mb
    if figures is None or not figures.worker_bytes or figures.worker_bytes <= limit << 20:
        return []
    return [
        f"A process that scored took {figures.worker_bytes >> 20} MB, above "
        f"FORECACHE_SCORING_WORKER_MEMORY_MB={limit}: raise it and the executors' memory, "
        "or set a smaller FORECACHE_SCORING_BATCH_ROWS."
    ]
