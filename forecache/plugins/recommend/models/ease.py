"""EASE: a linear model from the items that a user has to all items, solved in closed form."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.base.errors import InputError
from forecache.declare.checks import check_fields, check_least, check_value
from forecache.plugins.recommend.interactions import Codes, Interactions
from forecache.plugins.recommend.models.base import (
    Fitted,
    RecommenderModel,
    Scores,
    check_not_empty,
    check_range,
    power_weights,
    without_itself,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_COLUMNS = 1024
_REASON_PAIRS = 1 << 22


@dataclass(frozen=True)
class Ease(RecommenderModel):
    """Predict a user's items from the user's other items: X ~ X B, where no item predicts itself (diag B = 0).

    Steck, "Embarrassingly Shallow Autoencoders for Sparse Data" (2019). The solution is B = I - P / diag(P) with the
    inverse P of the regularized Gram matrix. Everything is computed in float64: 8 bytes times the square of the number
    of items, twice at the most.

    Attributes:
        l2: Ridge on the diagonal of the Gram matrix; larger leans towards popular items.
        dropout: Share of a user's items that is thought to be missing, in [0, 1). It adds dropout / (1 - dropout) times
            its own diagonal to the Gram matrix (Steck, "Autoencoders that don't overfit towards the Identity", 2020).
        weight_power: Power of a pair's summed weight: 0 counts each item of a user as 1, whatever its weights.
        activity_power: A user with n items counts n^-activity_power as much while fitting: 0 counts all the same.
        max_items: More items than this are refused, before any memory is taken.
    """

    l2: float = 300.0
    dropout: float = 0.0
    weight_power: float = 0.0
    activity_power: float = 0.0
    max_items: int = 20_000

    def __post_init__(self) -> None:
        check_fields("`Ease`", self)
        check_least("`Ease`", self, 0, "l2", above=True)
        check_least("`Ease`", self, 1, "max_items")
        check_value("`Ease`", "dropout", self.dropout, 0 <= self.dropout < 1, "It is at least 0, less than 1.")
        check_range("`Ease`", self, ("weight_power", "activity_power"), 0, 2)

    def fit(self, interactions: Interactions, *, seed: int = 0) -> "FittedEase":
        check_not_empty(interactions, "`Ease`")
        if interactions.num_items > self.max_items:
            gib = 2 * 8 * interactions.num_items**2 / 2**30
            raise InputError(
                f"`Ease` takes at most max_items={self.max_items:,} items, and there are "
                f"{interactions.num_items:,}, which need {gib:,.1f} GiB.",
                remedy="Leave out rare items, raise max_items where there is the memory, or take `Als`.",
            )
        history = power_weights(interactions.matrix(), self.weight_power)
        counts = np.maximum(np.diff(history.indptr), 1).astype(np.float64)
        gram = _gram(history, (counts / counts.mean()) ** -self.activity_power)
        known = np.diag(gram) > 0
        gram[np.diag_indices_from(gram)] *= 1 + self.dropout / (1 - self.dropout)
        gram[np.diag_indices_from(gram)] += self.l2
        return FittedEase(interactions.item_keys, _weights(gram), known, self.weight_power)


def _gram(history: "csr_matrix", scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """X' X of rows that are scaled before, float64 [items, items]; sparse products of some columns at a time."""
    from scipy.sparse import csc_matrix, diags

    rows = diags(scale).dot(history.astype(np.float64))
    transposed, columns = rows.T.tocsr(), csc_matrix(rows)
    items = history.shape[1]
    gram = np.empty((items, items), np.float64, order="F")
    for first in range(0, items, _COLUMNS):
        some = slice(first, first + _COLUMNS)
        gram[:, some] = transposed.dot(columns[:, some]).toarray()
    return gram


def _weights(gram: NDArray[np.float64]) -> Scores:
    """B by a Cholesky factor that is inverted in place; the ridge makes the matrix positive definite."""
    from scipy.linalg.lapack import dpotrf, dpotri

    factor, failed = dpotrf(gram, lower=1, overwrite_a=1)
    inverse, failed_too = dpotri(factor, lower=1, overwrite_c=1)
    if failed or failed_too:
        raise InputError("`Ease` could not invert the items' matrix.", remedy="Raise l2, or scale the weights down.")
    divisor = -np.diag(inverse)
    weights = np.empty(inverse.shape, np.float32)
    for first in range(0, len(inverse), _COLUMNS):
        rows = slice(first, first + _COLUMNS)
        # Only the lower half was computed: the part right of the diagonal is the transposed part below it.
        whole = np.hstack(
            [inverse[rows, :first], np.zeros_like(inverse[rows, rows]), inverse[first + _COLUMNS :, rows].T]
        )
        corner = np.tril(inverse[rows, rows], -1)
        whole[:, rows] = corner + corner.T
        weights[rows] = whole / divisor
    return weights


@dataclass(frozen=True, eq=False)
class FittedEase(Fitted):
    item_keys: pa.Array
    weights: Scores  # B, float32 [items, items]: the amount that having the row's item adds to the column's score
    known_items: NDArray[np.bool_]  # that training saw, bool [items]; the others cannot be ranked
    weight_power: float

    def weight_interactions(self, interactions: Interactions) -> "csr_matrix":
        return power_weights(interactions.matrix(), self.weight_power)

    def can_rank(self, history: "csr_matrix") -> NDArray[np.bool_]:
        return np.asarray(history.dot(self.known_items.astype(np.float32)) > 0)

    def score(self, history: "csr_matrix", *, out: Scores | None = None) -> Scores:
        found = history.dot(self.weights)
        found[:, ~self.known_items] = -np.inf
        if out is None:
            return np.asarray(found, np.float32)
        out[:] = found
        return out

    def similar(self, items: Codes) -> Scores:
        """Rows of B: the amounts that having an item adds to the scores of the others."""
        return without_itself(self.weights[items].copy(), items)

    def reasons(self, history: "csr_matrix", items: Codes) -> Codes:
        """The user's item h with the largest positive B[h, i] x[h]."""
        found = np.full(items.shape, -1, np.int32)
        ends = np.searchsorted(history.indptr, history.indptr + _REASON_PAIRS // max(1, items.shape[1]), side="right")
        first = 0
        while first < len(items):
            last = max(first + 1, min(int(ends[first]) - 1, len(items)))
            self._explain(history[first:last], items[first:last], found[first:last])
            first = last
        return found

    def _explain(self, history: "csr_matrix", items: Codes, out: Codes) -> None:
        counts = np.diff(history.indptr)
        having = np.flatnonzero(counts)
        if not len(having):
            return
        rows = np.repeat(np.arange(len(items)), counts)
        gains = self.weights[history.indices[:, None], items[rows]] * history.data[:, None]
        starts = history.indptr[having]
        best = np.maximum.reduceat(gains, starts, axis=0)
        # The first of equal ones: the smallest code, as indices are sorted.
        place = np.where(gains == np.repeat(best, counts[having], axis=0), np.arange(len(rows))[:, None], len(rows))
        chosen = history.indices[np.minimum.reduceat(place, starts, axis=0)]
        out[having] = np.where((best > 0) & (items[having] >= 0), chosen, -1)
