"""Requests and answers as columns, for protocols of tables or tensors: split columns into requests, and back.

Their answers also say where they come from, as flat members: release, model, versions of the stores, times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np

from forecache.kit.http import problems
from forecache.kit.http.problems import Problem, bad_request, quote_value
from forecache.realtime.answer.served_release import Exchange, ModelRequest
from forecache.realtime.release.format import Release
from forecache.realtime.request.request_answer import lowest_fallback
from forecache.realtime.request.request_parser import refuse_unknown_field

Column = Sequence[Any] | np.ndarray
_STAGES = {name: f"timings_ms.{name}" for name in ("wait", "parse", "lookup", "transform", "model", "fallbacks")}


def requests_of(release: Release, columns: Mapping[str, Column], *, most_rows: int) -> list[ModelRequest]:
    """Split columns into requests: one whose candidates are the rows, or one for each row if the model ranks none.

    A column may be left out if its field has a default; a field of the request may have one value, or the same in every
    row. Raises a `Problem` for unknown fields that the release refuses, different lengths and more than `most_rows`.
    """
    known = frozenset(each.name for each in release.all_fields)
    if release.on_unknown == "refuse" and not columns.keys() <= known:
        refuse_unknown_field(columns.keys() - known, known, "request")
    if release.candidates is None:
        return _request_of_each_row(release, columns, most_rows)
    fields = {each.name: columns[each.name] for each in release.candidates.fields if each.name in columns}
    item = release.candidates.item.name
    if item not in fields:
        raise bad_request(f"The request field {item!r} is missing; it names the candidates.")
    length = len(fields[item])
    _check_lengths(fields, length)
    given = [each.name for each in release.request if each.name in columns]
    request = {name: _same_in_all(name, columns[name], length) for name in given}
    return [ModelRequest(values=request, candidates=fields)]


def _request_of_each_row(release: Release, columns: Mapping[str, Column], most_rows: int) -> list[ModelRequest]:
    fields = {each.name: _as_list(columns[each.name]) for each in release.request if each.name in columns}
    length = max(map(len, fields.values()), default=1)
    _check_lengths(fields, length)
    if length > most_rows:
        detail = f"There are {length} rows, and at most {most_rows} are answered at once; send fewer."
        raise Problem(problems.TOO_MANY_KEYS, detail)
    rows = zip(*fields.values(), strict=True) if fields else [()] * length
    return [ModelRequest(values=dict(zip(fields, row, strict=True))) for row in rows]


def _check_lengths(columns: Mapping[str, Column], length: int) -> None:
    for name, values in columns.items():
        if len(values) != length:
            raise bad_request(f"The field {name!r} has {len(values)} values, and others {length}.")


def _same_in_all(name: str, values: Column, length: int) -> Any:
    listed = _as_list(values)
    if len(listed) not in (1, length) or not listed:
        raise bad_request(
            f"The field {name!r} has {len(listed)} values; it is of the request: send one, or one for each candidate."
        )
    first = listed[0]
    for value in listed:
        # Compared by repr: NaN differs from itself, and a transform can tell -0.0 from 0.0, and True from 1.
        if repr(value) != repr(first):
            raise bad_request(
                f"The field {name!r} is {quote_value(first)} in one row and {quote_value(value)} in another; "
                "candidates of different requests are asked about separately."
            )
    return first


def _as_list(values: Column) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


@dataclass(frozen=True, slots=True)
class AnswerColumns:
    """The answers to one body as columns, in the order of its rows."""

    scores: np.ndarray  # float64 [n]; NaN for none, as from the order given
    ranks: np.ndarray  # int64 [n], the rank of each row in its request, from 0
    answered_by: Sequence[str]  # the source of each score: "model" or a fallback


def answer_columns(exchange: Exchange) -> AnswerColumns:
    scores, ranks, answered_by = [np.empty(0)], [np.empty(0, np.int64)], list[str]()
    for (_, request), answered in zip(exchange.parsed, exchange.answers, strict=True):
        length, places = request.length, np.arange(request.length)
        scores.append(np.full(length, np.nan) if answered.scores is None else answered.scores)
        if answered.order is not None:
            places[answered.order] = np.arange(length)
        ranks.append(places)
        answered_by += [answered.answered_by] * length if answered.answered_by else answered.item_answered_by
    return AnswerColumns(np.concatenate(scores), np.concatenate(ranks), answered_by)


def provenance_of(exchange: Exchange, columns: AnswerColumns) -> dict[str, Any]:
    """Return the provenance of the answers to one body, as flat members."""
    served, clock, now, answers = exchange.served, exchange.clock, perf_counter_ns(), exchange.answers
    release = exchange.parsed[0][0].loaded.release if exchange.parsed else served.loaded.release
    told: dict[str, Any] = {
        "answered_by": lowest_fallback(columns.answered_by) if columns.answered_by else "",
        "release": release.number,
        "model": f"{release.model.name}/{release.model.version}",
        "model_runtime": release.model.runtime,
        "deadline_ms": clock.deadline_ms,
        **_timings(exchange, now - clock.arrived),
    }
    if served.split is not None and answers:
        told["variant"] = " ".join(dict.fromkeys(by.variant for by, _ in exchange.parsed))
    if clock.is_late(now):
        told["late"] = True
    if served.log is not None:
        told["request_id"] = " ".join(each.request_id for each in answers)
    for each in answers:
        if each.fallback_reason:
            told["fallback_reason"] = each.fallback_reason
        if each.warnings:
            told["warnings"] = " ".join(each.warnings)
        for name, store in each.used.items():
            members = {"version": store.manifest.version, "as_of": store.manifest.as_of}
            members |= {"age_s": store.age_s, "stale": store.stale}
            told.update((f"stores.{name}.{member}", value) for member, value in members.items())
    return told


def _timings(exchange: Exchange, elapsed: int) -> dict[str, float]:
    """Milliseconds: the wait of the first answer, the sum of each other stage over all answers, and the total."""
    told = dict.fromkeys(_STAGES.values(), 0)
    for place, answered in enumerate(exchange.answers):
        for name, stage in _STAGES.items():
            told[stage] += getattr(answered.times, name) if name != "wait" or not place else 0
    told["timings_ms.total"] = elapsed
    return {stage: spent // 1000 / 1000 for stage, spent in told.items()}
