"""All that is known of one declaration: its runs, versions, model, drift, quality, cost and alerts, as plain values."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from forecache.base.errors import ForecacheError, NotFoundError
from forecache.base.links import asset_url, dagster_run_url, model_url, model_version_url
from forecache.base.plugins import find_hooks, is_installed, load_hook
from forecache.base.settings import Settings
from forecache.base.table_names import unknown_name_error
from forecache.cli.commands.release import find_releases
from forecache.declare import Pipeline, Realtime, RegisteredModel
from forecache.declare.loading import read_project
from forecache.kit.delta.small_tables import read_small_table
from forecache.lake.ledger import LEDGER_TABLE
from forecache.models.registry.model_versions import find_champion
from forecache.plugins.status.project_status import night_rows, undated_rows
from forecache.serve.store.remote_store import open_store

DAYS = 30
_COST_DAYS, _MOST_MOVES = 7, 20


def describe_name(settings: Settings, name: str, *, key: str = "", now: datetime | None = None) -> dict[str, Any]:
    """The facts of the last `DAYS` days about a pipeline, feature view, recommender, real-time model or stream.

    Args:
        key: A key whose answer is explained; "": none.

    Raises:
        NotFoundError: The project declares nothing with that name.
    """
    now = now or datetime.now(timezone.utc)
    kind, declared = _find(settings, name)
    runs = read_small_table(
        settings, LEDGER_TABLE, [("subject", "=", name), ("recorded_at", ">=", now - timedelta(days=DAYS))]
    )
    return {
        "name": name,
        "kind": kind,
        "environment": settings.environment,
        "at": now.isoformat(timespec="seconds"),
        "days": DAYS,
        "description": getattr(declared, "description", ""),
        "owner": getattr(declared, "owner", ""),
        "links": _links(settings, declared),
        "runs": [
            row | {"run_url": dagster_run_url(settings, row["run_id"])}
            for row in (*night_rows(runs, now, most_nights=DAYS), *undated_rows(runs, now))
        ],
        "versions": list(_versions(settings, declared)),
        **_releases(settings, name, declared),
        "moves": list(_moves(settings, name)),
        "reports": _model_reports(settings, name, declared),
        "measurements": _measurements(settings, name, now),
        "cost": [asdict(line) for find in find_hooks("cost_lines") for line in find(settings, name, days=_COST_DAYS)],
        "cost_days": _COST_DAYS,
        "alerts": [
            each.describe() for find in find_hooks("current_alerts") for each in find(settings)[0] if each.name == name
        ],
        "streams": list(_streams(settings, name)),
        "key": key,
        "explained": _explained(settings, name, key) if key else None,
    }


def _find(settings: Settings, name: str) -> tuple[str, Any]:
    """The kind of a declaration, and the declaration."""
    project = read_project(settings)
    kinds: dict[str, Mapping[str, Any]] = {
        "pipeline": project.pipelines,
        "real-time model": project.realtime,
        "stream": project.streams,
        "feature view": project.views,
        **{each.kind: {each.name: each} for each in project.added if each.name == name},
    }
    for kind, found in kinds.items():
        if name in found:
            return kind, found[name]
    if name in project.publishable:
        return "table", project.publishable[name]
    there = [*project.nightly, *project.views, *project.streams, *(each.name for each in project.added)]
    raise unknown_name_error(name, "pipeline, model, stream or view", there, where=settings.project)


def _links(settings: Settings, declared: Any) -> dict[str, str]:
    """The addresses of its table or release in Dagster, and of its model in MLflow; "" for what is not known."""
    table = str(getattr(declared, "served_table", "") or getattr(declared, "table", ""))
    asset = f"released_{declared.name}" if isinstance(declared, Realtime) else table
    is_trained = isinstance(declared, (Pipeline, Realtime)) and declared.is_trained
    return {"Dagster": asset_url(settings, asset), "MLflow": model_url(settings, declared.name) if is_trained else ""}


def _version_url(settings: Settings, declared: Any, model: Mapping[str, Any] | None) -> str:
    is_registered = isinstance(declared, Pipeline) and (
        declared.is_trained or isinstance(declared.model, RegisteredModel)
    )
    return model_version_url(settings, model["name"], model["version"]) if model and is_registered else ""


def _versions(settings: Settings, declared: Any) -> Iterator[dict[str, Any]]:
    """The retained versions of a store on this machine, the newest first."""
    name = declared.name
    if not (settings.store_path / name).is_dir():
        return
    store = open_store(settings, name)
    blocked, serving = store.blocked_versions(), store.pointer().serving
    for manifest in reversed(store.versions()):
        yield {
            "version": manifest.version,
            "state": ["serving"] * (manifest.version == serving) + list(store.state(manifest.version)),
            "blocked_as": blocked.get(manifest.version, ""),
            "as_of": manifest.as_of,
            "keys": manifest.rows,
            "size_bytes": manifest.size_bytes,
            "kind": manifest.kind,
            "model": manifest.made_by.get("model"),
            "published_at": manifest.published_at,
            "run_id": manifest.run_id,
            "run_url": dagster_run_url(settings, manifest.run_id),
            "model_url": _version_url(settings, declared, manifest.made_by.get("model")),
        }


def _releases(settings: Settings, name: str, declared: Any) -> dict[str, Any]:
    """The releases of a real-time model, the newest first, and the steps of its last rollout."""
    found: list[dict[str, Any]] = []
    rollout = None
    if isinstance(declared, Realtime):
        with suppress(ForecacheError):  # none yet
            found, rollout, _ = find_releases(settings, name)
    return {"releases": found, "rollout": None if rollout is None else asdict(rollout)}


def _moves(settings: Settings, name: str) -> Iterator[dict[str, Any]]:
    """Who decided about the model, and when: the rows of the promotion ledger, the newest first."""
    from forecache.models.registry.promotions import promotions

    for entry in reversed(promotions(settings, name)[-_MOST_MOVES:]):
        yield {
            "at": entry.recorded_at.isoformat(),
            "action": entry.action,
            "actor": entry.actor,
            "from": entry.from_version,
            "to": entry.to_version,
            "candidate": entry.candidate,
            "verdict": entry.verdict,
            "reason": entry.reason,
            "metrics": dict(entry.metrics),
        }


def write_model_report(settings: Settings, name: str, version: int) -> Path:
    """Write the report of a model version; returns its path. NotFoundError if no model is trained under the name."""
    _, declared = _find(settings, name)
    if not isinstance(declared, (Pipeline, Realtime)) or not declared.is_trained or not is_installed("model_reports"):
        raise NotFoundError(f"There are no reports of models of {name!r}.", remedy=f"See `forecache report {name}`.")
    path: Path = load_hook("model_reports", "write_model_report")(settings, declared, version)
    return path


def _write_missing_report(settings: Settings, declared: Pipeline | Realtime, version: int) -> None:
    if not (settings.reports_path / f"{declared.name}-{version}.html").exists():
        load_hook("model_reports", "write_model_report")(settings, declared, version)


def _model_reports(settings: Settings, name: str, declared: Any) -> dict[str, str]:
    """Paths of the reports of model versions, by version, the newest first; a champion without one gets it."""
    if isinstance(declared, (Pipeline, Realtime)) and declared.is_trained and is_installed("model_reports"):
        with suppress(ForecacheError, OSError):  # no champion yet, no library that draws, or a disk to read only
            champion = find_champion(settings, declared)
            # A model that was registered elsewhere has no evaluation.
            if champion is not None and champion.is_own:
                _write_missing_report(settings, declared, champion.version)
    found = {
        path.stem.removeprefix(f"{name}-"): str(path)
        for path in settings.reports_path.glob(f"{name}-*.html")
        if path.stem.removeprefix(f"{name}-").isdigit()
    }
    return dict(sorted(found.items(), key=lambda each: -int(each[0])))


def _measurements(settings: Settings, name: str, now: datetime) -> list[dict[str, Any]]:
    if not is_installed("drift"):
        return []
    first = (now - timedelta(days=DAYS)).date()
    return [
        {"date": row.run_date.isoformat(), "kind": row.kind, "name": row.name, "reference": row.reference,
         "effect": row.effect, "value": row.value, "reference_value": row.reference_value}
        for row in load_hook("drift", "measurements")(settings, name, first=first)
    ]  # fmt: skip


def _streams(settings: Settings, name: str) -> Iterator[dict[str, Any]]:
    from forecache.stream.status import describe_stream, read_stream_statuses

    for each in map(describe_stream, read_stream_statuses(settings)):
        if name == each["name"] or name in [layer["store"] for layer in each["layers"]]:
            yield each


def _explained(settings: Settings, name: str, key: str) -> dict[str, Any]:
    """The answer for a key and the links behind it; or the problem, as a sentence."""
    try:
        answer, parts = load_hook("explain", "explained_parts")(settings, name, key)
    except ForecacheError as error:
        return {"problem": str(error), "answer": "", "parts": []}
    return {"problem": "", "answer": answer, "parts": [{"title": title, "lines": lines} for title, lines in parts]}
