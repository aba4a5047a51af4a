"""The model registry: `models`, `models diff`, `models evaluate`, `models reject`, `promote`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from forecache.base.errors import CheckError
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.cli.base import CONTEXT_SETTINGS, DefaultGroup, command, load_trained_model, settings
from forecache.cli.commands.release import release_champion
from forecache.cli.orchestrator import actor, show_in_dagster
from forecache.cli.output import format_cell, show, show_rows, show_table, wants_json
from forecache.declare import Trainable

if TYPE_CHECKING:
    from forecache.models.registry.gate.verdicts import GateVerdict
    from forecache.models.registry.model_versions import ModelVersion


_COMMANDS = {
    "list": (f"{__name__}:list_all", "Registered models, their gate verdicts, and the champion (default)."),
    "diff": (f"{__name__}:diff", "Differences between two versions of a model."),
    "evaluate": (f"{__name__}:evaluate", "Evaluate a version by the gate, again if the champion has changed since."),
    "reject": (f"{__name__}:reject", "Reject a version that waits for approval."),
    "rollback": (
        "forecache.cli.commands.rollback:model_rollback",
        "Go back to an earlier champion and its predictions.",
    ),
}


@click.group("models", cls=DefaultGroup, lazy=_COMMANDS, context_settings=CONTEXT_SETTINGS)
def models() -> None:
    """Registered models: `forecache models [PIPELINE]...` lists them."""


@command("list", examples="forecache models\nforecache models list churn --json")
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
def list_all(pipelines: tuple[str, ...]) -> None:
    """List the registered models of PIPELINEs (default: all), their gate verdicts, and the champion."""
    from forecache.cli.resolve_names import resolve_pipeline_names
    from forecache.declare.loading import load_trainable
    from forecache.models.registry.applied.pipeline_models import models_of

    current = settings()
    declared = [load_trainable(current, name) for name in resolve_pipeline_names(current, pipelines)]
    found = [(pipeline, version) for pipeline in declared for version in models_of(current, pipeline)]
    rows = [
        (
            version.name,
            version.version,
            ", ".join(version.aliases),
            version.gate,
            ", ".join(f"{name} {format_cell(value)}" for name, value in version.metrics.items()),
            f"{version.created_at:%Y-%m-%d %H:%M}Z",
            version.run_id or version.uri,
        )
        for _, version in found
    ]
    columns = ("model", "version", "alias", "gate", "on the test split", "registered", "MLflow run")
    caption = "" if rows else "none yet; run `forecache train` or `forecache run`"
    show_rows([version.as_dict() for _, version in found], columns, rows, right=("version",), caption=caption)


@command("promote", examples="forecache promote churn 4 --reason 'approved by risk'")
@click.argument("pipeline", metavar="PIPELINE")
@click.argument("version", type=int)
@click.option("--reason", default="", help="Why, for the promotion ledger.")
@click.option(
    "--outdated-verdict",
    is_flag=True,
    help="Approve even if the champion or the gate has changed since; the ledger records it.",
)
def promote(pipeline: str, version: int, reason: str, outdated_verdict: bool) -> None:
    """Make VERSION of PIPELINE's model the champion, if it passes the gate.

    A version that was never evaluated is evaluated now. A version that waits for approval is approved, unless it was
    compared with another champion than the present one.
    """
    from forecache.models.registry.alias_moves import promote_version as promote_by_hand
    from forecache.models.registry.model_versions import CHAMPION, model_version
    from forecache.operations.rollback import recover_interrupted

    current, declared = load_trained_model(pipeline)
    recover_interrupted(current, declared)
    judged_now = model_version(current, declared, version).gate == "pending"
    if judged_now:
        _judge(current, declared, version)
    if not (judged_now and CHAMPION in model_version(current, declared, version).aliases):
        promote_by_hand(current, declared, version, actor=actor(), reason=reason, outdated_verdict=outdated_verdict)
    promoted = model_version(current, declared, version)
    show_in_dagster(current, f"model_{pipeline}", {"champion": version, "reason": reason})
    show(promoted.as_dict(), f"Model {promoted.name} {promoted.version} is the champion; the next run scores with it.")
    release_champion(current, pipeline)


@command("evaluate", examples="forecache models evaluate churn 4")
@click.argument("pipeline", metavar="PIPELINE")
@click.argument("version", type=int)
def evaluate(pipeline: str, version: int) -> None:
    """Evaluate VERSION of PIPELINE's model by the gate, without training.

    A verdict that is not outdated is shown as it is. A version that failed or waits is evaluated again if the champion
    has changed since, and any version that no person decided about if the gate's declaration has. A version that passes
    becomes the champion, as after a training.
    """
    from forecache.models.registry.model_versions import CHAMPION, model_version

    current, declared = load_trained_model(pipeline)
    verdict = _judge(current, declared, version)
    judged = model_version(current, declared, version)
    show(judged.as_dict(), f"{verdict.line}.")
    if CHAMPION in judged.aliases:
        release_champion(current, pipeline)


@command("reject", examples="forecache models reject churn 4 --reason 'unfair to new customers'")
@click.argument("pipeline", metavar="PIPELINE")
@click.argument("version", type=int)
@click.option("--reason", required=True, help="Why, for the promotion ledger.")
def reject(pipeline: str, version: int, reason: str) -> None:
    """Reject VERSION of PIPELINE's model, which waits for approval; the champion does not change."""
    from forecache.models.registry.model_versions import model_version
    from forecache.operations.approval import approve

    current, declared = load_trained_model(pipeline)
    approve(current, declared, version=version, approved=False, actor=actor(), reason=reason)
    show_in_dagster(current, f"model_{pipeline}", {"rejected": version, "reason": reason})
    rejected = model_version(current, declared, version)
    show(rejected.as_dict(), f"Model {pipeline} {version} is rejected; the champion does not change.")


