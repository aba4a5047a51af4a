"""Model: the candidate in the registry, judged by the gate. If it passes, it is the champion and scores from then on.

A model that the gate rejects stays registered with the reason, and the champion does not change.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets import checks
from assets.metadata import embed_plots, link_or_text, place_in_graph, stage_metadata
from assets.stage import RunStep, explain_errors
from assets.views import evaluation_plots, metrics_view, training_view, verdict_view
from forecache.base.links import mlflow_run_url, model_report_url, model_version_url
from forecache.base.settings import Settings
from forecache.declare import RegisteredModel, TorchModel, Trainable
from resources.instance import TRAINING_POOL
from resources.settings_resource import SettingsResource

_CANDIDATE = """\
Candidate: a model trained on the pinned training set. It lies in the folder of its run and is not registered yet."""


def candidate_name(pipeline: Trainable) -> str:
    return f"candidate_{pipeline.name}"


def build_candidate(pipeline: Trainable) -> dg.AssetsDefinition:
    """The newest training run of a pipeline. A network resumes from its checkpoint, so that a retry is cheap."""

    @dg.asset(
        name=candidate_name(pipeline),
        deps=[pipeline.training_table],
        description=_CANDIDATE,
        **place_in_graph(pipeline, stage="training"),
        pool=TRAINING_POOL,
        kinds={"pytorch", "python"} if isinstance(pipeline.model, TorchModel) else {"python"},
    )
    @explain_errors
    def train_candidate(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.models.training.launch import train

        step = RunStep(context, settings.load())
        night = step.night_of(pipeline.training_table)
        result = step.run_stage(train, step.settings, pipeline, night)
        yield dg.MaterializeResult(
            metadata={
                **stage_metadata(step.settings, result),
                "as_of": str(night),
                "mlflow_run": _mlflow_run(step.settings, pipeline, result.details["mlflow_run_id"]),
                **training_view(result),
            }
        )

    return train_candidate


def _mlflow_run(settings: Settings, pipeline: Trainable, run_id: str) -> dg.MetadataValue[Any]:
    """A link to a run in MLflow, or its id."""
    if not settings.mlflow_public_url:
        return dg.MetadataValue.text(run_id)
    from forecache.models.tracking.client import connect_mlflow
    from forecache.models.tracking.runs import experiment_of

    experiment = experiment_of(settings, connect_mlflow(settings), pipeline)
    return dg.MetadataValue.url(mlflow_run_url(settings, experiment, run_id))


def _model_links(settings: Settings, pipeline: Trainable, version: int) -> dict[str, dg.MetadataValue[Any]]:
    """A version's page in MLflow, and its report."""
    return {
        "mlflow_version": link_or_text(
            model_version_url(settings, pipeline.name, version), f"models:/{pipeline.name}/{version}"
        ),
        "report": link_or_text(
            model_report_url(settings, pipeline.name, version),
            f"forecache report {pipeline.name} --version {version} --open",
        ),
    }


GATE = "passes_gate"
GATE_WARNINGS = "gate_warnings"


def model_name(pipeline: Trainable) -> str:
    return f"model_{pipeline.name}"


def _approval_remedy(pipeline: Trainable, version: int) -> str:
    return (
        f"Launch the job {pipeline.name}_approve with your name as confirmed_by, or run "
        f"`forecache promote {pipeline.name} {version}`."
    )


def build_registered_model(pipeline: Trainable, model: RegisteredModel) -> dg.AssetSpec:
    """An external asset for a pipeline's model that is trained and registered outside this project."""
    return dg.AssetSpec(
        model_name(pipeline),
        description=f"{model.uri} in MLflow, which is resolved whenever a date is scored.",
        **place_in_graph(pipeline, stage="registry"),
        kinds={"mlflow"},
        metadata={"model_uri": model.uri},
    )


def build_model(pipeline: Trainable) -> dg.AssetsDefinition:
    """The registered versions of a pipeline's model."""
    asset = model_name(pipeline)
    gate = pipeline.trained_gate

    @dg.asset(
        name=asset,
        deps=[candidate_name(pipeline)],
        description=__doc__,
        **place_in_graph(pipeline, stage="registry"),
        kinds={"mlflow", "onnx"} if isinstance(pipeline.model, TorchModel) else {"mlflow"},
        check_specs=[
            dg.AssetCheckSpec(
                GATE,
                asset=asset,
                description=f"{gate.metric} on the test split, against floors, baseline, constants and champion.",
            ),
            dg.AssetCheckSpec(
                GATE_WARNINGS,
                asset=asset,
                description="Metrics by which the baseline is better, and which the gate does not judge by.",
            ),
        ],
    )
    @explain_errors
    def register_and_judge(context: dg.AssetExecutionContext, settings: SettingsResource) -> Iterator[Any]:
        from forecache.models.registry.gate.verdicts import load_gate_plots
        from forecache.models.registry.model_versions import model_version
        from forecache.models.registry.register import load_evaluation
        from forecache.models.registry.run_gate import run_gate
        from forecache.models.training.launch import find_training
        from forecache.operations.kept_features import register_model
        from forecache.operations.rollback import recover_interrupted

        step = RunStep(context, settings.load())
        current = step.settings
        candidate = find_training(current, pipeline, step.night_of(candidate_name(pipeline)))
        result = step.run_stage(register_model, current, pipeline, candidate)
        version = result.details["model_version"]
        evaluation = load_evaluation(current, model_version(current, pipeline, version))
        yield dg.MaterializeResult(
            metadata={
                **stage_metadata(current, result),
                "model_version": version,
                **_model_links(current, pipeline, version),
                "mlflow_run": _mlflow_run(current, pipeline, result.details["mlflow_run_id"]),
                "metrics": metrics_view(result.details),
                "plots": evaluation_plots(evaluation),
            }
        )
        recover_interrupted(current, pipeline, progress=step.progress)
        step.report_progress(f"the gate judges {pipeline.name} version {version}")
        verdict = run_gate(current, pipeline, version, actor="dagster", run_id=context.run_id)
        metadata = {
            "verdict": verdict_view(verdict.checks),
            "plots": embed_plots(load_gate_plots(current, model_version(current, pipeline, version))),
            "champion": f"{verdict.champion_before or 'none'} before, {verdict.champion_after or 'none'} after",
            **({"approval": _approval_remedy(pipeline, version)} if verdict.awaiting else {}),
            **{name: value for name, value in verdict.metrics.items() if name == gate.metric},
        }
        yield checks.check_result(asset, GATE, checks.CheckVerdict(verdict.passed, verdict.line, metadata))
        warned = "; ".join(verdict.warnings)
        severity = dg.AssetCheckSeverity.WARN
        yield checks.check_result(
            asset, GATE_WARNINGS, checks.CheckVerdict(not warned, warned or "No warning.", severity=severity)
        )

    return register_and_judge
