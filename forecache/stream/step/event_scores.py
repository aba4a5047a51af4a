"""Scores the events of a batch with a release: all in one call if each event gets the bits that it gets alone.

Transform and model are checked separately, see `forecache.stream.step.batch_invariance`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecache.base.errors import ForecacheError
from forecache.declare.realtime.request_rows import RequestArrays
from forecache.declare.realtime.rows import Rows
from forecache.realtime.release.load import LoadedRelease
from forecache.stream.step.batch_invariance import Matrix, matrix_invariance_check
from forecache.stream.step.used_features import UsedFeatures, unknown_features


@dataclass
class EventScores:
    """Scores of n events.

    Attributes:
        values: float64 [n], NaN for no score.
        is_known: True if there is a score, bool [n].
        used: The features of each event, also if the model failed on them.
        failed: Events whose transform or model failed.
        failure: The error of the last of these.
    """

    values: NDArray[np.float64]
    is_known: NDArray[np.bool_]
    used: UsedFeatures
    failed: int = 0
    failure: str = ""

    def add_failure(self, error: Exception) -> None:
        self.failed += 1
        self.failure = str(error) if isinstance(error, ForecacheError) else f"{type(error).__name__}: {error}"


@dataclass
class RequestColumns:
    """The requests of n events, by column.

    Attributes:
        value: `value(name, place)` is an event's value of a field, [1]; raises InputError if a required one is missing.
        columns: By field, the values [n]; None if an event lacks a required value.
        views, found: By look-up, the features, float32 [n, d], and which were found, bool [n].
    """

    length: int
    names: tuple[str, ...]
    value: Callable[[str, int], Matrix]
    columns: Mapping[str, Matrix] | None
    views: Mapping[str, Matrix]
    found: Mapping[str, Matrix]


class EventScorer:
    """Scores events by one loaded release."""

    def __init__(self, loaded: LoadedRelease) -> None:
        self._loaded = loaded
        self._transform, self._model = matrix_invariance_check("transform"), matrix_invariance_check("model")

    def score(self, asked: RequestColumns) -> EventScores:
        n = asked.length
        used = unknown_features(n, len(self._loaded.release.features))
        scored = EventScores(np.full(n, np.nan), np.zeros(n, np.bool_), used)
        if asked.columns is not None and n:
            try:
                scored.values[:] = self._score_together(asked, asked.columns, used)
                scored.is_known[:] = ~np.isnan(scored.values)
                return scored
            except Exception:  # noqa: BLE001, S110  # raised again below for the event that causes it
                pass
        for place in range(n):
            try:
                features = self._features_alone(asked, place)
                used.matrix[place], used.known[place] = features[0], True
                scored.values[place] = self._loaded.scores_of(features)[0]
            except Exception as error:  # noqa: BLE001  # of the model's library: no event may stop a stream
                scored.add_failure(error)
        scored.is_known[:] = ~np.isnan(scored.values)
        return scored

    def _score_together(self, asked: RequestColumns, columns: Mapping[str, Matrix], used: UsedFeatures) -> Matrix:
        def compute_together() -> Matrix:
            rows = self._loaded.builder.build_rows(RequestArrays(asked.length, columns), asked.views, asked.found)
            return self._loaded.features_of(rows)

        features = self._transform.compute(
            asked.length, compute_together, lambda place: self._features_alone(asked, place)
        )
        used.matrix[:], used.known[:] = features, True
        return self._model.compute(
            asked.length,
            lambda: self._loaded.scores_of(features),
            lambda place: self._loaded.scores_of(features[place : place + 1]),
        )

    def _features_alone(self, asked: RequestColumns, place: int) -> Matrix:
        columns = RequestArrays(1, {name: asked.value(name, place) for name in asked.names})
        views = {called: each[place : place + 1] for called, each in asked.views.items()}
        found = {called: each[place : place + 1] for called, each in asked.found.items()}
        rows: Rows = self._loaded.builder.build_rows(columns, views, found)
        return self._loaded.features_of(rows)
