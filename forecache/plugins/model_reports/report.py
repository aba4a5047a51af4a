"""The HTML report of a model version: one self-contained file."""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from forecache.base.errors import CheckError
from forecache.base.reports import make_page, write_page
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.declare import Trainable
from forecache.models.registry.gate.metric_judge import judge_of
from forecache.models.registry.gate.verdicts import load_verdict
from forecache.models.registry.model_versions import model_version, verified_folder
from forecache.models.registry.register import load_evaluation
from forecache.plugins.model_reports.plots import draw_evaluation

_TEMPLATE = Path(__file__).with_name("report.html.j2")
_METRIC_NAMES = {
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "ece": "Calibration error (ECE)",
    "mae": "Mean absolute error",
    "rmse": "Root mean squared error",
    "r2": "R²",
    "spearman": "Rank correlation",
    "gini": "Gini coefficient",
    "top_decile": "Share of the top tenth",
    "accuracy": "Accuracy",
    "macro_f1": "F1, mean of the classes",
    "top_3_accuracy": "Accuracy of the best three",
    "pinball_loss": "Pinball loss",
    "coverage_error": "Coverage error",
    "interval_width": "Width of the interval",
    "mrr": "Reciprocal rank of the first",
}


def write_report(settings: Settings, pipeline: Trainable, version: int, *, stages: Sequence[StageResult] = ()) -> Path:
    """Write the report of a version, with a table of the run's stages if given; returns its path,
    `HOME/reports/<pipeline>-<version>.html`. NotFoundError without the version, CheckError if its artifact does not
    match its checksums, or if Forecache did not register it."""
    model = model_version(settings, pipeline, version)
    if not model.is_own:
        raise CheckError(
            f"Model {model.name!r} version {version} was not registered by Forecache: there is no evaluation of it.",
            remedy=f"`forecache train {pipeline.name}` makes a version that has a report.",
        )
    verified_folder(settings, model)
    evaluation, verdict = load_evaluation(settings, model), load_verdict(model)
    page = make_page(
        _TEMPLATE,
        environment=settings.environment,
        pipeline=pipeline,
        model=model,
        verdict=verdict,
        champion=verdict.champion if verdict else {},
        stages=stages,
        evaluation=evaluation,
        metrics=_metric_rows(evaluation, judge_of(pipeline).less_is_better),
        plots=draw_evaluation(evaluation),
        metric_name=lambda name: _METRIC_NAMES.get(name, name),
    )
    path = settings.reports_path / f"{pipeline.name}-{version}.html"
    write_page(path, page)
    return path


def _metric_rows(evaluation: dict[str, Any], less_is_better: Container[str]) -> list[dict[str, Any]]:
    test, baseline = evaluation["metrics"]["test"], evaluation["baseline"]["test"]
    return [
        {
            "name": name,
            "less_is_better": name in less_is_better,
            "train": evaluation["metrics"]["train"][name],
            "validation": evaluation["metrics"]["validation"][name],
            "test": value,
            "baseline": baseline.get(name),
        }
        for name, value in test.items()
    ]
