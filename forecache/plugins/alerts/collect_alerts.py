"""Collect the alerts of a project from its present state, and notify people of them."""

import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from forecache.base.alert import LASTING, OF_ONE_MACHINE, Alert, Kind, Severity, Subject
from forecache.base.errors import ForecacheError
from forecache.base.settings import Settings
from forecache.declare.as_of import due_as_of_dates
from forecache.declare.loading import read_project
from forecache.declare.project import Project
from forecache.kit.delta.log import open_if_exists
from forecache.kit.delta.small_tables import read_small_table
from forecache.lake.sources import find_awaited_sources
from forecache.models.registry.model_versions import WAITING
from forecache.models.registry.promotions import PROMOTION_TABLE
from forecache.plugins.alerts.journal import AlertJournal, CursorMove, home_name, read_journal
from forecache.plugins.alerts.notify import NotifyResult, notify
from forecache.realtime.log.read import read_log
from forecache.realtime.log.record import table_of
from forecache.realtime.log.spool_files import lost_rows, read_state, spooled_models
from forecache.realtime.request.request_answer import RefusedCallError
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.remote_store import list_served_manifests
from forecache.stream.status import Check, StreamStatus, evaluate_checks, read_stream_status


def waiting_date_alerts(settings: Settings, project: Project) -> Iterator[Alert]:
    """An alert for each as-of date of the latest run by schedule that lacks a source with missing="wait"."""
    for name, declared in project.nightly.items():
        if all(source.missing != "wait" for source in declared.all_sources):
            continue
        started = declared.schedule.latest_run(datetime.now(timezone.utc))
        first, last = due_as_of_dates(declared, started)
        for night in declared.schedule.as_of_dates(first, last) if last >= declared.start else ():
            late = find_awaited_sources(settings, declared.all_sources, night)
            if late:
                summary = f"{name} waits: {', '.join(late)} has not delivered {night}."
                details = {"as_of": str(night), "sources": late}
                yield Alert("night_waiting", name, "warning", summary, details, started, str(night))


def stale_version_alerts(manifests: Iterable[Manifest]) -> Iterator[Alert]:
    """An alert for each served version that is overdue."""
    now = datetime.now(timezone.utc)
    for manifest in manifests:
        if not manifest.is_overdue(now):
            continue
        age_h = (now - manifest.as_of_end).total_seconds() / 3600
        yield Alert(
            "version_stale",
            manifest.pipeline,
            "critical" if manifest.policy.on_stale == "refuse" else "warning",
            f"Version {manifest.version} of {manifest.pipeline}, as of {manifest.as_of}, is {age_h:,.0f} hours old; "
            f"{manifest.policy.max_age_h:g} are allowed.",
            {
                "version": manifest.version,
                "as_of": manifest.as_of,
                "max_age_h": manifest.policy.max_age_h,
                "on_stale": manifest.policy.on_stale,
            },
            manifest.stale_after,
        )


NEWS = timedelta(days=7)
"""Age up to which decisions are reported."""


def gate_alerts(settings: Settings) -> Iterator[Alert]:
    """An alert for each refusal of the gate, and each model that waits for approval, of the last days."""
    since = datetime.now(timezone.utc) - NEWS
    for row in read_small_table(settings, PROMOTION_TABLE, [("action", "=", "gate"), ("recorded_at", ">=", since)]):
        version = row["candidate"] if row["candidate"] is not None else row["to_version"]
        name, champion = row["pipeline"], row["from_version"]
        details = {"version": version, "champion": champion, "run_id": row["run_id"]}
        # A version may be judged several times.
        occasion = f"{version}, decision {row['position']}"
        if row["verdict"] == "failed":
            stays = f" Version {champion} stays the champion." if champion else ""
            summary = f"The gate refused version {version} of {name}: {_sentence(row)}{stays}"
            yield Alert("gate_refused", name, "warning", summary, details, row["recorded_at"], occasion)
        elif row["verdict"] == WAITING:
            summary = f"Version {version} of {name} waits for approval: {_sentence(row)}"
            yield Alert("approval_awaited", name, "info", summary, details, row["recorded_at"], occasion)


def _sentence(row: dict[str, Any]) -> str:
    return f"{str(row['reason']).rstrip('.')}."


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


