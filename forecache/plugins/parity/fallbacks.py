"""Computes answers of fallbacks (rungs) again as far as the log has their inputs, and compares them.

The time that an answer had is not known, so any fallback may have been the first: the scores, the rung of each
candidate and the order have to match those of one possible start.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from forecache.kit.http.problems import Problem
from forecache.plugins.parity.replay_result import AnswerDifference, first_difference_of
from forecache.plugins.parity.replayed_release import LoggedAnswer, ReplayedRelease
from forecache.realtime.answer.fallbacks import Fallback, fallback_answer
from forecache.realtime.answer.render import lowest_fallback
from forecache.realtime.answer.request_answer import RequestAnswer
from forecache.realtime.request.parsed_request import ParsedRequest
from forecache.serve.reader.versions.answers import VersionAnswers


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
        return _compare_unread(each, replayed.rungs[-1])
    if None in answers.values() and row["rung"] != replayed.rungs[-1].name:
        return "version"
    there = {name: of for name, of in answers.items() if of is not None}
    now = each.arrived_us / 1e6
    for of in there.values():
        of.refresh(now)
    ways = [
        _answer_with(each.parsed, rungs, there, now, scores) for rungs in _possible_fallbacks(replayed.rungs, scores)
    ]
    found = [_find_difference(each, way) for way in ways if way is not None]
    if None in found:
        return None
    return found[0] if found else each.difference("rung", logged=row["rung"], offline="no answer")


def _possible_fallbacks(rungs: Sequence[Fallback], scores: np.ndarray | None) -> list[Sequence[Fallback]]:
    """The fallbacks that may have answered: all after the model's scores, else those from any one on."""
    return [rungs] if scores is not None else [rungs[first:] for first in range(len(rungs))]


def _answer_with(
    request: ParsedRequest,
    rungs: Sequence[Fallback],
    there: Mapping[str, VersionAnswers],
    now: float,
    scores: np.ndarray | None,
) -> RequestAnswer | None:
    try:
        return fallback_answer(request, rungs, there, now, scores=scores)
    except Problem:
        return None


def _compare_unread(each: LoggedAnswer, rung: Fallback) -> AnswerDifference | str | None:
    """Compare the answer to a request of which only the names of the candidates were read."""
    row = each.row
    if row["rung"] != rung.name:
        return "unread"
    wanted = rung.scores(ParsedRequest(row["items"], {}, (), b""), {}, 0.0, {})
    content = None if wanted is None else wanted.tobytes()
    return None if content == row["scores"] else each.difference("score", logged="others", offline="the last rung's")


def _find_difference(each: LoggedAnswer, answered: RequestAnswer) -> AnswerDifference | None:
    row = each.row
    rungs = list(answered.rungs) or None
    rung = answered.rung or lowest_fallback(answered.rungs)
    if (rung, rungs) != (row["rung"], row["rungs"]):
        return each.difference(
            "rung", logged=_format_fallbacks(row["rung"], row["rungs"]), offline=_format_fallbacks(rung, rungs)
        )
    scores = answered.scores
    if (scores is None) != (row["scores"] is None):
        return each.difference("score", logged=_format_presence(row["scores"]), offline=_format_presence(scores))
    if scores is not None:
        found = _find_score_difference(each, scores)
        if found is not None:
            return found
    if rungs is not None and answered.order is not None and answered.order.tolist() != row["ranking"]:
        return each.difference("order", logged=str(row["ranking"]), offline=str(answered.order.tolist()))
    return None


def _find_score_difference(each: LoggedAnswer, scores: np.ndarray) -> AnswerDifference | None:
    content, kind = each.row["scores"], each.row["score_dtype"]
    if kind != scores.dtype.name or len(content) != scores.nbytes:
        # An answer of one fallback is logged in the type in which its scores were joined.
        return each.difference("score", "type", logged=f"{len(content)} bytes of {kind}", offline=scores.dtype.name)
    if content == scores.tobytes():
        return None
    logged = np.frombuffer(content, scores.dtype)
    place, _, was, now = first_difference_of(logged[:, None], scores[:, None])
    return each.difference("score", "", place, was, now)


def _format_fallbacks(rung: str, rungs: Sequence[str] | None) -> str:
    return rung if rungs is None else ", ".join(rungs)


def _format_presence(value: Any) -> str:
    return "none" if value is None else "scores"
