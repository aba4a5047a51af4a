"""Alerts about streams that do not run, or run with problems."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone

from forecache.alerts.alert import Alert, Kind, Severity
from forecache.monitoring.streams.overview import StreamNow, stream_now
from forecache.monitoring.streams.verdicts import Check, judged
from forecache.pipeline.project import Project
from forecache.settings import Settings

_KINDS: Mapping[Check, tuple[Kind, Severity]] = {
    "runs": ("stream_dead", "critical"),
    "lag": ("stream_behind", "warning"),
    "throughput": ("stream_behind", "warning"),
    "last_commit": ("stream_behind", "warning"),
    "delay": ("stream_delayed", "warning"),
    "bad_messages": ("stream_bad", "warning"),
    "verified": ("stream_unverified", "critical"),
}
STREAM_KINDS: tuple[Kind, ...] = tuple(dict.fromkeys(kind for kind, _ in _KINDS.values()))


def streams_not_well(settings: Settings, project: Project) -> Iterator[Alert]:
    """An alert of each kind for each declared stream with problems.

    A stream that never ran, or that somebody stopped, is dead only if FORECACHE_STREAM_KEEP_RUNNING is set.
    """
    for stream in project.streams.values():
        yield from _alerts(settings, stream_now(settings, stream))


def _alerts(settings: Settings, now: StreamNow) -> Iterator[Alert]:
    is_wanted = settings.stream_keep_running or now.word in ("runs", "died")
    told: dict[tuple[Kind, Severity], list[str]] = {}
    for each in judged(now) if is_wanted else ():
        is_known = now.is_running or each.check in ("runs", "bad_messages", "verified")
        if not each.passed and is_known:
            told.setdefault(_KINDS[each.check], []).append(each.sentence)
    state = now.state
    for (kind, severity), sentences in told.items():
        at = state.written_at if kind == "stream_dead" and state is not None and not now.is_running else now.at
        details = {"lag_events": state.lag_events, "starts": now.starts.total} if state is not None else {}
        yield Alert(
            kind, now.stream.name, severity, " ".join(sentences), details, datetime.fromtimestamp(at, timezone.utc)
        )
