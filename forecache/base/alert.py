"""An alert: something that a person should know, such as a check that failed."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

Kind = Literal[
    "check_failed",
    "run_failed",
    "version_stale",
    "night_waiting",
    "gate_refused",
    "approval_awaited",
    "release_returned",
    "rollout_paused",
    "rollout_waits",
    "log_rows_lost",
    "log_stuck",
    "model_unasked",
    "stream_dead",
    "stream_behind",
    "stream_delayed",
    "stream_bad",
    "stream_unverified",
    "test",
]
TITLES: Mapping[Kind, str] = {
    "check_failed": "Check failed",
    "run_failed": "Run failed",
    "version_stale": "Version is stale",
    "night_waiting": "Night waits",
    "gate_refused": "Gate refused a model",
    "approval_awaited": "Model waits for approval",
    "release_returned": "Release was returned",
    "rollout_paused": "Rollout is paused",
    "rollout_waits": "Rollout waits at a step",
    "log_rows_lost": "Request log lost rows",
    "log_stuck": "Request log cannot be committed",
    "model_unasked": "Model is not asked",
    "stream_dead": "Stream does not run",
    "stream_behind": "Stream is behind",
    "stream_delayed": "Stream is slow",
    "stream_bad": "Stream gets bad messages",
    "stream_unverified": "Live layer is not verified",
    "test": "Test",
}
LASTING: frozenset[Kind] = frozenset(
    {
        *("check_failed", "run_failed", "version_stale", "night_waiting", "log_stuck", "model_unasked"),
        *("stream_dead", "stream_behind", "stream_delayed", "stream_bad", "stream_unverified"),
    }
)
"""Kinds of problems that last; receivers are also notified of their end. The other kinds are about one moment."""
REPEATED: frozenset[Kind] = LASTING - {"run_failed"}
"""Kinds that are sent again while they last. A failed run is sent once: nothing shows that it still matters."""

OF_ONE_MACHINE: frozenset[Kind] = frozenset({"log_stuck"})
"""Lasting kinds about what one machine has: no other one can find that they are over. A machine that is gone never
says it, so they end when they were not seen for a day."""

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")  # the worst first


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class Alert:
    """One problem to notify people of. Alerts of equal kind, name and occasion are one alert, however often found.

    Attributes:
        name: Its subject: a pipeline, a model, a job, or an asset and its check as "predictions_churn.has_rows".
        summary: One sentence with the thing and the value, without secrets.
        details: JSON-serialisable figures and names.
        at: Time at which it happened, or began, as far as known; UTC.
        occasion: Tells alerts of one kind and name apart: an as-of date, a run's id, a version; "" if there can be
            only one at a time.
    """

    kind: Kind
    name: str
    severity: Severity
    summary: str
    details: Mapping[str, Any] = field(default_factory=dict)
    at: datetime = field(default_factory=_now)
    occasion: str = ""

    def __post_init__(self) -> None:
        assert self.kind in TITLES, self.kind
        assert self.severity in SEVERITIES, self.severity
        assert self.at.tzinfo is not None, "a time needs its zone"

    def describe(self) -> dict[str, Any]:
        """The alert as a row of a status."""
        return {
            "kind": self.kind,
            "title": TITLES[self.kind],
            "name": self.name,
            "severity": self.severity,
            "summary": self.summary,
            "since": f"{self.at:%Y-%m-%d %H:%M}",
        }

    @property
    def subject(self) -> "Subject":
        return Subject(self.kind, self.name, self.occasion)

    def id(self, before: int = 0) -> str:
        """Return an id that every machine has for equal alerts; `before` counts the subject's earlier ones."""
        text = "\0".join((*self.subject.parts, self.at.astimezone(timezone.utc).isoformat(), str(before)))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Subject:
    """The subject of an alert. A lasting alert is resolved when its subject is reported as well."""

    kind: Kind
    name: str
    occasion: str = ""

    @property
    def parts(self) -> tuple[str, str, str]:
        return self.kind, self.name, self.occasion
