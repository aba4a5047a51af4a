"""The status of each declared stream: engine and starts on all machines, live layers on this one, checks, metrics."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.declare import Stream
from forecache.declare.loading import read_project
from forecache.serve.store.layout import StoreLayout
from forecache.serve.store.live.counters import APPLIED, ENTRIES, LOOKED_AT_US, VERIFIED, is_of_this_boot, read_cells
from forecache.serve.store.live.layer import read_tail_state
from forecache.stream.state import Starts, StreamState, is_reported, is_running, read_starts, read_state

if TYPE_CHECKING:
    from forecache.kit.metrics.page import MetricsPage

VERIFIED_WITHIN_S = 300.0
"""Limit for a layer whose comparisons with the table take some seconds: the tailer makes one every minute."""
MOST_VERIFIED_WITHIN_S = 86_400.0  # largest limit, however long a comparison takes
_MOST_SKEW_S = 600.0  # largest difference of clocks for which a stream that seems dead is watched
Word = Literal["runs", "died", "stopped", "never ran"]
Check = Literal["runs", "lag", "throughput", "delay", "last_commit", "bad_messages", "verified"]
CHECKS: dict[Check, str] = {
    "runs": "A process runs the stream.",
    "lag": "What waits in the topic is done within `max_lag_s`, at the rate of the last minute.",
    "throughput": "Where events wait, rows are committed.",
    "delay": "99 of 100 events are committed within `max_lag_s`.",
    "last_commit": "Where events wait, the last commit is not older than `max_lag_s`.",
    "bad_messages": "No more messages are bad than FORECACHE_STREAM_MOST_BAD allows.",
    "verified": "Each live layer was found equal to the table, as often as the time that a comparison takes allows.",
}


@dataclass(frozen=True)
class LayerStatus:
    """A live layer on this machine, of the store of a view, pipeline or stream. Times are Unix times; 0: never."""

    store: str
    rows: int = 0
    applied: int = -1  # version of the stream's table up to which commits are applied; -1: none yet
    verified_through: int = -1  # version at which it was last found equal to the table; -1: never
    looked_at: float = 0.0  # when the tailer last looked at the table
    verified_at: float = 0.0  # when it was last found equal
    differed: int = 0  # how often it differed from the table, and was rebuilt
    failure: str = ""  # why the tailer cannot continue; "" while it can
    unverified_since: float = 0.0  # since when it has had content that was not compared yet; 0: it has none
    comparing_since: float = 0.0  # when the comparison in progress began; 0: there is none
    compares_all: bool = False  # that one reads all rows of the table
    comparison_s: float = 0.0  # that the last comparison took; 0: none has ended
    compared_every_s: float = 0.0  # from the start of one comparison to that of the next

    def comparison_duration_s(self, at: float) -> float:
        """Return the seconds of the last comparison, or so far of one that is the first or reads all rows."""
        if self.comparing_since and (self.compares_all or not self.comparison_s):
            return max(self.comparison_s, at - self.comparing_since)
        return self.comparison_s

    def verification_limit_s(self, at: float) -> float:
        """Return the seconds within which new content has to be verified.

        That is the time for two comparisons and the pauses before them, so that one may fail or take twice as long.
        """
        needed_s = 2 * (self.compared_every_s + self.comparison_duration_s(at))
        return min(max(VERIFIED_WITHIN_S, needed_s), MOST_VERIFIED_WITHIN_S)

    def verification_deadline(self, at: float) -> float | None:
        """Return the time from which on it counts as not verified, seen at `at`; None if all content was compared."""
        return self.unverified_since + self.verification_limit_s(at) if self.unverified_since else None


def read_layer_status(settings: Settings, store: str) -> LayerStatus:
    """Read the status of a store's live layer; defaults if no tailer of this machine fills it."""
    layout = StoreLayout(settings.store_path / store)
    cells, said = read_cells(layout.streamed_folder / "live.state"), read_tail_state(layout)
    failure = said.failure if said.failing_since else ""
    if cells is None or not is_of_this_boot(cells):
        return LayerStatus(store, differed=said.differed, failure=failure)
    rows, applied, verified = int(cells[ENTRIES]), int(cells[APPLIED]), int(cells[VERIFIED])
    looked_at = max(0, cells[LOOKED_AT_US]) / 1e6
    return LayerStatus(
        store, rows, applied, verified, looked_at, said.verified_at, said.differed, failure,
        said.unverified_since, said.comparing_since, said.compares_all, said.comparison_s, said.compared_every_s,
    )  # fmt: skip


