"""The status of a project without its readers: last runs, published versions, releases, alerts and problems."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import date, datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from forecache.base.errors import ForecacheError
from forecache.base.plugins import is_installed, load_hook
from forecache.base.settings import Settings
from forecache.base.table_names import split_kept_name
from forecache.declare.project import Published
from forecache.plugins.status.collect import Attention, sort_by_severity
from forecache.stream.status import describe_stream, read_stream_statuses

MOST_NIGHTS, MOST_ROWS, MOST_UNDATED = 5, 40, 10
_LATELY = timedelta(days=14)
_MAKING = {"ingest", "tiles", "features", "recommend", "score", "publish"}
"""Stages that write the rows of the date; others report on rows, on a sample of them or in figures."""
_UNDATED = {"training_set", "train", "register", "release"}


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
    elsewhere = "`forecache status` shows the runs where the lake is."
    if settings.lake_is_remote:
        return f"The stage ledger is not here, as the lake is in an object store; {elsewhere}"
    if find_spec("deltalake") is None:
        return f"The stage ledger cannot be read here without forecache[lake]; {elsewhere}"
    if not Path(settings.table_uri("stage_ledger")).is_dir():
        return f"The stage ledger is not here; {elsewhere}"
    return ""


def night_rows(
    found: Sequence[dict[str, Any]], now: datetime, *, most_nights: int = MOST_NIGHTS
) -> list[dict[str, Any]]:
    """Rows of the ledger by as-of date and subject, the newest first, at most `most_nights` dates and `MOST_ROWS`.

    `rows` are those of the last stage that wrote rows, or else of the last stage; of a stage the last run counts.
    """
    groups: dict[tuple[date, str], dict[str, dict[str, Any]]] = {}
    for row in sorted(found, key=lambda row: row["recorded_at"]):
        if row["as_of"] is not None:
            stages = groups.setdefault((row["as_of"], row["subject"]), {})
            stages.pop(row["stage"], None)  # so that the order is that of their ends
            stages[row["stage"]] = row
    dates = sorted({night for night, _ in groups}, reverse=True)[:most_nights]
    newest = sorted(
        (each for each in groups.items() if each[0][0] in dates), key=lambda each: (-each[0][0].toordinal(), each[0][1])
    )[:MOST_ROWS]
    return [_run_row(night, subject, stages, now) for (night, subject), stages in newest]


def undated_rows(found: Sequence[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """Rows of the ledger of trainings and releases, which have no as-of date, by run, the newest first."""
    runs: dict[str, dict[str, dict[str, Any]]] = {}
    for row in sorted(found, key=lambda row: row["recorded_at"]):
        if row["as_of"] is None and row["stage"] in _UNDATED:
            runs.setdefault(row["run_id"], {})[row["stage"]] = row
    rows = [_run_row(None, next(iter(stages.values()))["subject"], stages, now) for stages in runs.values()]
    return sorted(rows, key=lambda row: row["ended_s_ago"])[:MOST_UNDATED]


def _run_row(night: date | None, subject: str, stages: Mapping[str, dict[str, Any]], now: datetime) -> dict[str, Any]:
    """A row for the stages by name, in the order of their ends."""
    rows = list(stages.values())
    made = [row["rows"] for name, row in stages.items() if name in _MAKING]
    ended = rows[-1]["recorded_at"].astimezone(timezone.utc)
    return {
        "as_of": night.isoformat() if night else None,
        "subject": subject,
        "run_id": next((row["run_id"] for row in reversed(rows) if row["run_id"]), ""),
        "stages": list(stages),
        "rows": made[-1] if made else rows[-1]["rows"],
        "seconds": round(sum(row["seconds"] for row in rows), 2),
        "ended_at": ended.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "ended_s_ago": int((now - ended).total_seconds()),
    }


def project_status(settings: Settings, *, told: Collection[str] = ()) -> dict[str, Any]:
    """`nights`, `versions`, `releases`, `streams`, `alerts`, and `attention`: problems, the worst first.

    A reader has already reported the pipelines and views in `told` as stale.
    """
    now = datetime.now(timezone.utc)
    alerts, problems = load_hook("alerts", "current_alerts")(settings) if is_installed("alerts") else ([], [])
    found = [
        Attention(
            "critical" if alert.severity == "critical" else "warning",
            alert.summary,
            f"Open since {alert.at:%Y-%m-%d %H:%M} UTC; `forecache alerts` tells of it.",
        )
        for alert in alerts
        if alert.kind != "version_stale" or alert.name not in told
    ]
    found += [Attention("warning", problem, "`forecache doctor` checks what is needed.") for problem in problems]
    versions = list(_version_rows(settings, now, _declared_stores(settings), found))
    return {
        "nights": last_nights(settings, now),
        "versions": versions,
        "releases": list(_release_rows(settings, found)),
        "streams": [describe_stream(each) for each in read_stream_statuses(settings)],
        "alerts": [alert.describe() for alert in alerts],
        "attention": [asdict(each) for each in sort_by_severity(found)],
    }


def _declared_stores(settings: Settings) -> Mapping[str, Published] | None:
    """The stores that the project declares; None if it cannot be imported, which the look for alerts reports."""
    from forecache.declare.loading import read_project

    try:
        return read_project(settings).publishable
    except ForecacheError:
        return None


def _version_rows(
    settings: Settings, now: datetime, served: Mapping[str, Published] | None, found: list[Attention]
) -> Iterator[dict[str, Any]]:
    """The current version of each store here; a store that cannot be read is added to `found`.

    That of an earlier contract of a view has `kept_for`, the releases that name it here.
    """
    from forecache.serve.store.remote_store import list_local_stores

    named = _releases_by_contract(settings)
    for store in list_local_stores(settings):
        try:
            manifest, pointer = store.current(), store.pointer()
        except ForecacheError as error:
            found.append(Attention("critical", f"{store.pipeline}: {error.message}", "Run `forecache store verify`."))
            continue
        if manifest is None:
            continue
        stale, is_declared = now >= manifest.stale_after, served is not None and manifest.pipeline in served
        kept = split_kept_name(store.pipeline)
        is_declared = is_declared or kept is not None
        no_alert = "undeclared" if not is_declared else "ended" if manifest.overdue_after is None else ""
        yield {
            "name": store.pipeline,
            "version": manifest.version,
            "pinned": pointer.pinned is not None,
            "as_of": manifest.as_of,
            "age_s": max(0, int((now - manifest.as_of_end).total_seconds())),
            "stale": stale,
            "no_alert": no_alert if stale and served is not None else "",
            "keys": manifest.rows,
            "published_s_ago": max(0, int((now - manifest.published_time).total_seconds())),
            **({} if kept is None else {"kept_for": named.get(kept, [])}),
        }


def _releases_by_contract(settings: Settings) -> dict[tuple[str, str], list[str]]:
    """The releases that answer or are rolled out here, in words, by view and contract."""
    from forecache.kit.versioned.pointer import read_pointer
    from forecache.realtime.release.folder import open_releases, read_release
    from forecache.realtime.release.released_models import list_released_models
    from forecache.realtime.release.rollout_state import find_rollout, running_rollout

    found: dict[tuple[str, str], list[str]] = {}
    for name in list_released_models(settings):
        folder = open_releases(settings, name)
        with suppress(ForecacheError):  # the table of releases reports it
            pointer = read_pointer(folder)
            rollout = running_rollout(find_rollout(folder), pointer)
            for number in (pointer.current, None if rollout is None else rollout.release):
                for each in read_release(folder, number).lookups if number is not None else ():
                    users = found.setdefault((each.view, each.contract), [])
                    users += [user for user in [f"release {number} of {name}"] if user not in users]
    return found


def _release_rows(settings: Settings, found: list[Attention]) -> Iterator[dict[str, Any]]:
    from forecache.kit.versioned.pointer import read_pointer
    from forecache.realtime.release.folder import open_releases, read_release
    from forecache.realtime.release.released_models import list_released_models

    for name in list_released_models(settings):
        folder = open_releases(settings, name)
        try:
            number = read_pointer(folder).current
            release = None if number is None else read_release(folder, number)
        except ForecacheError as error:
            found.append(Attention("critical", error.message, error.remedy))
            continue
        if release is not None:
            model = {"name": release.model.name, "version": release.model.version}
            yield {"name": name, "release": number, "model": model, "created_at": release.created_at}
