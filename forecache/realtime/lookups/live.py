"""Look-ups of live views: the row of the version, merged with the tiles that a stream has made since."""

from collections.abc import Sequence

import numpy as np

from forecache.errors import UnavailableError
from forecache.reader.versions.answers import Answers
from forecache.reader.versions.layers import Layer
from forecache.realtime.request.parsed import LiveRead
from forecache.store.live.reader import LiveReader
from forecache.store.live.rows import PENDING
from forecache.store.read.live_view import LiveView


class Merging:
    """Merges rows of one version with the live layer of its view.

    Args:
        layer: Names the layer's declaration.
    """

    def __init__(self, view: LiveView, reader: LiveReader, cut: int, name: str, layer: str) -> None:
        self._view, self._reader, self._cut = view, reader, cut
        self._name, self._layer = name, layer

    def reaches(self, now: float) -> bool:
        """Whether the version is new enough to be merged at a moment, Unix time."""
        return self._view.lag(int(now * 1e6)) <= self._view.most_lag

    def merged(
        self, keys: Sequence[bytes], matrix: np.ndarray, known: np.ndarray, now: float
    ) -> tuple[np.ndarray, np.ndarray, LiveRead]:
        """Features at a moment, float32 [n, columns], which keys have had an event of late, bool [n], and from what.

        Args:
            matrix: Of the version, with its states; see `LiveView.merged`.
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
        features, found = self._view.merged(matrix, known, tiles, at_us)
        return features, found, LiveRead(self._name, at_us, position, self._layer, pending)


def merging_of(answers: Answers) -> tuple[Merging | None, str]:
    """What merges the version of a view with its live layer; None where it has none, and why it does not fit, if so."""
    layer: Layer | None = getattr(answers, "layer", None)
    if layer is None or layer.declared.kind != "tiles":
        return None, ""
    try:
        view = LiveView(layer.declared.plan, answers.manifest)
    except UnavailableError as error:
        return None, str(error)
    manifest = answers.manifest
    return Merging(view, layer.reader, manifest.cut, manifest.pipeline, layer.declared.values), ""
