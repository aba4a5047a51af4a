"""Warm a release before it answers: send its recorded requests through look-ups, transform and model."""

from collections.abc import Callable, Mapping
from functools import partial
from time import time

import numpy as np

from forecache.declare.realtime.request_rows import RequestArrays
from forecache.kit.http.problems import Problem
from forecache.realtime.answer.calibrate import measure_p99_s
from forecache.realtime.answer.model_path import NoScores
from forecache.realtime.lookups.lookups import ViewLookups
from forecache.realtime.release.load import LoadedRelease
from forecache.realtime.request.parsed_request import LookupResult, ParsedRequest
from forecache.realtime.request.request_parser import RequestParser
from forecache.serve.reader.versions.answers import VersionAnswers


def warm_and_measure_s(loaded: LoadedRelease, versions: Mapping[str, VersionAnswers]) -> float:
    """Warm a release; return the 99th percentile of transform and model, in seconds; infinity if they fail."""
    release = loaded.release
    parser = RequestParser(release)
    lookups = ViewLookups(release.lookups, versions, refuses=False)
    calls: list[Callable[[], object]] = []
    for body in loaded.warmup:
        try:
            request = parser.parse(body)
        except Problem:
            continue  # recorded for an earlier release, which took other requests
        if request.length:
            calls.append(partial(_score, loaded, request, _look_up(loaded, lookups, request)))
    return measure_p99_s(calls) if calls else 0.0


def _look_up(loaded: LoadedRelease, lookups: ViewLookups, request: ParsedRequest) -> LookupResult:
    try:
        if not lookups.is_remote():
            return lookups.read(request, time())
    except (NoScores, Problem):
        pass
    found = LookupResult()
    for each in loaded.release.lookups:
        found.views[each.called] = np.full((request.length, len(each.columns)), np.nan, np.float32)
        found.known[each.called] = np.zeros(request.length, np.bool_)
    return found


def _score(loaded: LoadedRelease, request: ParsedRequest, found: LookupResult) -> None:
    loaded.score(loaded.builder.build_rows(RequestArrays(request.length, request.columns), found.views, found.known))
