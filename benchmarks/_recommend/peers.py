"""Recommenders of the library `implicit`, used as its documentation says."""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from implicit.nearest_neighbours import BM25Recommender
from implicit.utils import ParameterWarning
from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class Peer:
    """A model of `implicit` with its parameters, on one thread.

    Attributes:
        confidence: The weight of every pair that was seen, of which the model of a pair makes what it does.
    """

    model: Literal["als", "bpr", "bm25"]
    parameters: dict[str, Any]
    confidence: float = 1.0

    def fit(self, seen: csr_matrix, *, seed: int) -> Any:
        kind = {"als": AlternatingLeastSquares, "bpr": BayesianPersonalizedRanking, "bm25": BM25Recommender}[self.model]
        seeded = {} if self.model == "bm25" else {"random_state": seed}
        model = kind(num_threads=1, **seeded, **self.parameters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParameterWarning)  # BM25 hands itself a matrix that it then warns of
            model.fit(self._weighted(seen), show_progress=False)
        return model

    def lists(self, model: Any, seen: csr_matrix, users: np.ndarray, k: int) -> np.ndarray:
        """The k best items that users have not had, int32 [users, k]."""
        items, _ = model.recommend(users, self._weighted(seen)[users], N=k, filter_already_liked_items=True)
        return np.asarray(items, np.int32)

    def _weighted(self, seen: csr_matrix) -> csr_matrix:
        found = seen.copy()
        found.data = np.full(found.nnz, self.confidence, np.float32)
        return found
