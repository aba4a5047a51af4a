"""A declaration in a few lines, as notebooks show it."""

from collections.abc import Iterable, Mapping
from typing import Any

from forecache.base.display import facts_html

_MOST_NAMES = 12


def declaration_html(declared: Any) -> str:
    """A table of the facts of a declaration; see `declared_facts`."""
    return facts_html(f"{type(declared).__name__} {declared.name}", declared_facts(declared))


def declared_facts(declared: Any) -> dict[str, Any]:
    """By name, the facts of a pipeline, feature view, real-time model, stream or recommender, those that it has."""

    def get(name: str) -> Any:
        return getattr(declared, name, None)

    features, candidates = get("feature_columns"), get("candidates")
    facts: Mapping[str, Any] = {
        "description": get("description"),
        "key": _names(get("key")) if not get("request") else None,
        "request": [_field_text(field) for field in get("request") or ()],
        "candidates": [_field_text(field) for field in candidates.fields] if candidates else None,
        "topic": get("topic") and f"{declared.topic.topic} ({declared.topic.source.name})",
        "sources": [_source_text(source) for source in get("all_sources") or ()],
        "views": _names(view.name for view in get("views") or () if view.name != declared.name),
        "look-ups": [f"{each.called} by {', '.join(each.by)}" for each in get("lookups") or ()],
        "features": features and f"{len(features)}: {_names(feature.name for feature in features)}",
        "label": _label_text(get("label")),
        "answers": get("answers") and f"{type(declared.answers).__name__} {declared.answers.name}",
        "model": _model_text(get("model")),
        "gate": _gate_text(get("gate")),
        "outputs": _names(get("output_columns") or [output.name for output in get("outputs") or ()]),
        "fallbacks": [type(each).__name__ for each in get("fallbacks") or ()],
        "deadline": get("deadline_ms") and f"{declared.deadline_ms:g} ms",
        "schedule": get("schedule") and f"{declared.schedule.as_of_text}, runs at {declared.schedule.cron}",
        "published": _publish_text(declared),
        "owner": get("owner"),
    }
    return {name: value for name, value in facts.items() if value}


def _names(names: Iterable[str] | None) -> str:
    known = list(names or ())
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return f"{', '.join(known[:_MOST_NAMES])}{more}"


def _field_text(field: Any) -> str:
    return f"{field.name}: {field.type}"


def _source_text(source: Any) -> str:
    time = f"events by {source.event_time}" if source.event_time else type(source.time).__name__.lower()
    return f"{source.name}: {time}, {len(source.columns)} columns"


def _label_text(label: Any) -> str:
    if label is None:
        return ""
    days = getattr(label, "horizon_days", None)
    horizon = f", in the next {days} day{'' if days == 1 else 's'}" if days else ""
    return f"{label.name}: {label.kind}{horizon}"


def _model_text(model: Any) -> str:
    if model is None:
        return ""
    made = getattr(model, "build", None) or getattr(model, "function", None)
    detail = getattr(made, "__name__", "") or getattr(model, "uri", "") or getattr(model, "expression", "")
    return f"{type(model).__name__} {detail}".strip()


def _gate_text(gate: Any) -> str:
    if gate is None:
        return ""
    floors = [f"{name} {floor:g}" for name, floor in getattr(gate, "floors", {}).items()]
    baselines = [baseline.feature for baseline in getattr(gate, "baselines", ())]
    parts = [
        gate.metric,
        f"floors {', '.join(floors)}" if floors else "",
        f"better than {', '.join(baselines)}" if baselines else "",
    ]
    return "; ".join(filter(None, parts))


def _publish_text(declared: Any) -> str:
    if not hasattr(declared, "publish"):
        return ""
    return "no" if declared.publish is None else f"{_names(declared.served_fields)}"
