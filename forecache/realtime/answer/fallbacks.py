"""The fallbacks of a real-time model: scores from published stores, or none."""

import logging
from collections.abc import Mapping, Sequence
from time import perf_counter_ns
from typing import Any, Protocol

import numpy as np

from forecache.base.ranking import descending_order
from forecache.declare.realtime.lookups import DeclaredFallback, Default, DotProduct, OrderGiven, Precomputed, Stored
from forecache.kit.http.problems import Problem
from forecache.realtime.lookups import keys_of
from forecache.realtime.request.request_answer import MODEL, LookupResult, ParsedRequest, RequestAnswer, StageTimes
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.versions.live_answers import NoVersion
from forecache.serve.reader.versions.partial_versions import PartialVersion
from forecache.serve.store import Snapshot

logger = logging.getLogger("forecache.realtime")
Served = Mapping[str, VersionAnswers]


class FallbackUnavailable(Exception):
    """A store of the fallback has no version that may be read; the next fallback answers."""


class Fallback(Protocol):
    """A fallback, which answers if the model cannot."""

    name: str  # as in answers and metrics
    needs_request: bool  # False if the names of the candidates are enough

    def scores(
        self, request: ParsedRequest, served: Served, now: float, used: dict[str, VersionAnswers]
    ) -> np.ndarray | None:
        """Return scores [length], NaN for none; None: candidates stay in the order given.

        Args:
            used: The versions that are read are added by store name.

        Raises:
            FallbackUnavailable: It cannot answer now.
        """


def open_fallbacks(declared: Sequence[DeclaredFallback]) -> tuple[Fallback, ...]:
    """Make the declared fallbacks, from the best to the last, which always answers."""
    return tuple(_KINDS[type(each)](each) for each in declared)


class _DotProductFallback:
    name, needs_request = "dot_product", True

    def __init__(self, declared: DotProduct) -> None:
        self._declared = declared
        self._user, self._item = _StoredNumbers(declared.user), _StoredNumbers(declared.item)

    def scores(
        self, request: ParsedRequest, served: Served, now: float, used: dict[str, VersionAnswers]
    ) -> np.ndarray | None:
        users, items = self._user.rows(request, served, now, used), self._item.rows(request, served, now, used)
        stores = (self._declared.user.store, self._declared.item.store)
        # Vectors of two as-of dates have different axes: their product means nothing while one store is ahead.
        if users.shape[1] != items.shape[1] or len({used[store].manifest.as_of for store in stores}) > 1:
            raise FallbackUnavailable
        return np.einsum("ij,ij->i", np.broadcast_to(users, (len(items), users.shape[1])), items)


class _PrecomputedFallback:
    name, needs_request = "precomputed", True

    def __init__(self, declared: Precomputed) -> None:
        self._of = _StoredNumbers(declared.of)

    def scores(
        self, request: ParsedRequest, served: Served, now: float, used: dict[str, VersionAnswers]
    ) -> np.ndarray | None:
        rows = self._of.rows(request, served, now, used)
        if rows.shape[1] != 1:
            raise FallbackUnavailable
        return rows[:, 0] if len(rows) == request.length else rows[:, 0].repeat(request.length)


class _ConstantFallback:
    needs_request = False

    def __init__(self, declared: Default | OrderGiven) -> None:
        self._value = float(declared.value) if isinstance(declared, Default) else None
        self.name = "order_given" if self._value is None else "default"

    def scores(
        self, request: ParsedRequest, served: Served, now: float, used: dict[str, VersionAnswers]
    ) -> np.ndarray | None:
        return None if self._value is None else np.full(request.length, self._value)


_KINDS: dict[type, Any] = {
    DotProduct: _DotProductFallback,
    Precomputed: _PrecomputedFallback,
    Default: _ConstantFallback,
    OrderGiven: _ConstantFallback,
}


class _StoredNumbers:
    def __init__(self, declared: Stored) -> None:
        self._declared = declared
        self._bound: tuple[VersionAnswers, list[int], str] | None = None
        self._told = False

    def rows(self, request: ParsedRequest, served: Served, now: float, used: dict[str, VersionAnswers]) -> np.ndarray:
        """Read floats [n, d], or [1, d] if the key is of the request alone; NaN for a key without a row."""
        declared = self._declared
        answers = served.get(declared.store)
        # A store on another machine may be the reason for the fallback; waiting for it would block other requests.
        if answers is None or not isinstance(answers.snapshot, (Snapshot, NoVersion)):
            if answers is not None and not isinstance(answers.snapshot, PartialVersion) and not self._told:
                self._told = True
                logger.warning(
                    "The fallback that reads %s is left out: this reader has that store in Redis, and fallbacks read "
                    "stores on their own machine only. Bring it here from the remote: `forecache store pull %s`.",
                    *(declared.store, declared.store),
                )
            raise FallbackUnavailable
        if not answers.valid_from <= now < answers.valid_until:
            answers.refresh(now)
        if answers.refused:
            raise FallbackUnavailable
        if self._bound is None or self._bound[0] is not answers:
            self._bound = (answers, *_places_of_field(answers, declared.field))
        _, places, field = self._bound
        keys = keys_of(answers.manifest.key, declared.key, request)
        used[declared.store] = answers
        if isinstance(answers.snapshot, Snapshot) and answers.manifest.is_packed:
            matrix: np.ndarray = answers.snapshot.matrix(keys)[0]
            return matrix if len(places) == matrix.shape[1] else matrix[:, places]
        found = answers.rows(keys)
        return np.array([[np.nan if row is None else _number(row[field])] for row in found])


