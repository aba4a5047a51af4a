"""A request as its transform, its model and its answer need it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np


@dataclass(slots=True)
class ParsedRequest:
    """The columns of one request.

    Attributes:
        length: Number of its candidates; 1 where it has none.
        columns: By field, its values: [length] of a candidate's, [1] of the request's own; see `RequestField`.
        items: What names each candidate in the answer, as the client sent it; empty where it has none.
        body: The request as own JSON, which a worker process parses again to the same columns.
        request_id: As the client sent it; "" if it did not.
    """

    length: int
    columns: Mapping[str, np.ndarray]
    items: Sequence[Any]
    body: bytes
    request_id: str = ""


class LiveRead(NamedTuple):
    """From what a look-up of a live view was answered, beside its version: enough to compute it again later.

    Attributes:
        view: Name of the view.
        at_us: The moment, in microseconds of Unix time.
        position: The largest Delta version of the stream's table that a row of its keys is from; -1: none had one. As
            all rows were read at one moment, the keys have all of their events up to this version, and none after it.
        layer: Names the declaration of the live layer; see `LiveLayer.values`.
        pending: By the place of a key in the look-up, the offsets behind the events that it had, JSON lists by
            partition: of keys whose newest events were not committed yet.
    """

    view: str
    at_us: int
    position: int
    layer: str
    pending: Mapping[int, bytes]


@dataclass(slots=True)
class Found:
    """What a request looked up; a look-up by fields of the request alone has one row.

    Attributes:
        views: By look-up, float32 [length, d] or [1, d]; NaN where the key has no row.
        known: By look-up, bool [length] or [1]: whether the key has a row.
        versions: By store, which version was read.
        flags: What is wrong with what was read, each a sentence; the model is asked all the same.
        merged: Look-ups of live views, whose rows are those of no version, and from what they were answered.
        features: What the transform made of the request, float32 [length, num_features] or its bytes, until the next
            request at least; from another process, only where answers are logged.
    """

    views: dict[str, np.ndarray] = field(default_factory=dict)
    known: dict[str, np.ndarray] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    merged: dict[str, LiveRead] = field(default_factory=dict)
    features: np.ndarray | bytes | None = None
