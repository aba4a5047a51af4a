"""Training set of a real-time model: past requests with the features known at the time, transformed as in serving.

Each request gets the features of the newest as-of date that had ended when it was made; the code that answers requests
calls the declared transform for it. Splits follow in time, so that no outcome reaches into a later split.
"""

from datetime import date

import dagster as dg

from assets.sources import source_asset
from assets.stage import RunStep
from assets.training_set import build_training_set_asset
from forecache.base.results import StageResult
from forecache.base.settings import Settings
from forecache.base.table_names import POSITION, REQUEST_ID
from forecache.declare import AS_OF, Realtime
from forecache.declare.project import Project


def build_definitions(project: Project, settings: Settings) -> dg.Definitions:
    """The training set of each real-time model that is trained here."""
    trained = [each for each in project.realtime.values() if each.is_trained]
    return dg.Definitions(assets=[build_realtime_training_set(each) for each in trained])


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
        from forecache.plugins.historical_features.training_set import build_examples

        return step.run_stage(build_examples, step.settings, realtime, night, rebuild=step.rebuild)

    return build_training_set_asset(
        realtime,
        table,
        columns,
        deps=[*(view.feature_table for view in realtime.views), *(source_asset(source) for source in of.sources)],
        description=__doc__,
        apart="Outcomes of a split are known before the next one begins, and none is empty.",
        build=build,
    )
