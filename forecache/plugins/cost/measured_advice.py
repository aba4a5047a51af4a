"""Advice from the measured stages of a release: a cache or not, and the model in the event loop or in workers."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns, time
from typing import Any

import numpy as np
import xxhash

from forecache.base.errors import InputError
from forecache.base.plugins import load_hook
from forecache.declare.realtime.request_rows import RequestArrays
from forecache.kit.http.problems import Problem
from forecache.realtime.answer.in_loop import measure_p99_s
from forecache.realtime.lookups import ViewLookups
from forecache.realtime.release.load import LoadedRelease
from forecache.realtime.request.request_answer import LookupResult, NoScores, ParsedRequest
from forecache.realtime.request.request_parser import RequestParser
from forecache.serve.reader.versions.answers import VersionAnswers

STAGES = ("parse", "lookup", "transform", "model")
_TIMED, _ENOUGH_S = 2_000, 5.0
"""Most requests that are timed, and the time after which no more are."""
SCORE_BYTES = 8


@dataclass(frozen=True)
class RequestCosts:
    """Measured costs of requests to a release."""

    requests: int  # number of requests; all count for repetition
    distinct: int  # number of different inputs
    refused: int  # number of requests that the release refuses
    stages_ms: Mapping[str, Sequence[float]]  # by stage, the time of each timed request
    key_ms: Sequence[float]  # the time of computing the cache key, of each timed request
    path_p99_ms: float  # the 99th percentile of transform and model, as the reader calibrates it; infinite if they fail
    hit_share: float  # share of requests that a cache would have answered
    held_bytes: int  # largest size of the cache


def measure_requests(
    loaded: LoadedRelease, versions: Mapping[str, VersionAnswers], requests: Sequence[bytes], *, cache_bytes: int
) -> RequestCosts:
    """Send requests through a release's look-ups, transform and model, in their order."""
    parser, compute_key = RequestParser(loaded.release), load_hook("score_cache", "key")
    lookups = ViewLookups(loaded.release.lookups, versions, refuses=False)
    cache = CacheSimulation(cache_bytes)
    stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
    key_ms: list[float] = []
    calls: list[Callable[[], object]] = []
    refused, reason = 0, "there are none"
    end = perf_counter_ns() + int(_ENOUGH_S * 1e9)
    for body in requests:
        try:
            began = perf_counter_ns()
            request = parser.parse(body)
            parsed = perf_counter_ns()
            cache.add_request(hash_of_inputs(request), request.length)
            if len(key_ms) >= _TIMED or parsed > end:
                continue
            reading = perf_counter_ns()
            found = lookups.read(request, time())
            looked = perf_counter_ns()
            compute_key(request, found)
            keyed = perf_counter_ns()
            rows = loaded.builder.build_rows(RequestArrays(request.length, request.columns), found.views, found.known)
            features = loaded.features_of(rows)
            transformed = perf_counter_ns()
            loaded.scores_of(features)
            scored = perf_counter_ns()
        except (Problem, NoScores, InputError) as error:
            refused, reason = refused + 1, str(error)
            continue
        moments = (parsed - began, looked - reading, transformed - keyed, scored - transformed)
        for stage, nanoseconds in zip(STAGES, moments, strict=True):
            stages[stage].append(nanoseconds / 1e6)
        key_ms.append((keyed - looked) / 1e6)
        if len(calls) < 50:
            calls.append(partial(_score, loaded, request, found))
    if not calls:
        raise InputError(
            f"No request of {len(requests)} can be answered by the model of {loaded.release.name}: {reason}.",
            remedy="Give requests that `POST /v1/<name>` takes, one JSON object a line.",
        )
    return RequestCosts(
        len(requests), cache.distinct, refused, stages, key_ms, measure_p99_s(calls) * 1e3, cache.hits / len(requests),
        cache.most_bytes,
    )  # fmt: skip


def hash_of_inputs(request: ParsedRequest) -> bytes:
    """Hash all values of a request, in their order."""
    state = xxhash.xxh3_128()
    for name, values in request.columns.items():
        state.update(name.encode())
        state.update(repr(values.tolist()).encode() if values.dtype == object else values.tobytes())
    return state.digest()


class CacheSimulation:
    """Simulates a cache of a given size with least-recently-used eviction."""

    def __init__(self, most_bytes: int) -> None:
        self._limit, self._held = most_bytes, 0
        self._entry_bytes: int = load_hook("score_cache", "entry_bytes")
        self._entries: OrderedDict[bytes, int] = OrderedDict()
        self._seen: set[bytes] = set()
        self.hits = self.most_bytes = 0

    @property
    def distinct(self) -> int:
        return len(self._seen)

    def add_request(self, key: bytes, length: int) -> None:
        """Look a request with `length` candidates up in the simulated cache, and add it."""
        self._seen.add(key)
        if key in self._entries:
            self.hits += 1
            self._entries.move_to_end(key)
            return
        size = self._entry_bytes + length * SCORE_BYTES
        self._entries[key] = size
        self._held += size
        while self._held > self._limit and self._entries:
            self._held -= self._entries.popitem(last=False)[1]
        self.most_bytes = max(self.most_bytes, self._held)


def median_and_p99(values: Iterable[float]) -> tuple[float, float]:
    found = np.quantile(list(values), [0.5, 0.99])
    return float(found[0]), float(found[1])


def _score(loaded: LoadedRelease, request: ParsedRequest, found: LookupResult) -> None:
    loaded.score(loaded.builder.build_rows(RequestArrays(request.length, request.columns), found.views, found.known))


LOOP_P99_MS = 2.0
"""The reader runs a native model in its event loop below this 99th percentile."""
WORTH_SHARE = 0.05
"""A cache is advised if it saves at least this share of an answer's mean time."""
FEW = 1_000
"""Fewer requests say little about repetition."""


@dataclass(frozen=True)
class DeclarationAdvice:
    """Advice for one field of a declaration."""

    field: str  # name of the field of `Realtime`
    value: Any  # the advised value
    now: Any  # the value of the release
    why: str  # a sentence with the figures behind it


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
