"""Batch states of live views that a stream's rows name in `feature_version`, read at their Delta versions."""

from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
from numpy.typing import NDArray

from forecache.base.errors import DamagedError, NotFoundError
from forecache.base.settings import Settings
from forecache.declare import AS_OF, FeatureView, Stream
from forecache.declare.features.live import build_merge_plan
from forecache.kit.delta.dataset import open_dataset
from forecache.kit.delta.stream_tables import nights_in_base
from forecache.kit.delta.tables import open_table
from forecache.kit.windows.states import column_words
from forecache.serve.store.keys import encode_columns
from forecache.stream.events.event_judge import key_schema
from forecache.stream.tiles.batch_states import BatchState, NoBatchState, Words


class LakeState:
    """The state of a live view as of a date, at a Delta version of its table; see `BatchState`.

    NotFoundError if the table no longer has this version, DamagedError if its columns are not those declared.
    """

    def __init__(self, settings: Settings, stream: Stream, view: FeatureView, as_of: date, version: int) -> None:
        self.name, self.as_of = f"{as_of}@{version}", as_of
        schema, wanted = key_schema(stream.topic, view.key), build_merge_plan(view).base_columns
        try:
            table = open_table(settings, view.feature_table, version=version)
            dataset = open_dataset(table, partitions=[(AS_OF, "=", as_of.isoformat())])
            rows = dataset.to_table(columns=[*view.key, *(column.name for column in wanted)])
        except KeyError as error:
            raise DamagedError(
                f"Version {version} of the table {view.feature_table} has no column {error}.",
                remedy=f"The view {view.name} was declared otherwise then: its rows cannot be computed again.",
            ) from None
        except FileNotFoundError:
            raise NotFoundError(
                f"Files of version {version} of the table {view.feature_table} were removed.",
                remedy="Maintenance keeps the features of a stream for 30 days.",
            ) from None
        keys = encode_columns(schema, [rows[name].to_pylist() for name in view.key])
        self._places = {key: place for place, key in enumerate(keys)}
        self._words = np.empty((rows.num_rows, len(wanted)), np.int64)
        for i, column in enumerate(wanted):
            self._words[:, i] = column_words(rows[column.name].combine_chunks())

    def read_words(self, keys: Sequence[bytes]) -> tuple[Words | None, NDArray[np.bool_] | None]:
        places = np.array([self._places.get(key, -1) for key in keys], np.intp)
        return self._words[places] if len(self._words) else np.zeros(
            (len(keys), self._words.shape[1]), int
        ), places >= 0


class MissingState(NoBatchState):
    """A state that the lake no longer has: rows that name it are added to the tiles, and not compared."""


class LakeStates:
    """Reads states by their names, and caches the newest two of each view."""

    def __init__(self, settings: Settings, stream: Stream) -> None:
        self._settings, self._stream = settings, stream
        self._known: dict[tuple[str, str], BatchState] = {}

    def find_by_base(self, base: str) -> Mapping[str, BatchState]:
        """Return by view the state that a row's `feature_version` names."""
        names = nights_in_base(base)
        return {view.name: self.find(view, names.get(view.name, "")) for view in self._stream.views}

    def find(self, view: FeatureView, name: str) -> BatchState:
        """Return the state of a view by its name, `<as_of>@<delta_version>`, or "" for none."""
        if not name:
            return NoBatchState()
        if (view.name, name) not in self._known:
            for old in [each for each in self._known if each[0] == view.name][:-1]:
                del self._known[old]
            self._known[view.name, name] = self._read(view, name)
        return self._known[view.name, name]

    def find_newest_before(self, view: FeatureView, day: date) -> BatchState:
        """Return the newest state of a view that is as of a date before a day."""
        try:
            table = open_table(self._settings, view.feature_table)
        except NotFoundError:
            return NoBatchState()
        nights = [date.fromisoformat(str(each[AS_OF])) for each in table.partitions()]
        before = [night for night in nights if night < day]
        return self.find(view, f"{max(before)}@{table.version()}") if before else NoBatchState()

    def _read(self, view: FeatureView, name: str) -> BatchState:
        as_of, _, version = name.partition("@")
        night = date.fromisoformat(as_of)
        try:
            return LakeState(self._settings, self._stream, view, night, int(version))
        except NotFoundError:
            return MissingState(name, night)
