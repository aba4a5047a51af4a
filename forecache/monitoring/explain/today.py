"""Computes the answer of the current release to a logged request, from the versions that are served now."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, cast

import numpy as np

from forecache.errors import ForecacheError
from forecache.pipeline.realtime.ladder import DotProduct, LastNight, Rung
from forecache.reader.http.problems import Problem
from forecache.reader.versions.answers import Answers
from forecache.realtime.answer.answered import Answered, Times
from forecache.realtime.answer.direct_path import DirectPath
from forecache.realtime.answer.engine import Engine
from forecache.realtime.answer.model_path import Failed, NoScores
from forecache.realtime.answer.render import lowest
from forecache.realtime.deadline.clock import Clock
from forecache.realtime.log.request import parse_logged
from forecache.realtime.metrics import ModelCells
from forecache.realtime.release.folder import open_releases, read_current
from forecache.realtime.release.format import Release
from forecache.realtime.release.load import load_release
from forecache.realtime.request.parsed import Found, ParsedRequest
from forecache.realtime.served import serve_release
from forecache.settings import Settings
from forecache.store import open_store

_LONG_NS = 3600 * 10**9


@dataclass(frozen=True)
class Today:
    """The answer of the current release.

    Attributes:
        rung: The last fallback (rung) that a candidate comes from.
        why: Code for why the model did not answer; "" if it did. `problem` explains it in a sentence.
        features: float32 [n, num_features]; None if the transform was not called, or failed.
        scores: [n] in the order of the request; None: there are none.
        order: Places of the candidates in the request [n], best first.
        stores: The versions that were read.
    """

    release: Release
    rung: str
    why: str
    problem: str
    flags: tuple[str, ...]
    features: np.ndarray | None
    scores: np.ndarray | None
    order: np.ndarray
    stores: list[dict[str, Any]]


def today(settings: Settings, name: str, body: bytes) -> Today | str:
    """Answer a logged request with the current release; or return why there is no answer.

    There is no deadline, so late answers and crashes of workers are not reproduced.
    """
    folder = open_releases(settings, name)
    try:
        number = read_current(folder).current
        if number is None:
            return f"No release of {name} answers here now: `forecache release {name}`."
        loaded = load_release(folder, number)
    except ForecacheError as error:
        return str(error)
    with ExitStack() as stack:
        stack.callback(loaded.close)
        versions, missing = _open(settings, loaded.release, stack)
        path = _Path(loaded)
        served = serve_release(loaded, path, versions, cast(ModelCells, None))  # only workers' answers are counted
        try:
            parsed = parse_logged(served.parser, loaded.release, body)
            now = perf_counter_ns()
            answered = Engine(versions).answer_now(served, parsed, Clock(now, now + _LONG_NS, 1e3), Times())
        except Problem as problem:
            return f"Release {number} would refuse the request: {problem.detail}"
        except (ForecacheError, KeyError, TypeError, ValueError) as error:
            return f"Release {number} cannot read the request: {error}"
        problem_text = path.problem or " ".join(missing) if answered.why else ""
        if answered.why == "contract":
            problem_text = _contract_problem(served.lookups, parsed)
        return _today(loaded.release, parsed, answered, problem_text)


def _contract_problem(lookups: Any, parsed: ParsedRequest) -> str:
    from time import time

    try:
        lookups.read(parsed, time())
    except NoScores as error:
        return str(error)
    return ""


def _today(release: Release, parsed: ParsedRequest, answered: Answered, problem: str) -> Today:
    features = cast("np.ndarray | None", answered.features)  # bytes only come from another process
    order = np.arange(parsed.length) if answered.order is None else answered.order
    rung = answered.rung or lowest(answered.rungs)
    stores = [
        {"name": name, "version": each.manifest.version, "as_of": each.manifest.as_of, "age_s": each.age_s}
        for name, each in answered.used.items()
    ]
    return Today(
        release, rung, answered.why, problem, tuple(answered.flags), features, answered.scores, order, stores
    )  # fmt: skip


def _open(settings: Settings, release: Release, stack: ExitStack) -> tuple[dict[str, Answers], list[str]]:
    """Open the served versions of the stores that a release reads; returns a sentence for each store without one."""
    found, missing = {}, []
    for name in dict.fromkeys([*(each.view for each in release.lookups), *_stores_of(release.ladder)]):
        try:
            snapshot = open_store(settings, name).snapshot()
        except ForecacheError as error:
            missing.append(str(error))
            continue
        stack.callback(snapshot.close)
        found[name] = Answers(snapshot)
    return found, missing


def _stores_of(ladder: tuple[Rung, ...]) -> Iterator[str]:
    for rung in ladder:
        if isinstance(rung, DotProduct):
            yield from (rung.user.store, rung.item.store)
        elif isinstance(rung, LastNight):
            yield rung.of.store


@dataclass
class _Path(DirectPath):
    """Records the error of the model in a sentence."""

    problem: str = ""

    def score_now(self, request: ParsedRequest, found: Found, left_ns: int) -> np.ndarray:
        try:
            return super().score_now(request, found, left_ns)
        except (Exception, SystemExit) as error:
            self.problem = f"{type(error).__name__}: {error}"
            raise Failed(self.problem) from error