def stream_alerts(settings: Settings, project: Project) -> Iterator[Alert]:
    """An alert of each kind for each declared stream with problems.

    A stream that never ran, or that somebody stopped, is dead only if FORECACHE_STREAM_KEEP_RUNNING is set.
    """
    for stream in project.streams.values():
        yield from _alerts_of_stream(settings, read_stream_status(settings, stream, watches=True))


def _alerts_of_stream(settings: Settings, now: StreamStatus) -> Iterator[Alert]:
    is_wanted = settings.stream_keep_running or now.status in ("runs", "died")
    told: dict[tuple[Kind, Severity], list[str]] = {}
    for each in evaluate_checks(now) if is_wanted else ():
        is_known = now.is_running or each.check in ("runs", "bad_messages", "verified")
        if not each.passed and is_known:
            told.setdefault(_KINDS[each.check], []).append(each.sentence)
    state = now.state
    for (kind, severity), sentences in told.items():
        at = state.reported_at if kind == "stream_dead" and state is not None and not now.is_running else now.at
        details = {"lag_events": state.lag_events, "starts": now.starts.total} if state is not None else {}
        yield Alert(
            kind, now.stream.name, severity, " ".join(sentences), details, datetime.fromtimestamp(at, timezone.utc)
        )


_PATIENCE_S = 300.0
_RECENT = timedelta(minutes=10)
_UNASKED_FOR, _UNASKED_REQUESTS = timedelta(minutes=1), 5
"""Least duration and number of refusals: a process is replaced sooner, and one request may be refused by chance."""
_CANDIDATES = ("canary", "shadow")
"""Variants of a candidate, which is judged by its rollout."""


def lost_row_alerts(settings: Settings, cursors: dict[str, CursorMove]) -> Iterator[Alert]:
    """An alert for each model whose log has lost rows since the last look."""
    now, models = datetime.now(timezone.utc), spooled_models(settings.request_log_path)
    journal = read_journal(settings) if models else AlertJournal()
    for model in models:
        name, totals = f"lost rows {model} of {home_name(settings)}", lost_rows(settings, model)
        recorded = journal.cursor(name)
        before: dict[str, int] = json.loads(recorded or "{}")
        lost = {reason: count for reason, total in totals.items() if (count := _increase(before.get(reason, 0), total))}
        cursors[name] = CursorMove(recorded, json.dumps(totals))
        if lost:
            reasons = ", ".join(f"{count:,} by {reason}" for reason, count in sorted(lost.items()))
            summary = f"The request log of {model} lost {sum(lost.values()):,} answers: {reasons}."
            yield Alert("log_rows_lost", model, "warning", summary, lost, now, now.isoformat())


def stuck_log_alerts(settings: Settings, well: list[Subject]) -> Iterator[Alert]:
    """An alert for each log of this machine whose commits have failed for five minutes; its rows wait on the disk.

    The other logs of this machine are added to `well`.
    """
    host = socket.gethostname()
    for model in spooled_models(settings.request_log_path):
        state = read_state(settings.request_log_path / model)
        if state.failing_since and time.time() - state.failing_since > _PATIENCE_S:
            since = datetime.fromtimestamp(state.failing_since, timezone.utc)
            summary = (
                f"The request log of {model} cannot be committed since {since:%Y-%m-%d %H:%M} UTC: {state.failure}"
            )
            yield Alert("log_stuck", model, "warning", summary, {}, since, host)
        else:
            well.append(Subject("log_stuck", model, host))


def unasked_model_alerts(settings: Settings, project: Project) -> Iterator[Alert]:
    """An alert for each model that a reader has not called for a minute or longer, by the newest requests of its log.

    A reader does not call a model if none of its processes makes progress, or if its circuit breaker is open.
    """
    since = datetime.now(timezone.utc) - _RECENT
    columns = ["arrived_at", "replica", "variant", "answered_by", "fallback_reason"]
    for name, declared in project.realtime.items():
        if declared.log is None or open_if_exists(settings, table_of(name)) is None:
            continue
        by_replica: dict[str, list[tuple[datetime, str, str]]] = {}
        for batch in read_log(settings, name, since=since, columns=columns):
            for row in batch.to_pylist():
                if row["variant"] not in _CANDIDATES:
                    answer = (row["arrived_at"], row["fallback_reason"] or "", row["answered_by"] or "")
                    by_replica.setdefault(row["replica"], []).append(answer)
        refused = {replica: last for replica, rows in by_replica.items() if (last := _find_last_refused(rows))}
        if refused:
            began = min(last[0][0] for last in refused.values())
            answers = [each for last in refused.values() for each in last]
            count, item_answered_by = len(answers), sorted({answered_by for _, _, answered_by in answers})
            summary = (
                f"{name} is not asked since {began:%Y-%m-%d %H:%M} UTC by {', '.join(sorted(refused))}: the last "
                f"{count:,} requests were answered by {', '.join(item_answered_by)}. "
                f"The log of the reader says why no process of "
                f"the model answers; `forecache rollback {name}` goes back to the release before."
            )
            yield Alert(
                "model_unasked",
                name,
                "critical",
                summary,
                {"requests": count, "item_answered_by": item_answered_by},
                began,
            )


