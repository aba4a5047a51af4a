"""Cost of running streams, by the processor time that each engine reports of its own process."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from forecache.base.errors import ForecacheError
from forecache.base.prices import CPU, hourly_price
from forecache.base.settings import Settings
from forecache.base.stream_state import StreamState, is_running, read_state
from forecache.declare.loading import read_project
from forecache.plugins.cost.cost_line import CostLine, hourly_line

_FRESH_S = 15.0
"""Age up to which a state is that of a running stream, even if its process is on another machine."""
_LEAST_S = 60.0
"""Least age of a process: a younger one has mostly been starting."""


@dataclass(frozen=True)
class StreamUse:
    """Use of a stream's process since its start.

    Attributes:
        core_s: Core seconds; None if they are not known.
        seconds: Time since the start.
        events: Committed events.
        why: Reason why its use is not known, as a sentence; "" if it is.
    """

    name: str
    engine: str
    core_s: float | None
    seconds: float
    events: int
    why: str = ""

    @property
    def core_hours_per_million(self) -> float | None:
        """Core-hours of a million events; None if not known, or without events."""
        return None if self.core_s is None or not self.events else self.core_s / 3600 / self.events * 1e6

    def price_per_million(self, settings: Settings) -> float | None:
        """Price of a million events on demand; None if it is not known, or the settings have no price."""
        hours, price = self.core_hours_per_million, hourly_price(CPU, settings.prices)
        return None if hours is None or price is None else hours * price[0]


def use_of_streams(settings: Settings, *, at: float | None = None) -> list[StreamUse]:
    """Use of the declared streams; empty if the project cannot be imported."""
    try:
        streams = read_project(settings).streams.values()
    except ForecacheError:
        return []
    now = time.time() if at is None else at
    return [_use_of_stream(settings, stream.name, stream.engine, now) for stream in streams]


def _use_of_stream(settings: Settings, name: str, engine: str, now: float) -> StreamUse:
    state = read_state(settings.home_path, name)
    if state is None or state.stopped_at or not _is_running_now(settings, name, state, now):
        return _unknown_use(name, engine, "it does not run with this home folder")
    seconds = state.written_at - state.started_at
    if state.cpu_s is None:
        return _unknown_use(name, engine, "its process does not say it")
    if seconds < _LEAST_S:
        return _unknown_use(name, engine, "its process was started less than a minute ago")
    return StreamUse(name, state.engine or engine, state.cpu_s, seconds, state.rows)


def _is_running_now(settings: Settings, name: str, state: StreamState, now: float) -> bool:
    return now - state.written_at < _FRESH_S or is_running(settings.home_path, name)


def _unknown_use(name: str, engine: str, why: str) -> StreamUse:
    return StreamUse(name, engine, None, 0.0, 0, f"What the stream {name} takes is not known: {why}.")


def stream_lines(settings: Settings, uses: Sequence[StreamUse]) -> Iterator[CostLine]:
    """A line for each stream whose use is known: a day of its process, at the mean since its start."""
    for use in uses:
        if use.core_s is not None:
            hours = use.core_s / use.seconds * 24
            basis = f"measured for {use.seconds / 3600:.3g} h"
            what = f"engine {use.engine}"
            yield hourly_line(settings, "streams", use.name, what, hours, "core-hours", priced_by=CPU, basis=basis)