def _places_of_field(answers: VersionAnswers, field: str) -> tuple[list[int], str]:
    """Find the columns of a field in a packed row ([] for JSON rows), and the field's name."""
    manifest = answers.manifest
    if manifest.is_packed:
        own = (field, f"{field}_")
        places = [
            place for place, name in enumerate(manifest.columns)
            if not field or name == field or (name.startswith(own[1]) and name.removeprefix(own[1]).isdecimal())
        ]  # fmt: skip
        if places:
            return places, field
    elif (field or len(manifest.field_names) == 1) and (field in manifest.field_names or not field):
        return [], field or manifest.field_names[0]
    raise FallbackUnavailable


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def model_answer(
    request: ParsedRequest, scores: np.ndarray, found: LookupResult, times: StageTimes
) -> RequestAnswer | None:
    """Make the answer of the model's scores [n]; None if some candidates have no score."""
    order = None
    if request.items:
        order = descending_order(scores)
        if scores[order[-1]] != scores[order[-1]]:
            return None
    elif scores[0] != scores[0]:
        return None
    return RequestAnswer(
        request.items, scores, MODEL, (), order, found.versions, warnings=found.warnings, request_id=request.request_id,
        times=times, features=found.features, live=found.merged,
    )  # fmt: skip


def fallback_answer(
    request: ParsedRequest,
    fallbacks: Sequence[Fallback],
    served: Served,
    now: float,
    *,
    scores: np.ndarray | None = None,
    used: dict[str, VersionAnswers] | None = None,
) -> RequestAnswer:
    """Answer by fallbacks in their order: each scores the candidates that have no score yet.

    Candidates scored by an earlier fallback rank before those of later ones: their scores have different meanings.

    Args:
        fallbacks: The fallbacks from the best that there is time for to the last, which always answers.
        scores: Of the model [n], NaN for no score; None: the model was not called.
        used: The versions that the model's scores come from.
    """
    used = {} if used is None else used
    names: list[str] = []
    level = np.zeros(request.length, np.intp)
    merged = np.full(request.length, np.nan)
    single = np.zeros(request.length, np.bool_)
    left = np.ones(request.length, np.bool_)
    if scores is not None:
        names.append(MODEL)
        left = np.isnan(scores)
        merged[~left] = scores[~left]
        single[~left] = scores.dtype == np.float32
    for fallback in fallbacks:
        if not left.any():
            break
        read: dict[str, VersionAnswers] = {}
        try:
            more = fallback.scores(request, served, now, read)
        except FallbackUnavailable:
            continue
        except Problem:
            raise
        except Exception:
            logger.exception("The fallback %s failed; the next one answers.", fallback.name)
            continue
        if any(used.get(name, answers) is not answers for name, answers in read.items()):
            # A store was swapped during the model call. An answer is of one version: the model's scores are dropped.
            return fallback_answer(request, fallbacks, served, now)
        gets = left if more is None else left & ~np.isnan(more)
        if not gets.any():
            continue
        used.update(read)
        level[gets] = len(names)
        names.append(fallback.name)
        if more is None:
            left = np.zeros_like(left)
        else:
            merged[gets] = more[gets]
            single[gets] = more.dtype == np.float32
            left = left & ~gets
    one = names[0] if len(names) == 1 else (names[level[0]] if (level == level[0]).all() else "")
    order = None
    if request.items and not np.isnan(merged).all():
        order = np.lexsort((np.arange(request.length), -merged, level))
    return RequestAnswer(
        request.items,
        None if np.isnan(merged).all() else merged,
        one,
        () if one else [names[place] for place in level],
        order,
        used,
        request_id=request.request_id,
        single=single if single.any() else None,
    )


def scored_answer(
    request: ParsedRequest,
    scores: np.ndarray,
    found: LookupResult,
    times: StageTimes,
    fallbacks: Sequence[Fallback],
    served: Served,
    now: float,
) -> RequestAnswer:
    """Make the answer of the model's scores [n]; fallbacks answer for candidates without a score."""
    answered = model_answer(request, scores, found, times)
    if answered is None:
        began = perf_counter_ns()
        answered = fallback_answer(request, fallbacks, served, now, scores=scores, used=dict(found.versions))
        times.fallbacks = perf_counter_ns() - began
        answered.warnings, answered.times, answered.live = found.warnings, times, found.merged
        answered.features = features_of(found, answered)
    return answered


def empty_answer(request: ParsedRequest, times: StageTimes, fallback_reason: str = "") -> RequestAnswer:
    """Make the answer to a request without candidates."""
    return RequestAnswer(
        (), None, "order_given", fallback_reason=fallback_reason, request_id=request.request_id, times=times
    )


def features_of(found: LookupResult, answered: RequestAnswer) -> np.ndarray | bytes | None:
    """Return the features for the log; None if a store was swapped meanwhile: the answer then names other versions."""
    used = answered.used
    if used is not found.versions and any(used.get(name, of) is not of for name, of in found.versions.items()):
        return None
    return found.features
