"""The look-ups of a release: features of its views for one request, from the versions that the reader serves.

Rows of a version are cached, as requests often have the same candidates: nothing becomes stale, as a version never
changes. Rows of a live view are merged with the tiles of newer streamed events.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecache.base.errors import InputError, UnavailableError
from forecache.base.table_names import kept_name
from forecache.kit.http import problems
from forecache.kit.http.problems import Problem
from forecache.realtime.release.format import LookupContract
from forecache.realtime.request.request_answer import LiveRead, LookupResult, NoScores, ParsedRequest
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.versions.live_layers import OpenLayer
from forecache.serve.reader.versions.partial_versions import PartialVersion
from forecache.serve.store import KeySchema, Manifest, Snapshot
from forecache.serve.store.keys import encode_columns
from forecache.serve.store.live.layer import PENDING
from forecache.serve.store.live.reader import LiveReader
from forecache.serve.store.read.live_view import LiveViewMerger


class LiveMerger:
    """Merges rows of one version with the live layer of its view."""

    def __init__(self, view: LiveViewMerger, reader: LiveReader, cut: int, name: str, layer: str) -> None:
        self._view, self._reader, self._cut = view, reader, cut
        self._name, self._layer = name, layer

    def can_merge_at(self, now: float) -> bool:
        """Return True if the version is new enough to be merged at `now`, Unix time."""
        return self._view.lag_days(int(now * 1e6)) <= self._view.max_lag_days

    def merge(
        self, keys: Sequence[bytes], matrix: np.ndarray, known: np.ndarray, now: float
    ) -> tuple[np.ndarray, np.ndarray, LiveRead]:
        """Return the features at `now`, float32 [n, columns], which keys have a row, bool [n], and what was read."""
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


Read = Callable[[Sequence[bytes]], tuple[np.ndarray, np.ndarray]]

FEW = 10
"""Up to this many keys are read as fast without a cache."""
_MOST_ROWS, _MOST_BYTES = 1 << 15, 8 << 20
_WEIGHT = 1 / 64
_WORTH = 0.5
"""Hit share below which the cache costs more than it saves; applied once it has been full: an empty one only misses."""
_TRY_EVERY = 32
"""While the hit share is below that, the cache is used in one of this many calls."""


class RowCache:
    """A bounded cache before `Snapshot.matrix`; when full, it is emptied.

    Args:
        read: Reads rows, float32 [n, columns], and which keys have one, bool [n].
    """

    def __init__(self, read: Read, columns: int) -> None:
        self._read = read
        size = max(1, min(_MOST_ROWS, _MOST_BYTES // (4 * max(1, columns))))
        self._rows, self._known = np.empty((size, columns), np.float32), np.empty(size, np.bool_)
        self._places: dict[bytes, int] = {}
        self._calls, self.share = 0, 1.0
        self._was_full = False

    def matrix(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """Return the same as `read` for the keys, in new arrays."""
        if len(keys) <= FEW:
            return self._read(keys)
        if self._was_full and self.share < _WORTH:
            self._calls += 1
            if self._calls % _TRY_EVERY:
                return self._read(keys)
        try:
            places = np.fromiter(map(self._places.__getitem__, keys), np.intp, len(keys))
        except KeyError:
            return self._read_missing(keys)
        self._update_share(1.0)
        return self._take_rows(places)

    def _read_missing(self, keys: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        missing = [key for key in keys if key not in self._places]
        self._update_share(1 - len(missing) / len(keys))
        new = list(dict.fromkeys(missing))
        if len(self._places) + len(new) > len(self._known):
            self._places.clear()
            self._was_full = True
            new = list(dict.fromkeys(keys))
            if len(new) > len(self._known):
                return self._read(keys)
        first = len(self._places)
        last = first + len(new)
        self._rows[first:last], self._known[first:last] = self._read(new)
        self._places.update(zip(new, range(first, last), strict=True))
        return self._take_rows(np.fromiter(map(self._places.__getitem__, keys), np.intp, len(keys)))

    def _update_share(self, share: float) -> None:
        self.share += (share - self.share) * _WEIGHT

    def _take_rows(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._rows.take(places, 0), self._known.take(places)


def keys_of(schema: KeySchema, fields: Sequence[str], request: ParsedRequest) -> list[bytes]:
    """Encode a key for each candidate, only one if all fields are of the request; raises `Problem` if not valid."""
    columns = [request.columns[field] for field in fields]
    if len(columns) > 1:
        longest = max(map(len, columns))
        columns = [column if len(column) == longest else column.repeat(longest) for column in columns]
    try:
        return encode_columns(schema, columns)
    except InputError as error:
        raise Problem(problems.BAD_KEY, f"{error} It comes from {', '.join(fields)}.") from None


class ViewUnavailable(NoScores):
    """A view has no version here that may be read."""

    reason = "lookup"


class ContractBroken(NoScores):
    """The contract of a view differs from the one that the model was trained with."""

    reason = "contract"


class ViewLookups:
    def __init__(
        self, contracts: tuple[LookupContract, ...], served: Mapping[str, VersionAnswers], *, refuses: bool
    ) -> None:
        self._lookups = [_ContractLookup(contract) for contract in contracts]
        self._served = served
        self._refuses = refuses

    def is_remote(self) -> bool:
        """Return True if a view is served from another machine now, so that look-ups must be awaited."""
        return any(not isinstance(found.snapshot, (Snapshot, PartialVersion)) for each in self._lookups
                   if (found := each.find_version(self._served)) is not None)  # fmt: skip

    def read(self, request: ParsedRequest, now: float) -> LookupResult:
        """Do the look-ups of a request, on this thread.

        Raises:
            NoScores: The model must not be called with the versions that are served.
            Problem: The values of a key are not valid.
        """
        found = LookupResult()
        for each in self._lookups:
            bound = self.bind_version(each, now, found)
            keys = keys_of(bound.answers.manifest.key, each.contract.by, request)
            assert bound.rows is not None, "views on another machine are read by the plug-in `redis`"
            self.read_local(each, bound, found, keys, now)
        return found

    def bind_version(self, lookup: "_ContractLookup", now: float, found: LookupResult) -> "_BoundLookup":
        """Return the served version of a look-up's view, after checking its contract; raises as `read`."""
        view = lookup.contract.view
        answers = lookup.find_version(self._served)
        if answers is None:
            raise ViewUnavailable(f"The view {view} has no published version here.")
        if isinstance(answers.snapshot, PartialVersion):
            raise ViewUnavailable(f"Version {answers.manifest.version} of the view {view} is not here as a whole yet.")
        if not answers.valid_from <= now < answers.valid_until:
            answers.refresh(now)
        if answers.refused:
            raise ViewUnavailable(f"Version {answers.manifest.version} of the view {view} is too old to be served.")
        bound = lookup.bind(answers)
        if bound.live is not None and not bound.live.can_merge_at(now):
            raise ViewUnavailable(
                f"Version {answers.manifest.version} of the live view {view} is too old to be merged."
            )
        if bound.broken:
            if self._refuses or not answers.manifest.is_packed:
                raise ContractBroken(bound.broken)
            found.warnings.append(bound.broken)
        found.versions[answers.manifest.pipeline] = answers
        return bound

    @classmethod
    def read_local(
        cls, lookup: "_ContractLookup", bound: "_BoundLookup", found: LookupResult, keys: list[bytes], now: float
    ) -> None:
        matrix, known, live = bound.read(keys, now)
        if live is not None:
            found.merged[lookup.contract.called] = live
        cls.add_rows(lookup, bound, found, matrix, known)

    @staticmethod
    def add_rows(
        lookup: "_ContractLookup", bound: "_BoundLookup", found: LookupResult, matrix: np.ndarray, known: np.ndarray
    ) -> None:
        """Add rows to `found`, with the columns in the order of the training."""
        contract = lookup.contract
        if bound.places is not None:
            matrix = np.where(bound.places >= 0, matrix[:, bound.places], np.float32(np.nan))
        if contract.max_age_h is not None and bound.answers.age_s > contract.max_age_h * 3600:
            matrix, known = np.full_like(matrix, np.nan), np.zeros_like(known)
        found.views[contract.called], found.known[contract.called] = matrix, known

    def __iter__(self) -> Any:
        return iter(self._lookups)


