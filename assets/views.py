"""The figures of stages as tables, bars and plots in the metadata of Dagster's UI."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.metadata import embed_plots, markdown_table
from assets.plots import draw_bars, draw_lines
from forecache.base.plugins import find_hooks, is_installed, load_hook
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.declare import Pipeline
from forecache.lake.quality.validate import CheckReport

if TYPE_CHECKING:
    from forecache.models.registry.gate.gate_checks import Check

_PLOTS = {
    "label_mean": "Mean label by as-of date",
    "roc": "ROC curve",
    "gain": "Cumulative gain",
    "places": "nDCG by places",
    "calibration": "Calibration",
    "importance": "Feature importance",
}
"""The plots of a model that are shown, with their titles."""
_MOST_EPOCHS = 50
_MOST_DATES = 12


def splits_view(result: StageResult) -> dict[str, Any]:
    """A training set's splits, and the warnings about its dates."""
    warnings = {"warnings": "\n".join(result.details["warnings"])} if result.details.get("warnings") else {}
    return {"splits": _splits_table(result.details), **warnings}


def _splits_table(details: Mapping[str, Any]) -> dg.MarkdownMetadataValue:
    """As-of dates, rows and the mean label of each split, or the shares of the classes."""
    if "class_shares" in details:
        shares = details["class_shares"]
        found = [
            (split, ", ".join(dates), details["splits"][split], *(f"{share:.1%}" for share in shares[split].values()))
            for split, dates in details["as_of"].items()
        ]
        return markdown_table(("split", "as-of dates", "rows", *details["classes"]), found)
    means = details["label_mean"]
    rows = [
        (split, _format_dates(dates), details["splits"][split], fmean(means[day] for day in dates if day in means))
        for split, dates in details["as_of"].items()
    ]
    return markdown_table(("split", "as-of dates", "rows", "mean label"), rows)


def _format_dates(dates: Sequence[str]) -> str:
    return ", ".join(dates) if len(dates) <= _MOST_DATES else f"{dates[0]} to {dates[-1]}"


