"""When a release that could not be served is tried again: loading it takes time that the answers need."""

from time import monotonic
from typing import NamedTuple

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0


class _Pause(NamedTuple):
    generation: int
    pause_s: float
    until: float


class Pauses:
    """Pauses before the current release of a model is loaded again, each for one generation of its pointer."""

    def __init__(self) -> None:
        self._of: dict[str, _Pause] = {}

    def lengthen(self, name: str, generation: int) -> None:
        """Start a pause: twice as long as the last one if the pointer has not moved since."""
        before = self._of.get(name)
        again = before is not None and before.generation == generation
        pause_s = min(2 * before.pause_s, _LONGEST_PAUSE_S) if before is not None and again else _FIRST_PAUSE_S
        self._of[name] = _Pause(generation, pause_s, monotonic() + pause_s)

    def is_waiting(self, name: str) -> bool:
        pause = self._of.get(name)
        return pause is not None and monotonic() < pause.until

    def generation(self, name: str) -> int | None:
        """Return the generation of the pointer whose release failed; None if none has failed."""
        pause = self._of.get(name)
        return None if pause is None else pause.generation

    def end(self, name: str) -> None:
        self._of.pop(name, None)
