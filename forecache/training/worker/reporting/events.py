"""Events that a run reports to its parent: rank 0 appends one JSON object per line to the metrics file of the run."""

import json
import time
from typing import Any

from forecache.training.spec import METRICS_FILE, TrainingSpec


class Events:
    """Appends events to the run's metrics file, which the parent follows."""

    def __init__(self, spec: TrainingSpec) -> None:
        self.path = spec.folder / METRICS_FILE

    def __call__(self, event: str, **values: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"event": event, "time": time.time(), **values}) + "\n")


def silent(event: str, **values: Any) -> None:
    """Reports nothing, for ranks other than 0."""
