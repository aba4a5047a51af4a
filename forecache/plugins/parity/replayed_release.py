"""Computes logged answers of a release again as it answered them: look-ups, features, scores and fallbacks.

Look-ups are repeated at the versions that were read, with their ages then. The time that an answer had is not known, so
any fallback may have been the first: scores, fallbacks and order have to match those of one possible start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecache.declare.realtime.request_rows import RequestArrays
from forecache.kit.http.problems import Problem
from forecache.plugins.parity.replay_result import AnswerDifference, first_difference_of
from forecache.plugins.parity.store_versions import VersionRows
from forecache.plugins.parity.stream_replay import LiveLookup, StreamReplay
from forecache.realtime.answer.fallbacks import Fallback, fallback_answer, open_fallbacks
from forecache.realtime.log.answer_log import parse_logged
from forecache.realtime.release.format import LookupContract
from forecache.realtime.release.load import LoadedRelease
from forecache.realtime.request.request_answer import ParsedRequest, RequestAnswer, lowest_fallback
from forecache.realtime.request.request_parser import RequestParser
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.store.keys import encode_columns

_NAME_OF = {"e": "float16", "f": "float32", "d": "float64"}
"""Names by `dtype.char`: `dtype.name` is computed at each access, which takes longer than comparing all scores."""


@dataclass(slots=True)
class LoggedAnswer:
    row: Mapping[str, Any]  # the columns of the log
    arrived_us: int
    ages_s: Mapping[str, int]  # ages of the versions, by the name of their store
    parsed: ParsedRequest | None = None  # the request, parsed again; None if the reader did not parse it either
    looks: Mapping[str, LiveLookup] | None = None  # the live look-ups by name; None if the log did not record them yet

    def difference(
        self, kind: str, name: str = "", place: int = 0, logged: str = "", offline: str = ""
    ) -> AnswerDifference:
        row = self.row
        return AnswerDifference(self.arrived_us, row["request_id"], row["release"], kind, name, place, logged, offline)

    def score_difference(self, scores: np.ndarray) -> AnswerDifference | None:
        """The first difference of the logged scores from those that were computed again; None if they are equal."""
        content, kind = self.row["scores"] or b"", self.row["score_dtype"]
        if content == scores.tobytes() and kind == _NAME_OF[scores.dtype.char]:
            return None
        if kind != scores.dtype.name or len(content) != scores.nbytes:
            # An answer of one fallback is logged in the type in which its scores were joined.
            was, now = (f"{size} bytes of {name or 'none'}" for size, name in
                        ((len(content), kind), (scores.nbytes, scores.dtype.name)))  # fmt: skip
            return self.difference("score", "type", logged=was, offline=now)
        place, _, was, now = first_difference_of(np.frombuffer(content, scores.dtype)[:, None], scores[:, None])
        return self.difference("score", "", place, was, now)


class ReplayedRelease:
    """A release that computes its logged answers again. `fallbacks`: its fallbacks, in order."""

    def __init__(self, loaded: LoadedRelease) -> None:
        self.loaded = loaded
        self.parser = RequestParser(loaded.release)
        self.fallbacks = open_fallbacks(loaded.release.fallbacks)

    def parse(self, body: bytes) -> ParsedRequest:
        return parse_logged(self.parser, self.loaded.release, body)

    def recompute(
        self, each: LoggedAnswer, found: Mapping[str, tuple[np.ndarray, np.ndarray]], *, twice: bool
    ) -> tuple[np.ndarray | None, np.ndarray | None, AnswerDifference | None]:
        """Return (features, scores, failure); scores are None if the model gave none when the answer was made."""
        loaded, parsed = self.loaded, each.parsed
        assert parsed is not None
        part = "transform"
        try:
            views = {name: matrix for name, (matrix, _) in found.items()}
            known = {name: rows for name, (_, rows) in found.items()}
            columns = RequestArrays(parsed.length, parsed.columns)
            features = loaded.features_of(loaded.builder.build_rows(columns, views, known))
            if (
                twice
                and features.tobytes() != loaded.features_of(loaded.builder.build_rows(columns, views, known)).tobytes()
            ):
                return None, None, each.difference("transform", logged="features", offline="others at each call")
            if each.row["fallback_reason"]:
                return features, None, None
            part = "model"
            scores = loaded.scores_of(features)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # code of the project: it may raise anything
            return None, None, each.difference(part, logged="an answer", offline=f"{type(error).__name__}: {error}")
        return features, scores if scores.dtype.char in "fd" else scores.astype(np.float64), None


def compare_fallbacks(
    each: LoggedAnswer,
    replayed: ReplayedRelease,
    answers: Mapping[str, VersionAnswers | None],
    scores: np.ndarray | None,
) -> AnswerDifference | str | None:
    """Find the difference in an answer of which fallbacks gave, or should have given, a part.

    Args:
        answers: The versions that the answer names, by store; None: its store has removed it.
        scores: The model's scores, computed again; None: it gave none when the answer was made.

    Returns:
        The difference; None if there is none; a text, a key of `REASONS`, if it cannot be computed again.
    """
    row = each.row
    if not row["items"] or (each.parsed is not None and not each.parsed.length):
        return None if row["scores"] is None else each.difference("score", logged="scores", offline="no candidates")
    if each.parsed is None:
        return _compare_unread(each, replayed.fallbacks[-1])
    if None in answers.values() and row["answered_by"] != replayed.fallbacks[-1].name:
        return "version"
    there = {name: of for name, of in answers.items() if of is not None}
    now = each.arrived_us / 1e6
    for of in there.values():
        of.refresh(now)
    ways = [
        _answer_with(each.parsed, replayed.fallbacks[first:], there, now, scores)
        for first in range(
            1 if scores is not None else len(replayed.fallbacks)
        )  # behind the model's scores, all item_answered_by
    ]
    found = [_find_difference(each, way) for way in ways if way is not None]
    if None in found:
        return None
    return found[0] if found else each.difference("answered_by", logged=row["answered_by"], offline="no answer")


def _answer_with(
    request: ParsedRequest,
    item_answered_by: Sequence[Fallback],
    there: Mapping[str, VersionAnswers],
    now: float,
    scores: np.ndarray | None,
) -> RequestAnswer | None:
    try:
        return fallback_answer(request, item_answered_by, there, now, scores=scores)
    except Problem:
        return None


def _compare_unread(each: LoggedAnswer, answered_by: Fallback) -> AnswerDifference | str | None:
    """Compare the answer to a request of which only the names of the candidates were read."""
    row = each.row
    if row["answered_by"] != answered_by.name:
        return "unread"
    wanted = answered_by.scores(ParsedRequest(row["items"], {}, (), b""), {}, 0.0, {})
    content = None if wanted is None else wanted.tobytes()
    return (
        None if content == row["scores"] else each.difference("score", logged="others", offline="the last fallback's")
    )


def _find_difference(each: LoggedAnswer, answered: RequestAnswer) -> AnswerDifference | None:
    row = each.row
    item_answered_by = list(answered.item_answered_by) or None
    answered_by = answered.answered_by or lowest_fallback(answered.item_answered_by)
    if (answered_by, item_answered_by) != (row["answered_by"], row["item_answered_by"]):
        return each.difference(
            "answered_by",
            logged=_format_fallbacks(row["answered_by"], row["item_answered_by"]),
            offline=_format_fallbacks(answered_by, item_answered_by),
        )
    scores = answered.scores
    if (scores is None) != (row["scores"] is None):
        return each.difference("score", logged=_format_presence(row["scores"]), offline=_format_presence(scores))
    if scores is not None and (found := each.score_difference(scores)) is not None:
        return found
    if item_answered_by is not None and answered.order is not None and answered.order.tolist() != row["ranking"]:
        return each.difference("order", logged=str(row["ranking"]), offline=str(answered.order.tolist()))
    return None


def _format_fallbacks(answered_by: str, item_answered_by: Sequence[str] | None) -> str:
    return answered_by if item_answered_by is None else ", ".join(item_answered_by)


def _format_presence(value: Any) -> str:
    return "none" if value is None else "scores"


@dataclass(frozen=True)
class LookupRows:
    """The rows that several requests looked up; those of request i are `starts[i]` to `starts[i + 1]`."""

    matrix: np.ndarray  # float32 [n, d] in the order of the columns that the model was trained with
    known: np.ndarray  # bool [n]
    starts: np.ndarray

    def select_request(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of one request, copied, so that its memory is its own as when it was answered."""
        first, last = self.starts[place], self.starts[place + 1]
        return self.matrix[first:last].copy(), self.known[first:last].copy()