@dataclass(frozen=True)
class StreamStatus:
    stream: Stream
    state: StreamState | None  # the last state of its engine on any machine; None: it never ran
    is_running: bool  # a process of this machine has its lock, or one of any machine reported lately
    starts: Starts
    layers: tuple[LayerStatus, ...]
    at: float
    most_bad: float  # share of its messages that may be bad

    @property
    def status(self) -> Word:
        if self.is_running:
            return "runs"
        if self.state is None:
            return "never ran"
        return "stopped" if self.state.stopped_at else "died"


def read_stream_status(settings: Settings, stream: Stream, *, watches: bool = False) -> StreamStatus:
    """Read the status of a stream.

    Args:
        watches: If the lake is in a bucket, and the state says by its time that the stream died a short time ago, watch
            for some seconds whether a process puts it, as the clock of its machine may differ.
    """
    now = time.time()
    state = read_state(settings, stream.name)
    runs = is_running(settings.home_path, stream.name) or (state is not None and state.is_fresh(now))
    if watches and not runs and settings.lake_is_remote and state is not None and not state.stopped_at:
        from forecache.stream.table.schema import shards_of

        # The state of a stream with shards stands still once one of them does.
        names = [shard.name_of(stream.name) for shard in shards_of(stream)]
        runs = now - state.reported_at < _MOST_SKEW_S and is_reported(settings, *names)
    starts = read_starts(settings, stream.name).reset_if_stable(state)
    layers = tuple(read_layer_status(settings, name) for name in stream.live_names if _is_here(settings, name))
    return StreamStatus(stream, state, runs, starts, layers, now, settings.stream_most_bad)


def _is_here(settings: Settings, store: str) -> bool:
    """Return whether a live layer is to be on this machine: if machines share a bucket, only where readers are."""
    return not settings.lake_is_remote or StoreLayout(settings.store_path / store).streamed_folder.is_dir()


def read_stream_statuses(settings: Settings) -> list[StreamStatus]:
    """Read the status of all declared streams; none if the project cannot be imported."""
    try:
        streams = read_project(settings).streams.values()
    except ForecacheError:
        return []
    return [read_stream_status(settings, stream) for stream in streams]


def describe_stream(now: StreamStatus) -> dict[str, Any]:
    """Convert a status to JSON values for the status page and for scripts, without paths and secrets."""
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
        **{name: getattr(state, name) for name in ("delay_p50_s", "delay_p99_s", "committed_version")},
        "committed_s_ago": _seconds_ago(state.committed_at, now.at),
        **{name: getattr(state, name) for name in ("bad", "repeats", "late", "release")},
        "starts": now.starts.total,
        "last_error": state.last_error,
        "layers": [_describe_layer(each, now) for each in now.layers],
        "not_well": [each.sentence for each in evaluate_checks(now) if not each.passed],
    }


def _describe_layer(layer: LayerStatus, now: StreamStatus) -> Mapping[str, Any]:
    said = {name: getattr(layer, name) for name in ("store", "rows", "applied", "verified_through")}
    return {**said, "verified_s_ago": _seconds_ago(layer.verified_at, now.at)}


def _seconds_ago(then: float, now: float) -> float | None:
    return round(max(0.0, now - then), 1) if then else None


def add_streams(page: "MetricsPage", settings: Settings) -> None:
    """Add the metrics of every declared stream; metrics of events that have not happened yet have no samples."""
    from forecache.kit.metrics.page import six_digits

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
            "forecache_stream_said_timestamp_seconds": lambda state: round(state.reported_at, 3),
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


@dataclass(frozen=True)
class StreamCheckResult:
    """The result of a check; the sentence also says why it passed."""

    check: Check
    passed: bool
    sentence: str


def evaluate_checks(now: StreamStatus) -> Iterator[StreamCheckResult]:
    """Evaluate all checks of a stream; only "runs" if it never ran."""
    name, state = now.stream.name, now.state
    yield _check_process(now)
    if state is None:
        return
    if now.is_running:
        yield from _check_figures(now, state)
    else:
        for check in ("lag", "throughput", "delay", "last_commit"):
            yield StreamCheckResult(check, False, f"Not known: {name} does not run.")
    share = state.bad / max(1, state.bad + state.rows + state.repeats)
    few = f"{share:.2%} of the messages of {name} since it started were bad ({state.bad:,}); {now.most_bad:.2%} may be."
    yield StreamCheckResult("bad_messages", share <= now.most_bad, few)
    if now.layers:
        yield _check_layers(now, state)


