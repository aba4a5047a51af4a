"""Rows of request logs that were lost, and logs that cannot be committed."""

import json
import time
from collections.abc import Iterator
from datetime import datetime, timezone

from forecache.alerts.alert import Alert
from forecache.alerts.journal import cursor
from forecache.realtime.log.commit.state import read_state
from forecache.realtime.log.losses import lost_rows
from forecache.realtime.log.spool.files import models_in
from forecache.settings import Settings

_PATIENCE_S = 300.0


def log_losses(settings: Settings, cursors: dict[str, str]) -> Iterator[Alert]:
    """An alert for each model whose log has lost rows since the last look.

    Args:
        cursors: Gets, by name, from where to look next.
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


def _since(before: int, total: int) -> int:
    """How many more; a spool that was made anew counts from 0."""
    return total - before if total >= before else total