class _ContractLookup:
    def __init__(self, contract: LookupContract) -> None:
        self.contract = contract
        self._kept = kept_name(contract.view, contract.contract)
        self._bound: _BoundLookup | None = None

    def find_version(self, served: Mapping[str, VersionAnswers]) -> VersionAnswers | None:
        """Return the served version of the view; that of the kept contract if it has another contract, or is older."""
        answers, kept = served.get(self.contract.view), served.get(self._kept)
        if kept is None or answers is None:
            return kept or answers
        has_contract = answers.manifest.contract == self.contract.contract
        return answers if has_contract and answers.manifest.as_of >= kept.manifest.as_of else kept

    def bind(self, answers: VersionAnswers) -> "_BoundLookup":
        if self._bound is None or self._bound.answers is not answers:
            self._bound = _bind(self.contract, answers)
        return self._bound


@dataclass(frozen=True, slots=True)
class _BoundLookup:
    """A look-up with the version that it reads."""

    answers: VersionAnswers
    places: np.ndarray | None  # of the training's columns in the version's matrix, -1: missing; None: equal
    broken: str  # how the version differs from the contract of the training; "" if it does not
    rows: RowCache | None = None  # reads the version; None if it is on another machine
    live: LiveMerger | None = None  # merges the tiles of a live view; None for other views

    def read(self, keys: list[bytes], now: float) -> tuple[np.ndarray, np.ndarray, LiveRead | None]:
        """Return columns, float32 [n, columns], which keys have a row, bool [n], and what a live view read."""
        assert self.rows is not None
        matrix, known = self.rows.matrix(keys)
        if self.live is not None:
            return self.live.merge(keys, matrix, known, now)
        manifest = self.answers.manifest
        return (matrix[:, : len(manifest.columns)] if manifest.states else matrix), known, None


def _bind(contract: LookupContract, answers: VersionAnswers) -> _BoundLookup:
    manifest = answers.manifest
    if not manifest.is_packed:
        return _BoundLookup(answers, None, f"The store {contract.view} holds JSON, not the features of a view.")
    places = None
    if manifest.columns != contract.columns:
        known = {name: place for place, name in enumerate(manifest.columns)}
        places = np.array([known.get(name, -1) for name in contract.columns])
    broken = "" if manifest.contract == contract.contract else _difference(contract, manifest)
    snapshot = answers.snapshot
    rows = RowCache(snapshot.matrix, manifest.width) if isinstance(snapshot, Snapshot) else None
    live, unfit = live_merger_of(answers)
    return _BoundLookup(answers, places, broken or unfit, rows, live)


def _difference(contract: LookupContract, manifest: Manifest) -> str:
    missing = [name for name in contract.columns if name not in manifest.columns]
    lacks = f" It lacks {', '.join(missing[:5])}." if missing else ""
    return (
        f"Version {manifest.version} of the view {contract.view} is not what the model was trained with: its contract "
        f"is {manifest.contract[:12] or 'none'}, not {contract.contract[:12] or 'none'}.{lacks}"
    )
