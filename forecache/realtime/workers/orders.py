"""What a model process is told by the reader that has it started."""

import json
from dataclasses import asdict, dataclass

from forecache.realtime.workers.memory import Layout


@dataclass(frozen=True)
class Orders:
    """
    Attributes:
        load: `module:function`, see `Load`.
        folder: What it is given.
        batch_s: Longest time that a batch may take, as far as it can be foreseen.
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
