"""A real-time model on a request that a test gives, in a temporary home: its transform, and its answer.

The views are published to stores and looked up there; parsing, look-ups, transform, model, fallbacks and encoding are
those of the server, without its deadline.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter_ns, time
from typing import Any, cast

import numpy as np
import orjson
import pyarrow as pa

from forecache.base.errors import InputError
from forecache.base.settings import Settings
from forecache.base.table_names import AS_OF, known_names_remedy
from forecache.declare import FeatureView, Realtime
from forecache.declare.realtime.request_rows import RequestArrays
from forecache.kit.delta.tables import append_rows
from forecache.kit.http.problems import Problem
from forecache.lake.features import STAGE
from forecache.lake.frame import Frame, read_frame
from forecache.lake.stage_runner import Stage, StageOutcome
from forecache.lake.stored_features import store_column, stored_type
from forecache.operations.release import draft_release
from forecache.realtime.answer.engine import AnswerEngine
from forecache.realtime.answer.in_loop import DirectPath
from forecache.realtime.answer.served_release import ServedRelease, serve_release
from forecache.realtime.deadline import RequestClock
from forecache.realtime.lookups import ViewLookups
from forecache.realtime.metrics import ModelCells
from forecache.realtime.release.format import ReleasedModel
from forecache.realtime.release.load import LoadedRelease
from forecache.realtime.release.release_code import ReleaseCode
from forecache.realtime.request.request_answer import (
    LookupResult,
    ModelCallError,
    NoScores,
    ParsedRequest,
    StageTimes,
)
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.wire import request_body
from forecache.serve.store import open_store, publish
from forecache.testing.batch_parts import add_date, cast_key, yesterday
from forecache.testing.given_model import GIVEN, open_given_model
from forecache.testing.given_rows import temporary_home

logger = logging.getLogger("forecache.testing")
_LONG_NS = 3600 * 10**9


def transform(realtime: Realtime, request: Mapping[str, Any], views: Mapping[str, Any] | None = None) -> Frame:
    """The features that the transform of a real-time model gives for a request, float32, a row for each candidate.

    Args:
        request: The request, with the members of its JSON.
        views: By the name of a view that is looked up, its rows: key columns and features, a frame of pandas, polars or
            Arrow, or a list of dicts; of a live view as they are merged with its stream. A view that is left out has
            no rows.

    Raises:
        InputError: The server would refuse the request, there is no such view, or its rows lack a column; or the
            transform failed.
    """
    with _serve(realtime, views or {}, _no_model) as (served, versions):
        parsed = _parse_request(served, realtime, request)
        found = _look_up(served, parsed, versions)
        loaded = cast(LoadedRelease, served.loaded)
        columns = RequestArrays(parsed.length, parsed.columns)
        matrix = loaded.features_of(loaded.builder.build_rows(columns, found.views, found.known))
    return Frame(pa.table({name: pa.array(matrix[:, place]) for place, name in enumerate(realtime.feature_names)}))


def answer(
    realtime: Realtime, request: Mapping[str, Any], views: Mapping[str, Any] | None = None, *, model: Any = None
) -> dict[str, Any]:
    """The answer that the server would give to a request, as JSON values.

    An error of transform or model is logged, and the fallbacks answer, as on the server.

    Args:
        views: As of `transform`; but a view that is left out is not published, so that a fallback answers.
        model: A fitted estimator, which gets the features as a float32 matrix; or a function of the features as of
            `FunctionModel`; None: the declared function.

    Raises:
        InputError: The server would refuse the request, there is no such view, or its rows lack a column; or there is
            no model.
    """
    with _serve(realtime, views or {}, model) as (served, versions):
        parsed = _parse_request(served, realtime, request)
        now = perf_counter_ns()
        clock = RequestClock(now, now + _LONG_NS, realtime.deadline_ms)
        try:
            answered = AnswerEngine(versions).answer_now(served, parsed, clock, StageTimes())
        except Problem as problem:
            raise InputError(f"The server would refuse the request: {problem.detail}") from None
        elapsed = perf_counter_ns() - now
        body = served.renderer.body(answered, deadline_ms=realtime.deadline_ms, elapsed=elapsed, late=False)
        found: dict[str, Any] = orjson.loads(body)
        return found


@contextmanager
def _serve(
    realtime: Realtime, views: Mapping[str, Any], model: Any
) -> Iterator[tuple[ServedRelease, dict[str, VersionAnswers]]]:
    """Serve a release of the declaration with a given model, over stores with the rows of the views."""
    declared = {view.name: view for view in realtime.views}
    kernel, spec = open_given_model(realtime, model)
    release = replace(draft_release(realtime, ReleasedModel(realtime.name, 0, GIVEN, spec), "", ""), number=1)
    with temporary_home() as settings, ExitStack() as stack:
        versions: dict[str, VersionAnswers] = {}
        for name, rows in views.items():
            if name not in declared:
                remedy = known_names_remedy(name, declared, where=repr(realtime.name))
                raise InputError(f"{realtime.name!r} looks up no view {name!r}.", remedy=remedy)
            _publish_view(settings, declared[name], rows)
            snapshot = open_store(settings, name).snapshot()
            stack.callback(snapshot.close)
            versions[name] = VersionAnswers(snapshot)
        code = ReleaseCode({}, Path())
        stack.callback(code.close)
        loaded = LoadedRelease(release, Path(), kernel, realtime.transform, (), code)
        # Only workers' answers are counted.
        yield serve_release(loaded, _LoggingPath(loaded), versions, cast(ModelCells, None)), versions


def _look_up(served: ServedRelease, parsed: ParsedRequest, versions: Mapping[str, VersionAnswers]) -> LookupResult:
    """The rows that a request looks up; those of a view without a version are not found."""
    release, found = served.loaded.release, LookupResult()
    of_request = {field.name for field in release.request}
    for each in release.lookups:
        if each.view not in versions:
            count = 1 if of_request.issuperset(each.by) else parsed.length
            found.views[each.called] = np.full((count, len(each.columns)), np.nan, np.float32)
            found.known[each.called] = np.zeros(count, np.bool_)
            continue
        try:
            read = ViewLookups((each,), versions, refuses=True).read(parsed, time())
        except (NoScores, Problem) as error:
            raise InputError(f"The request cannot be looked up: {error}") from None
        found.views |= read.views
        found.known |= read.known
    return found


def _publish_view(settings: Settings, view: FeatureView, rows: Any) -> None:
    """Publish rows of a view as of yesterday, as if a nightly run had built them."""
    day, about = yesterday(), f"The frame of view {view.name!r}"
    given = read_frame(rows, what=about)
    if not given.num_rows:
        raise InputError(f"{about} has no rows.", remedy="Leave it out, or give the row of another key.")
    typed = cast_key(given, view).select(list(view.key))
    for feature in view.feature_columns:
        if feature.name in given.column_names:
            column = store_column(feature, given.column(feature.name).combine_chunks(), view.name)
        elif feature.name in view.served_fields:
            raise InputError(
                f"{about} has no column {feature.name!r}.", remedy=f"It has {', '.join(given.column_names)}."
            )
        else:
            column = pa.nulls(given.num_rows, stored_type(feature))
        typed = typed.append_column(feature.name, column)
    for name in view.live_states:  # no event is merged
        typed = typed.append_column(name, pa.array(np.zeros(len(typed), np.int64)))
    version = append_rows(settings, view.feature_table, add_date(typed, day), partition_by=(AS_OF,))
    stage = Stage(settings, STAGE, view.name)
    outcome = StageOutcome(len(typed), {}, view.feature_table, version)
    stage.record({day: outcome}, {day: f"code={view.fingerprint}"}, 0.0)
    publish(settings, replace(view, publish=replace(view.publishing, backend="lmdb")), night=day)


def _parse_request(served: ServedRelease, realtime: Realtime, request: Mapping[str, Any]) -> ParsedRequest:
    try:
        return served.parser.parse(request_body(realtime.name, request))
    except Problem as problem:
        raise InputError(f"The server would refuse the request: {problem.detail}") from None


def _no_model(features: Mapping[str, np.ndarray]) -> np.ndarray:
    raise AssertionError("only the transform is called")


@dataclass(eq=False)
class _LoggingPath(DirectPath):
    """Logs an error of transform or model, after which a fallback answers."""

    def score_now(self, request: ParsedRequest, found: LookupResult, left_ns: int) -> np.ndarray:
        try:
            return super().score_now(request, found, left_ns)
        except Exception as error:
            logger.exception("The model of %s failed.", self.loaded.release.name)
            raise ModelCallError(str(error)) from error