@command("diff", examples="forecache models diff churn 3 4\nforecache models diff churn 3 4 --json")
@click.argument("pipeline", metavar="PIPELINE")
@click.argument("first", type=int)
@click.argument("second", type=int)
def diff(pipeline: str, first: int, second: int) -> None:
    """Show the differences between versions FIRST and SECOND of PIPELINE's model: metrics, data, code, parameters."""
    from forecache.models.registry.model_versions import diff_models

    changed = diff_models(*load_trained_model(pipeline), first, second)
    value = {name: {"first": one, "second": other} for name, (one, other) in changed.items()}
    rows = [(name, one, other) for name, (one, other) in changed.items()]
    columns = ("", f"{pipeline} {first}", f"{pipeline} {second}")
    show_rows(value, columns, rows, caption="" if rows else "nothing differs")


def _judge(current: "Settings", pipeline: "Trainable", version: int) -> "GateVerdict":
    from forecache.operations.approval import judge_version

    verdict = judge_version(current, pipeline, version=version, actor=actor())
    show_in_dagster(current, f"model_{pipeline.name}", {"judged": version, "verdict": verdict.line})
    if not wants_json():
        show_verdict(verdict)
    if not verdict.passed:
        raise CheckError(f"The gate refused model {pipeline.name} {version}: {'; '.join(verdict.reasons)}.")
    return verdict


def show_verdict(verdict: "GateVerdict") -> None:
    """Print the gate's checks, one per line; failures in red, warnings in yellow."""
    from rich.text import Text

    colours = {"failed": "red", "warning": "yellow"}
    rows = [
        (
            Text(check.result if check.passed else "FAILED", colours.get(check.result, "")),
            *(check.name, check.value, check.limit, check.reason),
        )
        for check in verdict.checks
    ]
    show_table(("", "check", "value", "limit", "reason"), rows, right=("value", "limit"))


def show_registered(settings: Settings, results: Sequence[StageResult]) -> None:
    """Print the metrics and the gate's verdict on each model that a run has registered."""
    registered = {result.subject: result.details["model_version"] for result in results if result.stage == "register"}
    if registered:
        from forecache.declare.loading import load_trainable

        pipelines = [load_trainable(settings, name) for name in registered]
        show_models(collect_verdicts(settings, pipelines, versions=registered))


def collect_verdicts(
    settings: Settings, pipelines: Sequence[Trainable], *, versions: Mapping[str, int] | None = None
) -> list[dict[str, Any]]:
    """The gate's verdicts on models, with their metrics.

    Args:
        versions: Model version by pipeline; otherwise the champion, or the newest version if there is no champion.
    """
    from forecache.models.registry.gate.verdicts import load_verdict
    from forecache.models.registry.model_versions import find_champion, list_models, model_version

    found = []
    for pipeline in pipelines:
        if versions is not None and pipeline.name in versions:
            version: ModelVersion | None = model_version(settings, pipeline, versions[pipeline.name])
        else:
            version = find_champion(settings, pipeline) or next(iter(list_models(settings, pipeline)), None)
        verdict = load_verdict(version) if version is not None else None
        if version is None or verdict is None:
            continue
        metrics = sorted(verdict.metrics, key=lambda metric: metric != pipeline.trained_gate.metric)
        found.append(
            {
                "pipeline": pipeline.name,
                "model_version": version.version,
                "aliases": list(version.aliases),
                "passed": verdict.passed,
                "state": verdict.state,
                "reasons": list(verdict.reasons),
                "warnings": list(verdict.warnings),
                "decided_by": pipeline.trained_gate.metric,
                "baseline_feature": verdict.baseline_name,
                "metrics": {metric: verdict.metrics[metric] for metric in metrics},
                "baseline": dict(verdict.baseline),
            }
        )
    return found


def show_models(models: list[dict[str, Any]]) -> None:
    """Print metrics next to the baseline's, and the verdict in a line."""
    rows = [
        (
            f"{model['pipeline']} {model['model_version']}" if metric == model["decided_by"] else "",
            metric,
            value,
            model["baseline"].get(metric),
            model["baseline_feature"] if metric == model["decided_by"] else "",
        )
        for model in models
        for metric, value in model["metrics"].items()
    ]
    columns = ("model", "on the test split", "value", "baseline", "the baseline is")
    show_table(columns, rows, title="Models", right=("value", "baseline"))
    texts = {"failed": "failed the gate", "passed": "passed the gate"}
    for model in models:
        alias = f" ({', '.join(model['aliases'])})" if model["aliases"] else ""
        state = texts.get(model["state"], "passed the gate and waits for approval")
        if model["passed"] and model["warnings"]:
            state = click.style(f"{state} with a warning", fg="yellow")
        click.echo(f"{model['pipeline']} {model['model_version']}{alias} {state}: {'; '.join(model['reasons'])}.")
    click.echo()
