"""The status of a project without its readers: last nights, published versions, releases, alerts and problems."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any, Literal

from forecache.base.errors import ForecacheError
from forecache.base.plugins import is_installed, load_hook
from forecache.base.settings import Settings
from forecache.declare.loading import read_project
from forecache.declare.project import Published
from forecache.plugins.status.last_nights import last_nights
from forecache.serve.reader.status.attention import Attention, sort_by_severity
from forecache.serve.store.manifest import Manifest
from forecache.serve.store.store import list_local_stores
from forecache.stream.status.stream_status import describe_stream, read_stream_statuses

NoAlert = Literal["", "ended", "undeclared"]


def project_status(settings: Settings, *, told: Collection[str] = ()) -> dict[str, Any]:
    """`nights`, `versions`, `releases`, `streams`, `alerts`, and `attention`: problems, the worst first.

    Args:
        told: Pipelines and views that a reader has already reported as stale.
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
    try:
        return read_project(settings).publishable
    except ForecacheError:
        return None


def _version_rows(
    settings: Settings, now: datetime, served: Mapping[str, Published] | None, found: list[Attention]
) -> Iterator[dict[str, Any]]:
    """The current version of each store here; a store that cannot be read is added to `found`."""
    for store in list_local_stores(settings):
        try:
            manifest, pointer = store.current(), store.pointer()
        except ForecacheError as error:
            found.append(Attention("critical", f"{store.pipeline}: {error.message}", "Run `forecache verify`."))
            continue
        if manifest is None:
            continue
        stale = now >= manifest.stale_after
        yield {
            "name": store.pipeline,
            "version": manifest.version,
            "pinned": pointer.pinned is not None,
            "as_of": manifest.as_of,
            "age_s": max(0, int((now - manifest.as_of_end).total_seconds())),
            "stale": stale,
            "no_alert": _missing_alert_reason(served, manifest) if stale and served is not None else "",
            "keys": manifest.rows,
            "published_s_ago": max(0, int((now - manifest.published_time).total_seconds())),
        }


def _missing_alert_reason(served: Mapping[str, Published], manifest: Manifest) -> NoAlert:
    """The reason why a stale version has no alert; "" if it has one."""
    if manifest.pipeline not in served:
        return "undeclared"
    return "ended" if manifest.overdue_after is None else ""


def _release_rows(settings: Settings, found: list[Attention]) -> Iterator[dict[str, Any]]:
    """The current release of each real-time model."""
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
