"""The gate: a candidate becomes the champion only if it reaches the floors, beats the baseline and is not a regression.

Candidate and champion are scored on the same rows: the test split of the training table at the Delta version that
the candidate was trained on. A champion that was trained on other features gets these, as its own training table has
them, if that has most of the rows. Of a model that was fitted again on all labelled dates, it is the one before that
is scored, as it has not seen those rows.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from forecache.base.errors import DamagedError, InputError, NotFoundError
from forecache.base.plugins import find_hooks
from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.kit.delta.tables import open_table, table_exists
from forecache.kit.lease import Lease, LeaseLostError
from forecache.lake.kept_definitions import read_definition
from forecache.lake.stage_runner import Stage, StageOutcome
from forecache.models.registry.alias_moves import (
    describe_move,
    end_challenge,
    find_equal_champion,
    finish_move,
    reconcile_aliases,
)
from forecache.models.registry.gate.common_rows import CommonRows, OwnTestRows, find_common_rows
from forecache.models.registry.gate.examples import (
    CandidateModel,
    SplitExamples,
    open_judged_model,
    open_model,
    score_features,
)
from forecache.models.registry.gate.gate_checks import (
    Check,
    check_champion,
    check_latency,
    check_schema,
    check_scores,
    check_shift,
    check_size,
    check_slices,
)
from forecache.models.registry.gate.metric_judge import BaselineScores, judge_of, score_baselines
from forecache.models.registry.gate.score_metrics import Array
from forecache.models.registry.gate.verdicts import (
    GateVerdict,
    load_verdict,
    outdated_reason,
    save_verdict,
    verdict_of_equal,
)
from forecache.models.registry.model_versions import (
    CHAMPION,
    FEATURES_TAG,
    JUDGED_TAG,
    REJECTED,
    ROLLED_BACK,
    ModelVersion,
    find_champion,
    model_version,
    registry_lock,
    verified_folder,
)
from forecache.models.registry.promotions import OtherDecisionError, Promotion, record_promotion
from forecache.models.tracking.client import connect_mlflow

STAGE = "gate"
_LEAST_SHARE = 0.5  # of the candidate's test rows, to compare the champion on its own features


def run_gate(settings: Settings, pipeline: Trainable, version: int, *, actor: str, run_id: str = "") -> GateVerdict:
    """Judge a version and move the alias `champion` to it if it passes.

    A version that was judged before keeps its verdict, and nothing moves, unless the verdict is outdated (see
    `outdated_reason`). A version that a person rejected or rolled back keeps its verdict for good. A version that
    fails stays registered with the tags `gate=failed` and `gate_reason`.

    No lock is held while the gate judges, because that can take long and a rollback must not wait. If the champion or
    the version changes meanwhile, here or on another machine, the gate judges again. If a version with the same inputs
    and weights, which another machine registered, was promoted before, the verdict says so and nothing moves.

    Args:
        actor: Person or job that runs the gate, for the promotion ledger.

    Raises:
        NotFoundError: The version does not exist, or its training table is gone.
        CheckError: The artifact does not match its checksums.
        ConflictError: A rollback or a person's promotion was interrupted; in a folder that machines share, where there
            is no lease, also if it is under way on another one.
    """
    stage = Stage(settings, STAGE, pipeline.name, run_id)
    while True:
        with registry_lock(settings, pipeline.name, action="moving its aliases", run_id=run_id) as lease:
            entries = reconcile_aliases(settings, pipeline, lease)
        candidate, before = model_version(settings, pipeline, version), find_champion(settings, pipeline)
        stored = _stored_verdict(pipeline, candidate, before)
        if stored is not None:
            return stored
        equal = find_equal_champion(settings, pipeline, candidate, entries)
        if equal is not None:
            verdict = verdict_of_equal(candidate, before, equal)
            save_verdict(connect_mlflow(settings), pipeline, candidate, verdict, {})
            return verdict
        verdict, plots = _judge_candidate(settings, pipeline, candidate, before)
        with registry_lock(settings, pipeline.name, action=f"judging version {version}", run_id=run_id) as lease:
            entries = reconcile_aliases(settings, pipeline, lease)
            champion_now = find_champion(settings, pipeline)
            if (champion_now.version if champion_now else None) != verdict.champion_before:
                continue
            if model_version(settings, pipeline, version).tags != candidate.tags:
                continue
            if find_equal_champion(settings, pipeline, candidate, entries):
                continue
            try:
                verdict = _record_decision(
                    settings, pipeline, candidate, verdict, entries, lease, actor=actor, run_id=run_id
                )
            except (OtherDecisionError, LeaseLostError):
                continue
            save_verdict(connect_mlflow(settings), pipeline, candidate, verdict, plots)
        _record_verdict(stage, candidate, verdict)
        return verdict


def _record_verdict(stage: Stage, candidate: ModelVersion, verdict: GateVerdict) -> None:
    """Record what judging took; the verdict itself is kept with the version."""
    details = {"model_version": candidate.version, "passed": verdict.passed}
    inputs = f"model={candidate.name}@{candidate.version}"
    stage.record({None: StageOutcome(0, details)}, {None: inputs}, time.perf_counter() - stage.started)


def _judge_candidate(
    settings: Settings, pipeline: Trainable, candidate: ModelVersion, before: ModelVersion | None
) -> tuple[GateVerdict, dict[str, str]]:
    model, examples = open_judged_model(settings, pipeline, candidate, candidate.training_table)
    served = model
    if JUDGED_TAG in candidate.tags:
        served = open_model(verified_folder(settings, candidate), pipeline.main_output.spec)
    features = model.input_names(candidate.features)
    scores = score_features(model, examples.features, examples.classes, examples.sizes)
    label, weight, judge = examples.label, examples.weight, judge_of(pipeline, examples.sizes)
    metrics = judge.measure(label, scores, weight)
    published = _published_types(settings, pipeline)
    checks = [check_schema(pipeline, features, model.output_name, published)]
    best: BaselineScores | None = None
    if checks[0].passed:
        baselines = score_baselines(pipeline, examples)
        best = baselines[0]
        checks += check_scores(pipeline, examples, scores, metrics, baselines)
        checks.append(check_latency(pipeline.trained_gate, served, examples.features, examples.sizes))
        checks.append(check_size(pipeline.trained_gate, served.size_bytes))
    compared = _ChampionComparison([], scores)
    if before is not None and before.version != candidate.version and checks[0].passed:
        compared = _compare_with_champion(settings, pipeline, candidate, before, model, examples, scores)
    checks += compared.checks
    failed = [check.reason for check in checks if not check.passed]
    verdict = GateVerdict(
        pipeline=pipeline.name,
        model_version=candidate.version,
        passed=not failed,
        reasons=tuple(failed or _main_reasons(checks)),
        metrics=metrics,
        baseline=best.metrics if best else {},
        baseline_name=best.name if best else "",
        champion=compared.champion_metrics,
        champion_before=before.version if before else None,
        champion_after=before.version if before else None,
        checks=tuple(checks),
        compared=compared.metrics,
    )
    plots: dict[str, str] = {}
    for draw_verdict in find_hooks("draw_verdict"):
        plots |= draw_verdict(pipeline, checks, compared.scores, compared.champion_scores)
    return verdict, plots


class _ChampionComparison(NamedTuple):
    """The checks against the champion, with the scores and the metrics of both models on the rows of the comparison.

    The candidate has `metrics` only if these rows are a part of its test split.
    """

    checks: list[Check]
    scores: Array
    champion_scores: Array | None = None
    metrics: Mapping[str, float] = {}
    champion_metrics: Mapping[str, float] = {}


def _compare_with_champion(
    settings: Settings,
    pipeline: Trainable,
    candidate: ModelVersion,
    before: ModelVersion,
    model: CandidateModel,
    examples: SplitExamples,
    scores: Array,
) -> _ChampionComparison:
    checks = []
    if _has_other_features(settings, candidate, before):
        rows, check = _find_rows_with_own_features(settings, pipeline, candidate, before, model, examples)
        if rows is not None:
            examples = rows.after.examples
            ours, theirs = (side.scores(examples.classes) for side in (rows.after, rows.before))
            compared = _compare_scores(pipeline, before, examples, ours, theirs, [check])
            if rows.num_rows == rows.num_test_rows:
                return compared
            metrics = judge_of(pipeline, examples.sizes).measure(examples.label, ours, examples.weight)
            return compared._replace(metrics=metrics)
        checks.append(check)
    try:
        champion, same_rows = open_judged_model(settings, pipeline, before, candidate.training_table)
    except InputError as error:
        # A dropped feature must neither block every later model, nor let a model pass without a comparison.
        note = f"champion {before.version} cannot be compared, so a person has to confirm the model: {error.message}"
        return _ChampionComparison([Check("champion", True, None, None, note, confirm=True)], scores)
    champion_scores = score_features(champion, same_rows.features, examples.classes, examples.sizes)
    return _compare_scores(pipeline, before, examples, scores, champion_scores, checks)


def _has_other_features(settings: Settings, candidate: ModelVersion, before: ModelVersion) -> bool:
    """Return whether the champion was trained on other features; other fingerprints can be of the same."""
    ours, theirs = (version.tags.get(FEATURES_TAG) for version in (candidate, before))
    if ours is None or theirs is None or ours == theirs:
        return False
    try:
        return read_definition(settings, before.name, theirs, "features").same_as != ours
    except NotFoundError:
        return True


def _find_rows_with_own_features(
    settings: Settings,
    pipeline: Trainable,
    candidate: ModelVersion,
    before: ModelVersion,
    model: CandidateModel,
    examples: SplitExamples,
) -> tuple[CommonRows | None, Check]:
    """The test rows of which the champion's training set has its own features, if these are most; and a check of it."""
    try:
        theirs = OwnTestRows.read(settings, pipeline, before)
        rows = find_common_rows(theirs, OwnTestRows.from_examples(settings, pipeline, candidate, model, examples))
    except (InputError, NotFoundError, DamagedError) as error:
        why = error.message
    else:
        counts = f"{rows.num_rows:,} of {rows.num_test_rows:,} test rows"
        if rows.num_rows >= _LEAST_SHARE * rows.num_test_rows:
            note = f"champion {before.version} is judged on the features of its training, on {counts}"
            return rows, Check("champion_features", True, rows.num_rows / rows.num_test_rows, None, note)
        why = f"its training set has {counts}"
    note = f"champion {before.version} is judged on the new features, which favours the candidate: {why}"
    return None, Check("champion_features", True, None, None, note, warns=True)


