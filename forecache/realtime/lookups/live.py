"""Look-ups of live views: the row of the version, merged with the tiles that a stream has made since."""

from collections.abc import Sequence

import numpy as np

from forecache.errors import UnavailableError
from forecache.reader.versions.answers import Answers
from forecache.reader.versions.layers import Layer
from forecache.store.live.reader import LiveReader
from forecache.store.read.live_view import LiveView


class Merging:
    """Merges rows of one version with the live layer of its view."""

    def __init__(self, view: LiveView, reader: LiveReader, cut: int) -> None:
        self._view, self._reader, self._cut = view, reader, cut

    def reaches(self, now: float) -> bool:
        """Whether the version is new enough to be merged at a moment, Unix time."""
        return self._view.lag(int(now * 1e6)) <= self._view.most_lag

    def merged(
        self, keys: Sequence[bytes], matrix: np.ndarray, known: np.ndarray, now: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features at a moment, float32 [n, columns], and which keys have had an event of late, bool [n].

        Args:
            matrix: Of the version, with its states; see `LiveView.merged`.
        """
        cut, tiles = self._cut, None
        if not self._reader.is_empty:
            rows = self._reader.get_many(keys)
            tiles = [row.value if row is not None and row.position > cut else None for row in rows]
        return self._view.merged(matrix, known, tiles, int(now * 1e6))


def merging_of(answers: Answers) -> tuple[Merging | None, str]:
    """What merges the version of a view with its live layer; None where it has none, and why it does not fit, if so."""
    layer: Layer | None = getattr(answers, "layer", None)
    if layer is None or layer.declared.kind != "tiles":
        return None, ""
    try:
        view = LiveView(layer.declared.plan, answers.manifest)
    except UnavailableError as error:
        return None, str(error)
    return Merging(view, layer.reader, answers.manifest.cut), ""
