"""Alerts from request logs: lost rows, logs that cannot be committed, and models that get no requests."""

import json
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

from forecache.alerts.alert import Alert
from forecache.alerts.journal import cursor
from forecache.lake.delta.log import open_if_exists
from forecache.pipeline.project import Project
from forecache.realtime.answer.model_path import Refused
from forecache.realtime.log.commit.state import read_state
from forecache.realtime.log.losses import lost_rows
from forecache.realtime.log.read import read_log
from forecache.realtime.log.record import table_of
from forecache.realtime.log.spool.files import models_in
from forecache.settings import Settings

_PATIENCE_S = 300.0
_RECENT = timedelta(minutes=10)
_UNASKED_FOR, _UNASKED_REQUESTS = timedelta(minutes=1), 5
"""Least duration and number of refusals: a process is replaced sooner, and one request may be refused by chance."""
_CANDIDATES = ("canary", "shadow")
"""Arms of a candidate, which is judged by its rollout."""


def log_losses(settings: Settings, cursors: dict[str, str]) -> Iterator[Alert]:
    """An alert for each model whose log has lost rows since the last look.

    Args:
        cursors: Filled with the positions, by name, from which the next look reads.
    """
    now = datetime.now(timezone.utc)
    for model in models_in(settings.request_log_path):
        name, totals = f"lost rows {model}", lost_rows(settings, model)
        before: dict[str, int] = json.loads(cursor(settings, name) or "{}")
        lost = {reason: count for reason, total in totals.items() if (count := _since(before.get(reason, 0), total))}
        cursors[name] = json.dumps(totals)
        if lost:
            reasons = ", ".join(f"{count:,} by {reason}" for reason, count in sorted(lost.items()))
            summary = f"The request log of {model} lost {sum(lost.values()):,} answers: {reasons}."
            yield Alert("log_rows_lost", model, "warning", summary, lost, now, now.isoformat())


def stuck_logs(settings: Settings) -> Iterator[Alert]:
    """An alert for each log whose commits have failed for five minutes; its rows wait on the disk."""
    for model in models_in(settings.request_log_path):
        state = read_state(settings.request_log_path / model)
        if state.failing_since and time.time() - state.failing_since > _PATIENCE_S:
            since = datetime.fromtimestamp(state.failing_since, timezone.utc)
            summary = (
                f"The request log of {model} cannot be committed since {since:%Y-%m-%d %H:%M} UTC: {state.failure}"
            )
            yield Alert("log_stuck", model, "warning", summary, {}, since)


def unasked_models(settings: Settings, project: Project) -> Iterator[Alert]:
    """An alert for each model that a reader has not called for a minute or longer, by the newest requests of its log.

    A reader does not call a model if none of its processes makes progress, or if its circuit breaker is open.
    """
    since = datetime.now(timezone.utc) - _RECENT
    columns = ["arrived_at", "replica", "arm", "rung", "why"]
    for name, declared in project.realtime.items():
        if declared.log is None or open_if_exists(settings, table_of(name)) is None:
            continue
        by_replica: dict[str, list[tuple[datetime, str, str]]] = {}
        for batch in read_log(settings, name, since=since, columns=columns):
            for row in batch.to_pylist():
                if row["arm"] not in _CANDIDATES:
                    answer = (row["arrived_at"], row["why"] or "", row["rung"] or "")
                    by_replica.setdefault(row["replica"], []).append(answer)
        refused = {replica: last for replica, rows in by_replica.items() if (last := _last_refused(rows))}
        if refused:
            began = min(last[0][0] for last in refused.values())
            answers = [each for last in refused.values() for each in last]
            count, rungs = len(answers), sorted({rung for _, _, rung in answers})
            summary = (
                f"{name} is not asked since {began:%Y-%m-%d %H:%M} UTC by {', '.join(sorted(refused))}: the last "
                f"{count:,} requests were answered by {', '.join(rungs)}. The log of the reader says why no process of "
                f"the model answers; `forecache rollback {name}` goes back to the release before."
            )
            yield Alert("model_unasked", name, "critical", summary, {"requests": count, "rungs": rungs}, began)


def _last_refused(rows: list[tuple[datetime, str, str]]) -> list[tuple[datetime, str, str]]:
    """The newest answers of a replica, oldest first, if all of a minute or longer came without a call of the model."""
    rows.sort()
    newest_asked = max((place for place, (_, why, _) in enumerate(rows) if why != Refused.reason), default=-1)
    last = rows[newest_asked + 1 :]
    is_enough = len(last) >= _UNASKED_REQUESTS and last[-1][0] - last[0][0] >= _UNASKED_FOR
    return last if is_enough else []


def _since(before: int, total: int) -> int:
    """Increase of a counter; that of a new spool starts from 0."""
    return total - before if total >= before else total