def _compare_scores(
    pipeline: Trainable,
    before: ModelVersion,
    examples: SplitExamples,
    scores: Array,
    champion_scores: Array,
    checks: Sequence[Check],
) -> _ChampionComparison:
    found = [
        check_champion(pipeline, examples, scores, champion_scores, version=before.version),
        *checks,
        *check_slices(pipeline, examples, scores, champion_scores),
    ]
    if pipeline.task != "ranking":  # whose scores have no unit
        found.append(check_shift(pipeline, scores, champion_scores))
    metrics = judge_of(pipeline, examples.sizes).measure(examples.label, champion_scores, examples.weight)
    return _ChampionComparison(found, scores, champion_scores, champion_metrics=metrics)


def _record_decision(
    settings: Settings,
    pipeline: Trainable,
    candidate: ModelVersion,
    verdict: GateVerdict,
    entries: Sequence[Promotion],
    lease: Lease,
    *,
    actor: str,
    run_id: str,
) -> GateVerdict:
    asked = pipeline.trained_gate.approval or any(check.confirm for check in verdict.checks)
    if verdict.passed and asked and verdict.champion_before != candidate.version:
        verdict = replace(verdict, awaiting=True)
    state = verdict.state
    last = entries[-1] if entries else None
    if last is None or not _is_row_of(last, verdict):
        seen = last
        reason = "; ".join(verdict.reasons)
        last = describe_move(settings, pipeline, candidate, action="gate", actor=actor, reason=reason, run_id=run_id)
        if state != "passed":
            stays = last.from_version
            last = replace(last, to_version=stays, candidate=candidate.version, verdict=state)
        record_promotion(settings, replace(last, metrics=verdict.metrics), after=seen, lease=lease)
    if state == "passed":
        finish_move(settings, pipeline, last, lease)
    elif state == "failed":
        end_challenge(settings, pipeline, candidate.version)
    return replace(verdict, champion_after=last.to_version)


def _is_row_of(entry: Promotion, verdict: GateVerdict) -> bool:
    """Tell if an interrupted decision has already written this verdict as the ledger's last row."""
    if (entry.action, entry.about, entry.verdict) != ("gate", verdict.model_version, verdict.state):
        return False
    return verdict.state == "passed" or entry.from_version == verdict.champion_before


def _stored_verdict(pipeline: Trainable, candidate: ModelVersion, before: ModelVersion | None) -> GateVerdict | None:
    champion = before.version if before else None
    if candidate.gate not in (REJECTED, ROLLED_BACK) and outdated_reason(pipeline, candidate, champion):
        return None
    return load_verdict(candidate)


def _main_reasons(checks: list[Check]) -> list[str]:
    shown = ("baseline", "constant", "not_worse", "other_metrics", CHAMPION, "floor")
    return [check.reason for check in checks if check.name.partition(":")[0] in shown]


def _published_types(settings: Settings, pipeline: Trainable) -> dict[str, str]:
    if not pipeline.feature_table or not table_exists(settings, pipeline.feature_table):
        return {}
    fields = open_table(settings, pipeline.feature_table).schema().fields
    return {field.name: str(getattr(field.type, "type", field.type)) for field in fields}
