"""Describe a real-time model for `GET /v1/<name>`."""

from typing import Any

from forecache.pipeline.realtime.request import RequestField
from forecache.realtime.answer.in_loop import InLoopPath
from forecache.realtime.cache import without_cache
from forecache.realtime.models import Models
from forecache.realtime.served import Served


def description(served: Served, models: Models) -> dict[str, Any]:
    """Describe the served release for `GET /v1/<name>`: its request, model, look-ups and fallbacks."""
    release = served.loaded.release
    path = without_cache(served.path)
    described: dict[str, Any] = {
        "name": release.name,
        "kind": "realtime",
        "description": release.description,
        "release": release.number,
        "created_at": release.created_at,
        "model": release.model.summary,
        "request": [_field(field) for field in release.request],
        "candidates": None,
        "features": list(release.features),
        "lookups": [{"view": each.view, "key": list(each.by)} for each in release.lookups],
        "ladder": ["model", *(rung.name for rung in served.rungs)],
        "deadline_ms": release.deadline_ms,
        "runs": "loop" if path.in_loop else "process",
        "calibrated_p99_ms": round(path.p99_s * 1e3, 3) if isinstance(path, InLoopPath) else None,
        "cache_bytes": release.cache_bytes,
        "failure": models.failures.get(release.name),
    }
    if release.candidates is not None:
        described["candidates"] = {
            "name": release.candidates.name,
            "fields": [_field(field) for field in release.candidates.fields],
            "most": release.candidates.most,
        }
    return described


def _field(field: RequestField) -> dict[str, Any]:
    default = field.default
    shown = default if default is None or isinstance(default, (int, float, str)) else default.isoformat()
    return {"name": field.name, "type": field.type, "required": default is None, "default": shown,
            "description": field.description}  # fmt: skip
