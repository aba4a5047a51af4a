"""The declaration a user writes: what is particular to one pipeline, and nothing about how it runs.

A project is a package with a `pipelines` sub-package; every module-level `Pipeline`, `Recommender` or `Mailing` in it
is found by `read_project`. Declarations hold plain values and functions; heavy libraries are imported inside those.
"""

from forecache.pipeline.applied import FunctionModel, Labelled, RegisteredModel, SqlModel
from forecache.pipeline.catalogue import Catalogue
from forecache.pipeline.column import Column, ColumnType
from forecache.pipeline.declaration import Pipeline
from forecache.pipeline.entities import Entities
from forecache.pipeline.expectations import Expectation, expect
from forecache.pipeline.feature import Feature
from forecache.pipeline.features import Features, Label
from forecache.pipeline.fit_run import FitRun
from forecache.pipeline.judging import Task, baseline_name
from forecache.pipeline.loading import load_pipeline, load_pipelines, load_served
from forecache.pipeline.mailing import Mailing
from forecache.pipeline.model import EntitySplit, EstimatorModel, TorchModel, Training
from forecache.pipeline.names import AS_OF, PROVENANCE_COLUMNS, SOURCE_COLUMNS
from forecache.pipeline.output import AnyOutput, Boolean, Classes, Output, Quantiles, Segment, Structs, Text, Vector
from forecache.pipeline.policies import Baseline, Drift, Effect, Gate, Metric, Publish, Retraining
from forecache.pipeline.query import Query
from forecache.pipeline.recommender import RankingGate, Recommender
from forecache.pipeline.schedule import Schedule
from forecache.pipeline.served import Served
from forecache.pipeline.source import Source
from forecache.pipeline.source_time import Snapshot, Static
from forecache.pipeline.table_source import AnySource, TableSource
from forecache.pipeline.view import FeatureView
from forecache.pipeline.window import Where, Window

__all__ = [
    "AS_OF",
    "PROVENANCE_COLUMNS",
    "SOURCE_COLUMNS",
    "AnyOutput",
    "AnySource",
    "Baseline",
    "Boolean",
    "Classes",
    "Catalogue",
    "Column",
    "ColumnType",
    "Drift",
    "Effect",
    "Entities",
    "EntitySplit",
    "EstimatorModel",
    "Expectation",
    "Feature",
    "FeatureView",
    "Features",
    "FitRun",
    "FunctionModel",
    "Gate",
    "Label",
    "Labelled",
    "Mailing",
    "Metric",
    "Output",
    "Pipeline",
    "Publish",
    "Quantiles",
    "Query",
    "RankingGate",
    "Recommender",
    "RegisteredModel",
    "Retraining",
    "Schedule",
    "Segment",
    "Served",
    "Snapshot",
    "Source",
    "SqlModel",
    "Static",
    "Structs",
    "TableSource",
    "Task",
    "Text",
    "TorchModel",
    "Training",
    "Vector",
    "Where",
    "Window",
    "baseline_name",
    "expect",
    "load_pipeline",
    "load_pipelines",
    "load_served",
]
