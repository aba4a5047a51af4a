"""A request as its transform, its model and its answer need it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(slots=True)
class ParsedRequest:
    """The columns of one request.

    Attributes:
        length: Number of its candidates; 1 where it has none.
        columns: By field of the request or of its candidates, the values [length]; see `RequestField`.
        items: What names each candidate in the answer, as the client sent it; empty where it has none.
        request_id: As the client sent it; "" if it did not.
        body: The request as own JSON, which a worker process parses again to the same columns.
    """

    length: int
    columns: Mapping[str, np.ndarray]
    items: Sequence[Any]
    body: bytes
    request_id: str = ""


@dataclass(slots=True)
class Found:
    """What a request looked up.

    Attributes:
        views: By look-up, float32 [n, d], read-only; NaN where the key has no row.
        known: By look-up, bool [n]: whether the key has a row.
    """

    views: dict[str, np.ndarray] = field(default_factory=dict)
    known: dict[str, np.ndarray] = field(default_factory=dict)
