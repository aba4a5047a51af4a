"""Advice on nightly scoring: the memory of its workers, and the engine or mode that costs less a row."""

import math
from collections import defaultdict
from collections.abc import Iterable

from forecache.lake.costs import CPU
from forecache.lake.ledger import StageRecord
from forecache.operations.advice.advice import Advice, saving
from forecache.settings import Settings

_MARGIN = 1.25
_STEP_MB = 64
_WORTH = 0.2


def scoring_advice(settings: Settings, records: Iterable[StageRecord], days: float) -> list[Advice]:
    """Advice from the scoring stages of the period."""
    nights = [record for record in records if record.stage == "score" and record.rows and record.details.get("run")]
    found = _memory(settings, nights)
    return [*([found] if found else []), *_engines(settings, nights, days)]


def _memory(settings: Settings, nights: list[StageRecord]) -> Advice | None:
    used, largest = max(
        ((record.details["run"]["worker_bytes"] or 0, record.subject) for record in nights), default=(0, "")
    )
    if not used:
        return None
    now = settings.scoring_worker_memory_mb
    enough = max(_STEP_MB, math.ceil(used * _MARGIN / 2**20 / _STEP_MB) * _STEP_MB)
    if now * (1 - _WORTH) <= enough <= now:
        return None
    why = f"A process that scored took at most {used / 2**20:,.0f} MB, for {largest}; it is given {now:,} MB."
    return Advice("scoring", f"FORECACHE_SCORING_WORKER_MEMORY_MB={enough}", why)


def _engines(settings: Settings, nights: list[StageRecord], days: float) -> list[Advice]:
    """Advice for pipelines that both engines have scored in full: the engine that took less a row."""
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    for record in nights:
        if record.details.get("mode", "full") == "full" and "cost" in record.details:
            sums = seconds[record.subject][record.details["engine"]]
            sums[0] += record.details["cost"]["core_s"]
            sums[1] += record.rows
    newest = {record.subject: record.details["engine"] for record in nights}
    found = []
    for subject, by_engine in seconds.items():
        a_row = {engine: core_s / rows for engine, (core_s, rows) in by_engine.items()}
        best, now = min(a_row, key=lambda engine: a_row[engine]), newest[subject]
        if now not in a_row or a_row[best] > a_row[now] * (1 - _WORTH):
            continue
        why = (
            f"A million rows took {a_row[best] * 1e6:,.0f} core-seconds with {best} and {a_row[now] * 1e6:,.0f} with "
            f"{now}, which scored the last night."
        )
        hours = (a_row[now] - a_row[best]) * by_engine[now][1] / 3600 / days
        found.append(
            saving(settings, f"scoring of {subject}", f"engine {best}", why, hours, "core-hours", priced_by=CPU)
        )
    return found
