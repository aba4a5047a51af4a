"""Requests and answers as columns, for protocols of tables or tensors: split columns into requests, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecache.kit.http import problems
from forecache.kit.http.problems import Problem, quote_value
from forecache.realtime.answer.request_answer import RequestAnswer
from forecache.realtime.release.format import Release
from forecache.realtime.served_release import ServedRelease

Column = Sequence[Any] | np.ndarray


@dataclass(frozen=True, slots=True)
class ProtocolRequest:
    """One request of a protocol with columns.

    Attributes:
        request: Value by field of the request.
        candidates: Values [n] by field of the candidates; None if the model ranks none.
    """

    request: Mapping[str, Any]
    candidates: Mapping[str, Column] | None


def requests_of(release: Release, columns: Mapping[str, Column], *, most_rows: int) -> list[ProtocolRequest]:
    """Split columns into requests: one whose candidates are the rows, or one for each row if the model ranks none.

    A field of the request may have one value, or the same one in every row of candidates.

    Args:
        columns: By field, values of its type as Python objects or as an array. One may be left out if it has a default.
        most_rows: More requests at once are refused.

    Raises:
        Problem: A field is unknown and the release refuses these, columns differ in length, or there are too many rows.
    """
    if release.on_unknown == "refuse" and (unknown := columns.keys() - {each.name for each in release.all_fields}):
        names = ", ".join(each.name for each in release.all_fields)
        raise Problem(
            problems.BAD_REQUEST, f"There is no field {quote_value(min(unknown))}; {release.name} takes {names}."
        )
    if release.candidates is None:
        return _request_of_each_row(release, columns, most_rows)
    fields = {each.name: columns[each.name] for each in release.candidates.fields if each.name in columns}
    item = release.candidates.item.name
    if item not in fields:
        raise Problem(problems.BAD_REQUEST, f"The field {item!r} is missing; it names the candidates.")
    length = len(fields[item])
    _check_lengths(fields, length)
    request = {
        each.name: _same_in_all(each.name, columns[each.name], length)
        for each in release.request
        if each.name in columns
    }
    return [ProtocolRequest(request, fields)]


def _request_of_each_row(release: Release, columns: Mapping[str, Column], most_rows: int) -> list[ProtocolRequest]:
    fields = {each.name: _as_list(columns[each.name]) for each in release.request if each.name in columns}
    length = max(map(len, fields.values()), default=1)
    _check_lengths(fields, length)
    if length > most_rows:
        raise Problem(
            problems.TOO_MANY_KEYS,
            f"There are {length} rows, and at most {most_rows} are answered at once; send fewer.",
        )
    return [ProtocolRequest({name: values[row] for name, values in fields.items()}, None) for row in range(length)]


def _check_lengths(columns: Mapping[str, Column], length: int) -> None:
    for name, values in columns.items():
        if len(values) != length:
            raise Problem(problems.BAD_REQUEST, f"The field {name!r} has {len(values)} values, and others {length}.")


def _same_in_all(name: str, values: Column, length: int) -> Any:
    """Return the single value of a field of the request."""
    listed = _as_list(values)
    if len(listed) not in (1, length) or not listed:
        raise Problem(
            problems.BAD_REQUEST,
            f"The field {name!r} has {len(listed)} values; it is of the request: send one, or one for each candidate.",
        )
    first = listed[0]
    for value in listed:
        # Compared by repr: NaN differs from itself, and a transform can tell -0.0 from 0.0, and True from 1.
        if repr(value) != repr(first):
            raise Problem(
                problems.BAD_REQUEST,
                f"The field {name!r} is {quote_value(first)} in one row and {quote_value(value)} in "
                "another; candidates of "
                "different requests are asked about separately.",
            )
    return first


def _as_list(values: Column) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


@dataclass(frozen=True, slots=True)
class AnswerColumns:
    """The answer to one request as columns, in the order of its rows.

    Attributes:
        scores: float64 [n]; NaN for none, as from the order given.
        ranks: int64 [n], the rank of each row, from 0.
        rungs: The source of each score: "model" or a fallback.
        answered: The answer that they are made from.
        served: The release that gave it.
    """

    scores: np.ndarray
    ranks: np.ndarray
    rungs: Sequence[str]
    answered: RequestAnswer
    served: ServedRelease


def answer_columns(answered: RequestAnswer, length: int, served: ServedRelease) -> AnswerColumns:
    """Make the columns of an answer to a request with `length` rows."""
    scores = np.full(length, np.nan) if answered.scores is None else answered.scores.astype(np.float64, copy=False)
    ranks = np.arange(length)
    if answered.order is not None:
        ranks[answered.order] = np.arange(length)
    return AnswerColumns(scores, ranks, [answered.rung] * length if answered.rung else answered.rungs, answered, served)
