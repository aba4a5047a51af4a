"""The gate: a candidate becomes the champion only if it is good enough, better than the baseline, and no step back.

Candidate and champion are scored on the same rows: the test split of the training table at the Delta version that
the candidate was trained on.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from forecache.errors import InputError
from forecache.lake.tables import open_table, table_exists
from forecache.pipeline import Pipeline
from forecache.registry.checks import (
    Check,
    check_baseline,
    check_champion,
    check_floors,
    check_latency,
    check_schema,
    check_shift,
    check_size,
    check_slices,
)
from forecache.registry.examples import (
    Examples,
    baseline_metrics,
    baseline_score,
    read_examples,
)
from forecache.registry.metrics import metrics_of
from forecache.registry.models import (
    CHAMPION,
    ModelVersion,
    find_champion,
    finish_move,
    model_version,
    move_champion,
    registry_lock,
    tracking,
    verified_folder,
)
from forecache.registry.promotions import Promotion, promotions, record_promotion
from forecache.registry.scorers import open_scorer, score
from forecache.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Verdict:
    """What the gate decided about one model version.

    Attributes:
        passed: Every check passed. With `Gate.approval`, the alias then still waits for a person.
        reasons: Why not, or, where it passed, what speaks for it.
        metrics: The candidate's metrics on the test split; `baseline` and `champion` likewise, on the same rows.
        champion_before, champion_after: Versions behind the alias.
        checks: One row for each check, for display.
    """

    pipeline: str
    model_version: int
    passed: bool
    reasons: tuple[str, ...]
    metrics: Mapping[str, float]
    baseline: Mapping[str, float]
    champion: Mapping[str, float]
    champion_before: int | None
    champion_after: int | None
    checks: tuple[Check, ...] = field(default_factory=tuple)

    @property
    def line(self) -> str:
        """The verdict and its reasons in one line."""
        return (
            f"{self.pipeline} {self.model_version} {'passed' if self.passed else 'failed'}: {'; '.join(self.reasons)}"
        )


def run_gate(settings: Settings, pipeline: Pipeline, version: int, *, actor: str, run_id: str = "") -> Verdict:
    """Judge a version and move the alias `champion` to it where it passes.

    A version that was judged by the same gate before keeps its verdict, and nothing moves: what was rolled back does
    not come back by itself. A version that fails stays registered with the tags `gate=failed` and `gate_reason`.

    Args:
        actor: Who or what asks, for the promotion ledger.

    Raises:
        NotFoundError: No such version, or its training table is gone.
        CheckError: The artifact does not match its checksums.
    """
    with registry_lock(settings):
        candidate = model_version(settings, pipeline, version)
        stored = _stored_verdict(pipeline, candidate)
        if stored is not None:
            return stored
        before = find_champion(settings, pipeline)
        verdict = _judge(settings, pipeline, candidate, before)
        verdict = _decide(settings, pipeline, candidate, verdict, actor=actor, run_id=run_id)
        _remember(tracking(settings), pipeline, candidate, verdict)
        return verdict


def _judge(settings: Settings, pipeline: Pipeline, candidate: ModelVersion, before: ModelVersion | None) -> Verdict:
    table, table_version = candidate.training_table
    examples = read_examples(
        settings, pipeline, table=table, version=table_version, split="test", features=candidate.features
    )
    scorer = open_scorer(verified_folder(settings, candidate))
    scores = score(scorer, examples.features)
    metrics = metrics_of(pipeline.label.kind, examples.label, scores)
    published = _published_types(settings, pipeline)
    checks = [check_schema(pipeline, candidate.features, scorer.output, published)]
    baseline: dict[str, float] = {}
    if checks[0].passed:
        baseline = baseline_metrics(pipeline, examples)
        checks += check_floors(pipeline.gate, metrics)
        checks.append(check_baseline(pipeline, examples.label, scores, baseline_score(pipeline, examples.features)))
        checks.append(check_latency(pipeline.gate, scorer, examples.features))
        checks.append(check_size(pipeline.gate, scorer.size_bytes))
    champion_metrics: dict[str, float] = {}
    if before is not None and before.version != candidate.version and checks[0].passed:
        found, champion_metrics = _against_champion(settings, pipeline, candidate, before, examples, scores)
        checks += found
    failed = [check.reason for check in checks if not check.passed]
    return Verdict(
        pipeline=pipeline.name,
        model_version=candidate.version,
        passed=not failed,
        reasons=tuple(failed or _in_favour(checks)),
        metrics=metrics,
        baseline=baseline,
        champion=champion_metrics,
        champion_before=before.version if before else None,
        champion_after=before.version if before else None,
        checks=tuple(checks),
    )


def _against_champion(
    settings: Settings,
    pipeline: Pipeline,
    candidate: ModelVersion,
    before: ModelVersion,
    examples: Examples,
    scores: Any,
) -> tuple[list[Check], dict[str, float]]:
    table, table_version = candidate.training_table
    try:
        same_rows = read_examples(
            settings, pipeline, table=table, version=table_version, split="test", features=before.features
        )
    except InputError as error:
        # Features that were dropped on purpose must not keep every later model out.
        note = f"champion {before.version} cannot be compared: {error.message}"
        return [Check("champion", True, None, None, note)], {}
    theirs = score(open_scorer(verified_folder(settings, before)), same_rows.features)
    checks = [
        check_champion(pipeline, examples.label, scores, theirs, version=before.version),
        *check_slices(pipeline, examples.features, examples.label, scores, theirs),
        check_shift(pipeline.gate, scores, theirs),
    ]
    return checks, metrics_of(pipeline.label.kind, examples.label, theirs)


def _decide(
    settings: Settings, pipeline: Pipeline, candidate: ModelVersion, verdict: Verdict, *, actor: str, run_id: str
) -> Verdict:
    reason = "; ".join(verdict.reasons)
    entries = promotions(settings, pipeline.name)
    last = entries[-1] if entries else None
    state = _state(pipeline, verdict)
    cut_short = (
        last is not None and last.action == "gate" and _about(last) == candidate.version and last.verdict == state
    )
    if state == "passed":
        if cut_short and last is not None:
            finish_move(settings, pipeline, last)
        else:
            move_champion(settings, pipeline, candidate, action="gate", actor=actor, reason=reason, run_id=run_id)
        return Verdict(**{**vars(verdict), "champion_after": candidate.version})
    if not cut_short:
        table, table_version = candidate.training_table
        entry = Promotion(
            pipeline=pipeline.name,
            action="gate",
            actor=actor,
            from_version=verdict.champion_before,
            to_version=verdict.champion_before,
            candidate=candidate.version,
            verdict=state,
            reason=reason,
            metrics=dict(verdict.metrics),
            training_table=table,
            training_version=table_version,
            run_id=run_id,
            recorded_at=datetime.now(timezone.utc),
        )
        record_promotion(settings, entry)
    return verdict


def _about(entry: Promotion) -> int | None:
    return entry.candidate if entry.candidate is not None else entry.to_version


def _state(pipeline: Pipeline, verdict: Verdict) -> str:
    if not verdict.passed:
        return "failed"
    return "awaiting_approval" if pipeline.gate.approval else "passed"


def _remember(client: "MlflowClient", pipeline: Pipeline, candidate: ModelVersion, verdict: Verdict) -> None:
    """Tags on the version and the run, and the checks as a table of the run; `gate_inputs` last: it says done."""
    tags = {
        "gate": _state(pipeline, verdict),
        "gate_reason": "; ".join(verdict.reasons),
        "gate_verdict": json.dumps(asdict(verdict)),
        "gate_inputs": _gate_inputs(pipeline),
    }
    client.log_dict(candidate.run_id, asdict(verdict), "gate.json")
    client.set_tag(candidate.run_id, "gate", tags["gate"])
    client.set_tag(candidate.run_id, "gate_reason", tags["gate_reason"])
    for name, value in tags.items():
        client.set_model_version_tag(pipeline.name, str(candidate.version), name, value)


def _stored_verdict(pipeline: Pipeline, candidate: ModelVersion) -> Verdict | None:
    if candidate.gate != "rolled_back" and candidate.tags.get("gate_inputs") != _gate_inputs(pipeline):
        return None
    return load_verdict(candidate)


def load_verdict(version: ModelVersion) -> Verdict | None:
    """The verdict that the gate gave a version, None where it was not judged yet."""
    if "gate_verdict" not in version.tags:
        return None
    values = json.loads(version.tags["gate_verdict"])
    return Verdict(
        **{
            **values,
            "reasons": tuple(values["reasons"]),
            "checks": tuple(Check(**check) for check in values["checks"]),
        }
    )


def _gate_inputs(pipeline: Pipeline) -> str:
    return hashlib.sha256(repr(pipeline.gate).encode()).hexdigest()[:16]


def _in_favour(checks: list[Check]) -> list[str]:
    return [check.reason for check in checks if check.name in ("baseline", CHAMPION) or check.name.startswith("floor")]


def _published_types(settings: Settings, pipeline: Pipeline) -> dict[str, str]:
    if not table_exists(settings, pipeline.feature_table):
        return {}
    fields = open_table(settings, pipeline.feature_table).schema().fields
    return {field.name: str(getattr(field.type, "type", field.type)) for field in fields}
