"""Build the `Rows` of a request from its values, and call the transform.

Training in Spark, the gate, the reader, its worker processes, other servers and the trial of a transform all use this
code, request by request, so that their features agree to the bit. Only they import this module, which needs numpy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from forecache.base.errors import InputError
from forecache.base.ranking import descending_order
from forecache.declare.realtime.request import Candidates, RequestField, convert_value


class Rows:
    """One request: a row for each candidate, or one row if it has none.

    Arrays are read-only. A field of the request and a look-up by such fields alone have the same value in every row.
    """

    __slots__ = ("_columns", "_features", "_found", "_length", "_views")

    def __init__(
        self,
        length: int,
        columns: Mapping[str, np.ndarray],
        views: Mapping[str, np.ndarray],
        found: Mapping[str, np.ndarray],
        features: Mapping[str, Mapping[str, int]],
    ) -> None:
        """
        Args:
            columns: By field, its values [n], or [1] if it is the same in all rows; see `RequestField`.
            views: By look-up, float32 [n, d] or [1, d]; a key without a row has NaN.
            found: By look-up, bool [n] or [1].
            features: By look-up, the column number of each feature in its matrix.
        """
        self._length, self._features = length, features
        self._columns, self._views, self._found = dict(columns), dict(views), dict(found)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, field: str) -> np.ndarray:
        """The values [n] of a field of the request or of the candidates."""
        return self._expand(self._columns, field)

    def view(self, lookup: str) -> np.ndarray:
        """All features of a look-up, float32 [n, d]."""
        return self._expand(self._views, lookup)

    def feature(self, lookup: str, name: str) -> np.ndarray:
        matrix = self.view(lookup)
        try:
            place = self._features[lookup][name]
        except KeyError:
            raise KeyError(f"{lookup!r} has no feature {name!r}; it has {', '.join(self._features[lookup])}") from None
        return matrix[:, place]

    def found(self, lookup: str) -> np.ndarray:
        """True for keys that have a row in the view, bool [n]."""
        return self._expand(self._found, lookup)

    def _expand(self, arrays: "dict[str, np.ndarray]", name: str) -> np.ndarray:
        """A read-only array of n rows; one that is the same in all rows is repeated at its first use."""
        try:
            array = arrays[name]
        except KeyError:
            raise KeyError(f"there is no {name!r} among {', '.join(arrays) or 'none'}") from None
        if len(array) != self._length:
            array = arrays[name] = array.repeat(self._length, 0)
        elif array.flags.writeable:
            array = arrays[name] = array.view()
        array.flags.writeable = False
        return array


DTYPES: Mapping[str, Any] = {
    "bigint": np.dtype(np.int64),
    "double": np.dtype(np.float64),
    "boolean": np.dtype(np.bool_),
    "string": np.dtype(object),
    "timestamp": np.dtype("datetime64[us]"),
    "date": np.dtype("datetime64[D]"),
}
"""The numpy type of each type of request field."""
_AS_THEY_ARE: Mapping[str, type] = {"bigint": int, "double": float, "boolean": bool, "string": str}
"""The Python type that needs no conversion, by type of request field."""
Transform = Callable[[Rows], Any]


class LookupSchema(Protocol):
    """A look-up of a declared model or of a release: its name, its key fields and its columns."""

    @property
    def called(self) -> str: ...
    @property
    def by(self) -> tuple[str, ...]: ...
    @property
    def columns(self) -> tuple[str, ...]: ...


class RequestSchema(Protocol):
    """The fields and look-ups of a declared real-time model or of a release."""

    @property
    def request(self) -> tuple[RequestField, ...]: ...
    @property
    def candidates(self) -> Candidates | None: ...
    @property
    def lookups(self) -> Sequence[LookupSchema]: ...


@dataclass(frozen=True)
class RequestArrays:
    """The values of a request by field: [1] for fields of the request, [n] for those of candidates; n is `length`."""

    length: int
    values: Mapping[str, np.ndarray]


class RowsBuilder:
    def __init__(self, asked: RequestSchema) -> None:
        self._request, self._candidates = asked.request, asked.candidates
        self._places = {each.called: {name: place for place, name in enumerate(each.columns)} for each in asked.lookups}

    def build_columns(
        self, request: Mapping[str, Any], candidates: Mapping[str, Sequence[Any]] | None = None
    ) -> RequestArrays:
        """Convert the values of a request, and those [n] of each field of its candidates, which may be arrays."""
        values = {field.name: column_of(field, [request.get(field.name)]) for field in self._request}
        if self._candidates is None:
            return RequestArrays(1, values)
        lists = candidates or {}
        length = len(lists[self._candidates.item.name])
        for field in self._candidates.fields:
            values[field.name] = column_of(field, lists.get(field.name, [None] * length), listed=True)
            if len(values[field.name]) != length:
                raise InputError(
                    f"The candidates have {len(values[field.name])} values of {field.name!r}, not {length}."
                )
        return RequestArrays(length, values)

    def build_rows(
        self, columns: RequestArrays, views: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]
    ) -> Rows:
        """Build the rows from features by look-up, float32 [n, d] or [1, d], and `found`, bool [n] or [1]."""
        return Rows(columns.length, columns.values, views, found, self._places)


def column_of(field: RequestField, values: Sequence[Any] | np.ndarray, *, listed: bool = False) -> np.ndarray:
    """Convert values [n] of a field to a read-only array of its type; an error names the candidate if `listed`."""
    dtype = DTYPES[field.type]
    if isinstance(values, np.ndarray):
        if values.dtype == dtype and dtype.kind != "O":
            column = values.view()
            column.flags.writeable = False
            return column
        values = values.astype("datetime64[us]").tolist() if values.dtype.kind == "M" else values.tolist()
    column = _convert_plain_values(field, values, dtype)
    if column is None:
        found: list[Any] = []
        try:
            for value in values:
                found.append(convert_value(field, value))
        except InputError as error:
            if not listed:
                raise
            where = f"At place {len(found)} of the candidates"
            raise InputError(f"{where}: {error.message}", remedy=error.remedy) from None
        column = np.array(found, dtype)
    column.flags.writeable = False
    return column


def _convert_plain_values(
    field: RequestField, values: Sequence[Any] | np.ndarray, dtype: np.dtype[Any]
) -> np.ndarray | None:
    """Convert values that `convert_value` would return unchanged, all at once; None if some are not of that kind."""
    kinds = set(map(type, values))
    if kinds != {_AS_THEY_ARE.get(field.type)} or (field.type == "string" and not "".join(values).isascii()):
        return None
    try:
        return np.array(values, dtype)
    except OverflowError:
        return None


def apply_transform(transform: Transform, path: str, rows: Rows, num_features: int) -> np.ndarray:
    """Call the transform; returns the model's features of a request, float32 [n, num_features], C-contiguous."""
    try:
        with np.errstate(all="ignore"):  # answers must not depend on numpy's settings in this process
            found = transform(rows)
            if type(found) is np.ndarray and found.dtype.kind in "fiub" and found.shape == (len(rows), num_features):
                return np.ascontiguousarray(found, np.float32)
    except Exception as error:
        raise InputError(
            f"The transform {path} failed: {type(error).__name__}: {error}.",
            remedy="It gets the `Rows` of one request; what is unknown in them is NaN.",
        ) from error
    raise _wrong_result_error(path, found, (len(rows), num_features))