def look_up(
    contract: LookupContract,
    held: VersionRows,
    requests: Sequence[ParsedRequest],
    ages_s: Sequence[int],
    live: "LiveLookups | None" = None,
) -> LookupRows:
    """Look up a view for several requests.

    Args:
        ages_s: Age of the version at the time of each request: rows that were too old then count as not found.

    Raises:
        InputError: The values of a request are no valid key.
    """
    columns, lengths = _key_columns(contract.by, requests)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    keys = encode_columns(held.key, columns)
    rows, known = held.matrix(keys)
    matrix = rows[:, : len(held.columns)]
    if live is not None:
        matrix, known = _merge_live_rows(live, held, keys, rows, known, lengths)
    if held.columns != contract.columns:
        places = {name: place for place, name in enumerate(held.columns)}
        order = np.array([places.get(name, -1) for name in contract.columns])
        matrix = np.where(order >= 0, matrix[:, order], np.float32(np.nan))
    if contract.max_age_h is not None:
        too_old = np.repeat(np.array(ages_s) > contract.max_age_h * 3600, lengths)
        matrix[too_old], known[too_old] = np.nan, False
    return LookupRows(matrix, known, starts)


@dataclass(frozen=True)
class LiveLookups:
    looks: Sequence[LiveLookup | None]  # for each request; None if its rows were those of the version only
    streamed: StreamReplay
    as_of: str  # ISO date of the version


