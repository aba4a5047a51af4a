"""A label as an object that is called."""

from typing import Any

THRESHOLD = 0.5


class Labeller:
    def __init__(self, least: int) -> None:
        self.least = least

    def __call__(self, entities: Any, events: Any) -> Any:
        return self.at_least(events)

    def at_least(self, events: Any) -> Any:
        return len(events) >= max(self.least, THRESHOLD)
