"""Parity: yesterday's logged answers are computed again from the lake and the stores and must be equal to the bit.

Requests, versions, ages, features and scores come from the request log; the inputs of the computation come from
releases, stores and lake. The figures of each day are rows of the table `parity_<model>`.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from assets import checks
from assets.metadata import markdown_table, place_in_graph, stage_metadata
from assets.partitions import configured_day
from assets.realtime import released_name
from assets.stage import RunStep, explain_errors
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.declare import Realtime
from forecache.declare.project import Project
from jobs.schedules import build_asset_job, build_cron_schedule
from resources.settings_resource import SettingsResource

EQUAL = "answers_are_equal_to_the_bit"


class ParityConfig(dg.Config):
    """Configuration of a parity run."""

    day: str = Field("", description="Date in UTC (YYYY-MM-DD) whose answers are compared. Default: yesterday.")
    sample: float = Field(1.0, gt=0, le=1, description="Share of the answers, by a hash of their request ids.")


def build_definitions(project: Project, settings: Settings) -> dg.Definitions:
    """The comparison of each real-time model with a log."""
    logged = [realtime for realtime in project.realtime.values() if realtime.log is not None]
    return dg.Definitions.merge(*map(define_parity, logged))


def define_parity(realtime: Realtime) -> dg.Definitions:
    """The asset, a job of its own, so that publishing does not wait for it, and its schedule after the log's day."""
    about = f"Compute yesterday's logged answers of {realtime.name} again, and compare every bit."
    job = build_asset_job(f"{realtime.name}_parity", about, [parity_name(realtime)])
    about = f"Half an hour after midnight UTC: parity of yesterday's answers of {realtime.name}."
    schedule = build_cron_schedule(job, "30 0 * * *", about)
    return dg.Definitions(assets=[build_parity(realtime)], jobs=[job], schedules=[schedule])


def parity_name(realtime: Realtime) -> str:
    return f"parity_{realtime.name}"


def build_parity(realtime: Realtime) -> dg.AssetsDefinition:
    """The parity of the logged answers of a real-time model."""
    name = parity_name(realtime)

    @dg.asset(
        name=name,
        deps=[released_name(realtime)],
        description=__doc__,
        **place_in_graph(realtime, stage="monitoring"),
        kinds={"deltalake", "python"},
        check_specs=[
            dg.AssetCheckSpec(
                EQUAL,
                asset=name,
                description="Features, scores, fallbacks and order of every answer that can be computed again, and the "
                "content of every version that they name.",
            )
        ],
    )
    @explain_errors
    def compare_answers(
        context: dg.AssetExecutionContext, config: ParityConfig, settings: SettingsResource
    ) -> Iterator[dg.MaterializeResult[Any]]:
        from forecache.plugins.parity.replay import check_parity

        step, day = RunStep(context, settings.load()), configured_day(config.day)
        result = step.run_stage(check_parity, step.settings, realtime.name, day, sample=config.sample)
        verdict = checks.CheckVerdict(result.details["passed"], result.details["sentence"])
        yield dg.MaterializeResult(
            metadata={**stage_metadata(step.settings, result), **parity_view(result)},
            check_results=[checks.check_result(name, EQUAL, verdict)],
        )

    return compare_answers


def parity_view(result: StageResult) -> dict[str, Any]:
    """The figures of a day: counts, each feature, each version, and the first differences."""
    details = result.details
    counted = {name: details[name] for name in ("day", "requests", "equal", "differ")}
    features = [
        (name, *(each[figure] for figure in _FIGURES))
        for name, each in [*details["features"].items(), ("(score)", details["scores"])]
    ]
    stores = [
        (f"{each['name']} version {each['version']}", each["table"], each["delta_version"], each["state"], each["why"])
        for each in details["stores"]
    ]
    first = [
        (each["request_id"], each["arrived_at"], each["kind"], each["name"], each["place"], each["logged"],
         each["offline"])
        for each in details["first"]
    ]  # fmt: skip
    view: dict[str, Any] = {
        **counted,
        "verdict": details["sentence"],
        "not_recomputed": sum(details["not_recomputed"].values()),
        "features": markdown_table(("feature", *_FIGURES), features),
        "stores": markdown_table(("version", "table", "Delta version", "state", "why"), stores),
    }
    if first:
        columns = ("request", "arrived", "what", "of", "place", "logged", "offline")
        view["first_differences"] = markdown_table(columns, first)
    return view


_FIGURES = ("compared", "mismatch", "missing", "extra", "mean_abs", "max_abs", "smape", "p99_abs")