def training_view(result: StageResult) -> dict[str, Any]:
    """A training run: its configuration, its cost, and the losses of at most some fifty of its epochs or rounds."""
    details = result.details
    unit = details.get("unit", "epoch")
    shown = ("epochs", "best_epoch", "validation_loss", "workers", "device", "training_version", "seed", "run_dir")
    history = [
        (f"{epoch['epoch'] + 1}", epoch["train_loss"], epoch["validation_loss"], f"{epoch['rows_per_s']:,.0f}")
        for epoch in details["history"][:: len(details["history"]) // _MOST_EPOCHS + 1]
    ]
    losses = {
        name: [epoch[column] for epoch in details["history"]]
        for name, column in (("training", "train_loss"), ("validation", "validation_loss"))
        if all(epoch[column] is not None for epoch in details["history"])
    }
    return {
        **(
            {"plots": embed_plots({"loss": draw_lines(f"Loss by {unit}", losses)})}
            if details["history"] and losses
            else {}
        ),
        **{name: details[name] for name in shown if name in details},
        "history": markdown_table((unit, "training loss", "validation loss", "rows/s"), history),
        **{name: details["cost"][name] for name in ("device_s", "wasted_s")},
        "cost": cost_view(details["cost"]),
        "advice": dg.MetadataValue.md("\n".join(f"- {sentence}" for sentence in details["advice"])),
    }


def cost_view(cost: Mapping[str, Any]) -> dg.MarkdownMetadataValue:
    """The cost of a training run over all its attempts, with prices if the settings have the device's."""
    rows = [(name, cost[name]) for name in ("attempts", "device_s", "wasted_s", "steps_repeated")]
    if "saving" in cost:
        rows += [("price on demand", cost["price_on_demand"]), ("price on spot", cost["price_spot"])]
        rows.append(("saved by spot", f"{cost['saving']:.0%}"))
    return markdown_table(("cost", "value"), rows)


def metrics_view(details: Mapping[str, Any]) -> dg.MarkdownMetadataValue:
    """Each metric of a model by split, and the baseline's on the test split."""
    splits = details["metrics"]
    baseline = details["baseline"].get("test", {})
    rows = [
        (name, *(format_number(splits[split].get(name)) for split in splits), format_number(baseline.get(name)))
        for name in splits["test"]
    ]
    return markdown_table(("metric", *splits, f"test, {details['baseline_feature']} alone"), rows)


def evaluation_plots(evaluation: dict[str, Any]) -> dg.MarkdownMetadataValue:
    """The most important plots; the report has all of them."""
    drawn = [draw(evaluation, standalone=True) for draw in find_hooks("draw_evaluation")]
    shown = {name: svg for plots in drawn for name, svg in plots.items() if name in _PLOTS}
    return embed_plots(shown, titles=_PLOTS)


def verdict_view(found: Iterable["Check"]) -> dg.MarkdownMetadataValue:
    """The gate's checks, one a row."""
    rows = [
        (c.result if c.passed else "FAILED", c.name, format_number(c.value), format_number(c.limit), c.reason)
        for c in found
    ]
    return markdown_table(("", "check", "value", "limit", "reason"), rows)


def scoring_view(settings: Settings, pipeline: Pipeline, result: StageResult) -> dict[str, Any]:
    """Model, speed and plan of a scoring run, and the distribution of the outputs of its last as-of date."""
    last = result.nights[-1]
    bins, segments = dict[str, int](), dict[str, Any]()
    if is_installed("drift"):
        found = load_hook("drift", "output_bins")(settings, pipeline, last)
        bins = {f"{bin_.low:.3g} to {bin_.high:.3g}": bin_.rows for bin_ in found}
        segments = load_hook("drift", "segment_rows")(settings, pipeline, last)
    shown = ("model", "engine", "scored_rows", "rows_per_second")
    plots = {f"{pipeline.main_output.name} on {last}": bins, **segments}
    drawn = {name: draw_bars(f"Rows by {name}", counts) for name, counts in plots.items() if counts}
    return {
        **({"distribution": embed_plots(drawn)} if drawn else {}),
        **{name: result.details[name] for name in shown if name in result.details},
        **plan_view(result.details),
    }


def plan_view(details: Mapping[str, Any]) -> dict[str, Any]:
    """The predicted and the actual figures of a scoring run, its batches and warnings; empty if nothing was scored."""
    if not details.get("actual"):
        return {}
    predicted, actual = details.get("predicted") or {}, details["actual"]
    rows = [
        (name.replace("_", " "), *("" if side.get(name) is None else side[name] for side in (predicted, actual)))
        for name in actual
        if name != "basis"
    ]
    return {
        "predicted_from": predicted.get("basis", "nothing is known of such a date yet"),
        "plan": markdown_table(("", "predicted", "actual"), rows),
        **({"runtime": details["plan"]["reason"]} if "plan" in details else {}),
        **{name: details["batch"][name] for name in ("batch_rows", "batch_source") if details.get("batch")},
        **({"warnings": "\n".join(details["warnings"])} if details.get("warnings") else {}),
    }


def report_view(report: CheckReport, severity: str) -> dict[str, Any]:
    """The expectations of one severity, each with its outcome."""
    chosen = [result for result in report.results if result.severity == severity]
    rows = [
        (
            "pass" if result.success else "FAIL",
            result.sentence,
            "" if result.observed is None else result.observed,
            "" if result.unexpected_count is None else result.unexpected_count,
            "" if result.unexpected_percent is None else f"{result.unexpected_percent:.3g} %",
        )
        for result in chosen
    ]
    headers = ("", "expectation", "observed", "unexpected rows", "share")
    figures = {"rows_checked": report.rows, "seconds": round(report.seconds, 2)}
    return {**figures, "results": markdown_table(headers, rows)} if chosen else figures


def format_number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