def _merge_live_rows(
    live: LiveLookups, held: VersionRows, keys: list[bytes], rows: np.ndarray, known: np.ndarray, lengths: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The features that each request had at its time, float32 [n, columns], and which keys were known, bool [n]."""
    matrix, known = rows[:, : len(held.columns)].copy(), known.copy()
    some = np.flatnonzero(np.repeat([look is not None for look in live.looks], lengths))
    looks = [(look, length) for look, length in zip(live.looks, lengths, strict=True) if look is not None]
    at_us = np.repeat([look.at_us for look, _ in looks], [length for _, length in looks])
    bounds = np.concatenate([look.bounds_of(length) for look, length in looks])
    its = [keys[place] for place in some.tolist()]
    matrix[some], known[some] = live.streamed.merge_features(
        held, live.as_of, its, rows[some], known[some], at_us, bounds
    )
    return matrix, known


def keys_of(contract: LookupContract, held: VersionRows, request: ParsedRequest) -> list[bytes]:
    """Encode the keys that a request looked up; raises as `look_up`."""
    columns, _ = _key_columns(contract.by, [request])
    return encode_columns(held.key, columns)


def _key_columns(fields: Sequence[str], requests: Sequence[ParsedRequest]) -> tuple[list[Any], list[int]]:
    """The values of each key column over all requests, and how many keys each request has."""
    lengths = [max(len(request.columns[field]) for field in fields) for request in requests]
    columns = []
    for field in fields:
        parts = [request.columns[field] for request in requests]
        parts = [
            part if len(part) == length else part.repeat(length) for part, length in zip(parts, lengths, strict=True)
        ]
        columns.append(np.concatenate(parts))
    return columns, lengths


def age_of(ages_s: Mapping[str, int], name: str) -> int:
    """The logged age of a version; 0 if the log has none."""
    return int(ages_s.get(name) or 0)
