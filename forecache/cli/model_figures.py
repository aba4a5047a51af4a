"""The gate's verdicts on models, with their metrics: for `demo`, `run` and `train`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from forecache.base.settings import Settings
from forecache.cli.output import show_table
from forecache.declare import Trainable

if TYPE_CHECKING:
    from forecache.models.registry.model_versions import ModelVersion


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
        click.echo(f"{model['pipeline']} {model['model_version']}{alias} {state}: {'; '.join(model['reasons'])}.")
    click.echo()
