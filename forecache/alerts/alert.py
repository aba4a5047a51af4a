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
"""Kinds that are over at some time, which is told too. The others are about one moment."""
REPEATED: frozenset[Kind] = LASTING - {"run_failed"}
"""Kinds that are told again while they last. Of a failed run nobody can say that it still matters."""

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")
"""The worst first."""


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class Alert:
    """One thing to tell. Alerts of equal kind, name and occasion are the same one, however often they are noticed.

    Attributes:
        name: What it is about: a pipeline, a model, a job, or an asset and its check as "predictions_churn.has_rows".
        summary: One sentence with the thing and the value, without secrets.
        details: JSON-serialisable figures and names.
        at: When it happened, or began, as far as known; UTC.
        occasion: Which of several of that kind and name: an as-of date, a run's id, a version; "" where there can be
            one at a time only.
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

    @property
    def subject(self) -> "Subject":
        return Subject(self.kind, self.name, self.occasion)

    def id(self, before: int = 0) -> str:
        """The same for the same alert on every machine.

        Args:
            before: How many alerts there were of this subject.
        """
        text = "\0".join((*self.subject.parts, self.at.astimezone(timezone.utc).isoformat(), str(before)))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Subject:
    """What an alert is about; a lasting one is over once its subject is said to be well."""

    kind: Kind
    name: str
    occasion: str = ""

    @property
    def parts(self) -> tuple[str, str, str]:
        return self.kind, self.name, self.occasion
