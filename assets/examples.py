"""Training set of a real-time model: past requests with features as they were known, transformed as when it is asked.

Each request sees the features of the as-of date that had ended when it was made; the declared transform is called for
it by the code that answers. Splits follow in time, so that no outcome reaches into a later split.
"""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg

from assets import checks
from assets.metadata import stage_metadata
from assets.night import TrainingNight
from assets.stage import Step, explained
from assets.table import source_asset
from assets.training_set import SEPARATE
from assets.views import splits_view
from assets.waiting import ingest_waiting
from forecache.pipeline import AS_OF, Realtime
from forecache.pipeline.names import POSITION, REQUEST_ID
from resources.settings import SettingsResource
from resources.spark import SparkResource


def build_asked_training_set(realtime: Realtime) -> dg.AssetsDefinition:
    """The training set of a real-time model; each build is a Delta version, which the model's run pins."""
    pipeline, of = realtime.training_pipeline, realtime.trained_examples
    table = pipeline.training_table
    columns = [
        dg.TableColumn(REQUEST_ID, "string", description="The request."),
        dg.TableColumn(POSITION, "int", description="The candidate's place in it, from 0."),
        dg.TableColumn(AS_OF, "date", description="The day of the request."),
        dg.TableColumn("split", "string", description="train, validation or test."),
        *(dg.TableColumn(each.name, each.stored, description=each.description) for each in realtime.features),
        dg.TableColumn(of.label, "double", description=f"Label, known {of.horizon_days} days after the request."),
    ]

    @dg.asset(
        name=table,
        deps=[*(view.feature_table for view in realtime.views), *(source_asset(source) for source in of.sources)],
        description=__doc__,
        group_name="training",
        kinds={"deltalake", "spark"},
        owners=[realtime.owner],
        metadata={"dagster/column_schema": dg.TableSchema(columns)},
        check_specs=[
            dg.AssetCheckSpec(
                SEPARATE,
                asset=table,
                blocking=True,
                description="Outcomes of a split are known before the next one begins, and none is empty.",
            )
        ],
    )
    @explained
    def training_set(
        context: dg.AssetExecutionContext, config: TrainingNight, settings: SettingsResource, spark: SparkResource
    ) -> Iterator[Any]:
        from forecache.lake.examples.build import build_examples
        from forecache.quality.splits import separation

        step = Step(context, settings.load(), spark)
        night = config.resolve(realtime, context)
        for source in realtime.all_sources:
            ingest_waiting(step, source, last=night)
        result = step.run(build_examples, step.session(), step.settings, realtime, night, rebuild=step.rebuild)
        yield dg.MaterializeResult(
            value=result,
            metadata={**stage_metadata(step.settings, result), "night": str(night), "splits": splits_view(result)},
        )
        days = {split: [date.fromisoformat(day) for day in some] for split, some in result.details["as_of"].items()}
        # Of a request of a day the outcome is known after the horizon's last day.
        found = separation(days, result.details["splits"], horizon_days=of.horizon_days + 1)
        apart = f"{of.horizon_days} days without requests lie between the splits: every outcome is known by then."
        yield checks.result(
            table, SEPARATE, checks.Verdict(found.success, apart if found.success else found.sentence), blocking=True
        )

    return training_set
