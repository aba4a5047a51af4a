"""Requests and answers as columns, for protocols of tables or tensors: split columns into requests, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecache.reader.http import problems
from forecache.reader.http.problems import Problem, quoted
from forecache.realtime.release.format import Release

Column = Sequence[Any] | np.ndarray


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a protocol with columns.

    Attributes:
        request: Value by field of the request.
        candidates: Values [n] by field of the candidates; None if the model ranks none.
    """

    request: Mapping[str, Any]
    candidates: Mapping[str, Column] | None


def requests_of(release: Release, columns: Mapping[str, Column], *, most_rows: int) -> list[Asked]:
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
        raise Problem(problems.BAD_REQUEST, f"There is no field {quoted(min(unknown))}; {release.name} takes {names}.")
    if release.candidates is None:
        return _one_each(release, columns, most_rows)
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
    return [Asked(request, fields)]


def _one_each(release: Release, columns: Mapping[str, Column], most_rows: int) -> list[Asked]:
    fields = {each.name: _listed(columns[each.name]) for each in release.request if each.name in columns}
    length = max(map(len, fields.values()), default=1)
    _check_lengths(fields, length)
    if length > most_rows:
        raise Problem(
            problems.TOO_MANY_KEYS,
            f"There are {length} rows, and at most {most_rows} are answered at once; send fewer.",
        )
    return [Asked({name: values[row] for name, values in fields.items()}, None) for row in range(length)]


def _check_lengths(columns: Mapping[str, Column], length: int) -> None:
    for name, values in columns.items():
        if len(values) != length:
            raise Problem(problems.BAD_REQUEST, f"The field {name!r} has {len(values)} values, and others {length}.")


def _same_in_all(name: str, values: Column, length: int) -> Any:
    """Return the single value of a field of the request."""
    listed = _listed(values)
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
                f"The field {name!r} is {quoted(first)} in one row and {quoted(value)} in another; candidates of "
                "different requests are asked about separately.",
            )
    return first


def _listed(values: Column) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)
