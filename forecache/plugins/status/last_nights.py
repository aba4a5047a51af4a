"""The last nights: the stages of the newest as-of dates, by the stage ledger."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from forecache.base.settings import Settings

MOST_NIGHTS, MOST_ROWS = 5, 40
_LATELY = timedelta(days=14)
_MAKING = {"ingest", "tiles", "features", "recommend", "score", "publish"}
"""Stages that write the rows of the date; others report on rows, on a sample of them or in figures."""


def last_nights(settings: Settings, now: datetime) -> dict[str, Any]:
    """`rows`, one for each as-of date and subject, the newest first; if there is none, `why`."""
    if why := _unreadable_reason(settings):
        return {"rows": [], "why": why}
    from forecache.kit.delta.small_tables import read_small_table
    from forecache.lake.ledger import LEDGER_TABLE

    found = read_small_table(settings, LEDGER_TABLE, [("recorded_at", ">=", now - _LATELY)])
    if not found:
        days = _LATELY.days
        return {"rows": [], "why": f"No stage has done anything in the last {days} days; `forecache run` would."}
    return {"rows": night_rows(found, now), "why": ""}


def _unreadable_reason(settings: Settings) -> str:
    """The reason why the ledger cannot be read here, as a sentence; "" if it can."""
    elsewhere = "`forecache status` shows the nights where the lake is."
    if settings.lake_is_remote:
        return f"The stage ledger is not here, as the lake is in an object store; {elsewhere}"
    if find_spec("deltalake") is None:
        return f"The stage ledger cannot be read here without forecache[lake]; {elsewhere}"
    if not Path(settings.table_uri("stage_ledger")).is_dir():
        return f"The stage ledger is not here; {elsewhere}"
    return ""


def night_rows(found: Sequence[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """Rows of the ledger by as-of date and subject, the newest first, at most `MOST_NIGHTS` dates and `MOST_ROWS`.

    `rows` are those of the last stage that wrote rows, or else of the last stage; `seconds` of all stages. If a stage
    ran again, its last run counts.
    """
    groups: dict[tuple[date, str], dict[str, dict[str, Any]]] = {}
    for row in sorted(found, key=lambda row: row["recorded_at"]):
        if row["night"] is not None:
            stages = groups.setdefault((row["night"], row["subject"]), {})
            stages.pop(row["stage"], None)  # so that the order is that of their ends
            stages[row["stage"]] = row
    dates = sorted({night for night, _ in groups}, reverse=True)[:MOST_NIGHTS]
    newest = sorted(
        (each for each in groups.items() if each[0][0] in dates), key=lambda each: (-each[0][0].toordinal(), each[0][1])
    )[:MOST_ROWS]
    rows = []
    for (night, subject), stages in newest:
        last = list(stages.values())[-1]
        made = [row["rows"] for name, row in stages.items() if name in _MAKING]
        ended = last["recorded_at"].astimezone(timezone.utc)
        rows.append(
            {
                "as_of": night.isoformat(),
                "subject": subject,
                "stages": list(stages),
                "rows": made[-1] if made else last["rows"],
                "seconds": round(sum(row["seconds"] for row in stages.values()), 2),
                "ended_at": ended.isoformat(timespec="seconds").replace("+00:00", "Z"),
                "ended_s_ago": int((now - ended).total_seconds()),
            }
        )
    return rows
