"""Warm a release before it answers: send its recorded requests through look-ups, transform and model."""

from collections.abc import Callable, Mapping
from functools import partial
from time import time

import numpy as np

from forecache.pipeline.realtime.building import Columns
from forecache.reader.http.problems import Problem
from forecache.reader.versions.answers import Answers
from forecache.realtime.answer.calibrate import calibrated_s
from forecache.realtime.answer.model_path import NoScores
from forecache.realtime.lookups.lookups import Lookups
from forecache.realtime.release.load import LoadedRelease
from forecache.realtime.request.parse import RequestParser
from forecache.realtime.request.parsed import Found, ParsedRequest


def warmed_s(loaded: LoadedRelease, versions: Mapping[str, Answers]) -> float:
    """Warm a release; return the 99th percentile of transform and model, in seconds; infinity if they fail."""
    release = loaded.release
    parser = RequestParser(release)
    lookups = Lookups(release.lookups, versions, refuses=False)
    calls: list[Callable[[], object]] = []
    for body in loaded.warmup:
        try:
            request = parser.parse(body)
        except Problem:
            continue  # recorded for an earlier release, which took other requests
        if request.length:
            calls.append(partial(_score, loaded, request, _found(loaded, lookups, request)))
    return calibrated_s(calls) if calls else 0.0


def _found(loaded: LoadedRelease, lookups: Lookups, request: ParsedRequest) -> Found:
    try:
        if not lookups.remote():
            return lookups.read(request, time())
    except (NoScores, Problem):
        pass
    found = Found()
    for each in loaded.release.lookups:
        found.views[each.called] = np.full((request.length, len(each.columns)), np.nan, np.float32)
        found.known[each.called] = np.zeros(request.length, np.bool_)
    return found


def _score(loaded: LoadedRelease, request: ParsedRequest, found: Found) -> None:
    loaded.score(loaded.builder.rows(Columns(request.length, request.columns), found.views, found.known))
