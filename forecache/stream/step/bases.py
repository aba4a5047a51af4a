"""The nights that live features stand on: of each view, the state of its keys as of the end of a day."""

import time
from collections.abc import Sequence
from datetime import date
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from forecache.errors import DamagedError, NotFoundError, UnavailableError
from forecache.pipeline import FeatureView
from forecache.pipeline.streams.plan import plan_of
from forecache.settings import Settings
from forecache.store import Snapshot, open_store

Words = NDArray[np.int64]
NOTHING_YET = date(1970, 1, 1)
"""The as-of date that stands for no night: features are unknown."""
_LOOK_S = 0.5


class Base(Protocol):
    """A night of one view."""

    @property
    def name(self) -> str:
        """`<as_of>@<delta_version>` of the view's table; "" for none."""
        ...

    @property
    def as_of(self) -> date: ...

    def words(self, keys: Sequence[bytes]) -> tuple[Words | None, NDArray[np.bool_] | None]:
        """Of n keys the columns of the night, int64 [n, b], and which it has, bool [n]; None, None for no night."""
        ...


class NoNight:
    """Before the first night."""

    name, as_of = "", NOTHING_YET

    def words(self, keys: Sequence[bytes]) -> tuple[Words | None, NDArray[np.bool_] | None]:
        return None, None


class ServedNight:
    """A night as the store serves it.

    Raises:
        UnavailableError: The version was published by another declaration.
    """

    def __init__(self, view: FeatureView, snapshot: Snapshot) -> None:
        manifest = snapshot.manifest
        self.version = manifest.version
        self.name = f"{manifest.source.as_of}@{manifest.source.delta_version}"
        self.as_of = date.fromisoformat(manifest.source.as_of)
        self._snapshot, self._first = snapshot, len(manifest.columns)
        wanted = [column.name for column in plan_of(view).base_columns]
        there = [state.name for state in manifest.states]
        if manifest.contract != view.packed.contract or not set(wanted) <= set(there):
            raise UnavailableError(
                f"Version {self.version} of the view {view.name} was published by another declaration.",
                remedy=f"Run its night again, until which its features count as unknown: `forecache run {view.name}`.",
            )
        self._places = None if wanted == there else [there.index(name) for name in wanted]

    def words(self, keys: Sequence[bytes]) -> tuple[Words | None, NDArray[np.bool_] | None]:
        matrix, found = self._snapshot.matrix(keys)
        words = np.ascontiguousarray(matrix[:, self._first :]).view(np.int64)
        return (words if self._places is None else words.take(self._places, axis=1)), found


class ServedBases:
    """The served night of each view, followed as it moves.

    Where a newer one cannot be used, events go on standing on the one before.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._found: dict[str, tuple[float, Base]] = {}
        self._failures: dict[str, str] = {}

    @property
    def failure(self) -> str:
        """Why the newest nights of views cannot be used; "" where all can. Any thread may ask."""
        return "; ".join(list(self._failures.values()))

    def __call__(self, view: FeatureView) -> Base:
        """The night that is served; one that is half a second old is not looked for anew."""
        looked_at, base = self._found.get(view.name, (0.0, NoNight()))
        now = time.monotonic()
        if not looked_at or now - looked_at > _LOOK_S:
            base = self._look(view, base)
            self._found[view.name] = now, base
        return base

    def _look(self, view: FeatureView, base: Base) -> Base:
        store, found = open_store(self._settings, view.name), base
        try:
            if not isinstance(base, ServedNight) or store.pointer().serving != base.version:
                found = ServedNight(view, store.snapshot())
        except NotFoundError:
            found = NoNight()
        except (DamagedError, UnavailableError) as error:
            self._failures[view.name] = str(error)
            return base
        self._failures.pop(view.name, None)
        return found
