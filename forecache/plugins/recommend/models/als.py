"""Matrix factorization for implicit feedback by alternating least squares, through the library `implicit`."""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from forecache.base.errors import InputError
from forecache.declare.checks import check_fields, check_least
from forecache.plugins.recommend.interactions import Interactions
from forecache.plugins.recommend.models.base import (
    Factors,
    RecommenderModel,
    Scores,
    check_not_empty,
    check_range,
    power_weights,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class Als(RecommenderModel):
    """Factorize the matrix of users and items, pairs that were seen with a confidence of 1 + alpha * weight.

    Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets" (2008).

    Attributes:
        factors: Numbers in a vector.
        regularization: L2 penalty on the vectors.
        alpha: Confidence that a weight of 1 adds.
        weight_power: Power of a pair's summed weight: 0 counts each item of a user as 1, whatever its weights.
        iterations: Number of iterations; each solves for all users, then for all items.
    """

    factors: int = 64
    regularization: float = 10.0
    alpha: float = 4.0
    weight_power: float = 0.0
    iterations: int = 15

    def __post_init__(self) -> None:
        check_fields("`Als`", self)
        check_least("`Als`", self, 1, "factors", "iterations")
        check_least("`Als`", self, 0, "regularization", "alpha", above=True)
        check_range("`Als`", self, ("weight_power",), 0, 2)

    @property
    def vector_size(self) -> int:
        return self.factors

    def fit(self, interactions: Interactions, *, seed: int) -> "FittedAls":
        from implicit.cpu.als import AlternatingLeastSquares

        check_not_empty(interactions, "`Als`")
        history = power_weights(interactions.matrix(), self.weight_power)
        known = np.bincount(history.indices, minlength=interactions.num_items) > 0
        # `implicit` has threads of its own; those of BLAS would slow them down.
        with _blas().limit(limits=1, user_api="blas"):
            model = AlternatingLeastSquares(
                self.factors, self.regularization, iterations=self.iterations, random_state=seed
            )
            model.fit(_confidences(history, self.alpha), show_progress=False)
        vectors = np.ascontiguousarray(model.item_factors, np.float32)
        if not np.isfinite(vectors).all():
            raise InputError("`Als` found vectors that are no numbers.", remedy="Raise regularization, or lower alpha.")
        return FittedAls(
            interactions.item_keys, vectors, known, float(self.regularization), float(self.alpha), self.weight_power
        )


@dataclass(frozen=True, eq=False)
class FittedAls(Factors):
    """Item vectors. A user's vector is solved from the given history, so new users have one, too."""

    item_keys: pa.Array
    item_vectors: Scores
    known_items: NDArray[np.bool_]
    regularization: float
    alpha: float
    weight_power: float

    def weight_interactions(self, interactions: Interactions) -> "csr_matrix":
        return power_weights(interactions.matrix(), self.weight_power)

    def user_vectors(self, history: "csr_matrix") -> Scores:
        """The least squares solution that one more half of an iteration would have, by Cholesky."""
        if not history.shape[0]:
            return np.zeros((0, self.item_vectors.shape[1]), np.float32)
        with _blas().limit(limits=1, user_api="blas"):
            solver, confidences = self._solver, _confidences(history, self.alpha)
            return np.asarray(solver.recalculate_user(np.arange(history.shape[0]), confidences))

    @cached_property
    def _solver(self) -> Any:
        from implicit.cpu.als import AlternatingLeastSquares

        model = AlternatingLeastSquares(self.item_vectors.shape[1], self.regularization)
        model.item_factors = np.array(self.item_vectors)  # it takes none that is mapped from a file
        return model


@cache
def _blas() -> Any:
    """Controller of the threads of the loaded BLAS libraries, cached because the search for them takes 3 ms."""
    import implicit.cpu.als  # noqa: F401  # loads the BLAS library to be found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _confidences(history: "csr_matrix", alpha: float) -> "csr_matrix":
    found = history.copy()
    found.data = np.float32(1) + np.float32(alpha) * found.data
    return found
