"""The status of each declared stream on this machine."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.base.stream_state import StreamState, is_running, read_state
from forecache.declare import Stream
from forecache.declare.loading import read_project
from forecache.stream.status.layer_status import LayerStatus, read_layer_statuses
from forecache.stream.status.starts import Starts, read_starts

FRESH_S = 15.0
"""A state that is younger counts as that of a running stream, whose process may be on another machine."""
Word = Literal["runs", "died", "stopped", "never ran"]


@dataclass(frozen=True)
class StreamStatus:
    """
    Attributes:
        state: The last state of its engine; None: it never ran with this home folder.
        is_running: True if a process of this machine runs it, or another machine's wrote its state within `FRESH_S`.
        at: Unix time of this status.
        most_bad: Share of its messages that may be bad.
    """

    stream: Stream
    state: StreamState | None
    is_running: bool
    starts: Starts
    layers: tuple[LayerStatus, ...]
    at: float
    most_bad: float

    @property
    def status(self) -> Word:
        if self.is_running:
            return "runs"
        if self.state is None:
            return "never ran"
        return "stopped" if self.state.stopped_at else "died"


def read_stream_status(settings: Settings, stream: Stream, *, at: float | None = None) -> StreamStatus:
    """Read the status of a stream."""
    now, home = time.time() if at is None else at, settings.home_path
    state = read_state(home, stream.name)
    is_fresh = state is not None and not state.stopped_at and now - state.written_at < FRESH_S
    runs = is_running(home, stream.name) or is_fresh
    starts = read_starts(home, stream.name).reset_if_stable(state)
    return StreamStatus(
        stream, state, runs, starts, read_layer_statuses(settings, stream), now, settings.stream_most_bad
    )


def read_stream_statuses(settings: Settings) -> list[StreamStatus]:
    """Read the status of all declared streams; none if the project cannot be imported."""
    try:
        streams = read_project(settings).streams.values()
    except ForecacheError:
        return []
    return [read_stream_status(settings, stream) for stream in streams]


def describe_stream(now: StreamStatus) -> dict[str, Any]:
    """Convert a status to JSON values for the status page and for scripts, without paths and secrets."""
    from forecache.stream.status.stream_checks import evaluate_checks

    state = now.state or StreamState()
    return {
        "name": now.stream.name,
        "topic": now.stream.topic.topic,
        "engine": state.engine or now.stream.engine,
        "freshness": state.freshness or now.stream.freshness,
        "state": now.status,
        "lag_events": state.lag_events,
        "rows": state.rows,
        "rows_per_s": round(state.rows_per_s, 1),
        "delay_p50_s": state.delay_p50_s,
        "delay_p99_s": state.delay_p99_s,
        "committed_version": state.committed_version,
        "committed_s_ago": _seconds_ago(state.committed_at, now.at),
        "bad": state.bad,
        "repeats": state.repeats,
        "late": state.late,
        "release": state.release,
        "starts": now.starts.total,
        "last_error": state.last_error,
        "layers": [_describe_layer(each, now) for each in now.layers],
        "not_well": [each.sentence for each in evaluate_checks(now) if not each.passed],
    }


def _describe_layer(layer: LayerStatus, now: StreamStatus) -> Mapping[str, Any]:
    return {
        "store": layer.store,
        "rows": layer.rows,
        "applied": layer.applied,
        "verified_through": layer.verified_through,
        "verified_s_ago": _seconds_ago(layer.verified_at, now.at),
    }


def _seconds_ago(then: float, now: float) -> float | None:
    return round(max(0.0, now - then), 1) if then else None
