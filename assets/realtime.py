"""Real-time models: their training sets, and their releases."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg

from assets.metadata import details_json, owners_of, stage_metadata
from assets.model import model_name
from assets.partitions import as_of_partitions, choose_training_night
from assets.published import published_name
from assets.raw import ingest_pending_files
from assets.sources import source_asset
from assets.stage import RunStep, explain_errors
from assets.training_set import build_training_set_asset
from forecache.base.plugins import load_hook
from forecache.base.results import StageResult
from forecache.base.table_names import POSITION, REQUEST_ID
from forecache.declare import AS_OF, FeatureView, Realtime, RegisteredModel
from resources.settings_and_spark import SettingsResource, SparkResource

_RELEASED = """\
Released: the champion, its transform and the contracts of its features, which answer requests as one unit.

A new release is written if the champion or the declaration has changed; recorded requests test it first. Views that no
other step of the run builds, because their sources begin on other days, are built and published here.
"""


def released_name(realtime: Realtime) -> str:
    return f"released_{realtime.name}"


def views_of_one_range(realtime: Realtime) -> tuple[FeatureView, ...]:
    """The looked-up views that can be in one job, which are those with the same range of partitions as the first."""
    if not realtime.views:
        return ()
    first = as_of_partitions(realtime.schedule, realtime.views[0].sources)
    return tuple(view for view in realtime.views if as_of_partitions(realtime.schedule, view.sources) == first)


def build_released(realtime: Realtime) -> dg.AssetsDefinition:
    """The current release of a real-time model."""
    together = views_of_one_range(realtime)
    apart = [view for view in realtime.views if view not in together]
    has_model = realtime.is_trained or isinstance(realtime.model, RegisteredModel)

    @dg.asset(
        name=released_name(realtime),
        deps=[
            *([model_name(realtime)] if has_model else []),
            *(published_name(view) for view in realtime.views),
        ],
        description=f"{realtime.description}\n\n{_RELEASED}".strip(),
        group_name="serving",
        kinds={"http"},
        owners=owners_of(realtime),
    )
    @explain_errors
    def build_release(
        context: dg.AssetExecutionContext, settings: SettingsResource, spark: SparkResource
    ) -> Iterator[Any]:
        from forecache.lake.feature_tables.features import build_view
        from forecache.lake.quality.stage_checks import check_features
        from forecache.operations.publish_night import publish_night
        from forecache.operations.release import release_model

        step = RunStep(context, settings.load(), spark)
        night = choose_training_night(realtime, context)
        for view in apart:
            for source in view.sources:
                ingest_pending_files(step, source, last=night)
            step.run_stage(build_view, step.session(), step.settings, view, [night], rebuild=step.rebuild)
            check_features(step, view, [night])
            step.run_stage(publish_night, step.settings, view, night=night)
        result = step.run_stage(release_model, step.settings, realtime)
        yield dg.MaterializeResult(
            metadata={
                **stage_metadata(step.settings, result),
                "release": result.details["release"],
                "details": details_json(result),
            }
        )

    return build_release


_TRAINING_SET = """\
Training set of a real-time model: past requests with the features known at the time, transformed as in serving.

Each request gets the features of the newest as-of date that had ended when it was made; the code that answers requests
calls the declared transform for it. Splits follow in time, so that no outcome reaches into a later split.
"""


def build_realtime_training_set(realtime: Realtime) -> dg.AssetsDefinition:
    """The training set of a real-time model; each build is a Delta version, which the model's run pins."""
    table, of = realtime.training_table, realtime.trained_examples
    columns = [
        dg.TableColumn(REQUEST_ID, "string", description="The request."),
        dg.TableColumn(POSITION, "int", description="The candidate's place in it, from 0."),
        dg.TableColumn(AS_OF, "date", description="The day of the request."),
        dg.TableColumn("split", "string", description="train, validation or test."),
        *(dg.TableColumn(each.name, each.spark_type, description=each.description) for each in realtime.features),
        dg.TableColumn(of.label, "double", description=f"Label, known {of.horizon_days} days after the request."),
    ]

    def build(step: RunStep, night: date) -> StageResult:
        build_examples = load_hook("realtime_examples", "build_examples")

        return step.run_stage(build_examples, step.session(), step.settings, realtime, night, rebuild=step.rebuild)

    return build_training_set_asset(
        realtime,
        table,
        columns,
        deps=[*(view.feature_table for view in realtime.views), *(source_asset(source) for source in of.sources)],
        description=_TRAINING_SET,
        apart="Outcomes of a split are known before the next one begins, and none is empty.",
        build=build,
    )
