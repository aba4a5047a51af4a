"""Parity: yesterday's logged answers are computed again from the lake and the stores and must be equal to the bit.

Requests, versions, ages, features and scores come from the request log; the inputs of the computation come from
releases, stores and lake. The figures of each day are rows of the table `parity_<model>`.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from assets import checks
from assets.metadata import markdown_table, owners_of, stage_metadata
from assets.partitions import configured_day
from assets.released import released_name
from assets.stage import RunStep, explain_errors
from forecache.base.plugins import load_hook
from forecache.base.results import StageResult
from forecache.declare import Realtime
from resources.settings import SettingsResource

EQUAL = "answers_are_equal_to_the_bit"


class ParityConfig(dg.Config):
    """Configuration of a parity run."""

    day: str = Field("", description="Date in UTC (YYYY-MM-DD) whose answers are compared. Default: yesterday.")
    sample: float = Field(1.0, gt=0, le=1, description="Share of the answers, by a hash of their request ids.")


def parity_name(realtime: Realtime) -> str:
    return f"parity_{realtime.name}"


def build_parity(realtime: Realtime) -> dg.AssetsDefinition:
    """The parity of the logged answers of a real-time model."""
    name = parity_name(realtime)

    @dg.asset(
        name=name,
        deps=[released_name(realtime)],
        description=__doc__,
        group_name="monitoring",
        kinds={"deltalake", "python"},
        owners=owners_of(realtime),
        check_specs=[
            dg.AssetCheckSpec(
                EQUAL,
                asset=name,
                description="Features, scores, rungs and order of every answer that can be computed again, and the "
                "content of every version that they name.",
            )
        ],
    )
    @explain_errors
    def compare_answers(
        context: dg.AssetExecutionContext, config: ParityConfig, settings: SettingsResource
    ) -> Iterator[dg.MaterializeResult[Any]]:
        step = RunStep(context, settings.load())
        result = step.run_stage(
            load_hook("parity", "check_parity"),
            step.settings,
            realtime.name,
            configured_day(config.day),
            sample=config.sample,
        )
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
