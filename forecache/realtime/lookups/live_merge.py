"""Look-ups of live views: merge the row of the version with the tiles of newer streamed events."""

from collections.abc import Sequence

import numpy as np

from forecache.base.errors import UnavailableError
from forecache.realtime.request.parsed_request import LiveRead
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.versions.live_layers import OpenLayer
from forecache.serve.store.live.layer import PENDING
from forecache.serve.store.live.reader import LiveReader
from forecache.serve.store.read.live_view import LiveViewMerger


class LiveMerger:
    """Merges rows of one version with the live layer of its view.

    Args:
        layer: Identifies the layer's declaration.
    """

    def __init__(self, view: LiveViewMerger, reader: LiveReader, cut: int, name: str, layer: str) -> None:
        self._view, self._reader, self._cut = view, reader, cut
        self._name, self._layer = name, layer

    def can_merge_at(self, now: float) -> bool:
        """Return True if the version is new enough to be merged at `now`, Unix time."""
        return self._view.lag_days(int(now * 1e6)) <= self._view.max_lag_days

    def merge(
        self, keys: Sequence[bytes], matrix: np.ndarray, known: np.ndarray, now: float
    ) -> tuple[np.ndarray, np.ndarray, LiveRead]:
        """Return the features at `now`, float32 [n, columns], which keys have a row, bool [n], and what was read.

        Args:
            matrix: Rows of the version, with their states; see `LiveView.merged`.
        """
        cut, tiles, at_us = self._cut, None, int(now * 1e6)
        position, pending = -1, {}
        if not self._reader.is_empty:
            rows = self._reader.find_many(keys)
            tiles = [row[2] if row is not None and row[0] > cut else None for row in rows]
            for place, row in enumerate(rows):
                if row is None:
                    continue
                if row[0] == PENDING:
                    pending[place] = row[3]
                elif row[0] > position:
                    position = row[0]
        features, found = self._view.merge(matrix, known, tiles, at_us)
        return features, found, LiveRead(self._name, at_us, position, self._layer, pending)


def live_merger_of(answers: VersionAnswers) -> tuple[LiveMerger | None, str]:
    """Return the merger of a view's version with its live layer, or None; and why the layer does not fit, else ""."""
    layer: OpenLayer | None = getattr(answers, "layer", None)
    if layer is None or layer.declared.kind != "tiles":
        return None, ""
    try:
        view = LiveViewMerger(layer.declared.plan, answers.manifest)
    except UnavailableError as error:
        return None, str(error)
    manifest = answers.manifest
    return LiveMerger(view, layer.reader, manifest.cut, manifest.pipeline, layer.declared.values_id), ""
