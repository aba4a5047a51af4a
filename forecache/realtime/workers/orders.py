"""The contract of a model process: the configuration that the reader starts it with, and the scorer that it loads."""

import json
from dataclasses import asdict, dataclass

from forecache.realtime.workers.memory import Layout


@dataclass(frozen=True)
class Orders:
    """Start-up configuration that the reader sends to a model process.

    Attributes:
        load: `module:function` of a `Load`.
        folder: The argument of `load`.
        batch_s: Longest expected time of a batch.
    """

    load: str
    folder: str
    batch_s: float
    layout: Layout

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Orders":
        given = json.loads(text)
        return cls(**{**given, "layout": Layout(**given["layout"])})
