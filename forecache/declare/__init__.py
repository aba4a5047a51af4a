"""The declarations that a user writes: what is particular to one pipeline, and nothing about how it runs.

A project is a package with a `pipelines` sub-package; every module-level `Pipeline`, `Realtime`, `Stream` or
declaration of a plug-in in it is found by `read_project`. Declarations hold plain values and functions; heavy libraries
are imported inside those.
"""

from forecache.base.table_names import AS_OF, PROVENANCE_COLUMNS, SOURCE_COLUMNS
from forecache.declare.declaration import Entities, Pipeline
from forecache.declare.expectations import Expectation, expect
from forecache.declare.features.features import Feature, Features, Label
from forecache.declare.features.live import Live
from forecache.declare.features.view import FeatureView
from forecache.declare.features.window import Where, Window
from forecache.declare.loading import load_pipeline, load_pipelines, load_realtime, load_served, load_stream
from forecache.declare.models.applied import FunctionModel, Labelled, RegisteredModel, SqlModel
from forecache.declare.models.gate import Baseline, Gate, Metric
from forecache.declare.models.model import EntitySplit, EstimatorModel, FitRun, TorchModel, Training
from forecache.declare.models.output import (
    AnyOutput,
    Boolean,
    Classes,
    Output,
    Quantiles,
    Segment,
    Structs,
    Text,
    Vector,
)
from forecache.declare.models.trainable import Task, Trainable
from forecache.declare.policies import Drift, Effect, Publish, Retraining
from forecache.declare.realtime.examples import Examples, Log
from forecache.declare.realtime.lookups import Default, DotProduct, Lookup, OrderGiven, Precomputed, Stored
from forecache.declare.realtime.realtime import Realtime
from forecache.declare.realtime.request import Candidates, RequestField
from forecache.declare.realtime.rollout import Guards, Outcome, Rollout
from forecache.declare.schedule import Schedule
from forecache.declare.served import Served
from forecache.declare.sources.column import Column, ColumnType, Snapshot, Static
from forecache.declare.sources.extract import Query, StreamDay
from forecache.declare.sources.source import AnySource, Source, TableSource
from forecache.declare.stream import Avro, Json, LiveRows, Stream, Table, Topic, ToTopic

__all__ = [
    "AS_OF",
    "PROVENANCE_COLUMNS",
    "SOURCE_COLUMNS",
    "AnyOutput",
    "AnySource",
    "Avro",
    "Baseline",
    "Boolean",
    "Candidates",
    "Classes",
    "Column",
    "ColumnType",
    "Default",
    "DotProduct",
    "Drift",
    "Effect",
    "Entities",
    "EntitySplit",
    "EstimatorModel",
    "Examples",
    "Expectation",
    "Feature",
    "FeatureView",
    "Features",
    "FitRun",
    "FunctionModel",
    "Gate",
    "Guards",
    "Json",
    "Label",
    "Labelled",
    "Precomputed",
    "Live",
    "LiveRows",
    "Log",
    "Lookup",
    "Metric",
    "OrderGiven",
    "Outcome",
    "Output",
    "Pipeline",
    "Publish",
    "Quantiles",
    "Query",
    "Realtime",
    "RegisteredModel",
    "RequestField",
    "Retraining",
    "Rollout",
    "Schedule",
    "Segment",
    "Served",
    "Snapshot",
    "Source",
    "SqlModel",
    "Static",
    "Stored",
    "Stream",
    "StreamDay",
    "Structs",
    "Table",
    "TableSource",
    "Task",
    "Text",
    "ToTopic",
    "Topic",
    "TorchModel",
    "Trainable",
    "Training",
    "Vector",
    "Where",
    "Window",
    "expect",
    "load_pipeline",
    "load_pipelines",
    "load_realtime",
    "load_served",
    "load_stream",
]
