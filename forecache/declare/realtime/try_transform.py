"""Try the transform of a real-time model on made-up requests, so that errors are found when its module loads.

The requests have everything that a client may send and a store may lack: keys without a row, features and fields that
are null, texts of any alphabet, one candidate, many and none. Each is transformed twice. This takes milliseconds; in
training, the same error would show after an hour of Spark.
"""

import inspect
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from forecache.base.errors import InputError, SettingsError
from forecache.declare.realtime.request import RequestField
from forecache.declare.realtime.request_rows import RequestArrays, RowsBuilder, apply_transform

if TYPE_CHECKING:
    from forecache.declare.realtime.realtime import Realtime

_MANY, _SHOWN = 50, 160
_VALUES: Mapping[str, tuple[Any, ...]] = {
    "bigint": (1, 0, 12_345, 7),
    "double": (1.0, 0.0, -2.5, 1e6),
    "boolean": (True, False),
    "string": ("a17", "Žluťoučký kůň", "北京 🙂", "A B|%"),
    "timestamp": ("2026-01-01T12:00:00Z", "2024-02-29T23:59:59.999999Z", "1999-12-31T00:00:00Z"),
    "date": ("2026-01-01", "2024-02-29", "1999-12-31"),
}
_ITS_ROWS = "It may depend on nothing but its rows: no clock, no random number, no file, no earlier call."
_COPY = 'Arrays of `rows` may be shared with other requests: work on a copy, such as rows["price"].copy().'


@dataclass(frozen=True)
class _TrialCase:
    says: str  # its description in messages
    length: int  # number of its rows
    first: int = 0  # index of the first row's example value of each field; the next rows have the next ones
    known: float = 1.0  # share of the looked-up keys that have a row
    nulls: bool = False  # true: fields with a default are null, and so are some features of known keys


@dataclass(frozen=True)
class _TrialRequest:
    """The arrays of a request, as `RowsBuilder.build_rows` takes them."""

    columns: RequestArrays
    views: Mapping[str, np.ndarray]
    found: Mapping[str, np.ndarray]

    @property
    def first_row_text(self) -> str:
        first = {name: array.tolist()[0] for name, array in self.columns.values.items() if len(array)}
        text = ", ".join(f"{name}={value!r}" for name, value in first.items())
        return f" ({text if len(text) <= _SHOWN else text[:_SHOWN] + '...'})" if text else ""

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {
            **{f"rows[{name!r}]": array for name, array in self.columns.values.items()},
            **{f"rows.view({name!r})": array for name, array in self.views.items()},
            **{f"rows.found({name!r})": array for name, array in self.found.items()},
        }


def try_transform(model: "Realtime") -> None:
    builder, cases = RowsBuilder(model), _trial_cases(model)
    widths = {lookup.called: len(lookup.columns) for lookup in model.lookups}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as numpy's for the mean of NaNs
        before = [
            _transform_checked(model, _make_request(model, builder, widths, case), builder, case) for case in cases
        ]
        # In the other order, so that state left by an earlier call shows.
        for case, features in reversed(list(zip(cases, before, strict=True))):
            request = _make_request(model, builder, widths, case)
            if _transform_checked(model, request, builder, case).tobytes() != features.tobytes():
                raise _trial_error(model, case, request, "returned other values when it was called again", _ITS_ROWS)


def _trial_cases(model: "Realtime") -> list[_TrialCase]:
    has_keys, has_defaults = bool(model.lookups), any(field.default is not None for field in model.all_fields)
    unknown = " whose keys have no row (NaN)" if has_keys else ""
    some = ", and some keys have no row (NaN)" if has_keys else ""
    nulls = ["fields with a default are null"] * has_defaults + ["features are null (NaN)"] * has_keys
    null = f", and {' and '.join(nulls)}" if nulls else ""
    if model.candidates is None:
        return [
            _TrialCase("a request", 1),
            _TrialCase(f"a request{unknown}", 1, first=1, known=0.0),
            _TrialCase(f"a request{null}", 1, first=2, nulls=True),
            _TrialCase("a request", 1, first=3),
            _TrialCase("a request", 1, first=4),
        ]
    many = min(model.candidates.most, _MANY)
    return [
        _TrialCase("one candidate", 1),
        _TrialCase(f"one candidate{unknown}", 1, first=1, known=0.0),
        _TrialCase(f"candidates: {many}{some}", many, first=1, known=0.7),
        _TrialCase(f"candidates: {many}{null}", many, first=2, nulls=True),
        _TrialCase(f"candidates: {many}", many, first=4),
    ]


