"""Run transform and model on the calling thread, for replays outside the request path."""

from dataclasses import dataclass, field

import numpy as np

from forecache.pipeline.realtime.building import Columns
from forecache.realtime.answer.answered import Times
from forecache.realtime.release.load import LoadedRelease
from forecache.realtime.request.parsed import Found, ParsedRequest


@dataclass
class DirectPath:
    """A `ModelPath` without a CPU guard or a time limit; errors of transform and model reach the caller."""

    loaded: LoadedRelease
    in_loop: bool = True
    times: Times = field(default_factory=Times)

    def score_now(self, request: ParsedRequest, found: Found, left_ns: int) -> np.ndarray:
        rows = self.loaded.builder.rows(Columns(request.length, request.columns), found.views, found.known)
        found.features = self.loaded.features_of(rows)
        return self.loaded.scores_of(found.features)

    async def score(self, request: ParsedRequest, found: Found, until: float) -> np.ndarray:
        raise AssertionError("the engine asks a path in the loop at once")

    def expected_s(self) -> float:
        return 0.0

    def close(self) -> None:
        """Do nothing: no resources beside the release."""
