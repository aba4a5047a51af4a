"""Repeats the look-ups of many logged requests at once, at the versions that they read and with their ages then."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forecache.plugins.parity.live.live_lookups import LiveLookup
from forecache.plugins.parity.live.stream_replay import StreamReplay
from forecache.plugins.parity.store_versions import VersionRows
from forecache.realtime.release.format import LookupContract
from forecache.realtime.request.parsed_request import ParsedRequest
from forecache.serve.store.keys import encode_columns


@dataclass(frozen=True)
class LookupRows:
    """The rows that several requests looked up; those of request i are `starts[i]` to `starts[i + 1]`.

    Attributes:
        matrix: float32 [n, d] in the order of the columns that the model was trained with.
        known: bool [n].
    """

    matrix: np.ndarray
    known: np.ndarray
    starts: np.ndarray

    def select_request(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of one request, copied, so that its memory is its own as when it was answered."""
        first, last = self.starts[place], self.starts[place + 1]
        return self.matrix[first:last].copy(), self.known[first:last].copy()


def look_up(
    contract: LookupContract,
    held: VersionRows,
    requests: Sequence[ParsedRequest],
    ages_s: Sequence[int],
    live: "LiveLookups | None" = None,
) -> LookupRows:
    """Look up a view for several requests.

    Args:
        ages_s: Age of the version at the time of each request: rows that were too old then count as not found.
        live: The live look-ups of the requests; None: there are none.

    Raises:
        InputError: The values of a request are no valid key.
    """
    columns, lengths = _key_columns(contract.by, requests)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    keys = encode_columns(held.key, columns)
    rows, known = held.matrix(keys)
    matrix = rows[:, : len(held.columns)]
    if live is not None:
        matrix, known = _merge_live_rows(live, held, keys, rows, known, lengths)
    if held.columns != contract.columns:
        places = {name: place for place, name in enumerate(held.columns)}
        order = np.array([places.get(name, -1) for name in contract.columns])
        matrix = np.where(order >= 0, matrix[:, order], np.float32(np.nan))
    if contract.max_age_h is not None:
        too_old = np.repeat(np.array(ages_s) > contract.max_age_h * 3600, lengths)
        matrix[too_old], known[too_old] = np.nan, False
    return LookupRows(matrix, known, starts)


@dataclass(frozen=True)
class LiveLookups:
    """Look-ups of a live view.

    Attributes:
        looks: For each request; None if its rows were those of the version only.
        as_of: ISO date of the version.
    """

    looks: Sequence[LiveLookup | None]
    streamed: StreamReplay
    as_of: str


def _merge_live_rows(
    live: LiveLookups, held: VersionRows, keys: list[bytes], rows: np.ndarray, known: np.ndarray, lengths: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The features that each request had at its time, float32 [n, columns], and which keys were known, bool [n]."""
    matrix, known = rows[:, : len(held.columns)].copy(), known.copy()
    some = np.flatnonzero(np.repeat([look is not None for look in live.looks], lengths))
    looks = [(look, length) for look, length in zip(live.looks, lengths, strict=True) if look is not None]
    at_us = np.repeat([look.at_us for look, _ in looks], [length for _, length in looks])
    bounds = np.concatenate([look.bounds_of(length) for look, length in looks])
    its = [keys[place] for place in some.tolist()]
    matrix[some], known[some] = live.streamed.merge_features(
        held, live.as_of, its, rows[some], known[some], at_us, bounds
    )
    return matrix, known


def keys_of(contract: LookupContract, held: VersionRows, request: ParsedRequest) -> list[bytes]:
    """Encode the keys that a request looked up; raises as `look_up`."""
    columns, _ = _key_columns(contract.by, [request])
    return encode_columns(held.key, columns)


def _key_columns(fields: Sequence[str], requests: Sequence[ParsedRequest]) -> tuple[list[Any], list[int]]:
    """The values of each key column over all requests, and how many keys each request has."""
    lengths = [max(len(request.columns[field]) for field in fields) for request in requests]
    columns = []
    for field in fields:
        parts = [request.columns[field] for request in requests]
        parts = [
            part if len(part) == length else part.repeat(length) for part, length in zip(parts, lengths, strict=True)
        ]
        columns.append(np.concatenate(parts))
    return columns, lengths


def age_of(ages_s: Mapping[str, int], name: str) -> int:
    """The logged age of a version; 0 if the log has none."""
    return int(ages_s.get(name) or 0)
