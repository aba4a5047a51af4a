"""Slices of examples by the values of a feature: its values, its quarters, or its categories."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from forecache.inference.encoding import FIRST_CODE, NULL_CODE, UNKNOWN_CODE
from forecache.registry.gate.examples import Examples


def slices_of(examples: Examples, name: str) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Names and masks [n] of the slices of a feature: those of `slices`, or each category. Requests are sliced by the
    first row of each."""
    feature, values = examples.encoding.features[examples.encoding.names.index(name)], examples.numbers(name)
    if examples.sizes is not None:
        values = np.repeat(values[np.cumsum(examples.sizes) - examples.sizes], examples.sizes)
    if feature.type != "category":
        yield from slices(values)
        return
    names = {NULL_CODE: "null", UNKNOWN_CODE: "not known to the model"}
    names |= dict(enumerate(feature.categories, FIRST_CODE))
    yield from ((names[int(code)], values == code) for code in np.unique(values))


def slices(values: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Names and masks [n] of a column's distinct values if there are at most six, else of its quarters; NaN apart."""
    unknown = np.isnan(values)
    known = values[~unknown]
    distinct = np.unique(known)
    if len(distinct) <= 6:
        yield from ((f"{value:g}", values == value) for value in distinct)
    else:
        edges = np.unique(np.quantile(known[np.isfinite(known)], [0, 0.25, 0.5, 0.75, 1]))
        edges[0], edges[-1] = distinct[0], distinct[-1]  # which may be infinite
        for number, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            last = number == len(edges) - 2
            rows = (values >= low) & ((values <= high) if last else (values < high))
            yield f"{low:.4g} to {high:.4g}", rows
    if unknown.any():
        yield "unknown", unknown
