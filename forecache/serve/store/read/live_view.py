"""Merging of a version of a live view with the tiles of its live layer: the features at a moment."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from forecache.base.errors import UnavailableError
from forecache.kit.windows.plan import DAY_US, plan_from_json
from forecache.serve.store.values import FLOAT, FLOAT_BYTES, matrix_of

if TYPE_CHECKING:
    import numpy as np

    from forecache.serve.store.manifest import Manifest

_EPOCH = date(1970, 1, 1)


class LiveViewMerger:
    """Merges rows of one version, by the JSON of the view's plan from the file LIVE.

    Raises UnavailableError if the version was published by another declaration: it lacks states or features of the
    plan.
    """

    def __init__(self, plan: Mapping[str, Any], manifest: "Manifest") -> None:
        from forecache.kit.windows.merger import merger_of

        self._merger = merger_of(plan_from_json(dict(plan)))
        self._as_of = (date.fromisoformat(manifest.as_of) - _EPOCH).days
        self._width, self._columns = manifest.width, len(manifest.columns)
        self.columns = tuple(feature.name for feature in self._merger.plan.features)
        wanted = tuple(column.name for column in self._merger.plan.base_columns)
        there = tuple(state.name for state in manifest.states)
        if self.columns != manifest.columns or not set(wanted) <= set(there):
            raise UnavailableError(
                f"Version {manifest.version} of the view {manifest.pipeline} was published by another declaration than "
                "its live layer: it has other features or states.",
                remedy=f"Publish the view: `forecache run {manifest.pipeline}`.",
            )
        self._places = None if wanted == there else [there.index(name) for name in wanted]

    def merge(
        self, matrix: "np.ndarray", known: "np.ndarray", tiles: Sequence[bytes | None] | None, at_us: int
    ) -> "tuple[np.ndarray, np.ndarray]":
        """(float32 [n, d], found bool [n]) at a moment, in microseconds of Unix time.

        Args:
            matrix, known: Rows of the version, float32 [n, width], and which it has, as `Snapshot.matrix` returns them.
            tiles: Values of the live layer above the version's cut-off; None: these keys have none.
        """
        base = matrix[:, self._columns :].copy().view("<i8")
        if self._places is not None:
            base = base.take(self._places, axis=1)
        return self._merger.merge(base, known, tiles, self._as_of, at_us)

    def merge_entries(
        self, entries: Sequence[bytes | None], tiles: Sequence[bytes | None] | None, at_us: int
    ) -> list[bytes | None]:
        """Packed entries of the features, without states, at a moment; None for keys without events in the windows."""
        features, found = self.merge(*matrix_of(entries, self._width), tiles, at_us)
        content, size = features.astype(FLOAT, copy=False).tobytes(), features.shape[1] * FLOAT_BYTES
        return [content[at * size : (at + 1) * size] if there else None for at, there in enumerate(found.tolist())]

    def lag_days(self, at_us: int) -> int:
        """Days from the as-of date to that of a moment."""
        return at_us // DAY_US - self._as_of

    @property
    def max_lag_days(self) -> int:
        """Most days after the as-of date for which it can be merged."""
        return self._merger.plan.nights
