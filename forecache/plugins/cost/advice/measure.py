"""Measure the stages of a release with given requests in this process, and how often requests repeat."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns, time

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
    """Measured costs of requests to a release.

    Attributes:
        requests: Number of requests; all count for repetition.
        distinct: Number of different inputs.
        refused: Number of requests that the release refuses.
        stages_ms: By stage, the time of each timed request.
        key_ms: The time of computing the cache key, of each timed request.
        path_p99_ms: The 99th percentile of transform and model, as the reader calibrates it; infinite if they fail.
        hit_share: Share of requests that a cache would have answered.
        held_bytes: Largest size of the cache.
    """

    requests: int
    distinct: int
    refused: int
    stages_ms: Mapping[str, Sequence[float]]
    key_ms: Sequence[float]
    path_p99_ms: float
    hit_share: float
    held_bytes: int


def measure_requests(
    loaded: LoadedRelease, versions: Mapping[str, VersionAnswers], requests: Sequence[bytes], *, cache_bytes: int
) -> RequestCosts:
    """Send requests through a release's look-ups, transform and model, in their order.

    Args:
        versions: The served versions of the views, by name.
        requests: In the reader's own JSON.
        cache_bytes: Size of the simulated cache.

    Raises:
        InputError: The model can answer none of them.
    """
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