def _check_process(now: StreamStatus) -> StreamCheckResult:
    name, state = now.stream.name, now.state
    if now.is_running:
        times = f", after {now.starts.in_a_row} starts in a row that failed" if now.starts.is_failing_repeatedly else ""
        return StreamCheckResult("runs", not now.starts.is_failing_repeatedly, f"{name} runs{times}.")
    if state is None:
        return StreamCheckResult("runs", False, f"{name} has never run.")
    if state.stopped_at:
        return StreamCheckResult("runs", False, f"{name} was stopped at {_moment(state.stopped_at)}.")
    why = f" Its last error: {state.last_error}" if state.last_error else ""
    again = (
        f" It was started {now.starts.in_a_row} times in a row and died." if now.starts.is_failing_repeatedly else ""
    )
    return StreamCheckResult("runs", False, f"{name} died after {_moment(state.reported_at)}.{again}{why}")


def _check_figures(now: StreamStatus, state: StreamState) -> Iterator[StreamCheckResult]:
    name, limit_s = now.stream.name, now.stream.max_lag_s
    waiting, rate = state.lag_events, state.rows_per_s
    since_s = now.at - max(state.committed_at, state.started_at)
    is_young = since_s <= limit_s
    work_s = waiting / rate if rate else None
    if work_s is not None:
        lag = f"{waiting:,} events of {name} wait, {work_s:.1f} s of work at {rate:,.0f} rows/s; {limit_s:g} s may be."
    else:
        lag = f"{waiting:,} events of {name} wait, and none was committed in the last minute."
    yield StreamCheckResult("lag", not waiting or (work_s <= limit_s if work_s is not None else is_young), lag)
    moves = not waiting or rate > 0 or is_young
    yield StreamCheckResult("throughput", moves, f"{name} commits {rate:,.1f} rows/s, and {waiting:,} events wait.")
    p50, p99 = state.delay_p50_s, state.delay_p99_s
    if p99 is None or p50 is None:
        yield StreamCheckResult("delay", True, f"No event of {name} came in the last minute.")
    else:
        delay = f"Half of the events of {name} are committed within {p50:.2f} s, 99 of 100 within {p99:.2f} s"
        delay = f"{delay}; {limit_s:g} s may be."
        yield StreamCheckResult("delay", p99 <= limit_s, delay)
    last = f"at {_moment(state.committed_at)}" if state.committed_at else "not yet"
    commit = f"{name} committed last {last}, version {state.committed_version}; {waiting:,} events wait."
    yield StreamCheckResult("last_commit", not waiting or is_young, commit)


def _check_layers(now: StreamStatus, state: StreamState) -> StreamCheckResult:
    """Check all live layers of a stream; a tailer may take some minutes after the first commit."""
    told, name = [], now.stream.name
    for layer in now.layers:
        if layer.failure:
            told.append(f"the tailer of {layer.store} cannot go on: {layer.failure.rstrip('.')}")
        elif layer.applied < 0:
            if state.committed_version >= 0 and now.at - max(state.started_at, state.committed_at) > VERIFIED_WITHIN_S:
                told.append(f"the live layer of {layer.store} has applied nothing")
        elif (until := layer.verification_deadline(now.at)) is not None and now.at > until:
            told.append(_describe_unverified(layer, now.at))
    if told:
        return StreamCheckResult("verified", False, f"Of {name}, {'; '.join(told)}.")
    through = ", ".join(f"{layer.store} through version {layer.verified_through}" for layer in now.layers)
    return StreamCheckResult("verified", True, f"Verified: {through}.")


def _describe_unverified(layer: LayerStatus, at: float) -> str:
    when = f"since {_moment(layer.verified_at)}" if layer.verified_at else "yet"
    took_s = layer.comparison_duration_s(at)
    takes = f", which takes {took_s:,.0f} s," if took_s >= 1 else ""
    within = f"{layer.verification_limit_s(at):,.0f} s may be"
    return f"the live layer of {layer.store} was not found equal to the table{takes} {when}; {within}"


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"