def _wrong_result_error(path: str, found: Any, shape: tuple[int, int]) -> InputError:
    if isinstance(found, np.ndarray):
        what = f"an array of {found.dtype} with the shape {found.shape}"
    else:
        what = f"a {type(found).__name__}"
    return InputError(
        f"The transform {path} returned {what}, and numbers of the shape {shape} are declared.",
        remedy="Return a row for each row, with a column for each declared feature: np.column_stack([...]).",
    )


NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""The text for a number that is not finite in the log, by Python's text for it."""
_TEXTS = frozenset(NOT_FINITE.values())


def read_logged_request(
    data: Mapping[str, Any], asked: RequestSchema
) -> tuple[dict[str, Any], dict[str, list[Any]] | None]:
    """Read the values of a logged request and of its candidates by field, as `RowsBuilder.build_columns` takes them."""
    request = dict(data)
    for field in asked.request:
        if field.type == "double":
            request[field.name] = _parse_number(data.get(field.name))
    if asked.candidates is None:
        return request, None
    fields, listed = asked.candidates.fields, data[asked.candidates.name]
    if listed and not isinstance(listed[0], dict):
        listed = [{fields[0].name: each} for each in listed]
    lists = {field.name: [each.get(field.name) for each in listed] for field in fields}
    for field in fields:
        if field.type == "double":
            lists[field.name] = [_parse_number(value) for value in lists[field.name]]
    return request, lists


def features_of(record: Mapping[str, Any]) -> np.ndarray | None:
    """The features of a record, float32 [items, num_features], as the model got them; None if it was not called."""
    content, items = record["features"], record["items"]
    return None if content is None else np.frombuffer(content, "<f4").reshape(items, -1)


def scores_of(record: Mapping[str, Any]) -> np.ndarray | None:
    """The scores [items] of a record, in the order of the request and in the model's dtype; None if it has none."""
    content = record["scores"]
    return None if content is None else np.frombuffer(content, record["score_dtype"])


def order_of(record: Mapping[str, Any]) -> np.ndarray:
    """The order of the candidates in the answer: their positions in the request [items], best first."""
    if record["ranking"] is not None:
        return np.asarray(record["ranking"], np.intp)
    scores = scores_of(record)
    return np.arange(record["items"]) if scores is None else descending_order(scores)


def _parse_number(value: Any) -> Any:
    return float(value) if isinstance(value, str) and value in _TEXTS else value
