"""Checks of a stream, shown as asset checks in Dagster, as alerts and on the status page."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

from forecache.base.stream_state import StreamState
from forecache.stream.status.stream_status import VERIFIED_WITHIN_S, LayerStatus, StreamStatus

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
        return StreamCheckResult("runs", False, f"{name} has never run here.")
    if state.stopped_at:
        return StreamCheckResult("runs", False, f"{name} was stopped at {_moment(state.stopped_at)}.")
    why = f" Its last error: {state.last_error}" if state.last_error else ""
    again = (
        f" It was started {now.starts.in_a_row} times in a row and died." if now.starts.is_failing_repeatedly else ""
    )
    return StreamCheckResult("runs", False, f"{name} died after {_moment(state.written_at)}.{again}{why}")


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
