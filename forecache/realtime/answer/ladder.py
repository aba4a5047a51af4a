"""Answers by the model or by fallbacks: the source of each candidate's score, and the order of all candidates."""

import logging
from collections.abc import Sequence

import numpy as np

from forecache.ranking import best_first
from forecache.reader.http.problems import Problem
from forecache.reader.versions.answers import Answers
from forecache.realtime.answer.answered import MODEL, Answered
from forecache.realtime.answer.rungs import Rung, Served, Unavailable
from forecache.realtime.request.parsed import ParsedRequest

logger = logging.getLogger("forecache.realtime")


def of_model(request: ParsedRequest, scores: np.ndarray) -> Answered | None:
    """Make the answer of the model's scores [n]; None if some candidates have no score."""
    order = None
    if request.items:
        order = best_first(scores)
        if scores[order[-1]] != scores[order[-1]]:
            return None
    elif scores[0] != scores[0]:
        return None
    return Answered(request.items, scores, MODEL, (), order, request_id=request.request_id)


def below(
    request: ParsedRequest,
    rungs: Sequence[Rung],
    served: Served,
    now: float,
    *,
    scores: np.ndarray | None = None,
    used: dict[str, Answers] | None = None,
) -> Answered:
    """Answer by fallbacks in their order: each scores the candidates that have no score yet.

    Candidates scored by an earlier fallback rank before those of later ones: their scores have different meanings.

    Args:
        rungs: The fallbacks from the best that there is time for to the last, which always answers.
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
    for rung in rungs:
        if not left.any():
            break
        read: dict[str, Answers] = {}
        try:
            more = rung.scores(request, served, now, read)
        except Unavailable:
            continue
        except Problem:
            raise
        except Exception:
            logger.exception("The rung %s failed; the next one answers.", rung.name)
            continue
        if any(used.get(name, answers) is not answers for name, answers in read.items()):
            # A store was swapped during the model call. An answer is of one version: the model's scores are dropped.
            return below(request, rungs, served, now)
        gets = left if more is None else left & ~np.isnan(more)
        if not gets.any():
            continue
        used.update(read)
        level[gets] = len(names)
        names.append(rung.name)
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
    return Answered(
        request.items,
        None if np.isnan(merged).all() else merged,
        one,
        () if one else [names[place] for place in level],
        order,
        used,
        request_id=request.request_id,
        single=single if single.any() else None,
    )
