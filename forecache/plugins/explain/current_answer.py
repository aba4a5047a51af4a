"""Computes the answer of the current release to a logged request, from the versions that are served now."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns
from typing import Any, cast

import numpy as np

from forecache.base.errors import ForecacheError, NotFoundError
from forecache.base.settings import Settings
from forecache.base.table_names import kept_name
from forecache.declare.realtime.lookups import DeclaredFallback, DotProduct, Precomputed
from forecache.kit.http.problems import Problem
from forecache.kit.versioned.pointer import read_pointer
from forecache.realtime.answer.engine import AnswerEngine
from forecache.realtime.answer.in_loop import DirectPath
from forecache.realtime.answer.served_release import serve_release
from forecache.realtime.deadline import RequestClock
from forecache.realtime.log.answer_log import parse_logged
from forecache.realtime.metrics import ModelCells
from forecache.realtime.release.folder import open_releases
from forecache.realtime.release.follow_lake import follow_bucket
from forecache.realtime.release.format import Release
from forecache.realtime.release.load import LoadedRelease, load_release
from forecache.realtime.request.request_answer import (
    LookupResult,
    ModelCallError,
    NoScores,
    ParsedRequest,
    RequestAnswer,
    StageTimes,
    lowest_fallback,
)
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store.push_pull import open_fetched_store

_LONG_NS = 3600 * 10**9


@dataclass(frozen=True)
class CurrentAnswer:
    release: Release
    answered_by: str  # the last fallback that a candidate comes from
    why: str  # code for why the model did not answer; "" if it did
    problem: str  # the same in a sentence
    flags: tuple[str, ...]
    features: np.ndarray | None  # float32 [n, num_features]; None without a transform's result
    scores: np.ndarray | None  # [n] in the order of the request
    order: np.ndarray  # places of the candidates in the request [n], best first
    stores: list[dict[str, Any]]  # the versions that were read


def compute_current_answer(settings: Settings, name: str, body: bytes) -> CurrentAnswer | str:
    """Answer a logged request with the current release, without a deadline; or return why there is no answer."""
    try:
        with open_current_release(settings, name) as answer:
            return answer(body)
    except ForecacheError as error:
        return str(error)


@contextmanager
def open_current_release(settings: Settings, name: str) -> "Iterator[Callable[[bytes], CurrentAnswer | str]]":
    """Open the current release and the versions that it reads now, for any number of logged requests.

    NotFoundError without a release; raises as `load_release`.
    """
    folder = open_releases(settings, name)
    follow_bucket(settings, folder)
    number = read_pointer(folder).current
    if number is None:
        raise NotFoundError(f"No release of {name} answers here now: `forecache release build {name}`.")
    loaded = load_release(folder, number)
    with ExitStack() as stack:
        stack.callback(loaded.close)
        versions, missing = _open_stores(settings, loaded.release, stack)
        yield partial(_answer_with, loaded, versions, missing)


def _answer_with(
    loaded: LoadedRelease, versions: dict[str, VersionAnswers], missing: list[str], body: bytes
) -> CurrentAnswer | str:
    path, number = _RecordingPath(loaded), loaded.release.number
    served = serve_release(loaded, path, versions, cast(ModelCells, None))  # only workers' answers are counted
    try:
        parsed = parse_logged(served.parser, loaded.release, body)
        now = perf_counter_ns()
        answered = AnswerEngine(versions).answer_now(
            served, parsed, RequestClock(now, now + _LONG_NS, 1e3), StageTimes()
        )
    except Problem as problem:
        return f"Release {number} would refuse the request: {problem.detail}"
    except (ForecacheError, KeyError, TypeError, ValueError) as error:
        return f"Release {number} cannot read the request: {error}"
    problem_text = path.problem or " ".join(missing) if answered.fallback_reason else ""
    if answered.fallback_reason == "contract":
        problem_text = _contract_problem(served.lookups, parsed)
    return _make_current_answer(loaded.release, parsed, answered, problem_text)


def _contract_problem(lookups: Any, parsed: ParsedRequest) -> str:
    from time import time

    try:
        lookups.read(parsed, time())
    except NoScores as error:
        return str(error)
    return ""


def _make_current_answer(
    release: Release, parsed: ParsedRequest, answered: RequestAnswer, problem: str
) -> CurrentAnswer:
    features = cast("np.ndarray | None", answered.features)  # bytes only come from another process
    order = np.arange(parsed.length) if answered.order is None else answered.order
    answered_by = answered.answered_by or lowest_fallback(answered.item_answered_by)
    stores = [
        {"name": name, "version": each.manifest.version, "as_of": each.manifest.as_of, "age_s": each.age_s}
        for name, each in answered.used.items()
    ]
    return CurrentAnswer(
        release, answered_by, answered.fallback_reason, problem, tuple(answered.warnings), features,
        answered.scores, order, stores,
    )  # fmt: skip


def _open_stores(settings: Settings, release: Release, stack: ExitStack) -> tuple[dict[str, VersionAnswers], list[str]]:
    """Open the served versions of the stores that a release reads; returns a sentence for each store without one."""
    found, missing = {}, []
    contracts = {kept_name(each.view, each.contract) for each in release.lookups}
    named = (*(each.view for each in release.lookups), *contracts, *_stores_of(release.fallbacks))
    for name in dict.fromkeys(named):
        try:
            snapshot = open_fetched_store(settings, name).snapshot()
        except ForecacheError as error:
            if name not in contracts:  # most contracts are those of their views
                missing.append(str(error))
            continue
        stack.callback(snapshot.close)
        found[name] = VersionAnswers(snapshot)
    return found, missing


def _stores_of(fallbacks: tuple[DeclaredFallback, ...]) -> Iterator[str]:
    for answered_by in fallbacks:
        if isinstance(answered_by, DotProduct):
            yield from (answered_by.user.store, answered_by.item.store)
        elif isinstance(answered_by, Precomputed):
            yield answered_by.of.store


@dataclass
class _RecordingPath(DirectPath):
    """Records the error of the model in a sentence."""

    problem: str = ""

    def score_now(self, request: ParsedRequest, found: LookupResult, left_ns: int) -> np.ndarray:
        try:
            return super().score_now(request, found, left_ns)
        except (Exception, SystemExit) as error:
            self.problem = f"{type(error).__name__}: {error}"
            raise ModelCallError(self.problem) from error
