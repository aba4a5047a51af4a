"""Cache of scores for repeated requests, keyed by everything that the scores depend on, so no entry becomes stale.

The key is made of all fields of the request, of the segments of each store version that was read, and of which keys
had a row; the cache belongs to one release. So a publish or a release changes the key, and no time to live is needed.
"""

import asyncio
import hashlib
import math
import time
from collections import OrderedDict

import numpy as np

from forecache.realtime.answer.served_release import ModelPath
from forecache.realtime.deadline import may_begin
from forecache.realtime.metrics import PathCounters
from forecache.realtime.request.request_answer import LookupResult, ParsedRequest, RefusedCallError, StageTimes, TooLate
from forecache.realtime.workers.slot_memory import join_texts

ENTRY_BYTES = 400
"""Memory of an entry beside its scores and features: key, array and place in the order."""
_Entry = tuple[np.ndarray, bytes | None]
"""Scores, and the bytes of the features that they were computed from if answers are logged."""
_MARGIN_S = 0.001
_WEIGHT = 0.05


class CachedPath:
    """A `ModelPath` with a cache; equal requests that arrive together share one call of the model.

    Args:
        most_bytes: Memory that the scores may take; the least recently used entries are removed first.
    """

    def __init__(
        self, inner: ModelPath, *, most_bytes: int, counters: PathCounters, keeps_features: bool = False
    ) -> None:
        self.inner, self._most_bytes, self._counters = inner, most_bytes, counters
        self._keeps_features = keeps_features
        self.in_loop = inner.in_loop
        self.times = StageTimes()
        self._kept: OrderedDict[bytes, _Entry] = OrderedDict()
        self._bytes = 0
        self._flights: dict[bytes, asyncio.Future[_Entry | None]] = {}
        self._compute_s = 0.0

    def score_now(self, request: ParsedRequest, found: LookupResult, left_ns: int) -> np.ndarray:
        self.times.transform = self.times.model = 0
        key = score_cache_key(request, found)
        scores = self._find_entry(key, found)
        if scores is None:
            began = time.monotonic()
            scores = self.inner.score_now(request, found, left_ns)
            self.times.transform, self.times.model = self.inner.times.transform, self.inner.times.model
            self._add_entry(key, (scores, self._features_of(found)), time.monotonic() - began)
        return scores

    async def score(self, request: ParsedRequest, found: LookupResult, until: float) -> np.ndarray:
        key = score_cache_key(request, found)
        while True:
            scores = self._find_entry(key, found)
            if scores is not None:
                return scores
            flight = self._flights.get(key)
            if flight is None:
                return await self._compute_for_all(key, request, found, until)
            self._count("cache_joined")
            entry = await _wait_for_flight(flight, until)
            if entry is not None:
                self._count_saved_time()
                scores, found.features = entry
                return scores
            # The other request had less time, or failed: try again.

    def expected_s(self) -> float:
        # The request is not known here: it may be in the cache even if the model has no time.
        return 0.0 if self._kept or self._flights else self.inner.expected_s()

    def close(self) -> None:
        self.inner.close()
        self._counters.add("cache_bytes", -self._bytes)
        self._kept.clear()
        self._bytes = 0

    async def _compute_for_all(
        self, key: bytes, request: ParsedRequest, found: LookupResult, until: float
    ) -> np.ndarray:
        began = time.monotonic()
        expected_s = self.inner.expected_s()
        if expected_s == math.inf:
            raise RefusedCallError("There is no way to the model.")
        if not may_begin(expected_s, began, until):
            raise TooLate
        self._count("cache_misses")
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        entry = None
        try:
            scores = await self.inner.score(request, found, until)
            entry = (scores, self._features_of(found))
        finally:
            del self._flights[key]
            flight.set_result(entry)
        self._add_entry(key, entry, time.monotonic() - began)
        return scores

    def _features_of(self, found: LookupResult) -> bytes | None:
        features = found.features if self._keeps_features else None
        return features if features is None or isinstance(features, bytes) else features.tobytes()

    def _find_entry(self, key: bytes, found: LookupResult) -> np.ndarray | None:
        entry = self._kept.get(key)
        if entry is None:
            if self.in_loop:
                self._count("cache_misses")
            return None
        self._kept.move_to_end(key)
        self._count("cache_hits")
        self._count_saved_time()
        scores, found.features = entry
        return scores

    def _add_entry(self, key: bytes, entry: _Entry, took_s: float) -> None:
        self._compute_s += _WEIGHT * (took_s - self._compute_s) if self._compute_s else took_s
        scores, _ = entry
        size = _size(entry)
        if size > self._most_bytes or key in self._kept:
            return
        scores.flags.writeable = False
        self._kept[key] = entry
        before = self._bytes
        self._bytes += size
        while self._bytes > self._most_bytes:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= _size(gone)
        self._counters.add("cache_bytes", self._bytes - before)

    def _count(self, name: str) -> None:
        self._counters.add(name)

    def _count_saved_time(self) -> None:
        self._counters.add("cache_saved_us", int(self._compute_s * 1e6))


def _size(entry: _Entry) -> int:
    scores, features = entry
    return scores.nbytes + len(features or b"") + ENTRY_BYTES


def score_cache_key(request: ParsedRequest, found: LookupResult) -> bytes:
    """Return 16 bytes that differ for any two requests whose scores could differ."""
    parts: list[bytes] = []
    for name, column in request.columns.items():
        if column.dtype == object:
            values, coding = join_texts(column.tolist())
        else:
            values, coding = column.tobytes(), 0
        parts += (f"{name} {len(column)} {len(values)} {coding} ".encode(), values)
    for name, answers in found.versions.items():
        segments = " ".join(segment.id for segment in answers.manifest.segments)
        parts.append(f"{name} {answers.manifest.version} {segments} ".encode())
    for name in found.merged:  # merged with a live layer, which no version identifies
        parts += (f"{name} {found.views[name].shape} ".encode(), found.views[name].tobytes())
    for name, known in found.known.items():
        parts += (f"{name} {len(known)} ".encode(), known.tobytes())
    return hashlib.blake2b(b"".join(parts), digest_size=16).digest()


async def _wait_for_flight(flight: "asyncio.Future[_Entry | None]", until: float) -> _Entry | None:
    """Wait for the scores of an equal request that is being computed; None if it gets no scores.

    Raises:
        TooLate: The scores do not arrive in time.
    """
    try:
        return await asyncio.wait_for(asyncio.shield(flight), max(0.0, until - _MARGIN_S - time.monotonic()))
    except asyncio.TimeoutError:  # of Python 3.10, where it is no TimeoutError
        raise TooLate from None
