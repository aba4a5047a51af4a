"""The gate's verdict on a model version, stored in MLflow as tags of the version, and a table and plots in its run."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from forecache.base.display import rows_html
from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.declare.code.fingerprint import fingerprint
from forecache.models.registry.gate.gate_checks import Check
from forecache.models.registry.model_versions import WAITING, ModelVersion
from forecache.models.tracking.artifacts import download_artifact
from forecache.models.tracking.client import connect_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "gate"


@dataclass(frozen=True)
class GateVerdict:
    """The gate's decision about one model version.

    Attributes:
        metrics: The candidate's metrics on the test split; `baseline` has its own on the same rows.
        champion: The champion's metrics; on the same rows, too, unless there is `compared`.
        compared: The candidate's metrics on the rows of `champion`, if these are only a part of the test split.
        champion_before, champion_after: Versions with the alias `champion` before and after the decision.
        awaiting: The version passed, but a person has to confirm it first, because of `Gate.approval` or because a
            check could not decide.
    """

    pipeline: str
    model_version: int
    passed: bool  # every check passed
    reasons: tuple[str, ...]  # the reasons of the failed checks, or of the main checks if all passed
    metrics: Mapping[str, float]
    baseline: Mapping[str, float]
    champion: Mapping[str, float]
    champion_before: int | None
    champion_after: int | None
    checks: tuple[Check, ...] = field(default_factory=tuple)  # one row for each check, for display
    awaiting: bool = False
    baseline_name: str = ""  # name of the baseline; of several, the best
    compared: Mapping[str, float] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """ "passed", "failed" or "awaiting_approval"."""
        if not self.passed:
            return "failed"
        return WAITING if self.awaiting else "passed"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons of checks that passed and that a person should know."""
        return tuple(check.reason for check in self.checks if check.warns)

    @property
    def line(self) -> str:
        state = "passed and waits for approval" if self.awaiting else self.state
        state += " with a warning" if self.passed and self.warnings else ""
        return f"{self.pipeline} {self.model_version} {state}: {'; '.join(self.reasons)}"

    def _repr_html_(self) -> str:
        rows = [(each.result, each.name, each.value, each.limit, each.reason) for each in self.checks]
        return rows_html(("result", "check", "value", "limit", "reason"), rows, caption=self.line)


def verdict_of_equal(candidate: ModelVersion, champion: ModelVersion | None, equal: ModelVersion) -> GateVerdict:
    """The verdict on a version that is the same model as one that has been champion."""
    number = None if champion is None else champion.version
    state = "is the champion" if number == equal.version else "was champion before"
    return GateVerdict(
        pipeline=candidate.name,
        model_version=candidate.version,
        passed=True,
        reasons=(f"version {equal.version}, which has the same inputs and weights, {state}",),
        metrics=candidate.metrics,
        baseline={},
        champion={},
        champion_before=number,
        champion_after=number,
    )


def save_verdict(
    client: "MlflowClient", pipeline: Trainable, version: ModelVersion, verdict: GateVerdict, plots: Mapping[str, str]
) -> None:
    """Write a verdict to the version and its run: `gate/checks.csv`, `gate/verdict.json`, the plots, and tags.

    The tag that identifies the gate's declaration is written last, so that its presence marks a complete verdict.
    """
    client.log_text(version.run_id, checks_csv(verdict), f"{FOLDER}/checks.csv")
    client.log_dict(version.run_id, asdict(verdict), f"{FOLDER}/verdict.json")
    for name, svg in plots.items():
        client.log_text(version.run_id, svg, f"{FOLDER}/{name}.svg")
    reason = "; ".join(verdict.reasons)
    for name, value in {"gate": verdict.state, "gate_reason": reason, "gate_line": verdict.line}.items():
        client.set_tag(version.run_id, name, value)
    tags = {
        "gate": verdict.state,
        "gate_reason": reason,
        "gate_verdict": json.dumps(asdict(verdict)),
        "gate_inputs": _gate_inputs(pipeline),
    }
    for name, value in tags.items():
        client.set_model_version_tag(version.name, str(version.version), name, value)


def checks_csv(verdict: GateVerdict) -> str:
    """The checks as CSV, which MLflow displays as a table."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("result", "check", "value", "limit", "low", "high", "reason"))
    for check in verdict.checks:
        writer.writerow((check.result, check.name, check.value, check.limit, check.low, check.high, check.reason))
    return file.getvalue()


def load_verdict(version: ModelVersion) -> GateVerdict | None:
    """The gate's verdict on a version; None if it was not judged yet."""
    if "gate_verdict" not in version.tags:
        return None
    values = json.loads(version.tags["gate_verdict"])
    return GateVerdict(
        **{
            **values,
            "reasons": tuple(values["reasons"]),
            "checks": tuple(Check(**check) for check in values["checks"]),
        }
    )


def outdated_reason(pipeline: Trainable, version: ModelVersion, champion: int | None) -> str:
    """The reason why a version's verdict is outdated; "" if it still holds.

    It is if the gate's declaration has changed, and, unless it made the version the champion, if the champion with
    which the version was compared is no longer the champion.
    """
    verdict = load_verdict(version)
    if verdict is None:
        return "it was not judged yet"
    if version.tags.get("gate_inputs") != _gate_inputs(pipeline):
        return "it was judged by another declaration of the gate"
    if version.gate in (WAITING, "failed") and verdict.champion_before != champion:
        before = (
            "without a champion" if verdict.champion_before is None else f"against champion {verdict.champion_before}"
        )
        return (
            f"it was judged {before}, and {'there is none' if champion is None else f'the champion is {champion}'} now"
        )
    return ""


def _gate_inputs(pipeline: Trainable) -> str:
    plain, own = replace(pipeline.trained_gate, metrics=()), fingerprint(metrics=pipeline.trained_gate.metrics)
    return hashlib.sha256(f"{plain!r} {own}".encode()).hexdigest()[:16]


def load_gate_plots(settings: Settings, version: ModelVersion) -> dict[str, str]:
    """The plots of a version's verdict by name, as SVG documents; none if it was not judged yet."""
    client = connect_mlflow(settings)
    found = [item.path for item in client.list_artifacts(version.run_id, FOLDER) if item.path.endswith(".svg")]
    paths = [download_artifact(settings, run_id=version.run_id, artifact_path=path) for path in sorted(found)]
    return {path.stem: path.read_text() for path in paths}