def _transform_checked(model: "Realtime", request: _TrialRequest, builder: RowsBuilder, case: _TrialCase) -> np.ndarray:
    """The features of a request, float32 [length, features]; raises as `try_transform`."""
    before = {name: _comparable_content(array) for name, array in request.arrays.items()}
    returned: list[Any] = []

    def call_transform(rows: Any) -> Any:
        returned.append(model.transform(rows))
        return returned[0]

    rows = builder.build_rows(request.columns, request.views, request.found)
    try:
        features = apply_transform(call_transform, model.transform_path, rows, len(model.features))
    except InputError as error:
        cause = error.__cause__
        if cause is None:
            raise _trial_error(
                model, case, request, error.message.partition(f"{model.transform_path} ")[2], error.remedy
            ) from None
        what = f"failed: {type(cause).__name__}: {cause}"
        raise _trial_error(model, case, request, what, _remedy(cause), at=_failure_place(model, cause)) from cause
    for name, array in request.arrays.items():
        if _comparable_content(array) != before[name]:
            raise _trial_error(model, case, request, f"changed {name}", _COPY)
        if np.may_share_memory(returned[0], array):
            remedy = "Return an array of your own: end with .copy(), or np.column_stack([...])."
            raise _trial_error(model, case, request, f"returned a view of {name}", remedy)
    return features


def _comparable_content(array: np.ndarray) -> Any:
    """The content in a form that is equal if the values are, NaN included."""
    return array.tolist() if array.dtype.kind == "O" else array.tobytes()


def _make_request(
    model: "Realtime", builder: RowsBuilder, widths: Mapping[str, int], case: _TrialCase
) -> _TrialRequest:
    of_request = {name: values[0] for name, values in _make_values(model, model.request, case, 1)}
    of_candidates = model.candidates.fields if model.candidates else ()
    lists = dict(_make_values(model, of_candidates, case, case.length))
    columns = builder.build_columns(of_request, lists or None)
    views, found = {}, {}
    for place, lookup in enumerate(model.lookups):
        count = 1 if set(lookup.by) <= of_request.keys() else case.length
        generator = np.random.default_rng([place, case.first])
        matrix = generator.normal(size=(count, widths[lookup.called])).astype(np.float32)
        known = generator.random(count) < case.known
        if case.nulls:
            matrix[generator.random(matrix.shape) < 0.5] = np.nan
        matrix[~known] = np.nan
        views[lookup.called], found[lookup.called] = matrix, known
    return _TrialRequest(columns, views, found)


def _make_values(
    model: "Realtime", fields: tuple[RequestField, ...], case: _TrialCase, count: int
) -> Iterator[tuple[str, list[Any]]]:
    keys = {name for lookup in model.lookups for name in lookup.by}
    for field in fields:
        values = _VALUES[field.type]
        if field.type == "string" and field.name not in keys:
            values = (*values, "")  # which is refused as a key
        if field.type == "double" and model.on_nan == "accept":
            values = (*values, float("nan"))
        if case.nulls and field.default is not None:
            values = (None,)
        yield field.name, [values[(case.first + row) % len(values)] for row in range(count)]


def _remedy(cause: BaseException) -> str:
    if isinstance(cause, ValueError) and "read-only" in str(cause):
        return _COPY
    return "It gets the `Rows` of any request that is declared; what is unknown in them is NaN."


def _trial_error(
    model: "Realtime", case: _TrialCase, request: _TrialRequest, what: str, remedy: str, *, at: str = ""
) -> SettingsError:
    return SettingsError(
        f"Realtime {model.name!r} has the transform {model.transform_path} "
        f"({at or _definition_place(model.transform)}), which, "
        f"given {case.says}{request.first_row_text}, {what.removesuffix('.')}.",
        remedy=remedy,
    )


def _definition_place(transform: Callable[..., Any]) -> str:
    code = inspect.unwrap(transform).__code__
    return f"{_relative_path(code.co_filename)}, line {code.co_firstlineno}"


def _failure_place(model: "Realtime", cause: BaseException) -> str:
    """The line of the transform's file at which it failed; "" if the error came from another file."""
    file = inspect.unwrap(model.transform).__code__.co_filename
    lines = [frame.lineno for frame in traceback.extract_tb(cause.__traceback__) if frame.filename == file]
    return f"{_relative_path(file)}, line {lines[-1]}" if lines else ""


def _relative_path(file: str) -> str:
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else file