def _find_last_refused(rows: list[tuple[datetime, str, str]]) -> list[tuple[datetime, str, str]]:
    """The newest answers of a replica, oldest first, if all of a minute or longer came without a call of the model."""
    rows.sort()
    newest_asked = max((place for place, (_, why, _) in enumerate(rows) if why != RefusedCallError.reason), default=-1)
    last = rows[newest_asked + 1 :]
    is_enough = len(last) >= _UNASKED_REQUESTS and last[-1][0] - last[0][0] >= _UNASKED_FOR
    return last if is_enough else []


def _increase(before: int, total: int) -> int:
    """Increase of a counter; that of a new spool starts from 0."""
    return total - before if total >= before else total


@dataclass(frozen=True)
class WatchResult:
    """Alerts found by a look at the project."""

    alerts: tuple[Alert, ...]
    complete: tuple[Kind, ...]  # lasting kinds of which `alerts` has every open alert
    problems: tuple[str, ...]  # parts that could not be looked at, in a sentence each
    well: tuple[Subject, ...] = ()  # subjects of other kinds that were found to be well
    # positions from which the next look reads, to be recorded with the alerts
    cursors: Mapping[str, CursorMove] = field(default_factory=dict)


def collect_alerts(settings: Settings) -> WatchResult:
    """Collect alerts from the stores, the schedules, the promotion ledger, the request logs and the streams."""
    project = read_project(settings)
    cursors: dict[str, CursorMove] = {}
    well: list[Subject] = []
    looks: dict[tuple[Kind, ...], Callable[[], Iterator[Alert]]] = {
        ("version_stale",): lambda: stale_version_alerts(list_served_manifests(settings, project.publishable)),
        ("night_waiting",): lambda: waiting_date_alerts(settings, project),
        ("gate_refused",): lambda: gate_alerts(settings),
        ("log_stuck",): lambda: stuck_log_alerts(settings, well),
        ("log_rows_lost",): lambda: lost_row_alerts(settings, cursors),
        ("model_unasked",): lambda: unasked_model_alerts(settings, project),
        STREAM_KINDS: lambda: stream_alerts(settings, project),
    }
    alerts: list[Alert] = []
    complete: list[Kind] = []
    problems: list[str] = []
    for kinds, each in looks.items():
        try:
            alerts += each()
        except (ForecacheError, OSError) as error:
            problems.append(str(error))
        except Exception as error:  # noqa: BLE001  (the clients of object stores have errors of their own)
            problems.append(f"{type(error).__name__}: {error}")
        else:
            complete += [kind for kind in kinds if kind in LASTING and kind not in OF_ONE_MACHINE]
    return WatchResult(tuple(alerts), tuple(complete), tuple(problems), tuple(well), cursors)


def collect_and_notify(
    settings: Settings,
    alerts: Iterable[Alert] = (),
    well: Iterable[Subject] = (),
    *,
    cursors: Mapping[str, CursorMove] | None = None,
) -> tuple[list[NotifyResult], tuple[str, ...]]:
    """Collect the project's alerts, and notify the receivers of new ones."""
    found = collect_alerts_safely(settings)
    looked = {**(cursors or {}), **found.cursors}
    told = notify(settings, [*alerts, *found.alerts], [*well, *found.well], complete=found.complete, cursors=looked)
    return told, found.problems


def collect_alerts_safely(settings: Settings) -> WatchResult:
    """Collect alerts; a project that cannot be imported is reported as a problem, not raised."""
    try:
        return collect_alerts(settings)
    except ForecacheError as error:
        return WatchResult((), (), (str(error),))
