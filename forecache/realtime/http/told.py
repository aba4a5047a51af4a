"""Provenance of answers in other protocols (release, model, versions, times), and the trace of their requests.

The trace header is that of W3C Trace Context.
"""

from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

from forecache.realtime.answer.answered import Times
from forecache.realtime.answer.render import lowest
from forecache.realtime.deadline.clock import Clock
from forecache.realtime.http.scored import Scored
from forecache.realtime.release.format import Release
from forecache.realtime.served import Served

_STAGES = {name: f"timings_ms.{name}" for name in ("wait", "parse", "lookup", "transform", "model", "ladder")}


def said(served: Served, answers: Sequence[Scored], clock: Clock) -> dict[str, Any]:
    """Return the provenance of the answers to one body, as flat members."""
    release, now = served.loaded.release, perf_counter_ns()
    rungs = [rung for each in answers for rung in each.rungs]
    told: dict[str, Any] = {
        "rung": lowest(rungs) if rungs else "",
        "release": release.number,
        **_model(release),
        "deadline_ms": clock.deadline_ms,
        **_timings(answers, now - clock.arrived),
    }
    if served.split is not None and answers:
        by = answers[0].served
        told |= {"release": by.number, **_model(by.loaded.release)}
        told["arm"] = " ".join(dict.fromkeys(each.served.arm for each in answers))
    if clock.is_late(now):
        told["late"] = True
    if served.log is not None:
        told["request_id"] = " ".join(each.answered.request_id for each in answers)
    for each in answers:
        if each.answered.why:
            told["why"] = each.answered.why
        if each.answered.flags:
            told["flags"] = " ".join(each.answered.flags)
        for name, store in each.answered.used.items():
            told.update({
                f"stores.{name}.version": store.manifest.version,
                f"stores.{name}.as_of": store.manifest.as_of,
                f"stores.{name}.age_s": store.age_s,
                f"stores.{name}.stale": store.stale,
            })  # fmt: skip
    return told


def _model(release: Release) -> dict[str, str]:
    return {"model": f"{release.model.name}/{release.model.version}", "model_runtime": release.model.runtime}


def _timings(answers: Sequence[Scored], elapsed: int) -> dict[str, float]:
    """Return milliseconds: the wait of the first answer, the sum of each other stage over all answers, and the total.

    Args:
        elapsed: Nanoseconds since the arrival.
    """
    first, *others = [each.answered.times for each in answers] or [Times()]
    told = {stage: getattr(first, name) for name, stage in _STAGES.items()}
    for times in others:
        for name, stage in _STAGES.items():
            told[stage] += getattr(times, name) if name != "wait" else 0
    told["timings_ms.total"] = elapsed
    return {stage: spent // 1000 / 1000 for stage, spent in told.items()}
