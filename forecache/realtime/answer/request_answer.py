"""The answer to a request, before a protocol encodes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from forecache.realtime.request.parsed_request import LiveRead
from forecache.serve.reader.versions.answers import VersionAnswers

MODEL = "model"


@dataclass(slots=True)
class StageTimes:
    """Nanoseconds of the stages of one answer; 0 for a skipped stage. `ladder` is the time of the fallbacks."""

    wait: int = 0
    parse: int = 0
    lookup: int = 0
    transform: int = 0
    model: int = 0
    ladder: int = 0


@dataclass(slots=True)
class RequestAnswer:
    """The scores of one request and where they come from.

    Attributes:
        items: Identifier of each candidate, in the order of the request; empty if the answer is one value.
        scores: [n] in the order of the request; None: there are none, candidates stay in the order given.
        single: Which scores were float32 before those of several fallbacks were joined, bool [n]; None: `scores` has
            the type that they were computed in.
        rung: Name of the fallback that gave all scores, or "model"; "" if they come from several.
        rungs: If the scores come from several, the name for each candidate.
        order: Indices of the candidates, best first; None: as given.
        used: The versions that the answer comes from, by store name.
        why: Reason why the model did not answer; "" if it did.
        flags: Faults of the model's input, each a sentence.
        elapsed, late: Nanoseconds since the request arrived, and whether its deadline had passed, as the answer says.
        features: Output of the transform, float32 [n, num_features] or its bytes; None if the model was not called.
        live: By look-up of a live view, what was read beside the version.
    """

    items: Sequence[Any]
    scores: np.ndarray | None
    rung: str
    rungs: Sequence[str] = ()
    order: np.ndarray | None = None
    used: Mapping[str, VersionAnswers] = field(default_factory=dict)
    why: str = ""
    flags: Sequence[str] = ()
    request_id: str = ""
    single: np.ndarray | None = None
    times: StageTimes = field(default_factory=StageTimes)
    elapsed: int = 0
    late: bool = False
    features: np.ndarray | bytes | None = None
    live: Mapping[str, LiveRead] = field(default_factory=dict)

    @property
    def is_by_model(self) -> bool:
        """Return True if the model was called; an answer without candidates is by nobody."""
        return not self.why and self.scores is not None
