"""Advice from measured costs: use a cache or not, and run the model in the event loop or in worker processes."""

from dataclasses import dataclass
from typing import Any

from forecache.plugins.cost.advice.measure import STAGES, RequestCosts, median_and_p99
from forecache.realtime.release.load import LoadedRelease

LOOP_P99_MS = 2.0
"""The reader runs a native model in its event loop below this 99th percentile."""
WORTH_SHARE = 0.05
"""A cache is advised if it saves at least this share of an answer's mean time."""
FEW = 1_000
"""Fewer requests say little about repetition."""


@dataclass(frozen=True)
class DeclarationAdvice:
    """Advice for one field of a declaration.

    Attributes:
        field: Name of the field of `Realtime`.
        value: The advised value.
        now: The value of the release.
        why: A sentence with the figures behind it.
    """

    field: str
    value: Any
    now: Any
    why: str


def cache_advice(found: RequestCosts, *, now: int, cache_bytes: int) -> DeclarationAdvice:
    """Advise a cache of this size if it saves more time than computing its keys takes."""
    cost = {stage: median_and_p99(values)[0] for stage, values in found.stages_ms.items()}
    whole = sum(cost.values())
    avoided = cost["transform"] + cost["model"]
    key = median_and_p99(found.key_ms)[0]
    saved = found.hit_share * avoided - key
    pays = saved > WORTH_SHARE * whole
    count = f"{found.requests:,} request{'s' * (found.requests != 1)}"
    why = (
        f"{found.hit_share:.1%} of {count} repeat an earlier one within {cache_bytes / 2**20:.0f} MiB. A hit saves "
        f"{avoided * 1e3:.0f} us of transform and model, every request pays {key * 1e3:.0f} us for the key: "
        f"{saved * 1e3:+.0f} us a request, of {whole * 1e3:.0f} us."
    )
    if found.requests < FEW:
        why += f" So few requests say little about repetition: give {FEW:,} or more in the order in which they came."
    return DeclarationAdvice("cache_bytes", cache_bytes if pays else 0, now, why)


def place_advice(found: RequestCosts, loaded: LoadedRelease) -> DeclarationAdvice:
    """Advise to run transform and model in the event loop, or in worker processes."""
    release, p99 = loaded.release, found.path_p99_ms
    took = f"Transform and model take {p99:.2f} ms at the 99th percentile"
    if not loaded.is_native:
        why = f"The model runs by {release.model.runtime}, whose time has no bound: it belongs where it can be ended."
        return DeclarationAdvice("runs", "process", release.runs, f"{why} {took}.")
    if p99 < LOOP_P99_MS:
        why = f"{took}, below {LOOP_P99_MS:g} ms, and the model is native ({release.model.runtime})."
        return DeclarationAdvice("runs", "loop", release.runs, why)
    why = f"{took}, {LOOP_P99_MS:g} ms or more, for which all other requests of the worker would wait."
    return DeclarationAdvice("runs", "process", release.runs, why)


def advice_as_dict(loaded: LoadedRelease, found: RequestCosts, advice: list[DeclarationAdvice]) -> dict[str, Any]:
    """Return the advice with its figures, for JSON."""
    quantiles = {stage: median_and_p99(found.stages_ms[stage]) for stage in STAGES}
    return {
        "name": loaded.release.name,
        "release": loaded.release.number,
        "requests": found.requests,
        "distinct": found.distinct,
        "refused": found.refused,
        "hit_share": found.hit_share,
        "cache_held_bytes": found.held_bytes,
        "key_ms": median_and_p99(found.key_ms)[0],
        "stages_ms": {stage: {"p50": p50, "p99": p99} for stage, (p50, p99) in quantiles.items()},
        "path_p99_ms": found.path_p99_ms,
        "advice": [vars(each) for each in advice],
    }
