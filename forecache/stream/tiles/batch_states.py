"""Batch states: for each live view, the state of its keys at the end of an as-of date, with which tiles are merged."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from forecache.base.errors import DamagedError, NotFoundError, UnavailableError
from forecache.base.settings import Settings
from forecache.declare import FeatureView
from forecache.declare.features.live import build_merge_plan
from forecache.serve.store import Snapshot, open_store

Words = NDArray[np.int64]
NOTHING_YET = date(1970, 1, 1)  # the as-of date of `NoBatchState`: features are unknown
_LOOK_S = 0.5


class BatchState(Protocol):
    """The state of one view's keys as of a date."""

    @property
    def name(self) -> str:
        """`<as_of>@<delta_version>` of the view's table; "" if there is no state."""
        ...

    @property
    def as_of(self) -> date: ...

    def read_words(self, keys: Sequence[bytes]) -> tuple[Words | None, NDArray[np.bool_] | None]:
        """Read n keys: their columns, int64 [n, b], and which exist, bool [n]; (None, None) if there is no state."""
        ...


@dataclass(frozen=True)
class NoBatchState:
    """The state before the first nightly run."""

    name: str = ""
    as_of: date = NOTHING_YET

    def read_words(self, keys: Sequence[bytes]) -> tuple[Words | None, NDArray[np.bool_] | None]:
        return None, None


class ServedState:
    """The state in a version that the store serves; UnavailableError if another declaration published it."""

    def __init__(self, view: FeatureView, snapshot: Snapshot) -> None:
        manifest = snapshot.manifest
        self.version = manifest.version
        self.name = f"{manifest.source.as_of}@{manifest.source.delta_version}"
        self.as_of = date.fromisoformat(manifest.source.as_of)
        self._snapshot, self._first = snapshot, len(manifest.columns)
        wanted = [column.name for column in build_merge_plan(view).base_columns]
        there = [state.name for state in manifest.states]
        if manifest.contract != view.packed.contract or not set(wanted) <= set(there):
            raise UnavailableError(
                f"Version {self.version} of the view {view.name} was published by another declaration.",
                remedy=f"Run it again; until then its features count as unknown: `forecache run {view.name}`.",
            )
        self._places = None if wanted == there else [there.index(name) for name in wanted]

    def read_words(self, keys: Sequence[bytes]) -> tuple[Words | None, NDArray[np.bool_] | None]:
        matrix, found = self._snapshot.matrix(keys)
        words = np.ascontiguousarray(matrix[:, self._first :]).view(np.int64)
        return (words if self._places is None else words.take(self._places, axis=1)), found


class ServedStates:
    """Finds the currently served state of each view; if a newer one cannot be used, the previous one remains in use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._found: dict[str, tuple[float, BatchState]] = {}
        self._failures: dict[str, str] = {}

    @property
    def failure(self) -> str:
        """The errors of views whose newest states cannot be used; "" if there are none. Any thread may read it."""
        return "; ".join(list(self._failures.values()))

    def __call__(self, view: FeatureView) -> BatchState:
        """Return the served state; the store is read at most every `_LOOK_S` seconds."""
        looked_at, base = self._found.get(view.name, (0.0, NoBatchState()))
        now = time.monotonic()
        if not looked_at or now - looked_at > _LOOK_S:
            base = self._refresh(view, base)
            self._found[view.name] = now, base
        return base

    def _refresh(self, view: FeatureView, base: BatchState) -> BatchState:
        store, found = open_store(self._settings, view.name), base
        try:
            if not isinstance(base, ServedState) or store.pointer().serving != base.version:
                found = ServedState(view, store.snapshot())
        except NotFoundError:
            found = NoBatchState()
        except (DamagedError, UnavailableError) as error:
            self._failures[view.name] = str(error)
            return base
        self._failures.pop(view.name, None)
        return found
