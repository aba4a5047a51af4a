"""The rows of pipelines and feature views in the status, also of those that wait or are damaged."""

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from forecache.plugins.status.history import History, WindowCounts
from forecache.serve.reader.versions.answers import VersionAnswers
from forecache.serve.reader.versions.catalog import Catalog
from forecache.serve.reader.versions.live_answers import LiveAnswers


def version_rows(catalog: Catalog, history: History, sums: dict[str, tuple[int, int]], now: float, window_s: int,
                 rate_s: int) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A row for each pipeline and view that this worker knows.

    Args:
        sums: By name, the keys found and not found since the reader started.
        window_s: Window of the share of keys that were found.
        rate_s: Window of the keys per second.
    """
    served = dict(catalog.answers)  # a copy, as this may run beside the event loop
    for name in sorted({*served, *catalog.waiting, *catalog.failures, *catalog.damaged}):
        answers = served.get(name)
        rate, window = history.pipeline_counts(name, rate_s), history.pipeline_counts(name, window_s)
        yield {
            "name": name,
            "state": _state(catalog, name, answers, now),
            **(_NOTHING if answers is None else _version_columns(answers, now)),
            "old_publish": answers is not None and name in catalog.failures,
            "keys_per_s": round(rate.per_s(sum(rate.counts)), 2),
            "found_share": _found_share(window),
            "keys_found": sums.get(name, (0, 0))[0],
            "keys_not_found": sums.get(name, (0, 0))[1],
        }


def _found_share(window: WindowCounts) -> float | None:
    asked = sum(window.counts)
    return window.counts[0] / asked if asked else None


def _state(catalog: Catalog, name: str, answers: VersionAnswers | None, now: float) -> str:
    if answers is None:
        if name in catalog.damaged:
            return "damaged"
        return "unreadable" if name in catalog.failures else "waiting"
    if answers.fallback_for is not None:
        return "fallback"
    stale, refused = _staleness(answers, now)
    return "refused" if refused else "stale" if stale else "served"


def _staleness(answers: VersionAnswers, now: float) -> tuple[bool, bool]:
    """(answers are marked as stale, answers are refused as too old)."""
    manifest = answers.manifest
    past = now >= manifest.stale_after.timestamp()
    return past and manifest.policy.on_stale != "serve", past and manifest.policy.on_stale == "refuse"


def _version_columns(answers: VersionAnswers, now: float) -> dict[str, Any]:
    manifest = answers.manifest
    stale, refused = _staleness(answers, now)
    return {
        "kind": "view" if manifest.is_packed else "pipeline",
        "version": manifest.version or None,
        "live": answers.describe_layer() if isinstance(answers, LiveAnswers) else None,
        "model": manifest.made_by.get("model"),
        "keys": manifest.rows,
        "as_of": manifest.as_of,
        "published_at": manifest.published_at or None,
        "age_s": answers.age_s if not manifest.version else max(0, int(now - manifest.as_of_end.timestamp())),
        "max_age_h": manifest.policy.max_age_h,
        "on_stale": manifest.policy.on_stale,
        "stale": stale,
        "refused": refused,
        "overdue": manifest.is_overdue(datetime.fromtimestamp(now, timezone.utc)),
        "source_end": manifest.source_end,
        "fallback_for": answers.fallback_for,
        "size_bytes": manifest.size_bytes,
        "carried_forward": manifest.carried,
    }


_NOTHING: dict[str, Any] = dict.fromkeys(
    ("kind", "version", "model", "keys", "as_of", "published_at", "age_s", "max_age_h", "on_stale", "fallback_for",
     "size_bytes", "carried_forward", "live", "source_end")
) | {"stale": False, "refused": False, "overdue": False}  # fmt: skip
