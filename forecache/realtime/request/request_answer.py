"""A request on its way: parsed, looked up, and answered, before a protocol encodes the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from forecache.serve.reader.versions.answers import VersionAnswers


@dataclass(slots=True)
class ParsedRequest:
    """The columns of one request."""

    length: int  # number of candidates; 1 for a model that ranks none
    columns: Mapping[str, np.ndarray]  # by field: [length] for one of candidates, [1] for one of the request
    items: Sequence[Any]  # identifiers in the answer, as the client sent them; empty without candidates
    body: bytes  # the request in the reader's own JSON, for the request log
    request_id: str = ""  # as the client sent it; "" if it did not


class LiveRead(NamedTuple):
    """Data that a look-up of a live view read beside its version, enough to compute the features again later.

    Attributes:
        position: The largest Delta version of the stream's table among the rows read; -1 if there was no row. All
            rows are read at one moment, so the keys have all events up to this version and none after it.
        pending: For keys whose newest events were not committed yet, by the index of the key in the look-up: the
            offsets after those events, a JSON list by partition.
    """

    view: str  # name of the view
    at_us: int  # time of the look-up, in microseconds of Unix time
    position: int
    layer: str  # identifies the declaration of the live layer; see `LiveLayer.values`
    pending: Mapping[int, bytes]


@dataclass(slots=True)
class LookupResult:
    """Result of the look-ups of a request; a look-up by fields of the request alone has one row.

    Attributes:
        features: Output of the transform, float32 [length, num_features] or its bytes, valid until the next request
            at least; from another process only if answers are logged.
    """

    views: dict[str, np.ndarray] = field(default_factory=dict)  # float32 [length or 1, d] by look-up; NaN: no row
    known: dict[str, np.ndarray] = field(default_factory=dict)  # bool [length or 1]: the key has a row
    versions: dict[str, Any] = field(default_factory=dict)  # by store, the version that was read
    warnings: list[str] = field(default_factory=list)  # faults of what was read, each a sentence
    merged: dict[str, LiveRead] = field(default_factory=dict)  # what look-ups of live views read
    features: np.ndarray | bytes | None = None


MODEL = "model"


@dataclass(slots=True)
class StageTimes:
    """Nanoseconds of the stages of one answer; 0 for a skipped stage. `fallbacks` is the time of the fallbacks."""

    wait: int = 0
    parse: int = 0
    lookup: int = 0
    transform: int = 0
    model: int = 0
    fallbacks: int = 0


@dataclass(slots=True)
class RequestAnswer:
    """The scores of one request and where they come from.

    Attributes:
        single: Which scores were float32 before those of several fallbacks were joined, bool [n]; None: `scores` has
            the type that they were computed in.
    """

    items: Sequence[Any]  # identifier of each candidate, in the order of the request; empty if the answer is one value
    scores: np.ndarray | None  # [n] in the order of the request; None: candidates stay in the order given
    answered_by: str  # name of the fallback that gave all scores, or "model"; "" if they come from several
    item_answered_by: Sequence[str] = ()  # if the scores come from several, the name for each candidate
    order: np.ndarray | None = None  # indices of the candidates, best first; None: as given
    used: "Mapping[str, VersionAnswers]" = field(default_factory=dict)  # what it comes from, by store
    fallback_reason: str = ""  # reason why the model did not answer; "" if it did
    warnings: Sequence[str] = ()  # faults of the model's input, each a sentence
    request_id: str = ""
    single: np.ndarray | None = None
    times: StageTimes = field(default_factory=StageTimes)
    elapsed: int = 0  # nanoseconds since the request arrived, as the answer says
    late: bool = False  # the deadline had passed, as the answer says
    features: np.ndarray | bytes | None = None  # float32 [n, num_features] or its bytes; None: no call of the model
    live: Mapping[str, LiveRead] = field(default_factory=dict)  # what live views read

    @property
    def is_by_model(self) -> bool:
        """Return True if the model was called; an answer without candidates is by nobody."""
        return not self.fallback_reason and self.scores is not None


def lowest_fallback(item_answered_by: Sequence[str]) -> str:
    """Return the last fallback in the usual order among those that candidates come from."""
    return list(dict.fromkeys(sorted(item_answered_by, key=_RANK.__getitem__)))[-1]


_RANK = {MODEL: 0, "dot_product": 1, "precomputed": 2, "default": 3, "order_given": 4}


class NoScores(Exception):
    """The model gave no scores; a fallback answers. `reason`: the cause, as answers and metrics name it."""

    reason = "failed"


class TooLate(NoScores):
    """The scores would come, or came, after the deadline."""

    reason = "deadline"


class WorkerLost(NoScores):
    """The worker process of the request hung, crashed or was replaced."""

    reason = "worker_lost"


class RefusedCallError(NoScores):
    """The request was not given to the model: its queue is full, or its circuit breaker is open."""

    reason = "refused"


class ModelCallError(NoScores):
    """Transform or model raised an error, or returned something of a wrong shape."""
