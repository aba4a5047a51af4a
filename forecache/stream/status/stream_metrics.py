"""Adds the metrics of streams and live layers to a page for Prometheus."""

import time
from collections.abc import Iterator

from forecache.base.settings import Settings
from forecache.base.stream_state import StreamState
from forecache.kit.metrics.page import MetricsPage, six_digits
from forecache.stream.status.stream_status import read_stream_statuses


def add_streams(page: MetricsPage, settings: Settings) -> None:
    """Add the metrics of every declared stream; metrics of events that have not happened yet have no samples."""
    found = read_stream_statuses(settings)
    page.add_each(
        [(now.stream.name, now) for now in found],
        {
            "forecache_stream_running": lambda now: int(now.is_running),
            "forecache_stream_starts_total": lambda now: now.starts.total,
            "forecache_stream_delay_limit_seconds": lambda now: six_digits(now.stream.max_lag_s),
        },
    )
    states = [(now.stream.name, now.state) for now in found if now.state is not None]
    page.add(
        "forecache_stream_lag_events",
        (((name, partition), lag) for name, state in states for partition, lag in _lags(state)),
    )
    page.add(
        "forecache_stream_delay_seconds",
        (
            ((name, percentile), six_digits(seconds))
            for name, state in states
            for percentile, seconds in (("50", state.delay_p50_s), ("99", state.delay_p99_s))
        ),
    )
    page.add_each(
        states,
        {
            "forecache_stream_rows_total": lambda state: state.rows,
            "forecache_stream_bad_messages_total": lambda state: state.bad,
            "forecache_stream_repeated_events_total": lambda state: state.repeats,
            "forecache_stream_late_events_total": lambda state: state.late,
            "forecache_stream_last_commit_timestamp_seconds": lambda state: _unix_seconds(state.committed_at),
            "forecache_stream_committed_version": lambda state: _version_if_any(state.committed_version),
            "forecache_stream_release": lambda state: state.release,
            "forecache_stream_said_timestamp_seconds": lambda state: round(state.written_at, 3),
        },
    )
    at = time.time()
    page.add_each(
        [((now.stream.name, layer.store), layer) for now in found for layer in now.layers],
        {
            "forecache_live_rows": lambda layer: layer.rows,
            "forecache_live_applied_version": lambda layer: _version_if_any(layer.applied),
            "forecache_live_verified_version": lambda layer: _version_if_any(layer.verified_through),
            "forecache_live_differed_total": lambda layer: layer.differed,
            "forecache_live_comparison_seconds": lambda layer: six_digits(layer.comparison_s or None),
            "forecache_live_verified_timestamp_seconds": lambda layer: _unix_seconds(layer.verified_at),
            "forecache_live_verified_until_timestamp_seconds": lambda layer: _unix_seconds(
                layer.verification_deadline(at)
            ),
        },
    )


def _lags(state: StreamState) -> Iterator[tuple[str, int]]:
    for partition, end in sorted(state.end_offsets.items(), key=lambda item: int(item[0])):
        yield partition, max(0, end - state.offsets.get(partition, 0))


def _version_if_any(version: int) -> int | None:
    return version if version >= 0 else None


def _unix_seconds(at: float | None) -> float | None:
    """A time to the millisecond; None for 0, which is never."""
    return round(at, 3) if at else None
