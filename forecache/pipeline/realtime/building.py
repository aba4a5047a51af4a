"""How the rows of a request are made of its values, and the one call of a transform, wherever it runs.

Training in Spark, the gate, the reader, its worker processes and other servers all come here, request by request, so
that they agree to the bit; so does the trial of a transform when its declaration loads. Only they import this module,
which needs numpy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from forecache.errors import InputError
from forecache.pipeline.realtime.request import Candidates, RequestField, value_of
from forecache.pipeline.realtime.rows import Rows

DTYPES: Mapping[str, Any] = {
    "bigint": np.dtype(np.int64),
    "double": np.dtype(np.float64),
    "boolean": np.dtype(np.bool_),
    "string": np.dtype(object),
    "timestamp": np.dtype("datetime64[us]"),
    "date": np.dtype("datetime64[D]"),
}
"""By the type of a request field, that of its values in numpy."""
_AS_THEY_ARE: Mapping[str, type] = {"bigint": int, "double": float, "boolean": bool, "string": str}
"""By the type of a request field, the values that need no conversion."""
Transform = Callable[[Rows], Any]


class LookedUp(Protocol):
    """What a look-up says of its matrix: declared, or in a release."""

    @property
    def called(self) -> str: ...
    @property
    def by(self) -> tuple[str, ...]: ...
    @property
    def columns(self) -> tuple[str, ...]: ...


class Asked(Protocol):
    """A declared real-time model, or a release of it."""

    @property
    def request(self) -> tuple[RequestField, ...]: ...
    @property
    def candidates(self) -> Candidates | None: ...
    @property
    def lookups(self) -> Sequence[LookedUp]: ...


@dataclass(frozen=True)
class Columns:
    """The fields of a request: of the request itself [1], of its candidates [n]; n is `length`."""

    length: int
    values: Mapping[str, np.ndarray]


class RowsBuilder:
    """Makes the rows of requests to one real-time model."""

    def __init__(self, asked: Asked) -> None:
        self._request, self._candidates = asked.request, asked.candidates
        self._places = {each.called: {name: place for place, name in enumerate(each.columns)} for each in asked.lookups}

    def columns(self, request: Mapping[str, Any], candidates: Mapping[str, Sequence[Any]] | None = None) -> Columns:
        """The fields of one request as arrays of their types; `value_of` says what a value may be.

        Args:
            request: By field; one that is missing is null.
            candidates: By field of a candidate, the values of all n, or an array that has the field's dtype; None
                where the model ranks none.

        Raises:
            InputError: A value is missing, or of another type.
        """
        values = {field.name: column_of(field, [request.get(field.name)]) for field in self._request}
        if self._candidates is None:
            return Columns(1, values)
        lists = candidates or {}
        length = len(lists[self._candidates.item.name])
        for field in self._candidates.fields:
            values[field.name] = column_of(field, lists.get(field.name, [None] * length), listed=True)
            if len(values[field.name]) != length:
                raise InputError(
                    f"The candidates have {len(values[field.name])} values of {field.name!r}, not {length}."
                )
        return Columns(length, values)

    def rows(self, columns: Columns, views: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> Rows:
        """The rows of a request.

        Args:
            views: By look-up, float32 [n, d]; [1, d] of one by fields of the request alone.
            found: By look-up, bool [n] or [1].
        """
        return Rows(columns.length, columns.values, views, found, self._places)


def column_of(field: RequestField, values: Sequence[Any] | np.ndarray, *, listed: bool = False) -> np.ndarray:
    """Values [n] of a field as a read-only array of its type.

    Args:
        listed: They are of candidates: an error says of which.

    Raises:
        InputError: A value is of another type, or null where the field has no default.
    """
    dtype = DTYPES[field.type]
    if isinstance(values, np.ndarray):
        if values.dtype == dtype and dtype.kind != "O":
            column = values.view()
            column.flags.writeable = False
            return column
        values = values.astype("datetime64[us]").tolist() if values.dtype.kind == "M" else values.tolist()
    column = _plain(field, values, dtype)
    if column is None:
        found: list[Any] = []
        try:
            for value in values:
                found.append(value_of(field, value))
        except InputError as error:
            if not listed:
                raise
            where = f"At place {len(found)} of the candidates"
            raise InputError(f"{where}: {error.message}", remedy=error.remedy) from None
        column = np.array(found, dtype)
    column.flags.writeable = False
    return column


def _plain(field: RequestField, values: Sequence[Any] | np.ndarray, dtype: np.dtype[Any]) -> np.ndarray | None:
    """The column of values that `value_of` would give as they are; None where it has to be asked."""
    kinds = set(map(type, values))
    if kinds != {_AS_THEY_ARE.get(field.type)} or (field.type == "string" and not "".join(values).isascii()):
        return None
    try:
        return np.array(values, dtype)
    except OverflowError:
        return None


def transformed(transform: Transform, path: str, rows: Rows, num_features: int) -> np.ndarray:
    """The model's features of a request, float32 [n, num_features], C-contiguous.

    Args:
        path: Names the transform in messages, as `module:name`.

    Raises:
        InputError: It failed, or returned something else than a matrix of numbers of that shape.
    """
    try:
        with np.errstate(all="ignore"):  # numpy's settings are the process's, and an answer does not depend on them
            found = transform(rows)
            if type(found) is np.ndarray and found.dtype.kind in "fiub" and found.shape == (len(rows), num_features):
                return np.ascontiguousarray(found, np.float32)
    except Exception as error:
        raise InputError(
            f"The transform {path} failed: {type(error).__name__}: {error}.",
            remedy="It gets the `Rows` of one request; what is unknown in them is NaN.",
        ) from error
    raise _wrong(path, found, (len(rows), num_features))


def _wrong(path: str, found: Any, shape: tuple[int, int]) -> InputError:
    if isinstance(found, np.ndarray):
        what = f"an array of {found.dtype} with the shape {found.shape}"
    else:
        what = f"a {type(found).__name__}"
    return InputError(
        f"The transform {path} returned {what}, and numbers of the shape {shape} are declared.",
        remedy="Return a row for each row, with a column for each declared feature: np.column_stack([...]).",
    )
