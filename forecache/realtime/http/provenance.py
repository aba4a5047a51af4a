"""Provenance of answers in other protocols (release, model, versions, times), and the trace of their requests.

The trace header is that of W3C Trace Context.
"""

import re
from collections.abc import Sequence
from random import getrandbits
from time import perf_counter_ns
from typing import Any

from forecache.plugins.protocols.columns import AnswerColumns
from forecache.realtime.answer.render import lowest_fallback
from forecache.realtime.answer.request_answer import StageTimes
from forecache.realtime.deadline.clock import RequestClock
from forecache.realtime.release.format import Release
from forecache.realtime.served_release import ServedRelease

_STAGES = {name: f"timings_ms.{name}" for name in ("wait", "parse", "lookup", "transform", "model", "ladder")}


def provenance_of(served: ServedRelease, answers: Sequence[AnswerColumns], clock: RequestClock) -> dict[str, Any]:
    """Return the provenance of the answers to one body, as flat members."""
    release, now = served.loaded.release, perf_counter_ns()
    rungs = [rung for each in answers for rung in each.rungs]
    told: dict[str, Any] = {
        "rung": lowest_fallback(rungs) if rungs else "",
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


def _timings(answers: Sequence[AnswerColumns], elapsed: int) -> dict[str, float]:
    """Return milliseconds: the wait of the first answer, the sum of each other stage over all answers, and the total.

    Args:
        elapsed: Nanoseconds since the arrival.
    """
    first, *others = [each.answered.times for each in answers] or [StageTimes()]
    told = {stage: getattr(first, name) for name, stage in _STAGES.items()}
    for times in others:
        for name, stage in _STAGES.items():
            told[stage] += getattr(times, name) if name != "wait" else 0
    told["timings_ms.total"] = elapsed
    return {stage: spent // 1000 / 1000 for stage, spent in told.items()}


TRACE = "traceparent"
_FORM = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


def trace_headers(parent: str) -> list[tuple[str, str]]:
    """Return the trace header of an answer: the request's trace with a new span; none if the request's is malformed."""
    found = _FORM.fullmatch(parent)
    if found is None or parent.startswith("ff") or not int(found[1], 16) or not int(found[2], 16):
        return []
    return [(TRACE, f"00-{found[1]}-{getrandbits(64) or 1:016x}-{found[3]}")]
