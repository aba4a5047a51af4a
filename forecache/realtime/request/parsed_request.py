"""A parsed request, and the features that were looked up for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


@dataclass(slots=True)
class ParsedRequest:
    """The columns of one request.

    Attributes:
        length: Number of candidates; 1 for a model that ranks none.
        columns: Values by field: [length] for a field of candidates, [1] for one of the request; see `RequestField`.
        items: The identifier of each candidate in the answer, as the client sent it; empty without candidates.
        body: The request in the reader's own JSON, for the request log.
        request_id: As the client sent it; "" if it did not.
    """

    length: int
    columns: Mapping[str, np.ndarray]
    items: Sequence[Any]
    body: bytes
    request_id: str = ""


class LiveRead(NamedTuple):
    """Data that a look-up of a live view read beside its version, enough to compute the features again later.

    Attributes:
        view: Name of the view.
        at_us: Time of the look-up, in microseconds of Unix time.
        position: The largest Delta version of the stream's table among the rows read; -1 if there was no row. All
            rows are read at one moment, so the keys have all events up to this version and none after it.
        layer: Identifies the declaration of the live layer; see `LiveLayer.values`.
        pending: For keys whose newest events were not committed yet, by the index of the key in the look-up: the
            offsets after those events, a JSON list by partition.
    """

    view: str
    at_us: int
    position: int
    layer: str
    pending: Mapping[int, bytes]


@dataclass(slots=True)
class LookupResult:
    """Result of the look-ups of a request; a look-up by fields of the request alone has one row.

    Attributes:
        views: By look-up, float32 [length, d] or [1, d]; NaN where the key has no row.
        known: By look-up, bool [length] or [1]: True if the key has a row.
        versions: By store, the version that was read.
        flags: Faults of the data that was read, each a sentence; the model is called all the same.
        merged: Look-ups of live views, and what was read for them beside the version.
        features: Output of the transform, float32 [length, num_features] or its bytes, valid until the next request
            at least; from another process only if answers are logged.
    """

    views: dict[str, np.ndarray] = field(default_factory=dict)
    known: dict[str, np.ndarray] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    merged: dict[str, LiveRead] = field(default_factory=dict)
    features: np.ndarray | bytes | None = None
