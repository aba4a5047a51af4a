"""Kills of processes at random moments."""

import random
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType

import psutil
from _store.processes import BenchmarkError

from _stream.broker import Broker
from _stream.supervised import Service

Killed = Service | Broker


@dataclass
class Kills(AbstractContextManager["Kills"]):
    """Kills one of several processes at random moments while the block runs.

    Attributes:
        every_s: Between two kills, on average: the pauses are from half of it to one and a half.
        most: Kills after which it stops; None: as long as the block runs.
        done: What was killed, and when in seconds since the start.
    """

    victims: Sequence[Killed]
    every_s: float
    most: int | None = None
    seed: int = 0
    done: list[tuple[str, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __enter__(self) -> "Kills":
        self._over, self._started = threading.Event(), time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill nothing more."""
        self._over.set()
        self._thread.join()

    @property
    def is_over(self) -> bool:
        return self.most is not None and len(self.done) >= self.most

    def _run(self) -> None:
        rng = random.Random(self.seed)
        order: list[Killed] = []
        while not self.is_over and not self._over.wait(self.every_s * rng.uniform(0.5, 1.5)):
            # Each as often as the others, in an order of chance.
            order = order or rng.sample(self.victims, len(self.victims))
            victim = order.pop()
            try:
                if victim.kill():
                    self.done.append((victim.name, round(time.monotonic() - self._started, 2)))
            except (BenchmarkError, OSError, psutil.Error) as error:
                self.failed.append(f"{victim.name}: {error}")
                return

    def counts(self) -> dict[str, int]:
        """How often each was killed."""
        return {victim.name: sum(name == victim.name for name, _ in self.done) for victim in self.victims}
